package source_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

func find(t *testing.T, dir string, env ...string) *toolchain.Go {
	t.Helper()
	g, err := toolchain.Find(t.Context(), dir, "", env...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// monorepo are the files of a repository with a workspace of two modules, of which the
// app uses the other, and a module that belongs to neither.
func monorepo() map[string]string {
	return map[string]string{
		"go.work":                  "go 1.26\n\nuse (\n\t./libs/money\n\t./services/orders\n)\n",
		"libs/money/go.mod":        "module example.com/money\n\ngo 1.26\n",
		"libs/money/money.go":      "package money\n\nfunc Cents(n int) int { return n * 100 }\n",
		"services/orders/go.mod":   goMod,
		"services/orders/main.go":  "package main\n\nimport \"example.com/money\"\n\nfunc main() { println(money.Cents(1)) }\n",
		"services/billing/main.go": goMain,
	}
}

// TestWorkspaceAbove: a go.work file above the app's folder decides what the app is built
// from, as for the go command.
func TestWorkspaceAbove(t *testing.T) {
	dir := testkit.Repository(t, monorepo())
	root := filepath.Join(dir, "services", "orders")
	s, err := open(t, source.Options{Root: root})
	if err != nil || s.Dirty || s.Workspace != filepath.Join(s.Top, "go.work") {
		t.Fatalf("workspace %s, changed %v, %v", s.Workspace, s.Changed, err)
	}
	sum := func() string {
		t.Helper()
		f, err := s.Fingerprint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := sum()
	testkit.Write(t, dir, map[string]string{"services/billing/main.go": goMain + "// x\n"})
	if s, err := open(t, source.Options{Root: root}); err != nil || s.Dirty || sum() != first {
		t.Errorf("a file of another service: changed %v, %v", s.Changed, err)
	}
	for _, file := range []string{"libs/money/money.go", "go.work", "go.work.sum"} {
		before := sum()
		testkit.Write(t, dir, map[string]string{file: monorepo()[file] + "\n// changed\n"})
		s, err := open(t, source.Options{Root: root})
		if err != nil || !slices.Contains(s.Changed, file) || sum() == before {
			t.Errorf("%s: changed %v, %v", file, s.Changed, err)
		}
	}
}

// TestWorkspaceOutside: a go.work file outside the repository is not used.
func TestWorkspaceOutside(t *testing.T) {
	dev := testkit.Tree(t, map[string]string{"go.work": "go 1.26\n\nuse (\n\t./app\n\t./lib\n)\n", "lib/go.mod": "module example.com/lib\n\ngo 1.26\n", "lib/l.go": "package lib\n"})
	app := filepath.Join(dev, "app")
	testkit.Write(t, app, map[string]string{"go.mod": goMod, "main.go": goMain})
	testkit.Commit(t, app)
	s, err := open(t, source.Options{Root: app})
	if err != nil || s.Workspace != toolchain.WorkspaceOff || s.Dirty || s.Go.Workspace != toolchain.WorkspaceOff {
		t.Errorf("workspace %s, changed %v, %v", s.Workspace, s.Changed, err)
	}
}

// TestWorkspaceOfTheEnvironment: GOWORK counts, but then the commit alone does not
// determine the image. In app.env it is part of the commit.
func TestWorkspaceOfTheEnvironment(t *testing.T) {
	dir := testkit.Repository(t, monorepo())
	root := filepath.Join(dir, "services", "orders")
	other := filepath.Join(testkit.Tree(t, map[string]string{"go.work": "go 1.26\n\nuse " + root + "\n"}), "go.work")
	for name, tt := range map[string]struct {
		gowork, env, workspace string
		changed                bool
	}{
		"the same":         {filepath.Join(dir, "go.work"), "", filepath.Join(dir, "go.work"), false},
		"off":              {"off", "", "off", true},
		"outside":          {other, "", "off", true},
		"go env -w":        {"go env -w GOWORK=off", "", "off", true},
		"off in app.env":   {"", "GOWORK=off", "off", false},
		"app.env prevails": {other, "GOWORK=off", "off", false},
	} {
		t.Run(name, func(t *testing.T) {
			if setting, ok := strings.CutPrefix(tt.gowork, "go env -w "); ok {
				file := filepath.Join(t.TempDir(), "env")
				if err := os.WriteFile(file, []byte("GOPRIVATE=x\n"+setting+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				t.Setenv("GOENV", file)
			} else {
				t.Setenv("GOWORK", tt.gowork)
			}
			o := source.Options{Root: root, Main: "."}
			if tt.env != "" {
				o.Env = []string{tt.env}
			}
			o.Go = find(t, root, o.Env...)
			s, err := source.Open(t.Context(), o)
			if err != nil || s.Workspace != tt.workspace || s.Dirty != tt.changed {
				t.Errorf("workspace %s, changed %v, %v", s.Workspace, s.Changed, err)
			}
			if tt.changed && !strings.Contains(s.Changed[0], "GOWORK=") {
				t.Errorf("changed %v does not name GOWORK", s.Changed)
			}
		})
	}
}

// TestReplaceOutside: a folder outside the repository that the program is built from makes
// the source changed, because it is not part of the commit.
func TestReplaceOutside(t *testing.T) {
	lib := testkit.Tree(t, map[string]string{"go.mod": "module example.com/lib\n\ngo 1.26\n", "lib.go": "package lib\n"})
	for name, files := range map[string]map[string]string{
		"in go.mod":  {"go.mod": goMod + "\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => " + lib + "\n", "main.go": goMain},
		"in go.work": {"go.work": "go 1.26\n\nuse .\n\nuse " + lib + "\n", "go.mod": goMod, "main.go": goMain},
		"of another module of the workspace": {
			"go.work": "go 1.26\n\nuse (\n\t.\n\t./b\n)\n", "go.mod": goMod, "main.go": goMain,
			"b/go.mod": "module example.com/b\n\ngo 1.26\n\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => " + lib + "\n", "b/b.go": "package b\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := open(t, source.Options{Root: testkit.Repository(t, files)})
			if err != nil || !s.Dirty || !strings.Contains(s.Changed[0], lib+", outside the repository") {
				t.Errorf("changed %v, %v", s.Changed, err)
			}
		})
	}
}

// TestRootWithoutRepository: in a container without .git the root of the repository is
// given.
func TestRootWithoutRepository(t *testing.T) {
	dir := testkit.Tree(t, monorepo())
	hash := strings.Repeat("a1", 20)
	o := source.Options{Root: filepath.Join(dir, "services", "orders"), Revision: hash, Epoch: "1", Main: "."}
	o.Go = find(t, o.Root)
	for top, workspace := range map[string]string{"": toolchain.WorkspaceOff, dir: filepath.Join(dir, "go.work")} {
		o.Top = top
		s, err := source.Open(t.Context(), o)
		if err != nil || s.Workspace != workspace || s.Dirty {
			t.Errorf("root %q: workspace %s, changed %v, %v", top, s.Workspace, s.Changed, err)
		}
	}
	o.Top = t.TempDir()
	_, err := source.Open(t.Context(), o)
	testkit.WantInput(t, err, "source.top")
}

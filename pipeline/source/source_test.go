package source_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

const (
	goMod  = "module example.com/acme/Orders_v2/v3\n\ngo 1.26\n"
	goMain = "package main\n\nfunc main() {}\n"
)

// open reads a source as the commands do, with the toolchain of its module.
func open(t *testing.T, o source.Options) (source.Source, error) {
	t.Helper()
	if g, err := toolchain.Find(t.Context(), filepath.Join(o.Root, o.Dir), ""); err == nil {
		o.Go = g
	}
	return source.Open(t.Context(), o)
}

// link creates a symbolic link at name in dir.
func link(t *testing.T, dir, name, target string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

func TestVersionComesFromTheCommitAlone(t *testing.T) {
	dir := testkit.Tree(t, map[string]string{"go.mod": goMod, "main.go": goMain, "README.md": "x", ".dockerignore": "*.md\n"})
	hash := testkit.Commit(t, dir)
	version := func(o source.Options) source.Source {
		t.Helper()
		o.Root = dir
		s, err := open(t, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// The time of a commit of testkit, in the form of a pseudo-version.
	want := "v0.0.0-20260921141320-" + hash[:12]
	s := version(source.Options{})
	if s.Version != want || s.Revision != hash || s.Dirty || !s.Time.Equal(time.Date(2026, 9, 21, 14, 13, 20, 0, time.UTC)) {
		t.Errorf("got version %s, revision %s, time %s, dirty %v", s.Version, s.Revision, s.Time, s.Dirty)
	}
	if s.Name != "orders-v2" || s.Module != "example.com/acme/Orders_v2/v3" || s.Main != "." {
		t.Errorf("got name %s, module %s, main %s", s.Name, s.Module, s.Main)
	}

	testkit.Write(t, dir, map[string]string{"README.md": "changed", ".slipway/junk": "x"})
	if s := version(source.Options{}); s.Dirty {
		t.Errorf("a change to an excluded file makes the source dirty: %v", s.Changed)
	}
	testkit.Write(t, dir, map[string]string{"main.go": goMain + "// changed\n", "new.go": "package main\n"})
	s = version(source.Options{})
	if s.Version != want+"+dirty" || !slices.Equal(s.Changed, []string{"main.go", "new.go"}) {
		t.Errorf("got %s, changed %v", s.Version, s.Changed)
	}
	if s.ShortRevision() != hash[:12]+"-dirty" {
		t.Errorf("got %s", s.ShortRevision())
	}
	s = version(source.Options{Epoch: "1700000000", Version: "v1.2.3"})
	if s.Version != "v1.2.3" || s.Time.Unix() != 1700000000 {
		t.Errorf("got %s at %s", s.Version, s.Time)
	}
	s = version(source.Options{Revision: hash, Epoch: "1790000000"})
	if s.Version != want || s.Dirty {
		t.Errorf("with the commit given: got %s", s.Version)
	}
	s = version(source.Options{Revision: hash + "-dirty", Epoch: "1790000000"})
	if s.Version != want+"+dirty" {
		t.Errorf("with the commit given: got %s", s.Version)
	}
}

func TestWithoutGit(t *testing.T) {
	dir := testkit.Tree(t, map[string]string{"go.mod": goMod, "main.go": goMain})
	s, err := open(t, source.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != source.Unversioned || s.Revision != "" || s.Time.Unix() != 0 || s.ShortRevision() != "" {
		t.Errorf("got %+v", s)
	}
}

// TestNoMain: lint and tests need no program, so a library and a module with several
// programs are accepted. A configured main package must exist.
func TestNoMain(t *testing.T) {
	several := map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "cmd/b/b.go": goMain}
	for name, tt := range map[string]struct {
		files map[string]string
		main  string
		want  string
		fails bool
	}{
		"library":      {map[string]string{"go.mod": goMod, "a.go": "package a\n"}, "", "", false},
		"several":      {several, "", "", false},
		"one":          {map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain}, "", "./cmd/a", false},
		"configured":   {several, "./cmd/b", "./cmd/b", false},
		"not existing": {several, "./cmd/c", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := open(t, source.Options{Root: testkit.Tree(t, tt.files), Main: tt.main, NoMain: true})
			if tt.fails != (err != nil) || !tt.fails && s.Main != tt.want {
				t.Errorf("got %q, %v", s.Main, err)
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		opts  source.Options
		want  string
	}{
		"no module":        {map[string]string{"main.go": goMain}, source.Options{}, "there is no go.mod in "},
		"module elsewhere": {map[string]string{"svc/a/go.mod": goMod}, source.Options{}, "(set app.dir in slipway.yaml to one of svc/a)"},
		"dir is a file":    {map[string]string{"go.mod": goMod, "current": "app"}, source.Options{Dir: "current"}, "app.dir current is not a folder in "},
		"malformed module": {map[string]string{"go.mod": "modul x"}, source.Options{}, "go.mod"},
		"no module line":   {map[string]string{"go.mod": "go 1.26\n"}, source.Options{}, "has no module line"},
		"no main":          {map[string]string{"go.mod": goMod, "a.go": "package a\n"}, source.Options{}, "has no main package"},
		"several mains": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "cmd/b/b.go": goMain, "testdata/c/c.go": goMain, "sub/go.mod": goMod, "sub/d.go": goMain, "gen.go": "//go:build ignore\n\npackage main\n"},
			source.Options{},
			"has 2 main packages (set app.main in slipway.yaml to one of ./cmd/a, ./cmd/b)",
		},
		"not a main":       {map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain}, source.Options{Main: "./cmd/x"}, "./cmd/x is not a main package of example.com/acme/Orders_v2/v3 (set app.main in slipway.yaml to one of ./cmd/a)"},
		"main outside":     {map[string]string{"go.mod": goMod, "main.go": goMain}, source.Options{Main: "../x"}, "is outside the module"},
		"epoch":            {map[string]string{"go.mod": goMod, "main.go": goMain}, source.Options{Epoch: "yesterday"}, `SOURCE_DATE_EPOCH="yesterday" is not a number of seconds since 1970`},
		"negative epoch":   {map[string]string{"go.mod": goMod, "main.go": goMain}, source.Options{Epoch: "-1"}, "is not a number of seconds"},
		"revision":         {map[string]string{"go.mod": goMod, "main.go": goMain}, source.Options{Revision: "main"}, `"main" is not a commit hash`},
		"ignore file":      {map[string]string{"go.mod": goMod, "main.go": goMain, ".dockerignore": "a[\n"}, source.Options{}, `pattern "a["`},
		"lone exclamation": {map[string]string{"go.mod": goMod, "main.go": goMain, ".dockerignore": "!\n"}, source.Options{}, "illegal exclusion pattern"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.opts.Root = testkit.Tree(t, tt.files)
			_, err := open(t, tt.opts)
			if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Getuid() == 0 {
		// root can read every file, so run this test again as another user.
		if os.Getenv("SLIPWAY_TEST_DIR") == "" {
			dir, err := os.MkdirTemp("", "slipway-unreadable-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			testkit.Write(t, dir, map[string]string{"go.mod": goMod, "main.go": goMain, "locked/a.go": "package locked\n"})
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, "locked"), 0); err != nil {
				t.Fatal(err)
			}
			self, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			exe := filepath.Join(dir, ".slipway", "test")
			testkit.Write(t, dir, map[string]string{".slipway/test": string(self)})
			if err := os.Chmod(exe, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestUnreadableFile$", "-test.v")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "SLIPWAY_TEST_DIR="+dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return
		}
	}
	dir := os.Getenv("SLIPWAY_TEST_DIR")
	if dir == "" {
		dir = testkit.Tree(t, map[string]string{"go.mod": goMod, "main.go": goMain, "locked/a.go": "package locked\n"})
		if err := os.Chmod(filepath.Join(dir, "locked"), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "locked"), 0o755) })
	}
	_, err := open(t, source.Options{Root: dir})
	if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), "permission denied") {
		t.Fatalf("got %v", err)
	}
}

func TestFingerprint(t *testing.T) {
	files := map[string]string{"go.mod": goMod + "\nreplace example.com/lib => ../lib\n", "main.go": goMain, "a_test.go": "package main\n"}
	dir := testkit.Tree(t, nil)
	testkit.Write(t, filepath.Join(dir, "app"), files)
	testkit.Write(t, filepath.Join(dir, "lib"), map[string]string{"go.mod": "module example.com/lib\n", "lib.go": "package lib\n"})
	sum := func() string {
		t.Helper()
		s, err := open(t, source.Options{Root: dir, Dir: "app"})
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.Fingerprint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := sum()
	testkit.Write(t, dir, map[string]string{"app/.slipway/reports/junit.xml": "x", "unrelated": "x"})
	if sum() != first {
		t.Error("a change outside the app changes the fingerprint")
	}
	for name, text := range map[string]string{"app/a_test.go": "package main // x\n", "lib/lib.go": "package lib // x\n", "app/new": ""} {
		before := sum()
		testkit.Write(t, dir, map[string]string{name: text})
		if sum() == before {
			t.Errorf("changing %s does not change the fingerprint", name)
		}
	}
	before := sum()
	if err := os.Chmod(filepath.Join(dir, "app/main.go"), 0o755); err != nil {
		t.Fatal(err)
	}
	if sum() == before {
		t.Error("changing a mode does not change the fingerprint")
	}
}

func FuzzParseIgnore(f *testing.F) {
	f.Add("*.md\n!README.md\n", "README.md")
	f.Add("**/x[a-\n", "a/b")
	f.Add("\ufeff/a\\\n", "a")
	f.Fuzz(func(t *testing.T, text, file string) {
		i, err := source.ParseIgnore(".dockerignore", "/src", []byte(text))
		if err != nil {
			if fault.ExitCode(err) != fault.ExitInput {
				t.Errorf("%q: got %v, want an input error", text, err)
			}
			return
		}
		i.Match(filepath.Join("/src", filepath.FromSlash(file)))
	})
}

// TestChangedSettings: slipway.yaml and .dockerignore decide what is built, wherever the
// module is. The same version must not stand for two images.
func TestChangedSettings(t *testing.T) {
	for name, tt := range map[string]struct {
		dir, file string
		want      []string
	}{
		"slipway.yaml above":    {"app", "slipway.yaml", []string{"slipway.yaml"}},
		"slipway.yaml":          {"", "app/slipway.yaml", []string{"app/slipway.yaml"}},
		"not the app's":         {"app", "app/slipway.yaml.orig", []string{"app/slipway.yaml.orig"}},
		".dockerignore above":   {"app", ".dockerignore", []string{".dockerignore"}},
		"another file above":    {"app", "Makefile", nil},
		"another app's setting": {"", "slipway.yaml", nil},
	} {
		t.Run(name, func(t *testing.T) {
			top := testkit.Repository(t, map[string]string{
				"app/go.mod": goMod, "app/main.go": goMain, "slipway.yaml": "", "app/slipway.yaml": "", ".dockerignore": "*.md\n",
			})
			testkit.Write(t, top, map[string]string{tt.file: "# changed\n"})
			o := source.Options{Root: top, Dir: tt.dir}
			if tt.dir == "" {
				o.Root = filepath.Join(top, "app")
			}
			s, err := open(t, o)
			if err != nil || !slices.Equal(s.Changed, tt.want) || s.Dirty != (tt.want != nil) {
				t.Errorf("got changed %v, dirty %v, %v", s.Changed, s.Dirty, err)
			}
		})
	}
}

package source_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/source"
)

func TestExcludedFiles(t *testing.T) {
	dir := testkit.Tree(t, map[string]string{
		"go.mod": goMod, "main.go": goMain, "debug.go": "package main\n", "web/a.txt": "", "web/keep.txt": "", "docs/x/y.md": "",
		".dockerignore": "# comment\ndebug.go\nweb/*\n!web/keep.txt\n**/*.md\n",
	})
	s, err := open(t, source.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range s.Excluded {
		rel, err := filepath.Rel(dir, f)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rel)
	}
	if want := []string{"debug.go", "docs/x/y.md", "web/a.txt"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestExcludedModuleFiles: a docker build does not get go.mod or go.sum if the ignore file
// excludes them, so the error names the line. Lint and tests see all files. The folder
// vendor and go.work are not necessary.
func TestExcludedModuleFiles(t *testing.T) {
	files := map[string]string{
		"go.work": "go 1.26\n\nuse ./app\n", "app/go.mod": goMod, "app/go.sum": "", "app/main.go": goMain, "app/vendor/modules.txt": "",
	}
	for name, tt := range map[string]struct {
		ignore, want string
		check        func(source.Source) bool
	}{
		"go.mod":        {"# all but Go\n\n**/*.mod\n", "app/.dockerignore:3 (**/*.mod) excludes app/go.mod, which the build needs (add the line !go.mod to app/.dockerignore)", nil},
		"go.sum":        {"go.sum\n", "app/.dockerignore:1 (go.sum) excludes app/go.sum", nil},
		"taken back":    {"*\n!go.mod\n!go.sum\n!*.go\ngo.*\n!go.mod\n", "app/.dockerignore:5 (go.*) excludes app/go.sum", nil},
		"all":           {"*\n!app\n", "app/.dockerignore:1 (*) excludes app/go.mod, which the build needs (add the lines !go.mod, !go.sum and !**/*.go to app/.dockerignore", nil},
		"allowed again": {"*\n!go.*\n!*.go\n", "", func(s source.Source) bool { return s.Main == "." && s.NoVendor }},
		"vendor":        {"vendor\n", "", func(s source.Source) bool { return s.NoVendor }},
		"in vendor":     {"**/*.md\n", "", func(s source.Source) bool { return !s.NoVendor }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.Tree(t, files)
			if err := os.Remove(filepath.Join(dir, "go.work")); err != nil {
				t.Fatal(err)
			}
			testkit.Git(t, dir, "init", "-q")
			testkit.Write(t, dir, map[string]string{"app/.dockerignore": tt.ignore})
			s, err := open(t, source.Options{Root: filepath.Join(dir, "app")})
			if tt.want == "" {
				if err != nil || !tt.check(s) {
					t.Errorf("got %+v, %v", s, err)
				}
				return
			}
			if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if _, err := open(t, source.Options{Root: filepath.Join(dir, "app"), NoMain: true}); err != nil {
				t.Errorf("without a build: %v", err)
			}
		})
	}
	dir := testkit.Repository(t, files)
	testkit.Write(t, dir, map[string]string{".dockerignore": "go.work\n"})
	s, err := open(t, source.Options{Root: dir, Dir: "app"})
	if err != nil || s.Workspace != "off" {
		t.Errorf("go.work is excluded: workspace %s, %v", s.Workspace, err)
	}
}

// TestExcludedMain: a .dockerignore for a Dockerfile that copies a finished program excludes
// the main package. It is there, so the error does not say that there is none, and lint
// and tests do not need it.
func TestExcludedMain(t *testing.T) {
	files := map[string]string{"go.mod": goMod, "main.go": goMain, "cmd/x/x.go": goMain, "lib/lib.go": "package lib\n"}
	for name, tt := range map[string]struct{ ignore, main, want string }{
		"all, no main set":    {"*\n!go.*\n", "", ".dockerignore:1 (*) excludes main.go, which the build needs (add the lines !go.mod, !go.sum and !**/*.go to .dockerignore, and one for each embedded file)"},
		"all, main set":       {"*\n!go.*\n", ".", ".dockerignore:1 (*) excludes main.go, which the build needs (add the lines !go.mod, !go.sum and !**/*.go to .dockerignore, and one for each embedded file)"},
		"the one that is set": {"cmd\n", "./cmd/x", ".dockerignore:1 (cmd) excludes cmd/x/x.go, which the build needs (add the line !cmd/x/x.go to .dockerignore)"},
		"the other one":       {"cmd\n", "", ""},
		"not a main package":  {"cmd\n", "./lib", "./lib is not a main package of example.com/acme/Orders_v2/v3 (set app.main in slipway.yaml to one of .)"},
		"all, not a main":     {"*\n!go.*\n", "./lib", ".dockerignore:1 (*) excludes main.go, which the build needs"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.Repository(t, files)
			testkit.Write(t, dir, map[string]string{".dockerignore": tt.ignore})
			s, err := open(t, source.Options{Root: dir, Main: tt.main})
			if tt.want == "" {
				if err != nil || s.Main != "." {
					t.Errorf("got main %q, %v", s.Main, err)
				}
			} else if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if _, err := open(t, source.Options{Root: dir, Main: tt.main, NoMain: true}); (err != nil) != (tt.main == "./lib") {
				t.Errorf("without a build: %v", err)
			}
			mains, err := source.Mains(t.Context(), source.Options{Root: dir, Go: find(t, dir)})
			if all := strings.HasPrefix(tt.ignore, "*"); all && (err == nil || !strings.Contains(err.Error(), ".dockerignore:1 (*) excludes main.go")) || !all && (err != nil || !slices.Equal(mains, []string{"."})) {
				t.Errorf("main packages %v, %v", mains, err)
			}
		})
	}
}

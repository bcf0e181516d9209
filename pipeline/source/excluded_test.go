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

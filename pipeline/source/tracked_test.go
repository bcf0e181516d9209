package source_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// TestNotCommitted checks which files of a deployment no commit determines, with the git
// program and without it.
func TestNotCommitted(t *testing.T) {
	outside := testkit.Tree(t, map[string]string{"values.yaml": "x: 1\n"})
	dir := testkit.Repository(t, map[string]string{
		".gitignore": "ignored*\n", "chart/Chart.yaml": "name: a\n", "chart/templates/a.yaml": "a\n", "values.yaml": "x: 1\n",
		"hidden.yaml": "x: 1\n", "other/b.yaml": "b\n", "with space [x].yaml": "x: 1\n",
	})
	testkit.Write(t, dir, map[string]string{"ignored.yaml": "x: 2\n", "chart/templates/ignored.yaml": "evil\n", "chart/new.yaml": "new\n", "elsewhere.yaml": "x: 3\n"})
	for link, target := range map[string]string{
		"link-in.yaml": "values.yaml", "link-ignored.yaml": "ignored.yaml", "link-out.yaml": filepath.Join(outside, "values.yaml"),
		"chart/templates/other": "../../other", "loop": "loop2", "loop2": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"add", "link-in.yaml", "link-ignored.yaml", "link-out.yaml", "chart/templates/other", "loop", "loop2"},
		{"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "links"},
		{"update-index", "--skip-worktree", "hidden.yaml"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	for _, without := range []bool{false, true} {
		if without {
			t.Setenv("PATH", t.TempDir())
		}
		repo, err := source.OpenRepository(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string][]string{
			"values.yaml":           nil,
			"with space [x].yaml":   nil,
			"missing.yaml":          nil,
			"ignored.yaml":          {"ignored.yaml"},
			"elsewhere.yaml":        {"elsewhere.yaml"},
			"hidden.yaml":           {"hidden.yaml"},
			"link-in.yaml":          nil,
			"link-ignored.yaml":     {"ignored.yaml"},
			"link-out.yaml":         {filepath.Join(outside, "values.yaml")},
			"chart":                 {"chart/new.yaml", "chart/templates/ignored.yaml"},
			"other":                 nil,
			"loop":                  nil,
			"chart/templates/other": nil,
		} {
			got, err := repo.NotCommitted(t.Context(), filepath.Join(dir, path))
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("without git %v: %s: %q, %v; want %q", without, path, got, err, want)
			}
		}
		if got, err := repo.NotCommitted(t.Context(), filepath.Join(outside, "values.yaml")); err != nil || len(got) != 1 {
			t.Errorf("outside: %q, %v", got, err)
		}
	}
}

package sandbox_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
)

// listing describes what is below a folder: the content of files and the targets of links.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			all = append(all, rel+" -> "+target)
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, rel+": "+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// gitConfig is a configuration of git with credentials, and storedConfig what a copy has.
const (
	gitConfig = "[core]\n\trepositoryformatversion = 1\n\tsshCommand = evil\n[remote \"origin\"]\n\turl = https://ci:TOP-token@example.com\n" +
		"[http \"https://github.com/\"]\n\textraheader = AUTHORIZATION: basic TOP-token\n[extensions]\n\tobjectFormat = sha256\n\tpartialClone = origin\n[include]\n\tpath = x\n"
	storedConfig = "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectFormat = sha256\n"
)

func TestMirror(t *testing.T) {
	from := testkit.Tree(t, map[string]string{
		"app/go.mod": "m", "app/a/a.go": "a", "app/.slipway/report": "r", "lib/l.go": "l", "other/big.bin": "b", "README.md": "r", ".git/HEAD": "h", ".git/config": gitConfig, "app/run.sh": "x",
	})
	if err := os.Symlink("a/a.go", filepath.Join(from, "app", "link.go")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(from, "app", "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "work")
	copied := []string{filepath.Join(from, "app"), filepath.Join(from, "lib")}
	var records map[string]sandbox.Record
	update := func() {
		t.Helper()
		var err error
		if records, err = sandbox.Mirror(t.Context(), from, to, copied, func(path string) bool { return filepath.Base(path) == ".slipway" }, records); err != nil {
			t.Fatal(err)
		}
	}
	want := func(more ...string) {
		t.Helper()
		all := append([]string{
			".git/HEAD: h", ".git/config: " + storedConfig, "README.md -> " + from + "/README.md", "app/go.mod: m", "app/link.go -> a/a.go", "app/run.sh: x",
			"lib/l.go: l", "other -> " + from + "/other",
		}, more...)
		slices.Sort(all)
		if got := listing(t, to); !slices.Equal(got, all) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(all, "\n"))
		}
	}
	update()
	want("app/a/a.go: a")
	first, err := os.Stat(filepath.Join(to, "app", "run.sh"))
	if err != nil || first.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", first.Mode(), err)
	}

	testkit.Write(t, from, map[string]string{"app/a/a.go": "changed", "app/new.go": "n"})
	update()
	want("app/a/a.go: changed", "app/new.go: n")
	if again, err := os.Stat(filepath.Join(to, "app", "run.sh")); err != nil || !os.SameFile(first, again) {
		t.Errorf("a file that has not changed was copied again: %v", err)
	}

	secret := plant(t, to)
	update()
	want("app/a/a.go: changed", "app/new.go: n")
	if got := listing(t, secret); !slices.Equal(got, []string{"key: secret"}) {
		t.Errorf("through a planted link: %v", got)
	}

	if err := os.Remove(filepath.Join(from, "app", "new.go")); err != nil {
		t.Fatal(err)
	}
	update()
	want("app/a/a.go: changed")
}

// plant leaves in the copy what must not stay there: files, a changed file with its size and
// modification time restored, and a link to the folder that it returns.
func plant(t *testing.T, to string) string {
	t.Helper()
	secret := testkit.Tree(t, map[string]string{"key": "secret"})
	a := filepath.Join(to, "app", "a", "a.go")
	fi, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, to, map[string]string{"app/planted.go": "p", "app/vendor/modules.txt": "v"})
	if err := os.WriteFile(a, []byte("PLANTED"), 0o600); err != nil { // of the same size
		t.Fatal(err)
	}
	if err := os.Chtimes(a, time.Time{}, fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(to, "lib")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(to, "lib")); err != nil {
		t.Fatal(err)
	}
	return secret
}

package source_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// since returns the patch since a revision for the module in a folder of the repository.
func since(t *testing.T, dir, revision string) (string, error) {
	t.Helper()
	r, err := source.OpenRepository(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := r.Since(t.Context(), dir, revision)
	return string(patch), err
}

// branched returns a repository with the branch main, whose last commit the branch work
// does not have, and with changes of every kind on work.
func branched(t *testing.T) string {
	t.Helper()
	files := ordinary()
	files["internal/x/old.go"] = "package x\n"
	dir := testkit.Repository(t, files)
	userGit(t, dir, "checkout", "-q", "-b", "work")
	testkit.Write(t, dir, map[string]string{"internal/x/committed.go": "package x\n\nvar Committed = 1\n", "note.txt": "one\ntwo\nthree\n"})
	userGit(t, dir, "add", "--all")
	userGit(t, dir, "commit", "-qm", "work")
	userGit(t, dir, "checkout", "-q", "main")
	testkit.Write(t, dir, map[string]string{"internal/x/x.go": "package x\n\nvar OnlyOnMain = 1\n"})
	userGit(t, dir, "commit", "-qam", "main goes on")
	userGit(t, dir, "checkout", "-q", "work")
	testkit.Write(t, dir, map[string]string{
		"internal/x/new ü.go":  "package x\n\nvar Untracked = 1",
		"internal/x/staged.go": "package x\n\nvar Staged = 1\n",
		"bin/ignored.go":       "package bin\n",
		"main.go":              goMain + "\nvar edited = 1\n",
	})
	userGit(t, dir, "add", "internal/x/staged.go")
	if err := os.Symlink("x.go", filepath.Join(dir, "internal", "x", "link.go")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The patch has everything since the common commit, whatever the user's settings are, and
// nothing else.
func TestSince(t *testing.T) {
	for name, settings := range map[string]string{
		"plain":   "",
		"strange": "[diff]\n\tnoprefix = true\n\tmnemonicPrefix = true\n\trenames = copies\n\tsubmodule = log\n\tcolorMoved = zebra\n[color]\n\tui = always\n[core]\n\tquotePath = true\n",
	} {
		t.Run(name, func(t *testing.T) {
			configured(t, settings)
			dir := branched(t)
			patch, err := since(t, dir, "main")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				"+++ b/internal/x/committed.go\n", "+var Committed = 1\n", "+three\n", "+++ b/main.go\n", "+var edited = 1\n", "+var Staged = 1\n",
				"+++ b/internal/x/new ü.go\n@@ -0,0 +1,3 @@\n+package x\n+\n+var Untracked = 1\n",
			} {
				if !strings.Contains(patch, want) {
					t.Errorf("the patch does not contain %q:\n%s", want, patch)
				}
			}
			for _, not := range []string{"OnlyOnMain", "ignored", "link.go", "old.go", "\x1b["} {
				if strings.Contains(patch, not) {
					t.Errorf("the patch contains %q:\n%s", not, patch)
				}
			}
			// Paths are relative to the folder, and files elsewhere do not count.
			patch, err = since(t, filepath.Join(dir, "internal", "x"), "main")
			if err != nil || !strings.Contains(patch, "+++ b/committed.go\n") || !strings.Contains(patch, "+++ b/new ü.go\n") || strings.Contains(patch, "three") {
				t.Errorf("%v\n%s", err, patch)
			}
		})
	}
}

func TestSinceNothing(t *testing.T) {
	configured(t, "")
	if patch, err := since(t, testkit.Repository(t, ordinary()), "main"); err != nil || patch != "" {
		t.Errorf("%v\n%s", err, patch)
	}
}

// An unknown revision, and one without a common commit, as in a shallow clone, are errors
// that say what to fetch.
func TestSinceUnknown(t *testing.T) {
	configured(t, "")
	dir := branched(t)
	shallow := clone(t, dir, "--depth=1", "--no-single-branch")
	empty := t.TempDir()
	userGit(t, empty, "init", "-q", "-b", "main")
	for _, tt := range []struct{ dir, revision, want string }{
		{dir, "origin/main", "has no such revision (fetch it"},
		{dir, "--output=/tmp/x", "has no such revision (fetch it"},
		{dir, "HEAD:note.txt", "has no such revision (fetch it"},
		{empty, "main", "has no such revision (fetch it"},
		{shallow, "origin/main", "no commit in common with the one that is checked out (fetch it"},
	} {
		_, err := since(t, tt.dir, tt.revision)
		testkit.WantInput(t, err, "lint.new-from")
		if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "fetch-depth: 0") {
			t.Errorf("%s: %v; want %s", tt.revision, err, tt.want)
		}
	}
}

// Nothing that the repository's own configuration names is run.
func TestSinceOfAHostileRepository(t *testing.T) {
	configured(t, "")
	dir := branched(t)
	marker := filepath.Join(t.TempDir(), "ran")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n: >"+marker+"\ncat\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, dir, map[string]string{".gitattributes": "*.go diff=x filter=x\n"})
	for key, value := range map[string]string{
		"core.fsmonitor": program, "core.hooksPath": filepath.Dir(program), "core.pager": program, "pager.diff": "true",
		"diff.external": program, "diff.x.command": program, "diff.x.textconv": program,
		"filter.x.clean": program, "filter.x.process": program, "filter.x.required": "true",
		"alias.diff": "!" + program, "alias.merge-base": "!" + program,
	} {
		testkit.Git(t, dir, "config", key, value)
	}
	patch, err := since(t, dir, "main")
	if err != nil || !strings.Contains(patch, "+var edited = 1\n") {
		t.Errorf("%v\n%s", err, patch)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a program of the repository's configuration was run")
	}
}

func TestMainBranch(t *testing.T) {
	configured(t, "")
	origin := testkit.Repository(t, ordinary())
	head := testkit.Git(t, origin, "rev-parse", "HEAD")
	trunk := testkit.Repository(t, ordinary())
	testkit.Git(t, trunk, "branch", "-M", "trunk")
	withoutHead := clone(t, origin)
	userGit(t, withoutHead, "remote", "set-head", "origin", "--delete")
	stale := clone(t, trunk)
	userGit(t, stale, "update-ref", "-d", "refs/remotes/origin/trunk")
	empty := t.TempDir()
	userGit(t, empty, "init", "-q", "-b", "main")
	for name, tt := range map[string]struct{ dir, want string }{
		"clone":                  {clone(t, origin), "origin/main"},
		"another default branch": {clone(t, trunk), "origin/trunk"},
		"default branch unknown": {withoutHead, "origin/main"},
		"default branch is gone": {stale, head},
		"no remote":              {origin, head},
		"no commit":              {empty, ""},
		"shallow":                {clone(t, origin, "--depth=1"), "origin/main"},
	} {
		r, err := source.OpenRepository(t.Context(), tt.dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.MainBranch(t.Context()); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
}

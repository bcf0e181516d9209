package hook

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// The hook is installed in every folder in which git may search for hooks, and runs
// in the right folder.
func TestInstallLocation(t *testing.T) {
	tests := map[string]struct {
		setUp  func(c *clone) (dir string) // returns the folder in which slipway and git run
		hook   string                      // folder of the hook, relative to the parent of the clone
		args   string                      // arguments of the check
		folder string                      // folder in which the check runs, relative to the parent of the clone
		shared bool
	}{
		"folder below": {func(c *clone) string {
			put(c.t, filepath.Join(c.dir, "services", "the orders", "go.mod"), "", 0o644)
			return filepath.Join(c.dir, "services", "the orders")
		}, "clone/.git/hooks", "check -C services/the orders", "clone", false},
		"no hooks folder": {func(c *clone) string {
			if err := os.RemoveAll(filepath.Join(c.dir, ".git", "hooks")); err != nil {
				c.t.Fatal(err)
			}
			return c.dir
		}, "clone/.git/hooks", "check", "clone", false},
		"relative hooksPath": {func(c *clone) string {
			c.git("config", "core.hooksPath", "tools/git hooks")
			return c.dir
		}, "clone/tools/git hooks", "check", "clone", false},
		"relative hooksPath from below": {func(c *clone) string {
			c.git("config", "core.hooksPath", ".githooks")
			put(c.t, filepath.Join(c.dir, "a", "go.mod"), "", 0o644)
			return filepath.Join(c.dir, "a")
		}, "clone/.githooks", "check -C a", "clone", false},
		"absolute hooksPath": {func(c *clone) string {
			c.git("config", "core.hooksPath", filepath.Join(filepath.Dir(c.dir), "hooks"))
			return c.dir
		}, "hooks", "check", "clone", true},
		"hooksPath at home": {func(c *clone) string {
			c.git("config", "core.hooksPath", "~/hooks")
			return c.dir
		}, "home/hooks", "check", "clone", true},
		"linked worktree": {func(c *clone) string {
			dir := filepath.Join(filepath.Dir(c.dir), "linked")
			c.git("worktree", "add", "--quiet", "-b", "linked", dir)
			return dir
		}, "clone/.git/hooks", "check", "linked", false},
		"relative hooksPath of a linked worktree": {func(c *clone) string {
			c.git("config", "core.hooksPath", ".githooks")
			dir := filepath.Join(filepath.Dir(c.dir), "linked")
			c.git("worktree", "add", "--quiet", "-b", "linked", dir)
			return dir
		}, "linked/.githooks", "check", "linked", false},
		"submodule": {func(c *clone) string {
			c.git("push", "--quiet", "origin", "main")
			c.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "-b", "main", c.bare, "sub")
			dir := filepath.Join(c.dir, "sub")
			c.in(dir, "commit", "--quiet", "--allow-empty", "-m", "y")
			return dir
		}, "clone/.git/modules/sub/hooks", "check", "clone/sub", false},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			c := newClone(t)
			base := filepath.Dir(c.dir)
			dir := tt.setUp(c)
			f := newFake(t, filepath.Join(t.TempDir(), "slipway"), 0)
			want := Result{Path: filepath.Join(base, tt.hook, "pre-push"), Written: true, Shared: tt.shared}
			if r := c.install(Options{Dir: dir, Program: f.path}); r != want {
				t.Errorf("got %+v, want %+v", r, want)
			}
			c.in(dir, "push", "--quiet", "origin", "HEAD:refs/heads/other")
			if got, want := f.calls(), "args: "+tt.args+"\nfolder: "+filepath.Join(base, tt.folder)+"\n"; got != want {
				t.Errorf("got calls\n%swant\n%s", got, want)
			}
		})
	}
}

// If slipway runs in a hook or an alias, git's variables may refer to another
// repository. They must be ignored.
func TestInstallIgnoresGitVariables(t *testing.T) {
	c, other := newClone(t), newClone(t)
	t.Setenv("GIT_DIR", filepath.Join(other.dir, ".git"))
	t.Setenv("GIT_WORK_TREE", other.dir)
	if r := c.install(Options{Dir: c.dir}); r.Path != filepath.Join(c.dir, ".git", "hooks", "pre-push") {
		t.Errorf("installed %s, want it in %s", r.Path, c.dir)
	}
}

func TestExistingHooks(t *testing.T) {
	const foreign = "#!/bin/sh\nexit 0\n"
	older := "#!/bin/sh\n" + marker + " of long ago\nexit 1\n"
	tests := map[string]struct {
		old   string // text of the existing hook
		mode  os.FileMode
		force bool
		code  string // error code; empty if the hook is installed
		kept  bool
	}{
		"foreign":           {foreign, 0o755, false, "hook.foreign", false},
		"foreign, forced":   {foreign, 0o750, true, "", true},
		"empty":             {"", 0o644, false, "hook.foreign", false},
		"older":             {older, 0o755, false, "", false},
		"older, forced":     {older, 0o755, true, "", false},
		"older, cannot run": {older, 0o644, false, "", false},
		"more text before":  {"#!/bin/sh\nmake docs\n" + older, 0o755, false, "hook.foreign", false},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			c := newClone(t)
			f := newFake(t, filepath.Join(t.TempDir(), "slipway"), 0)
			path := filepath.Join(c.dir, ".git", "hooks", "pre-push")
			kept := path + ".before-slipway"
			put(t, path, tt.old, tt.mode)
			r, err := Install(t.Context(), Options{Dir: c.dir, Program: f.path, Force: tt.force})
			if tt.code != "" {
				if fault.CodeOf(err) != tt.code || fault.ExitCode(err) != fault.ExitInput || read(t, path) != tt.old {
					t.Fatalf("got %v", err)
				}
				checkFix(t, c, f, err)
				return
			}
			want := Result{Path: path, Written: true}
			if tt.kept {
				want.Kept = kept
			}
			if err != nil || r != want {
				t.Fatalf("got %+v, %v, want %+v", r, err, want)
			}
			if tt.kept {
				if fi, err := os.Stat(kept); err != nil || fi.Mode().Perm() != tt.mode || read(t, kept) != tt.old {
					t.Errorf("the kept hook is %v, %v", fi, err)
				}
			} else if _, err := os.Lstat(kept); err == nil {
				t.Errorf("%s exists", kept)
			}
			c.git("push", "--quiet", "origin", "main")
			if f.calls() == "" {
				t.Error("the hook did not run the check")
			}
			if err := os.Chmod(path, 0o644); err != nil { // as after copying it
				t.Fatal(err)
			}
			c.install(Options{Dir: c.dir, Program: f.path})
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o755 {
				t.Errorf("the hook is not executable after installing it again: %v, %v", fi, err)
			}
			if got := c.install(Options{Dir: c.dir, Program: f.path, Force: tt.force}); got != (Result{Path: path}) {
				t.Errorf("installing again: got %+v, want no change", got)
			}
		})
	}
}

// checkFix adds the line in the fix of an error to another hook and checks that it
// stops a push.
func checkFix(t *testing.T, c *clone, f fake, err error) {
	t.Helper()
	_, line, _ := strings.Cut(err.Error(), "add to it: ")
	line, _, ok := strings.Cut(line, "; or replace it with --force")
	if !ok || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
	put(t, f.path, strings.Replace(read(t, f.path), "exit 0", "exit 1", 1), 0o755)
	path := filepath.Join(c.dir, ".git", "hooks", "pre-push")
	os.Remove(path)
	put(t, path, "#!/bin/sh\n"+line+"\nexit 0\n", 0o755)
	if out, err := c.try(c.dir, "push", "--quiet", "origin", "main"); err == nil {
		t.Errorf("the line in the fix does not stop a push: %s\n%s", line, out)
	}
	if f.calls() != "args: check\nfolder: "+c.dir+"\n" {
		t.Errorf("the line in the fix does not run the check: %s", line)
	}
}

func TestForceDoesNotOverwriteTheKeptHook(t *testing.T) {
	c := newClone(t)
	path := filepath.Join(c.dir, ".git", "hooks", "pre-push")
	put(t, path, "second", 0o755)
	put(t, path+".before-slipway", "first", 0o755)
	_, err := Install(t.Context(), Options{Dir: c.dir, Force: true})
	if fault.CodeOf(err) != "hook.kept" || read(t, path) != "second" || read(t, path+".before-slipway") != "first" {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".pre-push*")); len(left) > 0 {
		t.Errorf("temporary files remain: %v", left)
	}
}

func TestInstallErrors(t *testing.T) {
	tests := map[string]struct {
		setUp func(c *clone) (dir string)
		code  string
		want  string
	}{
		"no repository": {func(c *clone) string { return filepath.Dir(c.dir) }, "hook.no-repository", "is not in a git repository (create one with: git init)"},
		"bare":          {func(c *clone) string { return c.bare }, "hook.repository", "must be run in a work tree"},
		"no folder":     {func(c *clone) string { return filepath.Join(c.dir, "nowhere") }, "hook.repository", "no such file"},
		"no git": {func(c *clone) string {
			c.t.Setenv("PATH", c.t.TempDir())
			return c.dir
		}, "hook.no-git", "git is not installed"},
		"hooks are disabled": {func(c *clone) string {
			c.git("config", "core.hooksPath", os.DevNull)
			return c.dir
		}, "output.unwritable", "git config --show-origin core.hooksPath"},
		"hooksPath is empty": {func(c *clone) string {
			c.git("config", "core.hooksPath", "")
			return c.dir
		}, "hook.no-folder", "core.hooksPath is empty"},
		"dangling link": {func(c *clone) string {
			if err := os.Symlink("nowhere", filepath.Join(c.dir, ".git", "hooks", "pre-push")); err != nil {
				c.t.Fatal(err)
			}
			return c.dir
		}, "hook.foreign", "was not written by slipway"},
		"folder": {func(c *clone) string {
			put(c.t, filepath.Join(c.dir, ".git", "hooks", "pre-push", "x"), "", 0o644)
			return c.dir
		}, "hook.unreadable", "is a directory"},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			c := newClone(t)
			t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(filepath.Dir(c.dir)))
			_, err := Install(t.Context(), Options{Dir: tt.setUp(c)})
			if fault.CodeOf(err) != tt.code || fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %s: %v", fault.CodeOf(err), err)
			}
		})
	}
}

package hook

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clone is a clone with a commit to push, and its bare remote repository.
type clone struct {
	t    *testing.T
	dir  string   // work tree
	bare string   // remote repository
	env  []string // additional variables for git
}

// newClone creates a clone in a folder with special characters in its name. Git uses
// no configuration of the machine or the caller.
func newClone(t *testing.T) *clone {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	base = filepath.Join(base, `it's a "$HOME"`)
	home := filepath.Join(base, "home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "GIT_") && name != "GIT_DEFAULT_HASH" {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		t.Setenv("GIT_"+who+"_NAME", "A")
		t.Setenv("GIT_"+who+"_EMAIL", "a@example.com")
	}
	c := &clone{t: t, dir: filepath.Join(base, "clone"), bare: filepath.Join(base, "remote.git")}
	c.in(base, "init", "--quiet", "--bare", c.bare)
	c.in(base, "clone", "--quiet", c.bare, c.dir)
	c.git("commit", "--quiet", "--allow-empty", "-m", "x")
	c.git("branch", "-M", "main")
	return c
}

// try runs git in dir and returns its output and its exit error.
func (c *clone) try(dir string, args ...string) (string, error) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), "git", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), c.env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return string(out), err
}

// in runs git in dir, which must succeed.
func (c *clone) in(dir string, args ...string) string {
	c.t.Helper()
	out, err := c.try(dir, args...)
	if err != nil {
		c.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// git runs git in the clone, which must succeed.
func (c *clone) git(args ...string) string {
	c.t.Helper()
	return c.in(c.dir, args...)
}

// remote returns the commit of a branch of the remote repository, or "" if there is
// none.
func (c *clone) remote(branch string) string {
	c.t.Helper()
	return c.in(c.bare, "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch)
}

// install installs the hook, which must succeed.
func (c *clone) install(o Options) Result {
	c.t.Helper()
	r, err := Install(c.t.Context(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// fake is a fake slipway or dagger. It records its arguments, its folder and git's
// variables, and exits with a given code.
type fake struct {
	t    *testing.T
	path string
	log  string
}

func newFake(t *testing.T, path string, exit int) fake {
	t.Helper()
	f := fake{t, path, filepath.Join(t.TempDir(), "log")}
	put(t, path, fmt.Sprintf("#!/bin/sh\n{ echo \"args: $*\"; echo \"folder: $(pwd -P)\"; env | grep -E '^GIT_(DIR|WORK_TREE|INDEX_FILE|PREFIX)='; } >>'%s'\nexit %d\n", f.log, exit), 0o755)
	return f
}

// calls returns the records and removes them.
func (f fake) calls() string {
	f.t.Helper()
	data, err := os.ReadFile(f.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	os.Remove(f.log)
	return string(data)
}

// put writes a file with a mode.
func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// tools returns a PATH with only the programs that the hook needs, without slipway
// and dagger.
func tools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"git", "sh", "grep", "env"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPushDependsOnTheCheck(t *testing.T) {
	tests := map[string]struct {
		exit   int
		args   []string
		pushed bool
		called bool
	}{
		"passed":      {0, nil, true, true},
		"failed":      {1, nil, false, true},
		"bad input":   {2, nil, false, true},
		"interrupted": {130, nil, false, true},
		"skipped":     {1, []string{"--no-verify"}, true, false},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			c := newClone(t)
			f := newFake(t, filepath.Join(t.TempDir(), `it's a "$HOME"`, "slipway"), tt.exit)
			r := c.install(Options{Dir: c.dir, Program: f.path})
			if want := filepath.Join(c.dir, ".git", "hooks", "pre-push"); r != (Result{Path: want, Written: true}) {
				t.Errorf("got %+v, want %s", r, want)
			}
			out, err := c.try(c.dir, append([]string{"push", "origin", "main"}, tt.args...)...)
			if tt.pushed != (err == nil) {
				t.Errorf("push: %v\n%s", err, out)
			}
			want := ""
			if tt.pushed {
				want = c.git("rev-parse", "main")
			}
			if got := c.remote("main"); got != want {
				t.Errorf("the remote has commit %q, want %q", got, want)
			}
			want = ""
			if tt.called {
				want = "args: check\nfolder: " + c.dir + "\n"
			}
			if got := f.calls(); got != want {
				t.Errorf("got calls\n%swant\n%s", got, want)
			}
		})
	}
}

func TestDeletionsNeedNoCheck(t *testing.T) {
	tests := map[string]struct {
		refs   []string
		called bool
	}{
		"one deleted":         {[]string{":gone"}, false},
		"several deleted":     {[]string{":gone", ":gone2"}, false},
		"nothing to push":     {[]string{"base"}, false},
		"deleted and changed": {[]string{":gone", "main"}, true},
		"changed and deleted": {[]string{"main", ":gone"}, true},
		"new":                 {[]string{"main:fresh"}, true},
		"forced":              {[]string{"+main:base"}, true},
		"zeros in its name":   {[]string{"main:0000"}, true},
	}
	for _, format := range []string{"sha1", "sha256"} {
		for title, tt := range tests {
			t.Run(format+"/"+title, func(t *testing.T) {
				t.Setenv("GIT_DEFAULT_HASH", format)
				c := newClone(t)
				c.git("branch", "base")
				c.git("push", "--quiet", "origin", "base", "base:gone", "base:gone2", "base:main")
				c.git("commit", "--quiet", "--allow-empty", "-m", "y")
				f := newFake(t, filepath.Join(t.TempDir(), "slipway"), 1)
				c.install(Options{Dir: c.dir, Program: f.path})
				out, err := c.try(c.dir, append([]string{"push", "origin"}, tt.refs...)...)
				if called := f.calls() != ""; called != tt.called || called != (err != nil) {
					t.Errorf("check was called: %v, want %v; push: %v\n%s", called, tt.called, err, out)
				}
				if deleted := c.remote("gone") == ""; deleted != (strings.HasPrefix(title, "one") || strings.HasPrefix(title, "several")) {
					t.Errorf("the branch was deleted: %v, want %v", deleted, !deleted)
				}
			})
		}
	}
}

// If a push has more refs than fit into a pipe, the hook must read all of them, or the
// push would block or fail.
func TestHookReadsAllReferences(t *testing.T) {
	c := newClone(t)
	f := newFake(t, filepath.Join(t.TempDir(), "slipway"), 0)
	r := c.install(Options{Dir: c.dir, Program: f.path})
	line := []byte("refs/heads/main " + strings.Repeat("1", 40) + " refs/heads/main " + strings.Repeat("0", 40) + "\n")
	in := bytes.NewReader(bytes.Repeat(line, 1<<15))
	cmd := exec.CommandContext(t.Context(), r.Path, "origin", c.bare)
	cmd.Dir = c.dir
	// If Stdin were a reader, exec would ignore a broken pipe.
	w, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteTo(w); err != nil {
		t.Error(err)
	}
	if err := errors.Join(w.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
	if f.calls() == "" {
		t.Error("the check was not called")
	}
}

func TestFallbacks(t *testing.T) {
	tests := map[string]struct {
		recorded bool     // the program that installed the hook exists
		path     []string // programs on PATH
		want     string   // program that the hook runs
		args     string
	}{
		"recorded": {true, []string{"slipway", "dagger"}, "recorded", "check"},
		"PATH":     {false, []string{"slipway", "dagger"}, "slipway", "check"},
		"dagger":   {false, []string{"dagger"}, "dagger", "call check"},
		"nothing":  {false, nil, "", ""},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			path := tools(t)
			c := newClone(t)
			fakes := map[string]fake{"recorded": newFake(t, filepath.Join(t.TempDir(), "slipway"), 0)}
			for _, name := range tt.path {
				fakes[name] = newFake(t, filepath.Join(path, name), 0)
			}
			c.install(Options{Dir: c.dir, Program: fakes["recorded"].path})
			if !tt.recorded {
				os.Remove(fakes["recorded"].path)
			}
			c.env = []string{"PATH=" + path}
			out, err := c.try(c.dir, "push", "--quiet", "origin", "main")
			for name, f := range fakes {
				want := ""
				if name == tt.want {
					want = "args: " + tt.args + "\nfolder: " + c.dir + "\n"
				}
				if got := f.calls(); got != want {
					t.Errorf("%s: got calls\n%swant\n%s", name, got, want)
				}
			}
			if tt.want != "" {
				if err != nil || c.remote("main") == "" {
					t.Errorf("push: %v\n%s", err, out)
				}
				return
			}
			message, rest, _ := strings.Cut(out, "\n")
			if err == nil || c.remote("main") != "" || !strings.HasPrefix(message, "slipway: neither slipway nor dagger") ||
				!strings.Contains(message, "git push --no-verify") || (rest != "" && !strings.HasPrefix(rest, "error: failed to push")) {
				t.Errorf("push: %v\n%s", err, out)
			}
		})
	}
}

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

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// clone is a clone with one commit to push, and its bare remote.
type clone struct {
	t    *testing.T
	dir  string
	bare string
	env  []string
}

// newClone keeps everything below an awkward folder and gives git none of the
// machine's or the caller's configuration.
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

func (c *clone) in(dir string, args ...string) string {
	c.t.Helper()
	out, err := c.try(dir, args...)
	if err != nil {
		c.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(out)
}

func (c *clone) git(args ...string) string {
	c.t.Helper()
	return c.in(c.dir, args...)
}

// remote is what a branch of the remote points at, "" where there is none.
func (c *clone) remote(branch string) string {
	c.t.Helper()
	return c.in(c.bare, "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch)
}

func (c *clone) install(o Options) Result {
	c.t.Helper()
	r, err := Install(c.t.Context(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// fake stands in for a program: it gives the verdict, and records its
// arguments, folder and git's variables.
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

// calls returns what was recorded, and forgets it.
func (f fake) calls() string {
	f.t.Helper()
	data, err := os.ReadFile(f.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	os.Remove(f.log)
	return string(data)
}

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

// tools is a PATH with what the hook needs and nothing else, so that neither
// the machine's slipway nor its dagger is on it.
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

func TestPushObeysTheVerdict(t *testing.T) {
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
				t.Errorf("the remote is at %q, want %q", got, want)
			}
			want = ""
			if tt.called {
				want = "args: check\nfolder: " + c.dir + "\n"
			}
			if got := f.calls(); got != want {
				t.Errorf("called\n%swant\n%s", got, want)
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
					t.Errorf("called: %v, want %v; push: %v\n%s", called, tt.called, err, out)
				}
				if gone := c.remote("gone") == ""; gone != (strings.HasPrefix(title, "one") || strings.HasPrefix(title, "several")) {
					t.Errorf("deleted: %v", gone)
				}
			})
		}
	}
}

// A push of more references than a pipe holds blocks or breaks it where a hook
// stops reading.
func TestHookReadsAllReferences(t *testing.T) {
	c := newClone(t)
	f := newFake(t, filepath.Join(t.TempDir(), "slipway"), 0)
	r := c.install(Options{Dir: c.dir, Program: f.path})
	line := []byte("refs/heads/main " + strings.Repeat("1", 40) + " refs/heads/main " + strings.Repeat("0", 40) + "\n")
	in := bytes.NewReader(bytes.Repeat(line, 1<<15))
	cmd := exec.CommandContext(t.Context(), r.Path, "origin", c.bare)
	cmd.Dir = c.dir
	// Not a plain Stdin: exec hides a broken pipe of its own.
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
		t.Error("nothing was checked")
	}
}

func TestFallbacks(t *testing.T) {
	tests := map[string]struct {
		recorded bool // the program that installed the hook is there
		on       []string
		want     string // the program that runs
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
			for _, name := range tt.on {
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
					t.Errorf("%s: called\n%swant\n%s", name, got, want)
				}
			}
			if tt.want != "" {
				if err != nil || c.remote("main") == "" {
					t.Errorf("push: %v\n%s", err, out)
				}
				return
			}
			said, rest, _ := strings.Cut(out, "\n")
			if err == nil || c.remote("main") != "" || !strings.HasPrefix(said, "slipway: neither slipway nor dagger") ||
				!strings.Contains(said, "git push --no-verify") || (rest != "" && !strings.HasPrefix(rest, "error: failed to push")) {
				t.Errorf("push: %v\n%s", err, out)
			}
		})
	}
}

// TestWhereHooksLive installs the hook in every place git may keep it and
// pushes from folders git hands over in the environment.
func TestWhereHooksLive(t *testing.T) {
	tests := map[string]struct {
		setUp  func(c *clone) (dir string) // dir is where slipway and git run
		hook   string                      // relative to the clone's parent
		args   string
		folder string // where it runs, relative to the clone's parent
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
				t.Errorf("called\n%swant\n%s", got, want)
			}
		})
	}
}

// Installing from a hook or an alias must not follow its variables into
// another repository.
func TestInstallIgnoresTheCallersRepository(t *testing.T) {
	c, other := newClone(t), newClone(t)
	t.Setenv("GIT_DIR", filepath.Join(other.dir, ".git"))
	t.Setenv("GIT_WORK_TREE", other.dir)
	if r := c.install(Options{Dir: c.dir}); r.Path != filepath.Join(c.dir, ".git", "hooks", "pre-push") {
		t.Errorf("installed %s", r.Path)
	}
}

func TestHooksThatAreThere(t *testing.T) {
	const foreign = "#!/bin/sh\nexit 0\n"
	older := "#!/bin/sh\n" + marker + " of long ago\nexit 1\n"
	tests := map[string]struct {
		there string
		mode  os.FileMode
		force bool
		code  string // of the error; "" where the hook is installed
		kept  bool
	}{
		"foreign":              {foreign, 0o755, false, "hook.foreign", false},
		"foreign, forced":      {foreign, 0o750, true, "", true},
		"empty":                {"", 0o644, false, "hook.foreign", false},
		"older":                {older, 0o755, false, "", false},
		"older, forced":        {older, 0o755, true, "", false},
		"older, cannot run":    {older, 0o644, false, "", false},
		"grown around slipway": {"#!/bin/sh\nmake docs\n" + older, 0o755, false, "hook.foreign", false},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			c := newClone(t)
			f := newFake(t, filepath.Join(t.TempDir(), "slipway"), 0)
			path := filepath.Join(c.dir, ".git", "hooks", "pre-push")
			kept := path + ".before-slipway"
			put(t, path, tt.there, tt.mode)
			r, err := Install(t.Context(), Options{Dir: c.dir, Program: f.path, Force: tt.force})
			if tt.code != "" {
				if fault.CodeOf(err) != tt.code || fault.ExitCode(err) != fault.ExitInput || read(t, path) != tt.there {
					t.Fatalf("got %v", err)
				}
				byHand(t, c, f, err)
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
				if fi, err := os.Stat(kept); err != nil || fi.Mode().Perm() != tt.mode || read(t, kept) != tt.there {
					t.Errorf("kept %v, %v", fi, err)
				}
			} else if _, err := os.Lstat(kept); err == nil {
				t.Errorf("%s is there", kept)
			}
			c.git("push", "--quiet", "origin", "main")
			if f.calls() == "" {
				t.Error("the hook does not run")
			}
			if err := os.Chmod(path, 0o644); err != nil { // as a copy by hand leaves it
				t.Fatal(err)
			}
			c.install(Options{Dir: c.dir, Program: f.path})
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o755 {
				t.Errorf("a hook that cannot run stayed so: %v, %v", fi, err)
			}
			if got := c.install(Options{Dir: c.dir, Program: f.path, Force: tt.force}); got != (Result{Path: path}) {
				t.Errorf("installing again did %+v", got)
			}
		})
	}
}

// byHand adds to the foreign hook what the error says, and pushes.
func byHand(t *testing.T, c *clone, f fake, err error) {
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
		t.Errorf("a line added by hand does not stop a push: %s\n%s", line, out)
	}
	if f.calls() != "args: check\nfolder: "+c.dir+"\n" {
		t.Errorf("a line added by hand does not run the check: %s", line)
	}
}

func TestForceKeepsWhatWasKept(t *testing.T) {
	c := newClone(t)
	path := filepath.Join(c.dir, ".git", "hooks", "pre-push")
	put(t, path, "second", 0o755)
	put(t, path+".before-slipway", "first", 0o755)
	_, err := Install(t.Context(), Options{Dir: c.dir, Force: true})
	if fault.CodeOf(err) != "hook.kept" || read(t, path) != "second" || read(t, path+".before-slipway") != "first" {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".pre-push*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestBadPlaces(t *testing.T) {
	tests := map[string]struct {
		setUp func(c *clone) (dir string)
		code  string
		want  string
	}{
		"no repository": {func(c *clone) string { return filepath.Dir(c.dir) }, "hook.no-repository", "is not in a git repository (make one with: git init)"},
		"bare":          {func(c *clone) string { return c.bare }, "hook.repository", "must be run in a work tree"},
		"no folder":     {func(c *clone) string { return filepath.Join(c.dir, "nowhere") }, "hook.repository", "no such file"},
		"no git": {func(c *clone) string {
			c.t.Setenv("PATH", c.t.TempDir())
			return c.dir
		}, "hook.no-git", "git is not installed"},
		"hooks are off": {func(c *clone) string {
			c.git("config", "core.hooksPath", os.DevNull)
			return c.dir
		}, "output.unwritable", "git config --show-origin core.hooksPath"},
		"hooksPath is empty": {func(c *clone) string {
			c.git("config", "core.hooksPath", "")
			return c.dir
		}, "hook.no-folder", "core.hooksPath is empty"},
		"link to nothing": {func(c *clone) string {
			if err := os.Symlink("nowhere", filepath.Join(c.dir, ".git", "hooks", "pre-push")); err != nil {
				c.t.Fatal(err)
			}
			return c.dir
		}, "hook.foreign", "and not slipway's"},
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

package sandbox_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
)

// TestMain also is the program that enters the sandbox, and the program in the sandbox,
// which does what its arguments say and prints the error.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Argument {
		os.Exit(sandbox.Enter(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "do" {
		if err := do(os.Args[2], os.Args[3:]...); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func do(what string, args ...string) error {
	switch what {
	case "read":
		_, err := os.ReadFile(args[0])
		return err
	case "list":
		_, err := os.ReadDir(args[0])
		return err
	case "write":
		return os.WriteFile(args[0], []byte("planted"), 0o600)
	case "remove":
		return os.Remove(args[0])
	case "rename":
		return os.Rename(args[0], args[1])
	case "link":
		return os.Link(args[0], args[1])
	case "mkdir":
		return os.Mkdir(args[0], 0o700)
	case "truncate":
		return os.Truncate(args[0], 0)
	case "signal":
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return syscall.Kill(pid, 0)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return nil
	case "device": // that of /dev/null is harmless
		if os.Getuid() != 0 {
			return nil
		}
		return syscall.Mknod(args[0], syscall.S_IFCHR|0o600, 1<<8|3)
	case "run":
		return exec.Command(args[0]).Run()
	case "child": // a child is in the same sandbox
		out, err := exec.Command(os.Args[0], append([]string{"do"}, args...)...).CombinedOutput()
		fmt.Print(string(out))
		return err
	}
	return fmt.Errorf("unknown action %s", what)
}

// tree is a machine with a home folder, a cache and a work folder.
func tree(t *testing.T) string {
	t.Helper()
	return testkit.Tree(t, map[string]string{
		"home/.ssh/id": "secret", "home/go/mod/x.go": "package x", "cache/verdicts/a.json": "{}", "work/a.txt": "a", "src/main.go": "package main",
	})
}

// run runs an action in a sandbox in which home and cache are hidden, except home/go, and
// work can be written.
func run(t *testing.T, dir string, env []string, action ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	read := append(sandbox.Except(filepath.Join(dir, "home"), filepath.Join(dir, "cache")), filepath.Join(dir, "home", "go"))
	s := sandbox.Sandbox{Program: self, Policy: sandbox.Policy{Read: read, Write: []string{filepath.Join(dir, "work")}, Env: []string{"ONLY=that", "ONLY=this"}}}
	cmd, err := s.Command(t.Context(), t.TempDir(), self, append([]string{"do"}, action...)...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), append(env, "SECRET=top")...)
	out, err := cmd.CombinedOutput()
	if _, statErr := os.Stat(cmd.Args[2]); statErr == nil {
		t.Errorf("the policy %s was left", cmd.Args[2])
	}
	return string(out), err
}

func TestSandbox(t *testing.T) {
	if missing := sandbox.Missing(); len(missing) > 0 {
		t.Skipf("programs in the sandbox can %s", strings.Join(missing, "; "))
	}
	pid := strconv.Itoa(os.Getpid())
	open, err := os.Open(filepath.Join(tree(t), "home", ".ssh", "id"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	descriptor := strconv.Itoa(int(open.Fd()))
	for name, tt := range map[string]struct {
		action []string // paths are relative to tree
		fails  bool
	}{
		"read the source":             {[]string{"read", "src/main.go"}, false},
		"read modules":                {[]string{"read", "home/go/mod/x.go"}, false},
		"read a credential":           {[]string{"read", "home/.ssh/id"}, true},
		"list the home folder":        {[]string{"list", "home"}, true},
		"read the cache":              {[]string{"read", "cache/verdicts/a.json"}, true},
		"write to the cache":          {[]string{"write", "cache/verdicts/a.json"}, true},
		"add to the cache":            {[]string{"write", "cache/verdicts/b.json"}, true},
		"remove from the cache":       {[]string{"remove", "cache/verdicts/a.json"}, true},
		"truncate in the cache":       {[]string{"truncate", "cache/verdicts/a.json"}, true},
		"rename the cache":            {[]string{"rename", "cache", "work/cache"}, true},
		"link out of the cache":       {[]string{"link", "cache/verdicts/a.json", "work/a.json"}, true},
		"write to modules":            {[]string{"write", "home/go/mod/x.go"}, true},
		"write to the source":         {[]string{"write", "src/main.go"}, true},
		"add a folder to the source":  {[]string{"mkdir", "src/vendor"}, true},
		"write to the work folder":    {[]string{"write", "work/deep.txt"}, false},
		"rename in the work folder":   {[]string{"rename", "work/a.txt", "work/b.txt"}, false},
		"signal another program":      {[]string{"signal", pid}, true},
		"environment of another":      {[]string{"read", "/proc/" + pid + "/environ"}, true},
		"memory of another":           {[]string{"read", "/proc/" + pid + "/mem"}, true},
		"descriptors of another":      {[]string{"read", "/proc/" + pid + "/fd/" + descriptor}, true},
		"its own environment":         {[]string{"read", "/proc/self/environ"}, false},
		"make a device":               {[]string{"device", "work/disk"}, os.Getuid() == 0},
		"run a program":               {[]string{"run", "/bin/true"}, false},
		"write to /dev/null":          {[]string{"write", "/dev/null"}, false},
		"child reads a credential":    {[]string{"child", "read", "home/.ssh/id"}, true},
		"child writes to the cache":   {[]string{"child", "write", "cache/x"}, true},
		"child of the child, allowed": {[]string{"child", "child", "read", "src/main.go"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t)
			action := slices.Clone(tt.action)
			for i, arg := range action {
				if strings.Contains(arg, "/") && !filepath.IsAbs(arg) || arg == "home" || arg == "cache" {
					action[i] = filepath.Join(dir, arg)
				}
			}
			out, err := run(t, dir, nil, action...)
			if tt.fails != (err != nil) {
				t.Errorf("%v %s", err, out)
			}
		})
	}
}

// TestEnvironment: the program sees its own environment and nothing of slipway's.
func TestEnvironment(t *testing.T) {
	out, err := run(t, tree(t), nil, "env")
	if err != nil || strings.TrimSpace(out) != "ONLY=this" {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestWithoutLandlock simulates older kernels: programs run, and what is missing is said.
func TestWithoutLandlock(t *testing.T) {
	full := sandbox.Missing()
	for version, want := range map[string][]string{
		"0": {"read credentials"}, "1": {"truncate", "signals"}, "3": {"signals"}, "6": nil,
	} {
		t.Run(version, func(t *testing.T) {
			if len(full) > 0 {
				t.Skipf("programs in the sandbox can %s", strings.Join(full, "; "))
			}
			t.Setenv("SLIPWAY_TEST_LANDLOCK", version)
			missing := sandbox.Missing()
			if len(missing) != len(want) {
				t.Fatalf("got %q, want %q", missing, want)
			}
			for i, w := range want {
				if !strings.Contains(missing[i], w) {
					t.Errorf("got %q, want %q", missing[i], w)
				}
			}
			dir := tree(t)
			out, err := run(t, dir, nil, "read", filepath.Join(dir, "home", ".ssh", "id"))
			if (version == "0") != (err == nil) {
				t.Errorf("reading a credential: %v %s", err, out)
			}
			if out, err := run(t, dir, nil, "write", filepath.Join(dir, "work", "x")); err != nil {
				t.Errorf("writing to the work folder: %v %s", err, out)
			}
		})
	}
}

// TestExcept: nothing hidden is allowed, not through links either, and what is beside it
// is allowed.
func TestExcept(t *testing.T) {
	dir := tree(t)
	for link, target := range map[string]string{"to-home": "home", "to-key": "home/.ssh/id", "to-src": "src"} {
		if err := os.Symlink(filepath.Join(dir, target), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	got := sandbox.Except(filepath.Join(dir, "home", ".ssh"), filepath.Join(dir, "missing"), "")
	for path, want := range map[string]bool{
		"home/go": true, "src": true, "cache": true, "to-src": true, "home/.ssh": false, "home": false, "to-home": false, "to-key": false,
	} {
		if slices.Contains(got, filepath.Join(dir, path)) != want {
			t.Errorf("%s is allowed: %v, want %v", path, !want, want)
		}
	}
	if !slices.Contains(got, "/usr") || slices.Contains(got, "/") {
		t.Errorf("got %v", got)
	}
}

func TestEnterFails(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"no arguments": {}, "no policy": {"/nonexistent", "/bin/true"}} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), self, append([]string{sandbox.Argument}, args...)...).CombinedOutput()
			if err == nil || !strings.HasPrefix(string(out), "slipway: entering the sandbox: ") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

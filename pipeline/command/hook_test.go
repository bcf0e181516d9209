package command

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// TestInitHooks pushes with git and a hook that runs the program. The configuration is
// invalid, because that is the fastest way to make the check fail.
func TestInitHooks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(testkit.Repository(t, map[string]string{"slipway.yaml": "app:\n  man: x\n", "sub/x": ""}))
	if err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, dir)
	p.env = append(p.env, "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	path := filepath.Join(dir, ".git", "hooks", "pre-push")

	// The hook is installed although slipway.yaml is invalid. The app of the folder sub
	// is the one above it.
	var report struct{ Written []string }
	for _, want := range []string{path, ""} {
		e := p.run(t, "init", "--hooks", "-C", "sub", "-o", "json")
		if err := json.Unmarshal([]byte(e.stdout), &report); err != nil || e.code != fault.ExitOK || report.Written == nil || strings.Join(report.Written, " ") != want {
			t.Fatalf("exit %d, want %q\n%s%s", e.code, want, e.stdout, e.stderr)
		}
	}
	if e := p.run(t, "init", "--hooks"); e.code != fault.ExitOK || e.stdout != path+" exists already, nothing to do\n" {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, ".dockerignore")); err == nil {
		t.Error("--hooks wrote a .dockerignore")
	}

	bare := filepath.Join(t.TempDir(), "remote.git")
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir, cmd.Env = dir, p.env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := git("init", "--quiet", "--bare", bare); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := git("push", bare, "HEAD:refs/heads/main")
	if err == nil || !strings.Contains(out, `slipway: slipway.yaml:2:3: unknown key "man" in app`) {
		t.Errorf("push: %v\n%s", err, out)
	}
	if out, err := git("ls-remote", bare); err != nil || out != "" {
		t.Errorf("the remote has %s, %v", out, err)
	}
}

func TestInitHooksWithAnotherHook(t *testing.T) {
	dir := testkit.Repository(t, map[string]string{"x": ""})
	testkit.Write(t, dir, map[string]string{".git/hooks/pre-push": "#!/bin/sh\n"})
	p := newProgram(t, dir)
	if e := p.run(t, "init", "--hooks"); e.code != fault.ExitInput || e.stdout != "" || strings.Count(e.stderr, "\n") != 1 || !strings.Contains(e.stderr, "add to it: ") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	if e := p.run(t, "init", "--hooks", "--force"); e.code != fault.ExitOK || !strings.Contains(e.stdout, "pre-push.before-slipway\nwrote ") || !strings.Contains(e.stdout, "git push --no-verify") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
}

func TestInitHooksBadInput(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"no repository": {nil, "is not in a git repository"},
		"no folder":     {[]string{"-C", "nowhere"}, "-C nowhere"},
		"configuration": {[]string{"--config", "x.yaml"}, "--config cannot be used with --hooks"},
		"output":        {[]string{"-o", "oci:x"}, "is not text or json"},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			dir := t.TempDir()
			p := newProgram(t, dir)
			p.env = append(p.env, "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
			e := p.run(t, append([]string{"init", "--hooks"}, tt.args...)...)
			if e.code != fault.ExitInput || strings.Count(e.stderr, "\n") != 1 || !strings.Contains(e.stderr, tt.want) {
				t.Errorf("exit %d\n%swant %s", e.code, e.stderr, tt.want)
			}
		})
	}
}

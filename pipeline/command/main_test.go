package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// TestMain lets the test binary be the program: its exit codes, signals and
// environment are part of what is promised, so tests run it as users do.
func TestMain(m *testing.M) {
	switch os.Getenv("SLIPWAY_TEST_AS_PROGRAM") {
	case "1":
		Program{Scanner: func(dir cache.Dir) scan.Scanner { return trivy.New(dir) }, Signer: sigstore.Tool{}, Deployer: cluster.Tool{}}.Main()
	case "core":
		Program{}.Main()
	}
	os.Exit(m.Run())
}

// program is slipway as a process.
type program struct {
	dir   string
	env   []string
	stdin io.Reader
	path  string
	attr  *syscall.SysProcAttr
}

// here is the program in an environment of its own: no configuration of the
// user, no CI variables, an empty cache of slipway's, the machine's Go caches.
func here(t *testing.T, dir string) *program {
	t.Helper()
	return &program{dir: dir, path: os.Args[0], env: environment(t, t.TempDir())}
}

func environment(t *testing.T, home string) []string {
	t.Helper()
	// The go command counts its uses in the background, into a folder that may
	// be being removed by then.
	telemetry := filepath.Join(home, ".config", "go", "telemetry")
	if err := os.MkdirAll(telemetry, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"SLIPWAY_TEST_AS_PROGRAM=1", "HOME=" + home, "SLIPWAY_CACHE=" + filepath.Join(home, "slipway"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	out, err := exec.CommandContext(t.Context(), "go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN").Output()
	if err != nil {
		t.Fatal(err)
	}
	var vars map[string]string
	if err := json.Unmarshal(out, &vars); err != nil {
		t.Fatal(err)
	}
	for name, value := range vars {
		env = append(env, name+"="+value)
	}
	return env
}

func (p *program) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.path, args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.SysProcAttr = p.dir, p.env, p.stdin, p.attr
	return cmd
}

type ended struct {
	code           int
	stdout, stderr string
}

func (p *program) run(t *testing.T, args ...string) ended {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := p.command(t, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return ended{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// report runs a command that must succeed and returns its JSON report.
func (p *program) report(t *testing.T, args ...string) ship.Report {
	t.Helper()
	e := p.run(t, append(args, "-o", "json", "--progress", "plain")...)
	if e.code != fault.ExitOK {
		t.Fatalf("%v ended with %d\n%s%s", args, e.code, e.stdout, e.stderr)
	}
	var r ship.Report
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
		t.Fatalf("%v\n%s", err, e.stdout)
	}
	return r
}

// hello is an app that compiles fast: it imports nothing but os.
func hello() map[string]string {
	return map[string]string{
		"go.mod":         "module example.com/acme/hello\n\ngo 1.26\n",
		"main.go":        "package main\n\nimport (\n\t\"os\"\n\n\t\"example.com/acme/hello/greet\"\n)\n\nvar version = \"\"\n\nfunc main() { os.Stdout.WriteString(greet.Text + \" \" + version + \"\\n\") }\n",
		"greet/text.go":  "package greet\n\nimport _ \"embed\"\n\n//go:embed text.txt\nvar Text string\n",
		"greet/text.txt": "hello",
		"README.md":      "read me\n",
		".dockerignore":  "**/*.md\n",
		"slipway.yaml":   "app:\n  platforms: [linux/amd64]\n",
	}
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

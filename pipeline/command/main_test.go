package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// TestMain runs the slipway program if SLIPWAY_TEST_AS_PROGRAM is set. The tests start
// their own binary with it, because exit codes, signals and environment variables can be
// tested only in a separate process. The value 1 selects the complete program, and core
// that of slipway-core.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Argument {
		os.Exit(sandbox.Enter(os.Args[2:]))
	}
	switch os.Getenv("SLIPWAY_TEST_AS_PROGRAM") {
	case "1":
		Program{Scanner: func(dir cache.Dir) scan.Scanner { return trivy.New(dir) }, Signer: sigstore.Tool{}, Deployer: cluster.Tool{}}.Main()
	case "core":
		Program{}.Main()
	}
	os.Exit(m.Run())
}

// program describes how tests start the slipway program.
type program struct {
	dir   string // working folder
	env   []string
	stdin io.Reader
	path  string // executable
	attr  *syscall.SysProcAttr
}

// newProgram returns the program with a clean environment: without the configuration of
// the user and without CI variables, with an empty cache of slipway, and with Go's caches
// on this machine.
func newProgram(t *testing.T, dir string) *program {
	t.Helper()
	return &program{dir: dir, path: os.Args[0], env: environment(t, t.TempDir())}
}

// environment returns the environment variables of a program with the given home folder.
func environment(t *testing.T, home string) []string {
	t.Helper()
	// The go command writes telemetry in the background. Without this it could
	// write to the home folder while the test removes that.
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

// variable returns the value of an environment variable of the program. As in the process
// itself, the last value applies.
func (p *program) variable(name string) string {
	for _, entry := range slices.Backward(p.env) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

func (p *program) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.path, args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.SysProcAttr = p.dir, p.env, p.stdin, p.attr
	return cmd
}

// result is the result of a program that has ended.
type result struct {
	code           int
	stdout, stderr string
}

func (p *program) run(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := p.command(t, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// report runs a command, which must succeed, and returns its JSON report.
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

// helloApp returns the files of an app that compiles fast, because it imports only os.
func helloApp() map[string]string {
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

// wantNoSecret checks that the secret is neither in the output of a program nor in any
// file below the folders.
func wantNoSecret(t *testing.T, secret, output string, folders ...string) {
	t.Helper()
	if strings.Contains(output, secret) {
		t.Errorf("the output contains the secret:\n%s", output)
	}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s contains the secret", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

package lint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// module is the package of golangci-lint for go install.
const module = "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"

// find returns the path of a golangci-lint of the configured version that was built
// with a Go version that is not older than the app's, because golangci-lint does
// not check modules that are newer than the Go version it was built with. It uses
// the one on PATH if that fits, and otherwise the one in the cache, which it builds
// if it is missing.
func find(ctx context.Context, o Options) (string, error) {
	if program, err := exec.LookPath("golangci-lint"); err == nil {
		reason, err := unusable(ctx, o, program)
		if err != nil {
			return "", err
		}
		if reason == "" {
			return filepath.Abs(program)
		}
		progress.Line(ctx, "not using "+program+": "+reason)
	}
	if o.CacheDir == "" {
		return "", fault.Inputf("program.missing", "golangci-lint %s is not on PATH", o.Settings.Version).
			WithFix("install it as described at https://golangci-lint.run/docs/welcome/install/")
	}
	home := filepath.Join(o.CacheDir, "tools", "golangci-lint-"+o.Settings.Version+"-"+o.Go.Version)
	program := filepath.Join(home, "golangci-lint")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	return program, build(ctx, o, home)
}

// unusable returns the reason why a golangci-lint cannot be used, or "" if it can.
func unusable(ctx context.Context, o Options, program string) (string, error) {
	cmd := toolchain.Command(ctx, program, "version", "--json")
	cmd.Env = o.Go.Env()
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := run(cmd); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("reading the version of golangci-lint: %w", ctx.Err())
		}
		return "it does not report its version", nil
	}
	var is struct {
		Version   string `json:"version"`
		GoVersion string `json:"goVersion"`
	}
	if err := json.Unmarshal(stdout.Bytes(), &is); err != nil {
		return "it does not report its version", nil //nolint:nilerr // another program of this name, or a version without the flag --json
	}
	if have := strings.TrimPrefix(is.Version, "v"); have != strings.TrimPrefix(o.Settings.Version, "v") {
		return fmt.Sprintf("its version is v%s, but %s is pinned", have, o.Settings.Version), nil
	}
	if version.Compare(version.Lang(is.GoVersion), version.Lang(o.Go.Version)) < 0 {
		return fmt.Sprintf("it was built with %s, but the app uses %s", is.GoVersion, o.Go.Version), nil
	}
	return "", nil
}

// build builds golangci-lint and installs it in home. Concurrent runs wait until it
// is built.
func build(ctx context.Context, o Options, home string) error {
	tools := filepath.Dir(home)
	if err := os.MkdirAll(tools, 0o755); err != nil {
		return fmt.Errorf("creating the tools folder: %w", err)
	}
	lock := flock.New(home + ".lock")
	defer lock.Close()
	if ok, err := lock.TryLock(); err != nil {
		return fmt.Errorf("locking the folder of golangci-lint: %w", err)
	} else if !ok {
		progress.Statusf(ctx, "waiting for another slipway run to build golangci-lint %s", o.Settings.Version)
		if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for another slipway run to build golangci-lint: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(home, "golangci-lint")); err == nil {
		return nil // the other run built it
	}
	// The name of the folder is fixed and only the holder of the lock uses it, so
	// that the remains of a killed build are removed here.
	tmp := home + ".building"
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("removing an incomplete build of golangci-lint: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return fmt.Errorf("creating a folder for golangci-lint: %w", err)
	}
	progress.Statusf(ctx, "building golangci-lint %s from the module proxy; the first time takes a few minutes", o.Settings.Version)
	cmd := toolchain.Command(ctx, o.Go.Program, "install", "-trimpath", "-ldflags=-s -w", module+"@"+o.Settings.Version)
	cmd.Dir = tmp
	// If golangci-lint needs a newer Go than the app, the go command downloads it.
	// The app is checked with its own toolchain in any case. Without cgo, no C
	// compiler is needed.
	cmd.Env = o.Go.Env("GOBIN="+tmp, "GOTOOLCHAIN="+o.Go.Version+"+auto", "CGO_ENABLED=0", "GOWORK=off")
	last := ""
	stderr := &lines{each: func(line string) {
		last = line
		progress.Line(ctx, line)
	}}
	cmd.Stderr = stderr
	err := run(cmd)
	stderr.flush()
	if ctx.Err() != nil {
		return fmt.Errorf("building golangci-lint %s: %w", o.Settings.Version, ctx.Err())
	}
	if err != nil {
		if last != "" {
			err = errors.New(last)
		}
		return fault.Failedf("lint.tool", "building golangci-lint %s: %w", o.Settings.Version, err).
			WithFix("install golangci-lint %s on PATH, or set GOPROXY to a reachable module proxy", o.Settings.Version)
	}
	if err := os.Rename(tmp, home); err != nil {
		return fmt.Errorf("moving golangci-lint into the cache: %w", err)
	}
	return nil
}

// run runs a command until it ends and then kills its process group.
func run(cmd *exec.Cmd) error {
	err := cmd.Run()
	if cmd.Process != nil {
		// The command has ended, but one of its children may still be running.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return err
}

// lines is a writer that calls a function for every line.
type lines struct {
	each func(line string)
	rest []byte // last line, as long as it is not complete
}

// Write calls the function for every line that p completes.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		l.each(strings.TrimSuffix(string(line), "\r"))
	}
}

// flush calls the function for a last line without a newline.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.each(string(l.rest))
		l.rest = nil
	}
}

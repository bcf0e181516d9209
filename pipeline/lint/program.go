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

// module is what `go install` builds golangci-lint from.
const module = "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"

// find returns a golangci-lint of exactly the wanted version that was built with
// a Go at least as new as the app's: golangci-lint refuses modules newer than
// the Go it was built with. First comes the one on PATH, then the one in the
// cache folder, which is built where it is missing.
func find(ctx context.Context, o Options) (string, error) {
	if program, err := exec.LookPath("golangci-lint"); err == nil {
		why, err := unfit(ctx, o, program)
		if err != nil {
			return "", err
		}
		if why == "" {
			return filepath.Abs(program)
		}
		progress.Line(ctx, "not using "+program+": "+why)
	}
	if o.CacheDir == "" {
		return "", fault.Inputf("program.missing", "golangci-lint %s is not on PATH", o.Settings.Version).
			WithFix("install it: https://golangci-lint.run/docs/welcome/install/")
	}
	home := filepath.Join(o.CacheDir, "tools", "golangci-lint-"+o.Settings.Version+"-"+o.Go.Version)
	program := filepath.Join(home, "golangci-lint")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	return program, build(ctx, o, home)
}

// unfit says why a golangci-lint cannot be used, or "".
func unfit(ctx context.Context, o Options, program string) (string, error) {
	cmd := toolchain.Command(ctx, program, "version", "--json")
	cmd.Env = o.Go.Env()
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := run(cmd); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("asking golangci-lint for its version: %w", ctx.Err())
		}
		return "it does not tell its version", nil
	}
	var is struct {
		Version   string `json:"version"`
		GoVersion string `json:"goVersion"`
	}
	if err := json.Unmarshal(stdout.Bytes(), &is); err != nil {
		return "it does not tell its version", nil //nolint:nilerr // another program of that name, or an ancient one
	}
	if have := strings.TrimPrefix(is.Version, "v"); have != strings.TrimPrefix(o.Settings.Version, "v") {
		return fmt.Sprintf("it is v%s and %s is pinned", have, o.Settings.Version), nil
	}
	if version.Compare(version.Lang(is.GoVersion), version.Lang(o.Go.Version)) < 0 {
		return fmt.Sprintf("it was built with %s and the app uses %s", is.GoVersion, o.Go.Version), nil
	}
	return "", nil
}

// build builds golangci-lint into home, once: others who want it meanwhile wait.
func build(ctx context.Context, o Options, home string) error {
	tools := filepath.Dir(home)
	if err := os.MkdirAll(tools, 0o755); err != nil {
		return fmt.Errorf("making the tools folder: %w", err)
	}
	lock := flock.New(home + ".lock")
	defer lock.Close()
	if ok, err := lock.TryLock(); err != nil {
		return fmt.Errorf("locking the tools folder: %w", err)
	} else if !ok {
		progress.Statusf(ctx, "waiting for another slipway to build golangci-lint %s", o.Settings.Version)
		if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for golangci-lint: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(home, "golangci-lint")); err == nil {
		return nil // the other one built it
	}
	// The name is the same every time, and only the lock's holder touches it: what
	// a killed build left is removed here.
	making := home + ".building"
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("removing an unfinished golangci-lint: %w", err)
	}
	defer os.RemoveAll(making)
	if err := os.Mkdir(making, 0o755); err != nil {
		return fmt.Errorf("making a folder for golangci-lint: %w", err)
	}
	progress.Statusf(ctx, "building golangci-lint %s from the module proxy: once, a few minutes", o.Settings.Version)
	cmd := toolchain.Command(ctx, o.Go.Program, "install", "-trimpath", "-ldflags=-s -w", module+"@"+o.Settings.Version)
	cmd.Dir = making
	// A golangci-lint that needs a newer Go than the app's gets one; it still
	// checks the app by the app's own toolchain. Without cgo it needs no C compiler.
	cmd.Env = o.Go.Env("GOBIN="+making, "GOTOOLCHAIN="+o.Go.Version+"+auto", "CGO_ENABLED=0", "GOWORK=off")
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
			WithFix("put golangci-lint %s on PATH, or set GOPROXY to a module proxy that can be reached", o.Settings.Version)
	}
	if err := os.Rename(making, home); err != nil {
		return fmt.Errorf("keeping golangci-lint: %w", err)
	}
	return nil
}

// run runs a command and returns when its whole process group is gone.
func run(cmd *exec.Cmd) error {
	err := cmd.Run()
	if cmd.Process != nil {
		// A cancelled command is dead by now, but a child of it may not be.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return err
}

// lines is a writer that passes on whole lines.
type lines struct {
	each func(line string)
	rest []byte
}

// Write passes on every line that p completes.
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

// flush passes on a last line without a newline.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.each(string(l.rest))
		l.rest = nil
	}
}

// Package toolchain finds and runs the programs that the stages need: go,
// golangci-lint and upx. It removes the variables from their environment that could
// change what is built.
//
// The package promises no compatibility to programs other than slipway.
package toolchain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// grace is how long an interrupted program may take to clean up before it is
// killed.
const grace = 5 * time.Second

// Go is a Go toolchain and the settings of this machine that it may use.
type Go struct {
	Version    string // for example "go1.26.8"
	Root       string // GOROOT
	Program    string // absolute path of the go command of this toolchain
	ModCache   string // GOMODCACHE
	BuildCache string // GOCACHE
	env        []string
}

// keptSettings returns the names of the go settings that are passed on to
// programs. They state from where modules are fetched and where they are cached,
// and cannot change what is built, because go.sum fixes the content of modules.
// All other settings (GOFLAGS, GOEXPERIMENT, GOAMD64, CGO_CFLAGS, ...) are
// dropped, whether they are set in the environment or with `go env -w`: with
// them the same commit would have another digest on another machine.
func keptSettings() []string {
	return []string{
		"GOAUTH", "GOCACHE", "GOCACHEPROG", "GOINSECURE", "GOMODCACHE", "GONOPROXY",
		"GONOSUMDB", "GOPATH", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS",
	}
}

// Find finds the go command on PATH and the toolchain for the module in dir.
//
// The pin is the exact name of a toolchain, for example "go1.26.8". If it is
// empty, the toolchain line of dir's go.mod is used, and without that line the
// toolchain of the go command on PATH. If the pinned toolchain is not the local
// one, the go command downloads it (https://go.dev/doc/toolchain).
//
// It returns a [fault.Input] error if the go command is missing or cannot
// provide the pinned toolchain.
func Find(ctx context.Context, dir, pin string) (*Go, error) {
	program, err := exec.LookPath("go")
	if err != nil {
		return nil, fault.Inputf("program.missing", "go is not installed or not on PATH").
			WithFix("install Go from https://go.dev/doc/install")
	}
	if pin == "" {
		pin = toolchainLine(dir)
	}
	env := os.Environ()
	if pin != "" {
		env = append(env, "GOTOOLCHAIN="+pin)
	}
	cmd := Command(ctx, program, append([]string{"env", "-json", "GOVERSION", "GOROOT"}, keptSettings()...)...)
	cmd.Dir, cmd.Env = dir, env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		what := "running go env"
		if pin != "" {
			what = "getting toolchain " + pin
		}
		return nil, fault.Inputf("toolchain.unavailable", "%s: %s", what, lastLine(stderr.String(), err)).
			WithFix("install that version or change the toolchain in go.mod or slipway.yaml")
	}
	vars := map[string]string{}
	if err := json.Unmarshal(out, &vars); err != nil {
		return nil, fmt.Errorf("parsing the output of go env: %w", err)
	}
	if pin != "" && vars["GOVERSION"] != pin {
		return nil, fault.Inputf("toolchain.unavailable", "the app is pinned to %s, but the go command provides %s", pin, vars["GOVERSION"]).
			WithFix("unset GOTOOLCHAIN=local or install %s", pin)
	}
	g := &Go{
		Version:    vars["GOVERSION"],
		Root:       vars["GOROOT"],
		ModCache:   vars["GOMODCACHE"],
		BuildCache: vars["GOCACHE"],
		Program:    program,
	}
	if local := filepath.Join(g.Root, "bin", "go"); executable(local) {
		g.Program = local
	}
	g.env = environ()
	for _, name := range keptSettings() {
		if vars[name] != "" {
			g.env = append(g.env, name+"="+vars[name])
		}
	}
	// GOFLAGS must not be empty, or the go command would read it from the user's
	// settings file. Every build of slipway uses -trimpath.
	g.env = append(g.env, "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=-trimpath", "GOROOT="+g.Root,
		"PATH="+filepath.Join(g.Root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	return g, nil
}

// Env returns the environment for a program: the environment of slipway without
// the variables that change a build or hold secrets, then the settings of the
// toolchain, then extra. Entries have the form NAME=value, and later ones
// override earlier ones.
func (g *Go) Env(extra ...string) []string {
	return append(slices.Clone(g.env), extra...)
}

// ZoneInfo returns the path of this toolchain's time zone database, which is the
// pinned source of the zone data in an image.
func (g *Go) ZoneInfo() string { return filepath.Join(g.Root, "lib", "time", "zoneinfo.zip") }

// Command returns a command that runs in its own process group. When ctx ends,
// the group receives SIGINT, which lets the go command and upx remove their
// temporary files. If the command has not ended five seconds later, it is killed.
// Use [Run] to run the command.
func Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = grace
	return cmd
}

// environ returns the environment of slipway without the variables that change
// what go or a C compiler builds or which time is stamped, and without slipway's
// secrets, because a test may print its environment.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if changesBuild(name) || isSecret(name) {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// changesBuild reports whether a variable can change what is built.
func changesBuild(name string) bool {
	switch name {
	case "AR", "CC", "CXX", "FC", "PKG_CONFIG", "PATH", "SOURCE_DATE_EPOCH",
		"CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH":
		return true
	case "GODEBUG", "GOMAXPROCS", "GOMEMLIMIT", "GOGC":
		return false // these change the running programs, not what they build
	}
	return strings.HasPrefix(name, "GO") && name == strings.ToUpper(name) && !strings.HasPrefix(name, "GOOGLE") ||
		strings.HasPrefix(name, "CGO_")
}

// isSecret reports whether a variable holds a credential with which slipway
// signs or pushes.
func isSecret(name string) bool {
	switch name {
	case "SLIPWAY_KEY_PASSWORD", "COSIGN_PASSWORD", "SLIPWAY_REGISTRY_PASSWORD",
		"SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "SIGNING_KEY", "SIGNING_PASSWORD":
		return true
	}
	return false
}

// toolchainLine returns the toolchain of dir's go.mod, or "" if it has none.
func toolchainLine(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "" // package source reports a missing go.mod, with a fix
	}
	f, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil || f.Toolchain == nil || f.Toolchain.Name == "default" {
		return ""
	}
	return f.Toolchain.Name
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// lastLine returns the last line of text, or the text of err if text is blank.
func lastLine(text string, err error) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return err.Error()
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// ExitStatus returns the exit status of a program that ran and failed. It
// reports false if err has another cause, for example that the program could not
// be started.
func ExitStatus(err error) (int, bool) {
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.ExitCode(), true
	}
	return 0, false
}

// Environ returns the variables in the form NAME=value, sorted by name.
func Environ(variables map[string]string) []string {
	env := make([]string, 0, len(variables))
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		env = append(env, name+"="+variables[name])
	}
	return env
}

// Package toolchain finds and runs the programs that the stages need: go,
// golangci-lint and upx. It removes the variables from their environment that could
// change what is built.
//
// The package promises no compatibility to programs other than slipway.
package toolchain

import (
	"bytes"
	"cmp"
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
	// Workspace is the go.work file that the go command uses in the module's folder, or
	// "off" (https://go.dev/ref/mod#workspaces).
	Workspace string
	// WorkspaceSet says that GOWORK in the environment of slipway or in the settings of
	// the user selects another workspace than the one that the go command finds.
	WorkspaceSet bool

	build    []string // environment of builds
	settings []string // settings of the go command, with PATH
}

// WorkspaceOff is the value of GOWORK for which the go command uses no workspace.
const WorkspaceOff = "off"

// Find finds the go command on PATH and the toolchain for the module in dir.
//
// The pin is the exact name of a toolchain, for example "go1.26.8". If it is empty,
// the toolchain line of the go.work file is used, or of dir's go.mod if there is no
// workspace, and without that line the toolchain of the go command on PATH. If the
// pinned toolchain is not the local one, the go command downloads it
// (https://go.dev/doc/toolchain).
//
// The variables of env, in the form NAME=value, are those of app.env. Only GOWORK is
// used.
//
// It returns a [fault.Input] error if the go command is missing or cannot provide the
// pinned toolchain.
func Find(ctx context.Context, dir, pin string, env ...string) (*Go, error) {
	program, err := exec.LookPath("go")
	if err != nil {
		return nil, fault.Inputf("program.missing", "go is not installed or not on PATH").
			WithFix("install Go from https://go.dev/doc/install")
	}
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, "GOWORK=") })
	// The workspace can choose the toolchain, so the go command of the machine is asked
	// first. In most cases it is the right one already.
	names := append([]string{"GOWORK", "GOENV", "GOVERSION", "GOROOT"}, keptSettings()...)
	vars, err := goEnv(ctx, program, dir, slices.Concat(os.Environ(), env, []string{"GOTOOLCHAIN=local"}), names...)
	if err != nil {
		return nil, unavailable(ctx, "running go env", err)
	}
	g := &Go{Program: program}
	if err := g.findWorkspace(ctx, dir, env, vars); err != nil {
		return nil, err
	}
	if pin == "" {
		pin = toolchainLine(dir, g.Workspace)
	}
	if pin == "" || vars["GOVERSION"] != pin {
		what, pinned := "running go env", slices.Concat(os.Environ(), env)
		if pin != "" {
			what, pinned = "getting toolchain "+pin, append(pinned, "GOTOOLCHAIN="+pin)
		}
		if vars, err = goEnv(ctx, program, dir, pinned, names...); err != nil {
			return nil, unavailable(ctx, what, err)
		}
	}
	if pin != "" && vars["GOVERSION"] != pin {
		return nil, fault.Inputf("toolchain.unavailable", "the app is pinned to %s, but the go command provides %s", pin, vars["GOVERSION"]).
			WithFix("unset GOTOOLCHAIN=local or install %s", pin)
	}
	g.Version, g.Root, g.ModCache, g.BuildCache = vars["GOVERSION"], vars["GOROOT"], vars["GOMODCACHE"], vars["GOCACHE"]
	if local := filepath.Join(g.Root, "bin", "go"); executable(local) {
		g.Program = local
	}
	settings := make([]string, 0, len(vars)+4)
	for _, name := range keptSettings() {
		if vars[name] != "" {
			settings = append(settings, name+"="+vars[name])
		}
	}
	// GOFLAGS must not be empty, or the go command would read it from the user's
	// settings file. Every build of slipway uses -trimpath.
	settings = append(settings, "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=-trimpath", "GOROOT="+g.Root,
		"PATH="+filepath.Join(g.Root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"), "GOWORK="+g.Workspace)
	g.build, g.settings = append(environ(changesBuild), settings...), settings
	return g, nil
}

// findWorkspace sets g.Workspace and g.WorkspaceSet from settings of the go command.
func (g *Go) findWorkspace(ctx context.Context, dir string, env []string, vars map[string]string) error {
	g.Workspace = cmp.Or(vars["GOWORK"], WorkspaceOff)
	isSet := func(kv string) bool { return strings.HasPrefix(kv, "GOWORK=") && kv != "GOWORK=" }
	if slices.ContainsFunc(env, isSet) {
		return nil // the commit has the setting
	}
	settings, err := os.ReadFile(vars["GOENV"])
	if err != nil {
		settings = nil // there is no file, or the go command could not read it either
	}
	if !slices.ContainsFunc(os.Environ(), isSet) && !slices.ContainsFunc(strings.Split(string(settings), "\n"), isSet) {
		return nil
	}
	found, err := goEnv(ctx, g.Program, dir, append(os.Environ(), "GOENV=off", "GOWORK=", "GOTOOLCHAIN=local"), "GOWORK")
	if err != nil {
		return unavailable(ctx, "looking for a go.work file", err)
	}
	g.WorkspaceSet = g.Workspace != cmp.Or(found["GOWORK"], WorkspaceOff)
	return nil
}

// goEnv returns settings of the go command.
//
// The experiments and the FIPS 140 module that the user has selected do not reach the
// build, and the go command ends with an error if its version does not know them. An
// empty value would select those of the user's settings file.
func goEnv(ctx context.Context, program, dir string, env []string, names ...string) (map[string]string, error) {
	cmd := Command(ctx, program, append([]string{"env", "-json"}, names...)...)
	cmd.Dir, cmd.Env = dir, slices.Concat(env, []string{"GOEXPERIMENT=none", "GOFIPS140=off"})
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New(lastLine(stderr.String(), err))
	}
	vars := map[string]string{}
	if err := json.Unmarshal(out, &vars); err != nil {
		return nil, fmt.Errorf("parsing the output of go env: %w", err)
	}
	return vars, nil
}

func unavailable(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Inputf("toolchain.unavailable", "%s: %w", what, err).
		WithFix("install that version or change the toolchain in go.mod or slipway.yaml")
}

// VendorDir returns the folder vendor of a workspace, or of the module in dir if the
// workspace is "off" (https://go.dev/ref/mod#vendoring). It need not exist.
func VendorDir(workspace, dir string) string {
	if workspace != WorkspaceOff {
		dir = filepath.Dir(workspace)
	}
	return filepath.Join(dir, "vendor")
}

// WithWorkspace returns a copy of g whose programs use another go.work file, or none if
// it is "off".
func (g *Go) WithWorkspace(file string) *Go {
	other := *g
	other.Workspace = file
	other.build = append(slices.Clone(g.build), "GOWORK="+file)
	other.settings = append(slices.Clone(g.settings), "GOWORK="+file)
	return &other
}

// Env returns the environment for a program that builds: the environment of slipway
// without the variables that change a build or hold secrets, then the settings of the
// toolchain, then extra. Entries have the form NAME=value, and later ones override
// earlier ones.
func (g *Go) Env(extra ...string) []string { return slices.Concat(g.build, extra) }

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

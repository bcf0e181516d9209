// Package toolchain finds and runs the programs the stages need: go,
// golangci-lint and upx. It gives each of them an environment in which nothing
// of the caller's machine can change what is built.
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

// grace is how long an interrupted program may clean up after itself before
// it is killed.
const grace = 10 * time.Second

// Go is a Go toolchain and the settings of this machine that may reach it.
type Go struct {
	Version    string // for example "go1.26.8"
	Root       string // GOROOT
	Program    string // absolute path of the go command of that toolchain
	ModCache   string // GOMODCACHE
	BuildCache string // GOCACHE
	env        []string
}

// carried lists the go settings that say where things are fetched from and
// kept. They cannot change what is built: module content is fixed by go.sum.
// Everything else (GOFLAGS, GOEXPERIMENT, GOAMD64, CGO_CFLAGS, ...) is dropped,
// whether it comes from the environment or from `go env -w`, because it would
// give the same commit another digest on another machine.
func carried() []string {
	return []string{
		"GOAUTH", "GOCACHE", "GOCACHEPROG", "GOINSECURE", "GOMODCACHE", "GONOPROXY",
		"GONOSUMDB", "GOPATH", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS",
	}
}

// Find locates the go command and settles the toolchain for the module in dir.
//
// pin is an exact toolchain name such as "go1.26.8"; empty means the toolchain
// line of dir's go.mod, and where there is none, the go command on PATH.
// A pinned toolchain that is not the local one is fetched by the go command
// itself (https://go.dev/doc/toolchain).
//
// It returns a [fault.Input] error when there is no go command or it cannot
// provide the pinned toolchain.
func Find(ctx context.Context, dir, pin string) (*Go, error) {
	program, err := exec.LookPath("go")
	if err != nil {
		return nil, fault.Inputf("program.missing", "go is not installed or not on PATH").
			WithFix("install Go from https://go.dev/doc/install")
	}
	if pin == "" {
		pin = directive(dir)
	}
	env := os.Environ()
	if pin != "" {
		env = append(env, "GOTOOLCHAIN="+pin)
	}
	cmd := Command(ctx, program, append([]string{"env", "-json", "GOVERSION", "GOROOT"}, carried()...)...)
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
			what = "asking for toolchain " + pin
		}
		return nil, fault.Inputf("toolchain.unavailable", "%s: %s", what, lastLine(stderr.String(), err)).
			WithFix("install that version or change the toolchain in go.mod or slipway.yaml")
	}
	vars := map[string]string{}
	if err := json.Unmarshal(out, &vars); err != nil {
		return nil, fmt.Errorf("reading go env: %w", err)
	}
	if pin != "" && vars["GOVERSION"] != pin {
		return nil, fault.Inputf("toolchain.unavailable", "this app is pinned to %s but the go command gives %s", pin, vars["GOVERSION"]).
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
	for _, name := range carried() {
		if vars[name] != "" {
			g.env = append(g.env, name+"="+vars[name])
		}
	}
	// GOFLAGS must not be empty: the go command would then read it from the
	// user's settings file. -trimpath is what every build here uses anyway.
	g.env = append(g.env, "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=-trimpath", "GOROOT="+g.Root,
		"PATH="+filepath.Join(g.Root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	return g, nil
}

// Env returns a program's environment: the machine's own without anything that
// changes a build, then extra in the form NAME=value.
func (g *Go) Env(extra ...string) []string {
	return append(slices.Clone(g.env), extra...)
}

// ZoneInfo is the path of the time zone database that belongs to this
// toolchain. It is the pinned source of an image's zone data.
func (g *Go) ZoneInfo() string { return filepath.Join(g.Root, "lib", "time", "zoneinfo.zip") }

// Command returns a command that runs in its own process group, whose group
// gets SIGINT when ctx ends, and that is killed if it has not gone within ten
// seconds: neither the go command nor upx leaves temporary files then. Use
// [Run] to run it.
func Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = grace
	return cmd
}

// environ is the caller's environment less every variable that steers go, C
// compilers or the stamping of time, and less slipway's own secrets: a test may
// print what it sees.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if steers(name) || secret(name) {
			continue
		}
		env = append(env, kv)
	}
	return env
}

func steers(name string) bool {
	switch name {
	case "AR", "CC", "CXX", "FC", "PKG_CONFIG", "PATH", "SOURCE_DATE_EPOCH",
		"CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH":
		return true
	case "GODEBUG", "GOMAXPROCS", "GOMEMLIMIT", "GOGC":
		return false // of the running programs, not of what they build
	}
	return strings.HasPrefix(name, "GO") && name == strings.ToUpper(name) && !strings.HasPrefix(name, "GOOGLE") ||
		strings.HasPrefix(name, "CGO_")
}

// secret tells the variables through which slipway gets what signs and pushes.
func secret(name string) bool {
	switch name {
	case "SLIPWAY_KEY_PASSWORD", "COSIGN_PASSWORD", "SLIPWAY_REGISTRY_PASSWORD",
		"SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "SIGNING_KEY", "SIGNING_PASSWORD":
		return true
	}
	return false
}

// directive is the toolchain line of dir's go.mod, or "".
func directive(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "" // a missing go.mod is reported by the source stage, with a fix
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

func lastLine(text string, err error) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return err.Error()
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// ExitStatus returns the exit status of a program that ran and failed, and
// whether err is such a failure at all.
func ExitStatus(err error) (int, bool) {
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.ExitCode(), true
	}
	return 0, false
}

// Environ returns variables as NAME=value, sorted by name.
func Environ(variables map[string]string) []string {
	env := make([]string, 0, len(variables))
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		env = append(env, name+"="+variables[name])
	}
	return env
}

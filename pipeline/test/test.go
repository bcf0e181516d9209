// Package test runs an app's tests with the race detector and coverage, and
// turns go test's event stream into a verdict and the reports that CI systems
// read.
package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/mod/modfile"
	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/service"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Options say what to test and how.
type Options struct {
	Dir string        // the app's module, absolute
	Go  *toolchain.Go // the app's toolchain
	// Settings are the section test of slipway.yaml. The services are started
	// before the tests and stopped after them, unless the environment names them
	// already.
	Settings  config.Test
	Env       []string // more environment, NAME=value; Settings.Env wins over it
	BuildTags []string // build tags
	Args      []string // more arguments of go test, before the packages
	// Reports is the folder for junit.xml, cobertura.xml, coverage.out and
	// test.json; empty for none.
	Reports string
	Prefix  string // path of Dir in the repository, put before every file's path
}

// Result is what testing gave.
type Result struct {
	Packages int       `json:"packages"` // with and without tests
	Tests    int       `json:"tests"`    // subtests count too
	Passed   int       `json:"passed"`
	Failed   int       `json:"failed"`
	Skipped  int       `json:"skipped"`
	Skips    []Skip    `json:"skips"`    // every skipped test, so that none hides
	Failures []Failure `json:"failures"` // by package, in the order of events
	// Coverage is the percentage of statements that ran, as `go tool cover
	// -func` counts it.
	Coverage float64 `json:"coverage"`
	// CoverageLine is "total: (statements) N%" with one decimal, the line that
	// GitLab's coverage expression looks for; empty when nothing was measured.
	CoverageLine string  `json:"coverage_line,omitempty"`
	Races        bool    `json:"races"` // the race detector found something
	Seconds      float64 `json:"seconds"`
	Reports      Reports `json:"reports"`
}

// Reports are the absolute paths of the files written; empty where none were
// asked for.
type Reports struct {
	JUnit     string `json:"junit,omitempty"`
	Cobertura string `json:"cobertura,omitempty"`
	Profile   string `json:"profile,omitempty"` // Go's own coverage format
	Events    string `json:"events,omitempty"`  // go test -json, as it came
}

// Skip is a test that did not run.
type Skip struct {
	Package string `json:"package"`
	Test    string `json:"test"`
	Reason  string `json:"reason"` // what the test said
}

// Run tests the module in o.Dir.
//
// When tests fail or coverage is under the floor it writes all reports and
// returns the full Result beside a [fault.Gate] error. Without any test it
// passes, with a warning. A missing C compiler and patterns that match nothing
// are [fault.Input] errors. When ctx ends, it returns ctx's error once the tests
// and services are gone, and writes no reports: they would look complete.
func Run(ctx context.Context, o Options) (_ Result, err error) {
	start := time.Now()
	o.Env = slices.Concat(o.Env, toolchain.Environ(o.Settings.Env))
	race := o.Settings.Race == nil || *o.Settings.Race
	empty := Result{Skips: []Skip{}, Failures: []Failure{}}
	// Stack traces hold resolved paths; ours must compare equal to them.
	if o.Dir, err = filepath.EvalSymlinks(o.Dir); err != nil {
		return empty, fault.Inputf("test.dir", "finding the module: %w", err)
	}
	env := o.Env
	if race {
		cc, err := compiler(o.Env)
		if err != nil {
			return empty, err
		}
		env = append(slices.Clone(env), "CGO_ENABLED=1", "CC="+cc)
	}
	services, err := service.Start(ctx, service.Options{Kinds: kinds(o.Settings.Services), Lookup: lookup(o.Env)})
	if err != nil {
		return empty, fmt.Errorf("starting services for the tests: %w", err)
	}
	defer services.Stop()
	tmp, err := os.MkdirTemp("", "slipway-test-")
	if err != nil {
		return empty, fmt.Errorf("making a directory for test reports: %w", err)
	}
	defer os.RemoveAll(tmp)
	// A go command that had to be killed cannot remove its work folder: we do.
	env = slices.Concat(env, services.Env(), []string{"GOTMPDIR=" + tmp})

	profile := filepath.Join(tmp, "coverage.out")
	w := newWatcher(ctx, o)
	err = o.goTest(ctx, env, profile, filepath.Join(tmp, "test.json"), w)
	services.Stop()
	if ctx.Err() != nil {
		return empty, fmt.Errorf("testing %s: %w", o.Dir, ctx.Err())
	}
	result := w.result()
	result.Seconds = time.Since(start).Seconds()
	cover, cerr := readCoverage(profile, o.Dir, w.module)
	if cerr != nil {
		return result, cerr
	}
	if cover.statements > 0 {
		result.Coverage = cover.percent()
		result.CoverageLine = fmt.Sprintf("total: (statements) %.1f%%", result.Coverage)
	}
	if result.Reports, cerr = o.report(tmp, w, cover, start); cerr != nil {
		return result, cerr
	}
	for _, f := range result.Failures {
		progress.Emit(ctx, progress.Event{Kind: progress.Output, Text: f.title() + ": " + f.Message, File: f.File, Row: f.Line})
	}
	if result.CoverageLine != "" {
		progress.Line(ctx, result.CoverageLine)
	}
	return result, o.verdict(ctx, result, w, err)
}

// verdict decides whether the tests pass.
func (o Options) verdict(ctx context.Context, r Result, w *watcher, err error) error {
	if len(r.Failures) > 0 {
		return gate(r, time.Duration(o.Settings.Timeout))
	}
	if err != nil {
		if slices.ContainsFunc(w.stderr, func(line string) bool { return strings.Contains(line, "no packages to test") }) {
			return fault.Inputf("test.no-packages", "no package matches %s in %s", strings.Join(o.Settings.Packages, " "), o.Dir).
				WithFix("correct test.packages in slipway.yaml")
		}
		if n := len(w.stderr); n > 0 {
			err = errors.New(w.stderr[n-1])
		}
		return fault.Failedf("test.run", "running go test: %w", err)
	}
	if r.Tests == 0 {
		progress.Warnf(ctx, "there are no tests")
	}
	// The floor is held against what is shown: 69.96 is 70.0.
	if shown := float64(int64(r.Coverage*10+0.5)) / 10; shown < o.Settings.Coverage {
		return fault.Gatef("test.coverage", "coverage %.1f%% is under the floor of %.1f%%", shown, o.Settings.Coverage).
			WithFix("test more, or lower test.coverage in slipway.yaml")
	}
	return nil
}

// goTest runs go test with its events going to w and, as they came, to the file.
func (o Options) goTest(ctx context.Context, env []string, profile, events string, w *watcher) error {
	file, err := os.Create(events)
	if err != nil {
		return fmt.Errorf("keeping test events: %w", err)
	}
	defer file.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Not -trimpath: tests find their data through runtime.Caller.
	args := []string{"test", "-json", "-trimpath=false", "-covermode=atomic", "-coverprofile=" + profile, "-timeout=" + o.Settings.Timeout.String()}
	if o.Settings.Race == nil || *o.Settings.Race {
		args = append(args, "-race")
	}
	if len(o.Settings.CoverPackages) > 0 {
		args = append(args, "-coverpkg="+strings.Join(o.Settings.CoverPackages, ","))
	}
	if len(o.BuildTags) > 0 {
		args = append(args, "-tags="+strings.Join(o.BuildTags, ","))
	}
	cmd := toolchain.Command(ctx, o.Go.Program, slices.Concat(args, o.Args, o.Settings.Packages)...)
	cmd.Dir = o.Dir
	cmd.Env = o.Go.Env(env...)
	// With pipes of our own in place of StdoutPipe, Wait does not wait for ever
	// for a daemon that a test left behind with our stdout.
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	cmd.Stdout, cmd.Stderr = outW, errW
	progress.Statusf(ctx, "compiling tests")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running go test: %w", err)
	}
	scanned := make(chan error, 1)
	go func() {
		execution, err := testjson.ScanTestOutput(testjson.ScanConfig{
			Stdout: io.TeeReader(outR, file), Stderr: errR, Handler: w,
			Stop: cancel, IgnoreNonJSONOutputLines: true,
		})
		w.execution = execution
		// A scanner that gave up must not block the program it listens to.
		outR.CloseWithError(io.ErrClosedPipe)
		errR.CloseWithError(io.ErrClosedPipe)
		scanned <- err
	}()
	err = cmd.Wait()
	// A cancelled go test is dead by now, but a test that ignores signals is not.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	outW.Close()
	errW.Close()
	if serr := <-scanned; serr != nil {
		return fmt.Errorf("reading go test's events: %w", serr)
	}
	if cerr := file.Close(); cerr != nil {
		return fmt.Errorf("keeping test events: %w", cerr)
	}
	return err
}

// report writes the reports, each at once or not at all.
func (o Options) report(tmp string, w *watcher, cover *coverage, at time.Time) (Reports, error) {
	if o.Reports == "" {
		return Reports{}, nil
	}
	if err := os.MkdirAll(o.Reports, 0o755); err != nil {
		return Reports{}, fmt.Errorf("making the reports folder: %w", err)
	}
	junit, err := w.junit()
	if err != nil {
		return Reports{}, err
	}
	cobertura, err := cover.cobertura(o.base(), at)
	if err != nil {
		return Reports{}, err
	}
	events, err := os.ReadFile(filepath.Join(tmp, "test.json"))
	if err != nil {
		return Reports{}, fmt.Errorf("reading the test events: %w", err)
	}
	r := Reports{
		JUnit: filepath.Join(o.Reports, "junit.xml"), Cobertura: filepath.Join(o.Reports, "cobertura.xml"),
		Profile: filepath.Join(o.Reports, "coverage.out"), Events: filepath.Join(o.Reports, "test.json"),
	}
	for file, data := range map[string][]byte{r.JUnit: junit, r.Cobertura: cobertura, r.Profile: cover.profile, r.Events: events} {
		if err := renameio.WriteFile(file, data, 0o644); err != nil {
			return Reports{}, fmt.Errorf("writing %s: %w", file, err)
		}
	}
	return r, nil
}

// base is what stands before the path of a file in the module.
func (o Options) base() string { return path.Clean(filepath.ToSlash(cmp.Or(o.Prefix, "."))) }

// compiler returns the C compiler that the race detector's runtime is linked
// with: CC of the environment given, else the platform's default.
func compiler(env []string) (string, error) {
	if cc, ok := lookup(env)("CC"); ok && cc != "" && slices.Contains(env, "CC="+cc) {
		return cc, nil
	}
	names := []string{"gcc", "clang", "cc"}
	if runtime.GOOS == "darwin" {
		names = []string{"clang", "cc"}
	}
	for _, cc := range names {
		if _, err := exec.LookPath(cc); err == nil {
			return cc, nil
		}
	}
	return "", fault.Inputf("program.missing", "the race detector needs a C compiler and none is installed").
		WithFix("install gcc, or set test.race: false")
}

// lookup reads env and, where it does not have the name, the process's own
// environment.
func lookup(env []string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, kv := range slices.Backward(env) {
			if n, value, ok := strings.Cut(kv, "="); ok && n == name {
				return value, true
			}
		}
		return os.LookupEnv(name)
	}
}

// kinds are the services of the configuration.
func kinds(names []string) []service.Kind {
	all := make([]service.Kind, 0, len(names))
	for _, n := range names {
		all = append(all, service.Kind(n))
	}
	return all
}

// modulePath is the path of the module in dir; empty when go.mod has none.
func modulePath(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "" // go test says what is wrong
	}
	return modfile.ModulePath(data)
}

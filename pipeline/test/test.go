// Package test runs an app's tests with the race detector and coverage, and
// converts the events of go test to a result and to reports for CI systems.
//
// The package promises no compatibility to programs other than slipway.
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

// Options are the options of [Run].
type Options struct {
	Dir string        // folder of the app's module, absolute
	Go  *toolchain.Go // the app's toolchain
	// Settings is the section test of slipway.yaml. The services are started before
	// the tests and stopped after them. A service whose variable is set in the
	// environment is not started.
	Settings  config.Test
	Env       []string // additional environment variables, NAME=value; Settings.Env overrides them
	BuildTags []string // build tags
	Args      []string // additional arguments of go test, before the packages
	Force     bool     // run all tests, even if the go command has cached their results
	// Pass says which variables of slipway's environment the tests see.
	Pass toolchain.Pass
	// Isolation runs the tests in a sandbox. If it is nil, they run in Dir, with all
	// rights of the user.
	Isolation *Isolation
	// Reports is the folder for junit.xml, cobertura.xml, coverage.out and
	// test.json. If it is empty, no reports are written.
	Reports string
	Prefix  string // path of Dir in the repository, prepended to the path of every file
}

// Result is the result of [Run].
type Result struct {
	Packages int       `json:"packages"` // number of packages, with and without tests
	Tests    int       `json:"tests"`    // number of tests, including subtests
	Passed   int       `json:"passed"`
	Failed   int       `json:"failed"`
	Skipped  int       `json:"skipped"`
	Skips    []Skip    `json:"skips"`    // every skipped test
	Failures []Failure `json:"failures"` // sorted by package, then in the order of events
	// Coverage is the percentage of statements that ran, computed as by
	// `go tool cover -func`.
	Coverage float64 `json:"coverage"`
	// CoverageLine is "total: (statements) N%" with one decimal, which is the line
	// that GitLab's coverage expression matches. It is empty if there are no
	// statements.
	CoverageLine string  `json:"coverage_line,omitempty"`
	Races        bool    `json:"races"` // whether the race detector found a data race
	Seconds      float64 `json:"seconds"`
	Reports      Reports `json:"reports"`
}

// Reports are the absolute paths of the reports. They are empty if no reports were
// requested.
type Reports struct {
	JUnit     string `json:"junit,omitempty"`
	Cobertura string `json:"cobertura,omitempty"`
	Profile   string `json:"profile,omitempty"` // in the format of Go's coverage profiles
	Events    string `json:"events,omitempty"`  // unchanged output of go test -json
}

// Skip is a test that did not run.
type Skip struct {
	Package string `json:"package"`
	Test    string `json:"test"`
	Reason  string `json:"reason"` // message of the test
}

// Run tests the module in o.Dir.
//
// If tests fail or the coverage is below the minimum, Run writes the reports and
// returns a complete result and a [fault.Gate] error. If there are no tests, it
// warns and passes. It returns [fault.Input] errors for a missing C compiler and
// for package patterns that match nothing.
//
// If ctx ends, Run stops the tests and the services and returns the error of ctx.
// It writes no reports in that case, because they would look complete.
func Run(ctx context.Context, o Options) (_ Result, err error) {
	start := time.Now()
	o.Env = slices.Concat(o.Env, toolchain.Environ(o.Settings.Env))
	race := o.Settings.Race == nil || *o.Settings.Race
	empty := Result{Skips: []Skip{}, Failures: []Failure{}}
	// Stack traces contain paths without symbolic links, so Dir must not have any.
	if o.Dir, err = filepath.EvalSymlinks(o.Dir); err != nil {
		return empty, fault.Inputf("test.dir", "resolving the folder of the module: %w", err)
	}
	env := o.Env
	if race {
		cc, err := compiler(o.Env)
		if err != nil {
			return empty, err
		}
		env = append(slices.Clone(env), "CGO_ENABLED=1", "CC="+cc)
	}
	services, err := service.Start(ctx, service.Options{Kinds: serviceKinds(o.Settings.Services), Lookup: lookup(o.Env)})
	if err != nil {
		return empty, fmt.Errorf("starting services for the tests: %w", err)
	}
	defer services.Stop()
	tmp, err := os.MkdirTemp("", "slipway-test-")
	if err != nil {
		return empty, fmt.Errorf("creating a temporary folder for the tests: %w", err)
	}
	defer os.RemoveAll(tmp)
	at, err := o.place(ctx, tmp)
	if err != nil {
		return empty, err
	}
	defer at.free()
	// What the user has configured for the tests prevails.
	env = slices.Concat(at.env, env, services.Env())

	profile := filepath.Join(at.run, "coverage.out")
	w := newWatcher(ctx, o)
	testErr := o.goTest(ctx, at, env, profile, tmp, w)
	services.Stop()
	if ctx.Err() != nil {
		return empty, fmt.Errorf("testing %s: %w", o.Dir, ctx.Err())
	}
	result := w.result()
	result.Seconds = time.Since(start).Seconds()
	cover, err := readCoverage(profile, o.Dir, w.module)
	if err != nil {
		progress.Warnf(ctx, "the coverage is unknown: %v", err)
	}
	if cover.malformed > 0 {
		progress.Warnf(ctx, "%d lines of the coverage profile are malformed and were not counted", cover.malformed)
	}
	if cover.statements > 0 {
		result.Coverage = cover.percent()
		result.CoverageLine = fmt.Sprintf("total: (statements) %.1f%%", result.Coverage)
	}
	var reportErr error
	result.Reports, reportErr = o.report(tmp, w, cover, start)
	for _, f := range result.Failures {
		progress.Emit(ctx, progress.Event{Kind: progress.Output, Text: f.title() + ": " + f.Message, File: f.File, Row: f.Line})
	}
	if result.CoverageLine != "" {
		progress.Line(ctx, result.CoverageLine)
	}
	err = o.check(ctx, result, w, testErr)
	if names := o.Go.Withheld(o.Pass); err != nil && o.Isolation != nil && len(names) > 0 {
		progress.Warnf(ctx, "the tests did not see these variables: %s (if they need one, name it in test.passEnv)", strings.Join(names, ", "))
	}
	if err != nil && reportErr != nil {
		progress.Warnf(ctx, "the reports are incomplete: %v", reportErr)
		return result, err
	}
	return result, cmp.Or(err, reportErr)
}

// check returns an error unless the tests and the coverage pass. testErr is the
// error of go test.
func (o Options) check(ctx context.Context, r Result, w *watcher, testErr error) error {
	if len(r.Failures) > 0 {
		return failuresError(r, time.Duration(o.Settings.Timeout))
	}
	if testErr != nil {
		if slices.ContainsFunc(w.stderr, func(line string) bool { return strings.Contains(line, "no packages to test") }) {
			return fault.Inputf("test.no-packages", "no package matches %s in %s", strings.Join(o.Settings.Packages, " "), o.Dir).
				WithFix("correct test.packages in slipway.yaml")
		}
		if n := len(w.stderr); n > 0 {
			testErr = errors.New(w.stderr[n-1])
		}
		return fault.Failedf("test.run", "running go test: %w", testErr)
	}
	if r.Tests == 0 {
		progress.Warnf(ctx, "there are no tests")
	}
	// The coverage is compared as it is shown, with one decimal: 69.96 counts as 70.0.
	if shown := float64(int64(r.Coverage*10+0.5)) / 10; shown < o.Settings.Coverage {
		return fault.Gatef("test.coverage", "coverage is %.1f%%, below the minimum of %.1f%%", shown, o.Settings.Coverage).
			WithFix("add tests, or lower test.coverage in slipway.yaml")
	}
	return nil
}

// overtime is how long the tests of a package may run beyond the timeout. Go's own
// timeout ends a test program with the stacks of its goroutines. A program that cannot
// do that, for example because it was stopped by a signal, is killed after the
// overtime; the go command itself would wait for another minute.
const overtime = 5 * time.Second

// goTest runs go test. It passes the events to w and writes them to the file test.json in
// tmp, where the tests cannot write.
func (o Options) goTest(ctx context.Context, at place, env []string, profile, tmp string, w *watcher) error {
	file, err := os.Create(filepath.Join(tmp, "test.json"))
	if err != nil {
		return fmt.Errorf("creating a file for the test events: %w", err)
	}
	defer file.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// -trimpath is disabled because tests find files with runtime.Caller.
	args := []string{"test", "-json", "-trimpath=false", "-covermode=atomic", "-coverprofile=" + profile, "-timeout=" + o.Settings.Timeout.String()}
	if o.Settings.Race == nil || *o.Settings.Race {
		args = append(args, "-race")
	}
	if o.Force {
		args = append(args, "-count=1") // the go command must not use its cached results
	}
	if len(o.Settings.CoverPackages) > 0 {
		args = append(args, "-coverpkg="+strings.Join(o.Settings.CoverPackages, ","))
	}
	if len(o.BuildTags) > 0 {
		args = append(args, "-tags="+strings.Join(o.BuildTags, ","))
	}
	cmd, err := at.command(ctx, tmp, o.Go.TestEnv(o.Pass, env...), o.Go.Program, slices.Concat(args, o.Args, o.Settings.Packages)...)
	if err != nil {
		return err
	}
	// With these pipes instead of StdoutPipe, Wait stops waiting for the output after
	// WaitDelay, in case a test left a process that has inherited the pipe.
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	stdout, stderr := &lineSplitter{w: outW}, &lineSplitter{w: errW}
	events := &renamer{w: io.MultiWriter(file, stdout), from: []byte(at.top), to: []byte(at.from)}
	messages := &renamer{w: stderr, from: []byte(at.top), to: []byte(at.from)}
	cmd.Stdout, cmd.Stderr = events, messages
	progress.Statusf(ctx, "compiling tests")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running go test: %w", err)
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // fails if all processes have ended
	w.limit(time.Duration(o.Settings.Timeout)+overtime, kill)
	scanned := make(chan error, 1)
	go func() {
		execution, err := testjson.ScanTestOutput(testjson.ScanConfig{
			Stdout: outR, Stderr: errR, Handler: w, IgnoreNonJSONOutputLines: true,
			Stop: func() {
				cancel()
				// Without a reader, the program must not block on writing.
				outR.CloseWithError(io.ErrClosedPipe)
				errR.CloseWithError(io.ErrClosedPipe)
			},
		})
		w.end(execution)
		scanned <- err
	}()
	err = cmd.Wait()
	kill()                                            // a cancelled go test has ended, but a test that ignores signals has not
	_ = errors.Join(events.flush(), messages.flush()) // these fail only if nobody reads the events
	_, _ = stdout.Write(w.stopTimers())
	outW.CloseWithError(stdout.Close())
	errW.CloseWithError(stderr.Close())
	if serr := <-scanned; serr != nil {
		return fmt.Errorf("reading the events of go test: %w", serr)
	}
	if cerr := file.Close(); cerr != nil {
		return fmt.Errorf("writing the test events: %w", cerr)
	}
	return err
}

// report writes every report atomically.
func (o Options) report(tmp string, w *watcher, cover *coverage, at time.Time) (Reports, error) {
	if o.Reports == "" {
		return Reports{}, nil
	}
	if err := os.MkdirAll(o.Reports, 0o755); err != nil {
		return Reports{}, fmt.Errorf("creating the folder for reports: %w", err)
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

// base returns the folder of the module in the repository, which is prepended to
// the paths of files.
func (o Options) base() string { return path.Clean(filepath.ToSlash(cmp.Or(o.Prefix, "."))) }

// compiler returns the C compiler that links the runtime of the race detector: CC
// in env, or the first default compiler of the platform that is installed.
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
		WithFix("install gcc, or set test.race: false in slipway.yaml")
}

// lookup returns a function that looks up a variable in env and then in the
// environment of slipway.
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

// serviceKinds converts the names of services in the configuration.
func serviceKinds(names []string) []service.Kind {
	all := make([]service.Kind, 0, len(names))
	for _, n := range names {
		all = append(all, service.Kind(n))
	}
	return all
}

// modulePath returns the module path of the module in dir, or "".
func modulePath(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "" // go test reports the error
	}
	return modfile.ModulePath(data)
}

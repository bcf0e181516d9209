package test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// watcher handles the events of go test. It reports them as progress and stores what
// is needed for the result.
type watcher struct {
	ctx       context.Context
	dir       string // folder of the module
	base      string // prepended to the paths of files
	module    string // module path
	execution *testjson.Execution

	// testjson calls the methods of the watcher from two goroutines.
	mu     sync.Mutex
	done   int64
	stderr []string
	builds map[string]*strings.Builder // output of the compiler, by the ID of the build
	broken map[string]string           // ID of the failed build, by package
	timers map[string]*time.Timer      // by package that runs
	start  func(pkg string) *time.Timer
	killed string // the package whose tests exceeded the timeout and its overtime
}

func newWatcher(ctx context.Context, o Options) *watcher {
	return &watcher{
		ctx: ctx, dir: o.Dir, base: o.base(), module: modulePath(o.Dir),
		builds: map[string]*strings.Builder{}, broken: map[string]string{}, timers: map[string]*time.Timer{},
	}
}

// limit makes the watcher call kill when the tests of a package have run for longer
// than d.
func (w *watcher) limit(d time.Duration, kill func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start = func(pkg string) *time.Timer {
		return time.AfterFunc(d, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.timers[pkg] != nil && w.killed == "" {
				w.killed = pkg
				kill()
			}
		})
	}
}

// stopTimers ends the limit of all packages. If the tests were killed, it returns the
// events that are missing, because the go command was killed, too.
func (w *watcher) stopTimers() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	var events bytes.Buffer
	for _, pkg := range slices.Sorted(maps.Keys(w.timers)) {
		w.stopTimer(pkg)
		if w.killed == "" {
			continue
		}
		for _, e := range []map[string]string{
			{"Action": "output", "Package": pkg, "Output": "FAIL: " + w.killReason(pkg) + "\n"},
			{"Action": "fail", "Package": pkg},
		} {
			line, err := json.Marshal(e)
			if err != nil {
				continue // a map of strings can always be encoded
			}
			events.Write(append(line, '\n'))
		}
	}
	return events.Bytes()
}

// killReason returns why the tests of a package were killed.
func (w *watcher) killReason(pkg string) string {
	if pkg == w.killed {
		return "the timeout was exceeded, and the test program did not end"
	}
	return "the tests were stopped because those of " + w.killed + " did not end"
}

func (w *watcher) stopTimer(pkg string) {
	if t := w.timers[pkg]; t != nil {
		t.Stop()
		delete(w.timers, pkg)
	}
}

var _ testjson.EventHandler = (*watcher)(nil)

// packageLine matches the last line of go test for a package that passed.
var packageLine = regexp.MustCompile(`^ok\s+(\S+)\s+(\S+)(?:\s+coverage: (\S+) of statements)?`)

// Event handles an event of `go test -json`
// (https://pkg.go.dev/cmd/test2json and `go help buildjson`).
func (w *watcher) Event(e testjson.TestEvent, x *testjson.Execution) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Test == "" && e.Action.IsTerminal() {
		w.stopTimer(e.Package)
	}
	switch {
	case e.Action == testjson.ActionBuild:
		b := w.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			w.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		for line := range strings.Lines(e.Output) {
			progress.Line(w.ctx, strings.TrimRight(line, "\r\n"))
		}
	case e.Package == "":
		// This is build-fail. The events of the package follow.
	case e.Test != "" && e.Action.IsTerminal():
		w.done++
		progress.Count(w.ctx, w.done, 0, progress.Tests)
		p := x.Package(e.Package)
		switch e.Action {
		case testjson.ActionFail:
			w.print(p.OutputLines(p.LastFailedByName(e.Test)))
		case testjson.ActionSkip:
			progress.Line(w.ctx, fmt.Sprintf("SKIP %s.%s: %s", e.Package, e.Test, reason(p.OutputLines(last(p.Skipped, 1)[0]))))
		}
	case e.Test != "":
	case e.Action == "start":
		if w.start != nil && w.timers[e.Package] == nil {
			w.timers[e.Package] = w.start(e.Package)
		}
		progress.Statusf(w.ctx, "testing %s", e.Package)
	case e.Action == testjson.ActionOutput:
		if m := packageLine.FindStringSubmatch(e.Output); m != nil {
			line := fmt.Sprintf("ok   %s (%s)", m[1], strings.Trim(m[2], "()"))
			if m[3] != "" {
				line += " coverage: " + m[3]
			}
			progress.Line(w.ctx, line)
		}
	case e.Action == testjson.ActionFail:
		var build struct{ FailedBuild string }
		// testjson has parsed these bytes, but does not have this field.
		if err := json.Unmarshal(e.Bytes(), &build); err == nil && build.FailedBuild != "" {
			w.broken[e.Package] = build.FailedBuild
		}
		p := x.Package(e.Package)
		if len(p.Failed) == 0 {
			w.print(p.OutputLines(testjson.TestCase{Package: e.Package}))
		}
		progress.Line(w.ctx, fmt.Sprintf("FAIL %s (%.1fs)", e.Package, e.Elapsed))
	}
	return nil
}

// Err handles a line that go test writes to standard error.
func (w *watcher) Err(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	progress.Line(w.ctx, text)
	// Downloads of modules are not errors.
	if text != "" && !strings.HasPrefix(text, "go: downloading ") {
		w.stderr = append(w.stderr, text)
	}
	return nil
}

// print reports the output of a test as progress.
func (w *watcher) print(output []string) {
	for _, line := range tidy(output) {
		if !strings.HasPrefix(line, "FAIL\t") { // Event reports the result of the package
			progress.Line(w.ctx, line)
		}
	}
}

// end stores the execution after the last event. It removes the failures without a name
// that testjson adds for a subtest whose parent has ended or has never started, which
// is the case if a test prints lines that look like results.
func (w *watcher) end(x *testjson.Execution) {
	w.execution = x
	for _, name := range x.Packages() {
		p := x.Package(name)
		p.Failed = slices.DeleteFunc(p.Failed, func(tc testjson.TestCase) bool { return tc.Package == "" })
	}
}

// result returns the result after the last event.
func (w *watcher) result() Result {
	r := Result{Skips: []Skip{}, Failures: []Failure{}}
	x := w.execution
	for _, name := range w.packages() {
		p := x.Package(name)
		r.Packages++
		r.Passed += len(p.Passed)
		r.Failed += len(p.Failed)
		r.Skipped += len(p.Skipped)
		for _, tc := range p.Skipped {
			r.Skips = append(r.Skips, Skip{name, tc.Test.Name(), reason(p.OutputLines(tc))})
		}
	}
	r.Tests = r.Passed + r.Failed + r.Skipped
	r.Races = x.HasDataRace()
	for _, tc := range testjson.FilterFailedUnique(x.Failed()) {
		if tc.Package != "" {
			r.Failures = append(r.Failures, w.failure(tc))
		}
	}
	return r
}

// packages returns the sorted import paths of the packages. It omits the empty path,
// which testjson uses for the output of builds.
func (w *watcher) packages() []string {
	return slices.DeleteFunc(w.execution.Packages(), func(name string) bool { return name == "" })
}

// cases returns the tests of a package in the order in which they started.
func cases(p *testjson.Package) []testjson.TestCase {
	return slices.SortedFunc(slices.Values(p.TestCases()), func(a, b testjson.TestCase) int { return cmp.Compare(a.ID, b.ID) })
}

// logLine matches a line that a test logged.
var logLine = regexp.MustCompile(`^\s+([^\s/:]+\.go):(\d+): (.*)`)

// reason returns the last message that a skipped test logged.
func reason(output []string) string {
	lines := tidy(output)
	for _, line := range slices.Backward(lines) {
		if m := logLine.FindStringSubmatch(line); m != nil {
			return m[3]
		}
	}
	return ""
}

// tidy returns the lines of output without those that go test -v adds.
func tidy(output []string) []string {
	var lines []string
	for _, line := range output {
		switch {
		case strings.HasPrefix(line, "=== RUN "), strings.HasPrefix(line, "=== PAUSE "),
			strings.HasPrefix(line, "=== CONT "), strings.HasPrefix(line, "=== NAME "):
			continue
		}
		lines = append(lines, strings.TrimRight(line, "\r\n"))
	}
	return lines
}

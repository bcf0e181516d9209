package test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// watcher follows go test's events: it tells the user what happens and keeps
// what the result is made of.
type watcher struct {
	ctx       context.Context
	dir       string // the module
	base      string // put before file paths
	module    string // import path of the module
	execution *testjson.Execution

	// testjson reads stdout and stderr in two goroutines and calls us from both.
	mu     sync.Mutex
	done   int64
	stderr []string
	builds map[string]*strings.Builder // compiler output by go's name of the build
	broken map[string]string           // packages whose build failed, to the name of that build
}

func newWatcher(ctx context.Context, o Options) *watcher {
	return &watcher{
		ctx: ctx, dir: o.Dir, base: o.base(), module: modulePath(o.Dir),
		builds: map[string]*strings.Builder{}, broken: map[string]string{},
	}
}

var _ testjson.EventHandler = (*watcher)(nil)

// packageLine matches go test's last line about a package that passed.
var packageLine = regexp.MustCompile(`^ok\s+(\S+)\s+(\S+)(?:\s+coverage: (\S+) of statements)?`)

// Event takes one event of `go test -json`
// (https://pkg.go.dev/cmd/test2json and `go help buildjson`).
func (w *watcher) Event(e testjson.TestEvent, x *testjson.Execution) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.Action == testjson.ActionBuild:
		b := w.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			w.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		progress.Line(w.ctx, strings.TrimRight(e.Output, "\n"))
	case e.Package == "":
		// build-fail: the package's own events follow.
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
		// testjson parsed these bytes already; it leaves out this field.
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

// Err takes one line of go test's stderr.
func (w *watcher) Err(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	progress.Line(w.ctx, text)
	// Module downloads are progress, not what went wrong.
	if text != "" && !strings.HasPrefix(text, "go: downloading ") {
		w.stderr = append(w.stderr, text)
	}
	return nil
}

func (w *watcher) print(output []string) {
	for _, line := range tidy(output) {
		if !strings.HasPrefix(line, "FAIL\t") { // we end a package in words of our own
			progress.Line(w.ctx, line)
		}
	}
}

// result is what the events add up to.
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
		r.Failures = append(r.Failures, w.failure(tc))
	}
	return r
}

// packages are the names of the tested packages; testjson keeps build output
// under the empty name.
func (w *watcher) packages() []string {
	return slices.DeleteFunc(w.execution.Packages(), func(name string) bool { return name == "" })
}

// cases are a package's tests in the order in which they began.
func cases(p *testjson.Package) []testjson.TestCase {
	return slices.SortedFunc(slices.Values(p.TestCases()), func(a, b testjson.TestCase) int { return cmp.Compare(a.ID, b.ID) })
}

// said matches a line that a test logged.
var said = regexp.MustCompile(`^\s+([^\s/:]+\.go):(\d+): (.*)`)

// reason is what a skipped test said.
func reason(output []string) string {
	lines := tidy(output)
	for _, line := range slices.Backward(lines) {
		if m := said.FindStringSubmatch(line); m != nil {
			return m[3]
		}
	}
	return ""
}

// tidy drops the frame that go test -v puts around a test's output.
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

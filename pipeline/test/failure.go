package test

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Cause is the cause of a failure.
type Cause string

// The causes, in descending order of severity. The error of [Run] is about the most
// severe one.
const (
	Build   Cause = "build"   // the package or its tests do not compile
	Race    Cause = "race"    // the race detector found a data race
	Timeout Cause = "timeout" // the tests of the package exceeded the timeout
	Panic   Cause = "panic"   // the test program panicked
	Failed  Cause = "failed"  // a test failed
	Exit    Cause = "exit"    // the test program failed outside any test
)

// Failure is a test that failed, or a package that failed outside its tests. A test
// that failed because of a subtest is not listed.
type Failure struct {
	Package string `json:"package"`
	Test    string `json:"test,omitempty"` // empty if the package as a whole failed
	Cause   Cause  `json:"cause"`
	Message string `json:"message"`        // what failed, on one line
	Output  string `json:"output"`         // the last lines of its output
	File    string `json:"file,omitempty"` // relative to the module, with Options.Prefix; empty if unknown
	Line    int    `json:"line,omitempty"` // 1-based
}

// outputLines is how many lines of a test's output are kept in a result. The reports
// contain the whole output.
const outputLines = 50

// title returns the name of the failed test or package.
func (f Failure) title() string {
	if f.Test == "" {
		return f.Package
	}
	return f.Package + "." + f.Test
}

// failure returns the failure for a failed test case.
func (w *watcher) failure(tc testjson.TestCase) Failure {
	output := w.output(tc)
	f := Failure{Package: tc.Package, Test: tc.Test.Name(), Output: strings.Join(last(output, outputLines), "\n")}
	f.Cause, f.Message = w.cause(tc, output)
	f.File, f.Line = w.locate(f, output)
	return f
}

// output returns the output of a failed test case, or of the compiler.
func (w *watcher) output(tc testjson.TestCase) []string {
	if build, ok := w.broken[tc.Package]; ok && tc.Test == "" && w.builds[build] != nil {
		return strings.Split(strings.TrimRight(w.builds[build].String(), "\n"), "\n")
	}
	lines := tidy(w.execution.OutputLines(tc))
	if tc.Test == "" && slices.ContainsFunc(lines, buildFailed) {
		lines = slices.Concat(w.stderr, lines) // before Go 1.24, the compiler wrote to standard error
	}
	return lines
}

// buildFailed reports whether a line is the last line of go test for a package that
// does not compile.
func buildFailed(line string) bool {
	return strings.HasSuffix(line, "[build failed]") || strings.HasSuffix(line, "[setup failed]")
}

// timedOut reports whether a line is the panic of a test that exceeded the timeout.
func timedOut(line string) bool { return strings.HasPrefix(line, "panic: test timed out after ") }

// cause returns the cause of a failure and the message of the most specific line of
// its output.
func (w *watcher) cause(tc testjson.TestCase, output []string) (Cause, string) {
	find := func(prefix string) (string, bool) {
		for _, line := range output {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return rest, true
			}
		}
		return "", false
	}
	if _, ok := w.broken[tc.Package]; tc.Test == "" && (ok || slices.ContainsFunc(output, buildFailed)) {
		for _, line := range output {
			if compilerError.MatchString(line) {
				return Build, strings.TrimPrefix(line, "./")
			}
		}
		return Build, "compilation failed"
	}
	if slices.ContainsFunc(output, timedOut) {
		return Timeout, "the timeout was exceeded"
	}
	if w.killed != "" && (tc.Elapsed < 0 || tc.Test == "") {
		if tc.Package == w.killed {
			return Timeout, w.killReason(tc.Package)
		}
		return Exit, w.killReason(tc.Package)
	}
	if tc.Elapsed < 0 { // the test has not ended; go test attributes the panic to the package
		if p := w.execution.Package(tc.Package); slices.ContainsFunc(p.OutputLines(testjson.TestCase{}), timedOut) {
			return Timeout, "the test was running when the timeout was exceeded"
		}
	}
	if _, ok := find("WARNING: DATA RACE"); ok {
		return Race, "data race"
	}
	// A test may print such a line itself, and then fail for another reason.
	died := tc.Test == "" || tc.Elapsed < 0 || slices.ContainsFunc(output, goroutine.MatchString)
	if rest, ok := find("panic: "); ok && died {
		// The testing package appends " [recovered]" to a panic that it raises again.
		return Panic, "panic: " + strings.TrimSuffix(strings.TrimSuffix(rest, ", repanicked]"), " [recovered")
	}
	if rest, ok := find("fatal error: "); ok && died {
		return Panic, "fatal error: " + rest
	}
	if tc.Test == "" {
		return Exit, cmp.Or(lastMessage(output), "the test program failed")
	}
	if tc.Elapsed < 0 { // the program ended while the test was running, for example by log.Fatal
		return Exit, cmp.Or(lastMessage(output), "the program ended while the test was running")
	}
	for i, line := range output {
		if m := logLine.FindStringSubmatch(line); m != nil {
			return Failed, firstMessage(append([]string{m[3]}, output[i+1:]...))
		}
	}
	if message, ok := exampleMessage(output); ok && strings.HasPrefix(tc.Test.Name(), "Example") {
		return Failed, message
	}
	subtest := tc.Test.Name() + "/"
	if slices.ContainsFunc(w.execution.Package(tc.Package).Failed, func(sub testjson.TestCase) bool {
		return strings.HasPrefix(sub.Test.Name(), subtest)
	}) {
		return Failed, "a subtest failed"
	}
	return Failed, "the test failed without a message"
}

// lastMessage returns the last line that the program has printed, or "".
func lastMessage(output []string) string {
	for _, line := range slices.Backward(output) {
		switch {
		case line == "", strings.HasPrefix(line, "FAIL"), strings.HasPrefix(line, "exit status "),
			strings.HasPrefix(line, "coverage: "), strings.HasPrefix(line, "program not built with -cover"):
			continue // lines that go test adds
		}
		return strings.TrimSpace(line)
	}
	return ""
}

// exampleMessage returns the first lines that differ between the output of an example
// and what it should print.
func exampleMessage(output []string) (string, bool) {
	got, want := slices.Index(output, "got:"), slices.Index(output, "want:")
	if got < 0 || want < got {
		return "", false
	}
	printed, expected := output[got+1:want], output[want+1:]
	for i := range max(len(printed), len(expected)) {
		a, b := "", ""
		if i < len(printed) {
			a = printed[i]
		}
		if i < len(expected) {
			b = expected[i]
		}
		if a != b {
			return fmt.Sprintf("the output is %q, want %q", a, b), true
		}
	}
	return "the output is not as expected", true
}

// firstMessage returns the first line that is not blank. A message of testify begins
// with a blank line and a trace; for it, firstMessage returns the text after
// "Error:".
func firstMessage(lines []string) string {
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Error Trace:") {
			for _, line := range lines[i:] {
				if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "Error:"); ok {
					return strings.TrimSpace(rest)
				}
			}
		}
		if line != "" {
			return line
		}
	}
	return "the test failed without a message"
}

var (
	// compilerError matches an error of the compiler. Its path is relative to the module.
	compilerError = regexp.MustCompile(`^(?:vet: )?(\S+\.go):(\d+):(?:\d+:)? `)
	// goroutine matches the line after the message of a panic.
	goroutine = regexp.MustCompile(`^goroutine \d+ .*\[.+\]:$`)
	// stackFrame matches a frame of a stack trace.
	stackFrame = regexp.MustCompile(`^\s+(\S+\.go):(\d+)(?: |$)`)
)

// locate returns the file and the line in the module that a failure refers to. The
// file is empty if there is none.
func (w *watcher) locate(f Failure, output []string) (string, int) {
	inPackage := strings.TrimPrefix(strings.TrimPrefix(f.Package, w.module), "/")
	try := func(pattern *regexp.Regexp, relative func(string) string) (string, int) {
		for _, line := range output {
			m := pattern.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			rel := relative(m[1])
			if !filepath.IsLocal(rel) {
				continue
			}
			if _, err := os.Stat(filepath.Join(w.dir, rel)); err != nil {
				continue // a file of the testing package or of another module
			}
			n, err := strconv.Atoi(m[2])
			if err != nil {
				continue
			}
			return path.Join(w.base, filepath.ToSlash(rel)), n
		}
		return "", 0
	}
	logged := func() (string, int) {
		return try(logLine, func(name string) string { return path.Join(inPackage, name) })
	}
	stack := func() (string, int) {
		return try(stackFrame, func(name string) string {
			rel, err := filepath.Rel(w.dir, name)
			if err != nil {
				return ""
			}
			return rel
		})
	}
	var file string
	var line int
	switch f.Cause {
	case Build:
		return try(compilerError, filepath.Clean)
	case Race, Panic, Timeout, Exit:
		if file, line = stack(); file == "" {
			file, line = logged()
		}
	default:
		if file, line = logged(); file == "" {
			file, line = stack()
		}
	}
	return file, line
}

// failuresError returns the error for the most severe failure.
func failuresError(r Result, limit time.Duration) error {
	by := map[Cause][]Failure{}
	for _, f := range r.Failures {
		by[f.Cause] = append(by[f.Cause], f)
	}
	switch {
	case len(by[Build]) > 0:
		f := by[Build][0]
		return fault.Gatef("test.build", "%s does not compile%s: %s", f.Package, others(by[Build], "package"), f.Message)
	case len(by[Race]) > 0:
		f := by[Race][0]
		return fault.Gatef("test.race", "the race detector found a data race in %s%s%s", f.title(), at(f), others(by[Race], "test"))
	case len(by[Timeout]) > 0:
		f := by[Timeout][0]
		if i := slices.IndexFunc(by[Timeout], func(f Failure) bool { return f.Test != "" }); i >= 0 {
			f = by[Timeout][i] // a test is more specific than its package
		}
		return fault.Gatef("test.timeout", "%s did not finish within %s", f.title(), limit).
			WithFix("if the tests need more time, increase test.timeout in slipway.yaml")
	case len(by[Panic]) > 0:
		f := by[Panic][0]
		return fault.Gatef("test.panic", "%s panicked%s%s: %s", f.title(), at(f), others(by[Panic], "test"), f.Message)
	case len(by[Failed]) > 0:
		f := by[Failed][0]
		return fault.Gatef("test.failed", "%d of %d tests failed: %s%s%s: %s", r.Failed, r.Tests, f.title(), at(f), others(by[Failed], "test"), f.Message)
	}
	f := by[Exit][0]
	if i := slices.IndexFunc(by[Exit], func(f Failure) bool { return f.Test != "" && f.Output != "" }); i >= 0 {
		f = by[Exit][i]
		return fault.Gatef("test.exit", "the test program ended in %s%s: %s", f.title(), at(f), f.Message)
	}
	return fault.Gatef("test.exit", "the test program of %s failed%s: %s", f.Package, others(by[Exit], "package"), f.Message)
}

// at returns the location of a failure in parentheses, or "" if it is not known.
func at(f Failure) string {
	if f.File == "" {
		return ""
	}
	return fmt.Sprintf(" (%s:%d)", f.File, f.Line)
}

// others returns how many failures follow the first one.
func others(fs []Failure, noun string) string {
	switch n := len(fs) - 1; n {
	case 0:
		return ""
	case 1:
		return " and 1 more " + noun
	default:
		return fmt.Sprintf(" and %d more %ss", n, noun)
	}
}

// last returns up to n elements from the end of s.
func last[T any](s []T, n int) []T { return s[max(0, len(s)-n):] }

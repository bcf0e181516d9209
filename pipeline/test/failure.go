package test

import (
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

// Cause tells failures apart.
type Cause string

// The causes, the gravest first: the first of them in a run is its verdict.
const (
	Build   Cause = "build"   // the package or its tests do not compile
	Race    Cause = "race"    // the race detector found a data race
	Timeout Cause = "timeout" // the package's tests ran longer than allowed
	Panic   Cause = "panic"   // the program crashed
	Failed  Cause = "failed"  // a test said no
	Exit    Cause = "exit"    // the test program ended badly outside any test
)

// Failure is a test, or a package outside its tests, that failed. A test whose
// subtest failed is not listed beside it.
type Failure struct {
	Package string `json:"package"`
	Test    string `json:"test,omitempty"` // empty where the package as a whole failed
	Cause   Cause  `json:"cause"`
	Message string `json:"message"`        // what went wrong, one line
	Output  string `json:"output"`         // the last lines of its output
	File    string `json:"file,omitempty"` // relative to the module, below Options.Prefix; empty where unknown
	Line    int    `json:"line,omitempty"` // 1-based
}

// outputLines is how much of a failing test's output a result carries; the
// whole is in the reports.
const outputLines = 50

// title names the failure for people.
func (f Failure) title() string {
	if f.Test == "" {
		return f.Package
	}
	return f.Package + "." + f.Test
}

// failure describes a failed test case.
func (w *watcher) failure(tc testjson.TestCase) Failure {
	output := w.output(tc)
	f := Failure{Package: tc.Package, Test: tc.Test.Name(), Output: strings.Join(last(output, outputLines), "\n")}
	f.Cause, f.Message = w.cause(tc, output)
	f.File, f.Line = w.locate(f, output)
	return f
}

// output is everything that is known about why a test case failed.
func (w *watcher) output(tc testjson.TestCase) []string {
	if build, ok := w.broken[tc.Package]; ok && tc.Test == "" && w.builds[build] != nil {
		return strings.Split(strings.TrimRight(w.builds[build].String(), "\n"), "\n")
	}
	lines := tidy(w.execution.OutputLines(tc))
	if tc.Test == "" && slices.ContainsFunc(lines, unbuilt) {
		lines = slices.Concat(w.stderr, lines) // before Go 1.24 compilers wrote there
	}
	return lines
}

// unbuilt matches how go test ends for a package that did not compile.
func unbuilt(line string) bool {
	return strings.HasSuffix(line, "[build failed]") || strings.HasSuffix(line, "[setup failed]")
}

func timedOut(line string) bool { return strings.HasPrefix(line, "panic: test timed out after ") }

// cause classifies a failure by its output and finds the line that says most.
func (w *watcher) cause(tc testjson.TestCase, output []string) (Cause, string) {
	find := func(prefix string) (string, bool) {
		for _, line := range output {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return rest, true
			}
		}
		return "", false
	}
	if _, ok := w.broken[tc.Package]; tc.Test == "" && (ok || slices.ContainsFunc(output, unbuilt)) {
		for _, line := range output {
			if compiled.MatchString(line) {
				return Build, strings.TrimPrefix(line, "./")
			}
		}
		return Build, "it does not compile"
	}
	if slices.ContainsFunc(output, timedOut) {
		return Timeout, "the time was up"
	}
	if tc.Elapsed < 0 { // never ended; go test gives the panic to the package
		if p := w.execution.Package(tc.Package); slices.ContainsFunc(p.OutputLines(testjson.TestCase{}), timedOut) {
			return Timeout, "it was running when the time was up"
		}
	}
	if _, ok := find("WARNING: DATA RACE"); ok {
		return Race, "data race"
	}
	if rest, ok := find("panic: "); ok {
		// The testing package adds " [recovered]" when it raises a panic again.
		return Panic, "panic: " + strings.TrimSuffix(strings.TrimSuffix(rest, ", repanicked]"), " [recovered")
	}
	if rest, ok := find("fatal error: "); ok {
		return Panic, "fatal error: " + rest
	}
	if tc.Test == "" {
		for _, line := range slices.Backward(output) {
			switch {
			case line == "", strings.HasPrefix(line, "FAIL"), strings.HasPrefix(line, "exit status "),
				strings.HasPrefix(line, "coverage: "), strings.HasPrefix(line, "program not built with -cover"):
				continue // go test's own words
			}
			return Exit, strings.TrimSpace(line)
		}
		return Exit, "the test program failed"
	}
	for i, line := range output {
		if m := said.FindStringSubmatch(line); m != nil {
			return Failed, firstWords(append([]string{m[3]}, output[i+1:]...))
		}
	}
	if tc.Elapsed < 0 {
		return Failed, "it did not end"
	}
	below := tc.Test.Name() + "/"
	if slices.ContainsFunc(w.execution.Package(tc.Package).Failed, func(sub testjson.TestCase) bool {
		return strings.HasPrefix(sub.Test.Name(), below)
	}) {
		return Failed, "a subtest failed"
	}
	return Failed, "it failed"
}

// firstWords is the first line with words. Testify's messages begin with an
// empty line and a trace; what is wrong stands after "Error:".
func firstWords(lines []string) string {
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
	return "it failed"
}

var (
	// compiled matches a compiler's message; the path is relative to the module.
	compiled = regexp.MustCompile(`^(?:vet: )?(\S+\.go):(\d+):(?:\d+:)? `)
	// traced matches a frame of a stack trace.
	traced = regexp.MustCompile(`^\s+(\S+\.go):(\d+)(?: |$)`)
)

// locate finds the place in the module that a failure is about.
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
				continue // the testing package's own file, or another module's
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
		return try(said, func(name string) string { return path.Join(inPackage, name) })
	}
	stack := func() (string, int) {
		return try(traced, func(name string) string {
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
		return try(compiled, filepath.Clean)
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

// gate says no, in one line, for the gravest of the failures.
func gate(r Result, limit time.Duration) error {
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
			f = by[Timeout][i] // says more than the package it is in
		}
		return fault.Gatef("test.timeout", "%s was not done within %s", f.title(), limit).
			WithFix("raise test.timeout in slipway.yaml if that is too little")
	case len(by[Panic]) > 0:
		f := by[Panic][0]
		return fault.Gatef("test.panic", "%s crashed%s%s: %s", f.title(), at(f), others(by[Panic], "test"), f.Message)
	case len(by[Failed]) > 0:
		f := by[Failed][0]
		return fault.Gatef("test.failed", "%d of %d tests failed: %s%s%s: %s", r.Failed, r.Tests, f.title(), at(f), others(by[Failed], "test"), f.Message)
	}
	f := by[Exit][0]
	return fault.Gatef("test.exit", "the test program of %s failed%s: %s", f.Package, others(by[Exit], "package"), f.Message)
}

func at(f Failure) string {
	if f.File == "" {
		return ""
	}
	return fmt.Sprintf(" (%s:%d)", f.File, f.Line)
}

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

func last[T any](s []T, n int) []T { return s[max(0, len(s)-n):] }

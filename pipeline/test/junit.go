package test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
	"time"

	"github.com/jstemmer/go-junit-report/v2/junit"
	"gotest.tools/gotestsum/testjson"
)

// junit returns the result as JUnit XML. A suite is a package and a case is a test. A
// package that failed outside its tests gets a case named "[package]", because CI
// systems show only cases.
func (w *watcher) junit() ([]byte, error) {
	var all junit.Testsuites
	var total time.Duration
	for _, name := range w.packages() {
		p := w.execution.Package(name)
		suite := junit.Testsuite{Name: name, ID: len(all.Suites), Time: seconds(p.Elapsed())}
		if !p.Start.IsZero() {
			suite.SetTimestamp(p.Start.UTC())
		}
		total += p.Elapsed()
		state := map[int]testjson.Action{}
		for _, tc := range p.Failed {
			state[tc.ID] = testjson.ActionFail
		}
		for _, tc := range p.Skipped {
			state[tc.ID] = testjson.ActionSkip
		}
		for _, tc := range cases(p) {
			c := junit.Testcase{Name: printable(tc.Test.Name()), Classname: name, Time: seconds(tc.Elapsed)}
			switch state[tc.ID] {
			case testjson.ActionFail:
				c.Failure = w.problem(tc)
			case testjson.ActionSkip:
				c.Skipped = &junit.Result{Message: printable(reason(p.OutputLines(tc)))}
			}
			suite.AddTestcase(c)
		}
		if p.TestMainFailed() {
			c := junit.Testcase{Name: "[package]", Classname: name, Time: seconds(0)}
			c.Error = w.problem(testjson.TestCase{Package: name})
			suite.AddTestcase(c)
		}
		all.AddSuite(suite)
	}
	all.Time = seconds(total)
	var b bytes.Buffer
	b.WriteString(xml.Header)
	if err := all.WriteXML(&b); err != nil {
		return nil, fmt.Errorf("encoding the JUnit report: %w", err)
	}
	return b.Bytes(), nil
}

// problem returns the JUnit element for a failed test case.
func (w *watcher) problem(tc testjson.TestCase) *junit.Result {
	output := w.output(tc)
	cause, message := w.cause(tc, output)
	return &junit.Result{Message: printable(message), Type: string(cause), Data: printable(strings.Join(output, "\n"))}
}

// seconds formats a duration for JUnit. The duration of a test that has not ended is
// negative, and is formatted as zero.
func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", max(0, d).Seconds()) }

// printable replaces the characters that XML 1.0 cannot represent, even escaped
// (https://www.w3.org/TR/xml/#charsets), for example those of terminal colours.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r',
			r >= 0x20 && r <= 0xD7FF, r >= 0xE000 && r <= 0xFFFD, r >= 0x10000:
			return r
		}
		return '\uFFFD'
	}, s)
}

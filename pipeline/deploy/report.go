package deploy

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/google/renameio/v2"
	"github.com/jstemmer/go-junit-report/v2/junit"

	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
	"github.com/slipway-ci/slipway/pipeline/display"
)

// Summary returns the result as one line of text.
func (r Result) Summary() string {
	var parts []string
	for _, c := range r.Clusters {
		text := string(c.Action)
		switch {
		case c.Action == Untouched:
			text = fmt.Sprintf("revision %d is already running", c.Revision)
		case c.Revision > 0:
			text += fmt.Sprintf(" as revision %d", c.Revision)
		}
		var ready, desired, old int32
		for _, w := range c.Workloads {
			ready, desired, old = ready+w.Ready, desired+w.Desired, old+w.Old
		}
		if desired > 0 {
			text += fmt.Sprintf(", %d of %d pods ready", ready, desired)
		}
		if old > 0 {
			text += fmt.Sprintf(", %d with the old revision", old)
		}
		if len(r.Clusters) > 1 {
			text = c.Name + ": " + text
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// String returns the state of the workload as one line of text.
func (w Workload) String() string {
	text := fmt.Sprintf("%s  %d/%d ready, %d updated, %d available", w.Object, w.Ready, w.Desired, w.Updated, w.Available)
	if w.Old > 0 {
		text += fmt.Sprintf(", %d with the old revision", w.Old)
	}
	return text
}

// Write writes the result as text. A failure is followed by its events and logs.
func Write(w io.Writer, r Result) {
	for _, c := range r.Clusters {
		fmt.Fprintf(w, "  %s/%s on %s: %s", r.Namespace, r.Release, c.Name, c.Action)
		if c.Revision > 0 {
			fmt.Fprintf(w, ", revision %d", c.Revision)
		}
		fmt.Fprintln(w)
		for _, l := range c.Workloads {
			fmt.Fprintf(w, "    %s\n", l)
		}
		if len(c.Tests) > 0 {
			fmt.Fprintf(w, "    tested by %s\n", strings.Join(c.Tests, ", "))
		}
		for _, text := range c.Notes {
			fmt.Fprintf(w, "    %s\n", text)
		}
		for _, text := range c.Warnings {
			fmt.Fprintf(w, "    warning: %s\n", text)
		}
		if f := c.Failure; f != nil {
			fmt.Fprintf(w, "    %s: %s\n", f.Kind, f.Message)
			if f.Text != "" {
				fmt.Fprintf(w, "      the JSON output and the JUnit report contain the whole text (%d bytes)\n", len(f.Text))
			}
			for _, e := range f.Events {
				fmt.Fprintf(w, "      event  %s\n", e)
			}
			for _, l := range f.Logs {
				fmt.Fprintf(w, "      %s | %s\n", f.Container, l)
			}
		}
		if c.URL != "" && c.Failure == nil {
			fmt.Fprintf(w, "    %s\n", c.URL)
		}
	}
	if r.URL != "" && (len(r.Clusters) != 1 || r.Clusters[0].URL == "") {
		fmt.Fprintf(w, "  %s\n", r.URL)
	}
}

// WritePlan writes the plan as text, with a diff for every object that would change.
func WritePlan(w io.Writer, p Plan) {
	for _, c := range p.Clusters {
		state := string(c.State)
		if c.Revision > 0 {
			state += fmt.Sprintf(", revision %d", c.Revision)
		}
		fmt.Fprintf(w, "%s/%s on %s (%s)\n", p.Namespace, p.Release, c.Name, state)
		if c.Reason != "" && c.State != Absent {
			fmt.Fprintf(w, "  %s\n", c.Reason)
		}
		if len(c.Changes) == 0 {
			fmt.Fprintln(w, "  nothing would change")
		}
		for _, change := range c.Changes {
			fmt.Fprintf(w, "\n%s %s\n", change.Action, change.Object)
			for line := range strings.Lines(change.Diff) {
				if !strings.HasPrefix(line, "--- ") && !strings.HasPrefix(line, "+++ ") {
					fmt.Fprintf(w, "  %s", line)
				}
			}
		}
		for _, h := range c.Hooks {
			fmt.Fprintf(w, "\nrun %s\n", h)
		}
		for _, text := range c.Warnings {
			fmt.Fprintf(w, "\nwarning: %s\n", text)
		}
	}
}

// WriteStatus writes the state of the release on every cluster as text.
func WriteStatus(w io.Writer, all []Status) {
	for _, s := range all {
		fmt.Fprintf(w, "%s/%s on %s: %s", s.Namespace, s.Release, s.Cluster, s.State)
		if s.Revision > 0 {
			fmt.Fprintf(w, ", revision %d", s.Revision)
		}
		fmt.Fprintln(w)
		if s.Reason != "" {
			fmt.Fprintf(w, "  %s\n", s.Reason)
		}
		if s.Image != "" {
			fmt.Fprintf(w, "  %s\n", s.Image)
		}
		for _, l := range s.Workloads {
			fmt.Fprintf(w, "  %s\n", l)
		}
		for _, text := range s.Warnings {
			fmt.Fprintf(w, "  warning: %s\n", text)
		}
		for _, p := range s.Problems {
			fmt.Fprintf(w, "  %s\n", p)
		}
		if s.Lock != "" {
			fmt.Fprintf(w, "  %s is deploying now\n", s.Lock)
		}
	}
}

// WriteHistory writes the revisions as text, newest first. It marks the current
// revision with "*" and a revision whose rollout never succeeded with "!".
func WriteHistory(w io.Writer, all []Status) {
	for _, s := range all {
		fmt.Fprintf(w, "%s/%s on %s\n", s.Namespace, s.Release, s.Cluster)
		for _, r := range s.History {
			mark := " "
			switch {
			case r.Revision == s.Revision:
				mark = "*"
			case !r.Good:
				mark = "!"
			}
			fmt.Fprintf(w, "%s %4d  %s  %-10s  %-12.12s  %s\n", mark, r.Revision, r.Updated.Format("2006-01-02 15:04:05"), r.Status, r.Image, brief.Text(r.Description))
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Markdown returns the result in Markdown, for the summary page of a CI run.
func Markdown(r Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| cluster | %s | revision | pods |\n|---|---|---|---|\n", r.Environment)
	for _, c := range r.Clusters {
		var pods []string
		for _, w := range c.Workloads {
			text := fmt.Sprintf("%s %d/%d", w.Object, w.Ready, w.Desired)
			if w.Old > 0 {
				text += fmt.Sprintf(" (%d with the old revision)", w.Old)
			}
			pods = append(pods, text)
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %s |\n", display.Markdown(c.Name), c.Action, c.Revision, display.Markdown(strings.Join(pods, ", ")))
	}
	for _, c := range r.Clusters {
		for _, text := range slices.Concat(c.Notes, c.Warnings) {
			fmt.Fprintf(&b, "\n- %s", display.Markdown(oneLine(text)))
		}
		if len(c.Notes)+len(c.Warnings) > 0 {
			b.WriteString("\n")
		}
		if f := c.Failure; f != nil {
			fmt.Fprintf(&b, "\n**%s**: %s\n", f.Kind, display.Markdown(oneLine(f.Message)))
			if text := joined(f.Events, f.Logs); text != "" {
				fmt.Fprintf(&b, "\n```\n%s\n```\n", strings.ReplaceAll(display.EachLine(text, display.Clean), "```", "` ` `"))
			}
		}
	}
	if r.URL != "" {
		fmt.Fprintf(&b, "\n%s\n", r.URL)
	}
	return b.String()
}

// details returns what a report of the failure contains besides the message.
func (f Failure) details() string {
	if f.Text == "" {
		return joined(f.Events, f.Logs)
	}
	return joined([]string{f.Text}, f.Events, f.Logs)
}

func joined(lists ...[]string) string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return strings.Join(all, "\n")
}

// WriteJUnit writes the result as JUnit XML, with one test case for each cluster, for
// CI systems that display only test reports. The file is complete or absent.
func WriteJUnit(file string, r Result) error {
	suite := junit.Testsuite{Name: "deploy." + r.Environment, Time: fmt.Sprintf("%.3f", r.Seconds)}
	for _, c := range r.Clusters {
		tc := junit.Testcase{Name: r.Release + " on " + c.Name, Classname: "deploy." + r.Environment, Time: fmt.Sprintf("%.3f", c.Seconds)}
		switch f := c.Failure; {
		case f != nil:
			tc.Failure = &junit.Result{Message: printable(oneLine(f.Message)), Type: f.Kind, Data: printable(f.details())}
		case c.Action == NotReached:
			tc.Skipped = &junit.Result{Message: "the deployment to an earlier cluster failed"}
		default:
			tc.SystemOut = &junit.Output{Data: printable(joined([]string{Result{Clusters: []ClusterResult{c}}.Summary()}, c.Notes, c.Warnings))}
		}
		suite.AddTestcase(tc)
	}
	all := junit.Testsuites{Name: "deploy", Time: suite.Time}
	all.AddSuite(suite)
	var b bytes.Buffer
	b.WriteString(xml.Header)
	if err := all.WriteXML(&b); err != nil {
		return fmt.Errorf("writing the JUnit report %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("writing the JUnit report %s: %w", file, err)
	}
	if err := renameio.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the JUnit report %s: %w", file, err)
	}
	return nil
}

// printable removes the characters that XML cannot represent.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ReplaceAll(s, "]]>", "]] >"))
}

package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// longest is how much of a stage's summary fits a line; an error follows in
// full below the table.
const longest = 84

// printSummary writes what a person wants to know of a run.
func (a *app) printSummary(r ship.Report) {
	mark := func(progress.Outcome) string { return "" }
	if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		mark = func(o progress.Outcome) string { return display.Mark(o) + " " }
	}
	fmt.Fprintf(a.stdout, "\n%s %s\n\n", r.App, r.Source.Version)
	for _, s := range r.Stages {
		text := s.Summary
		if text == "" {
			text, _, _ = strings.Cut(s.Reason, "\n")
		}
		fmt.Fprintf(a.stdout, "  %s%-9s %-10s %7s  %s\n", mark(s.Outcome), s.Name, s.Outcome, seconds(s.Seconds), ansi.Truncate(display.Clean(text), longest, "…"))
	}
	fmt.Fprintln(a.stdout)
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	if r.Test != nil && r.Test.CoverageLine != "" {
		fmt.Fprintf(w, "  coverage\t%s\n", r.Test.CoverageLine)
	}
	if r.Image != nil {
		for _, p := range r.Image.Platforms {
			fmt.Fprintf(w, "  %s\t%s  %s\n", p.Platform, humanize.Bytes(uint64(max(p.Size, 0))), p.Digest)
		}
	}
	for _, e := range r.Exports {
		fmt.Fprintf(w, "  written\t%s:%s\n", e.Kind, e.Path)
	}
	switch {
	case r.Push != nil:
		if len(r.Push.Tags) > 0 {
			fmt.Fprintf(w, "  tags\t%s\n", strings.Join(r.Push.Tags, ", "))
		}
		fmt.Fprintf(w, "  image\t%s\n", r.Reference)
	case r.Digest != "":
		fmt.Fprintf(w, "  digest\t%s\n", r.Digest)
	}
	var verb string
	switch r.Outcome {
	case progress.Passed, progress.Skipped:
		verb = "done"
	case progress.Unchanged:
		verb = "nothing changed"
	case progress.Failed:
		verb = "failed"
	case progress.Cancelled:
		verb = "interrupted"
	}
	fmt.Fprintf(w, "  %s\tin %s\n", verb, seconds(r.Seconds))
	_ = w.Flush() // nobody is left to tell when standard output is gone
}

func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return display.Seconds(time.Duration(s * float64(time.Second)))
}

// markdown is the summary on a CI run's page.
func markdown(r ship.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s %s\n\n| stage | outcome | time | |\n|---|---|---|---|\n", r.App, r.Source.Version)
	for _, s := range r.Stages {
		text := s.Summary
		if text == "" {
			text, _, _ = strings.Cut(s.Reason, "\n")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.Name, s.Outcome, seconds(s.Seconds), strings.ReplaceAll(display.Clean(text), "|", "\\|"))
	}
	if r.Digest != "" {
		image := r.Reference
		if image == "" {
			image = r.Digest
		}
		fmt.Fprintf(&b, "\n`%s`\n", image)
	}
	return b.String()
}

package command

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// maxSummary is the maximum width of a stage's summary in the table. Errors are printed
// in full below the table.
const maxSummary = 84

// printSummary prints the result of a run as text.
func (a *app) printSummary(r ship.Report) {
	a.printStages(r)
	if r.Scan != nil && len(r.Scan.Findings) > 0 && (!r.Scan.Passed || r.Push == nil && r.Sign == nil) {
		_ = scan.Write(a.out, *r.Scan, scan.Table)
		fmt.Fprintln(a.out)
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	if r.Test != nil && r.Test.CoverageLine != "" {
		fmt.Fprintf(w, "  coverage\t%s\n", r.Test.CoverageLine)
	}
	writeImage(w, r)
	if r.Deploy != nil {
		_ = w.Flush()
		deploy.Write(a.out, *r.Deploy)
	}
	if r.Plan != nil {
		_ = w.Flush()
		deploy.WritePlan(a.out, *r.Plan)
		fmt.Fprintln(a.out)
	}
	if len(r.SBOMs) > 0 && r.Push == nil && r.Sign == nil {
		for _, b := range r.SBOMs {
			fmt.Fprintf(w, "  %s\t%s  %s\n", b.Format, b.Platform, b.Path)
		}
	}
	if len(r.Allowed) > 0 {
		fmt.Fprintf(w, "  allowed\t%s\n", allowedText(r))
	}
	fmt.Fprintf(w, "  %s\tin %s\n", outcomeText(r.Outcome), seconds(r.Seconds))
	_ = w.Flush() // an error of standard output cannot be reported anywhere
}

// printStages prints a line for each stage.
func (a *app) printStages(r ship.Report) {
	mark := func(progress.Outcome) string { return "" }
	if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		mark = func(o progress.Outcome) string { return display.Mark(o) + " " }
	}
	fmt.Fprintf(a.out, "\n%s\n\n", title(r))
	for _, s := range r.Stages {
		text := s.Summary
		if text == "" {
			text = reason(s)
		}
		// Not to a.out, which removes the colour of the mark.
		fmt.Fprintf(a.stdout, "  %s%-9s %-10s %7s  %s\n", mark(s.Outcome), s.Name, s.Outcome, seconds(s.Seconds), ansi.Truncate(a.system.Inert(text), maxSummary, "…"))
	}
	fmt.Fprintln(a.out)
}

// reason returns the first line of the reason why a stage did not pass.
func reason(s graph.Result) string {
	text, _, _ := strings.Cut(s.Reason, "\n")
	if s.Allowed {
		text = graph.AllowedText + text
	}
	return text
}

// allowedText returns the gates that failed, which was allowed, and where that is recorded.
func allowedText(r ship.Report) string {
	var names []string
	for _, gate := range r.Allowed {
		names = append(names, string(gate))
	}
	text := strings.Join(names, ", ") + " failed"
	if r.Attest != nil {
		text += "; the provenance of the image says so"
	}
	return text
}

// writeImage writes the image: its platforms, where it was written and pushed, and who
// signed it.
func writeImage(w io.Writer, r ship.Report) {
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
	if r.Sign != nil {
		fmt.Fprintf(w, "  signed\tby %s\n", r.Sign.Signer)
	}
	if r.Verify != nil && r.Push == nil && r.Deploy == nil {
		writeVerified(w, *r.Verify)
	}
}

// outcomeText returns the text for the outcome of a run in the last line.
func outcomeText(o progress.Outcome) string {
	switch o {
	case progress.Unchanged:
		return "nothing changed"
	case progress.Failed:
		return "failed"
	case progress.Cancelled:
		return "interrupted"
	case progress.Passed, progress.Skipped:
	}
	return "done"
}

// title returns the name of the app, with its version if the run used its source.
func title(r ship.Report) string {
	if r.Source == nil {
		return r.App
	}
	return r.App + " " + r.Source.Version
}

// writeVerified writes the result of the verification of each manifest of an image.
func writeVerified(w io.Writer, r sign.VerifyResult) {
	for _, s := range r.Subjects {
		what := s.Platform
		if what == "" {
			what = "index"
		}
		_, digest, _ := strings.Cut(s.Reference, "@")
		fmt.Fprintf(w, "  %s\t%s\n", what, digest)
		for _, signature := range s.Signatures {
			fmt.Fprintf(w, "  \tsigned by %s\n", signature)
		}
		for _, attestation := range s.Attestations {
			text := attestation.Type + " attested"
			if len(attestation.Allowed) > 0 {
				text += ", with failed gates: " + display.Clean(strings.Join(attestation.Allowed, ", "))
			}
			fmt.Fprintf(w, "  \t%s\n", text)
		}
		for _, f := range s.Failures {
			text := strings.TrimPrefix(f.Message, s.Reference+" ")
			text = strings.TrimPrefix(text, "("+s.Platform+") ")
			fmt.Fprintf(w, "  \t%s: %s\n", f.Code, display.Clean(text))
		}
	}
}

func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return display.Seconds(time.Duration(s * float64(time.Second)))
}

// markdown returns the result of a run in Markdown, for the page of the CI run.
func markdown(r ship.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| stage | outcome | time | |\n|---|---|---|---|\n", display.Markdown(title(r)))
	for _, s := range r.Stages {
		text := s.Summary
		if text == "" {
			text = reason(s)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.Name, s.Outcome, seconds(s.Seconds), display.Markdown(text))
	}
	if len(r.Allowed) > 0 {
		fmt.Fprintf(&b, "\nallowed: %s\n", allowedText(r))
	}
	if r.Deploy != nil {
		b.WriteString(deploy.Markdown(*r.Deploy))
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

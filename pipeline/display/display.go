// Package display shows the progress of a run: as a live view in a terminal, as plain
// lines or as JSON lines. Package ci has displays for the logs of CI systems.
//
// The package promises no compatibility to programs other than slipway.
package display

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Display is a [progress.Sink] that must be closed when the run ends.
type Display interface {
	progress.Sink
	// Close shows the remaining output and restores the terminal. It may be called
	// more than once.
	Close()
}

// JSON returns a display that writes every event as a line of JSON.
func JSON(w io.Writer) Display { return &jsonLines{w: w} }

type jsonLines struct {
	mu sync.Mutex
	w  io.Writer
}

func (j *jsonLines) Emit(e progress.Event) {
	e.Text = strings.ToValidUTF8(e.Text, "\ufffd") // encoders differ in how they encode invalid UTF-8
	line, err := json.Marshal(e)
	if err != nil {
		return // encoding an event does not fail
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = fmt.Fprintf(j.w, "%s\n", EscapeJSON(line)) // if writing fails, there is no other place to report it
}

func (*jsonLines) Close() {}

// Plain returns a display that writes lines of text, each with the name of its stage.
// If verbose is true, it also writes the start of stages and every status.
func Plain(w io.Writer, verbose bool) Display {
	return &plain{w: w, verbose: verbose, counted: map[string]time.Time{}}
}

// countEvery is the interval at which a plain display writes counts.
const countEvery = 5 * time.Second

type plain struct {
	mu      sync.Mutex
	w       io.Writer
	verbose bool
	counted map[string]time.Time // time of the last count, by stage
	status  string               // last status that was written, up to its colon
}

func (p *plain) Emit(e progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text, ok := p.text(e); ok {
		fmt.Fprintf(p.w, "%-8s  %s\n", e.Stage, text)
	}
}

func (*plain) Close() {}

// text returns the line for an event, and whether it is written.
func (p *plain) text(e progress.Event) (string, bool) {
	switch e.Kind {
	case progress.Started:
		return "started", p.verbose
	case progress.Status:
		// A status with a counter, for example "compiling: 12 packages", is written
		// once, or it would fill the log.
		key, _, _ := strings.Cut(e.Text, ":")
		if !p.verbose && key == p.status {
			return "", false
		}
		p.status = key
		return Clean(e.Text), true
	case progress.Output:
		return Clean(e.Text), e.File == "" // the text of a finding is in the output of the tool, too
	case progress.Warned:
		return "warning: " + Clean(e.Text), true
	case progress.Counted:
		if e.Time.Sub(p.counted[e.Stage]) < countEvery {
			return "", false
		}
		first := p.counted[e.Stage].IsZero()
		p.counted[e.Stage] = e.Time
		return Count(e), !first
	case progress.Finished:
		return Finish(e), true
	case progress.Detailed: // for a live view only
	}
	return "", false
}

// Finish returns the text for a [progress.Finished] event, on one line.
func Finish(e progress.Event) string {
	s := string(e.Outcome)
	if e.Duration > 0 {
		s += " in " + Seconds(e.Duration)
	}
	if e.Text != "" {
		s += ": " + Clean(e.Text)
	}
	return s
}

// Count returns the text for a [progress.Counted] event.
func Count(e progress.Event) string {
	write := humanize.Comma
	if e.Unit == progress.Bytes {
		write = func(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }
	}
	unit := " " + string(e.Unit)
	if e.Unit == progress.Bytes {
		unit = ""
	}
	if e.Total > 0 {
		return write(e.Done) + " of " + write(e.Total) + unit
	}
	return write(e.Done) + unit
}

// Seconds formats a duration in seconds or minutes, for example 0.04s, 3.2s and
// 2m05s.
func Seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
}

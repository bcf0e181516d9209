// Package display shows a run's progress on standard error: live in a
// terminal, as plain or JSON lines elsewhere, and in the log forms of GitHub
// Actions and GitLab CI.
package display

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"
	"github.com/dustin/go-humanize"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Display is a [progress.Sink] that is closed when the run ends.
type Display interface {
	progress.Sink
	// Close shows what is still to be shown and gives the terminal back.
	Close()
}

// JSON writes every event as a line of JSON.
func JSON(w io.Writer) Display { return &jsonLines{w: w} }

type jsonLines struct {
	mu sync.Mutex
	w  io.Writer
}

func (j *jsonLines) Emit(e progress.Event) {
	e.Text = strings.ToValidUTF8(e.Text, "\ufffd") // encoders differ in how they write what is not UTF-8
	line, err := json.Marshal(e)
	if err != nil {
		return // an event is plain data and always marshals
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = fmt.Fprintf(j.w, "%s\n", escapeC1(line)) // nobody is left to tell when standard error is gone
}

// escapeC1 escapes the control characters that JSON leaves alone and some
// terminals obey.
func escapeC1(line []byte) []byte {
	var b bytes.Buffer
	for _, r := range string(line) {
		if r >= 0x7f && r < 0xa0 {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.Bytes()
}

func (*jsonLines) Close() {}

// Plain writes lines, each with its stage before it. With verbose it also
// writes every status.
func Plain(w io.Writer, verbose bool) Display {
	return &plain{w: w, verbose: verbose, counted: map[string]time.Time{}}
}

// countEvery is how often a plain log repeats a count.
const countEvery = 5 * time.Second

type plain struct {
	mu      sync.Mutex
	w       io.Writer
	verbose bool
	counted map[string]time.Time
	status  string
}

func (p *plain) Emit(e progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text, ok := p.text(e); ok {
		fmt.Fprintf(p.w, "%-8s  %s\n", e.Stage, text)
	}
}

func (*plain) Close() {}

func (p *plain) text(e progress.Event) (string, bool) {
	switch e.Kind {
	case progress.Started:
		return "started", p.verbose
	case progress.Status:
		// Counting statuses ("... 12 packages") would fill a log.
		key, _, _ := strings.Cut(e.Text, ":")
		if !p.verbose && key == p.status {
			return "", false
		}
		p.status = key
		return Clean(e.Text), true
	case progress.Output:
		return Clean(e.Text), e.File == "" // a place's text was in the output already
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
	}
	return "", false
}

// Finish writes the end of a stage in one line.
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

// Count writes how far a stage is.
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

// Seconds writes a duration as people read one: 0.04s, 3.2s, 2m05s.
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

// Clean makes a tool's output safe to print: no escape sequences, no control
// characters, nothing that turns the direction of writing.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, ansi.Strip(s))
}

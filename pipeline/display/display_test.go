package display_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile is output of a tool with escape sequences and control characters.
const hostile = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x9b2J\x00\x07\x08\r\x7f\x1b[2K\x1b[1Aend\x1bPq\x1b\\"

// events returns the events of a run.
func events() []progress.Event {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	n := 0
	next := func(e progress.Event) progress.Event {
		e.Time = at.Add(time.Duration(n) * time.Second)
		n++
		return e
	}
	var all []progress.Event
	for _, e := range []progress.Event{
		{Stage: "lint", Kind: progress.Started},
		{Stage: "test", Kind: progress.Started},
		{Stage: "build", Kind: progress.Started},
		{Stage: "build", Kind: progress.Status, Text: "compiling: 1 package"},
		{Stage: "build", Kind: progress.Status, Text: "compiling: 2 packages"},
		{Stage: "lint", Kind: progress.Output, Text: "main.go:3:1: exported function has no comment"},
		{Stage: "lint", Kind: progress.Output, Text: "exported function has no comment", File: "main.go", Row: 3, Column: 1},
		{Stage: "lint", Kind: progress.Finished, Outcome: progress.Failed, Text: "1 finding", Duration: 3200 * time.Millisecond},
		{Stage: "test", Kind: progress.Output, Text: hostile},
		{Stage: "test", Kind: progress.Output, Text: "::set-output name=digest::evil"},
		{Stage: "test", Kind: progress.Output, Text: "##[set-env name=PATH]/evil"},
		{Stage: "test", Kind: progress.Output, Text: "section_end:1:slipway_test\r\x1b[0K"},
		{Stage: "test", Kind: progress.Output, Text: "two\nlines\twith a tab, ä and 世界"},
		{Stage: "test", Kind: progress.Warned, Text: "careful: 100% ::error::x\n" + hostile},
		{Stage: "test", Kind: progress.Finished, Outcome: progress.Cancelled, Duration: 125 * time.Second},
		{Stage: "build", Kind: progress.Finished, Outcome: progress.Unchanged, Text: "linux/amd64 ##[error]x " + hostile, Duration: 40 * time.Millisecond},
		{Stage: "compress", Kind: progress.Finished, Outcome: progress.Skipped, Text: "upx is off"},
		{Stage: "push", Kind: progress.Started},
		{Stage: "push", Kind: progress.Counted, Done: 1_000_000, Total: 12_345_678, Unit: progress.Bytes},
		{Stage: "push", Kind: progress.Counted, Done: 2_000_000, Total: 12_345_678, Unit: progress.Bytes},
		{Stage: "push", Kind: progress.Counted, Done: 1200, Unit: progress.Tests},
		{Stage: "push", Kind: progress.Counted, Done: 3, Total: 4, Unit: progress.Items},
		{Stage: "push", Kind: progress.Counted, Done: 5_000_000, Total: 12_345_678, Unit: progress.Bytes},
		{Stage: "push", Kind: progress.Counted, Done: 7_000_000, Total: 12_345_678, Unit: progress.Bytes},
		{Stage: "push", Kind: progress.Finished, Outcome: progress.Passed, Duration: 900 * time.Millisecond},
		{Stage: "unknown", Kind: progress.Warned, Text: "not a stage"},
	} {
		all = append(all, next(e))
	}
	return all
}

// noControls checks that the output has no control characters.
func noControls(t *testing.T, out []byte) {
	t.Helper()
	for _, c := range string(out) {
		if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 {
			t.Errorf("the output contains %q", c)
		}
	}
}

func TestLogs(t *testing.T) {
	for name, open := range map[string]func(io.Writer) display.Display{
		"plain.txt":   func(w io.Writer) display.Display { return display.Plain(w, false) },
		"verbose.txt": func(w io.Writer) display.Display { return display.Plain(w, true) },
		"json.txt":    display.JSON,
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			d := open(&b)
			for _, e := range events() {
				d.Emit(e)
			}
			d.Close()
			d.Close()
			noControls(t, b.Bytes())
			testkit.Golden(t, filepath.Join("testdata", name), b.Bytes())
		})
	}
}

// The lines of JSON decode to the events that were sent.
func TestJSONRoundTrip(t *testing.T) {
	var b bytes.Buffer
	d := display.JSON(&b)
	for _, e := range events() {
		d.Emit(e)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != len(events()) {
		t.Fatalf("%d lines for %d events", len(lines), len(events()))
	}
	for i, want := range events() {
		var got progress.Event
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatalf("line %d: %v: %s", i, err, lines[i])
		}
		if strings.Contains(want.Text, "\x9b") { // invalid UTF-8 cannot be represented in JSON
			got.Text, want.Text = "", ""
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("line %d: %s", i, diff)
		}
	}
}

// If several goroutines send events at the same time, lines are not mixed.
func TestConcurrentEvents(t *testing.T) {
	for name, open := range map[string]func(io.Writer) display.Display{
		"plain": func(w io.Writer) display.Display { return display.Plain(w, false) },
		"json":  display.JSON,
		"live":  func(w io.Writer) display.Display { return display.Live(w, []string{"test"}) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			d := open(&b)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 50 {
						d.Emit(progress.Event{Stage: "test", Kind: progress.Output, Text: strings.Repeat("x", 50)})
					}
				})
			}
			wg.Wait()
			d.Close()
			if name == "plain" && strings.Count(b.String(), "test      "+strings.Repeat("x", 50)+"\n") != 200 {
				t.Error("lines were mixed")
			}
			if name == "json" && strings.Count(b.String(), "}\n{")+1 != 200 {
				t.Error("lines were mixed")
			}
		})
	}
}

// failingWriter is a writer that always fails.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("the terminal is closed") }

// A display that cannot write does not stop the run.
func TestFailingWriter(t *testing.T) {
	for _, d := range []display.Display{display.Plain(failingWriter{}, true), display.JSON(failingWriter{}), display.Live(failingWriter{}, []string{"test"})} {
		for _, e := range events() {
			d.Emit(e)
		}
		d.Close()
	}
}

// A live display that does not write to a terminal prints the permanent texts and
// restores the state of the terminal. TestMain checks that it leaves no goroutine.
func TestLive(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan []byte)
	go func() {
		data, _ := io.ReadAll(r)
		read <- data
	}()
	d := display.Live(w, []string{"lint", "test", "build", "push"})
	for _, e := range events() {
		d.Emit(e)
	}
	d.Close()
	d.Close()
	d.Emit(progress.Event{Stage: "test", Kind: progress.Status, Text: "too late"}) // must not block
	w.Close()
	out := string(<-read)
	r.Close()
	for _, want := range []string{"── lint", "main.go:3:1: exported function has no comment", "test: warning: careful", "warning: not a stage"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output does not contain %q:\n%q", want, out)
		}
	}
	for _, not := range []string{"\x1b]0;title", "\x1b]8;;http", "too late", "\x1b[31mred"} {
		if strings.Contains(out, not) {
			t.Errorf("the output contains %q", not)
		}
	}
	if hidden, shown := strings.LastIndex(out, "\x1b[?25l"), strings.LastIndex(out, "\x1b[?25h"); hidden >= 0 && shown < hidden {
		t.Error("the cursor is still hidden")
	}
	if strings.Count(out, "\x1b[?1049h") != strings.Count(out, "\x1b[?1049l") {
		t.Error("the alternate screen is still active")
	}
}

// A live display that is closed without any event ends.
func TestLiveWithoutEvents(t *testing.T) {
	for range 20 {
		display.Live(io.Discard, nil).Close()
	}
}

func TestTexts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.00s", 40 * time.Millisecond: "0.04s", 999 * time.Millisecond: "1.00s", 3200 * time.Millisecond: "3.2s",
		59_940 * time.Millisecond: "59.9s", time.Minute: "1m00s", 125 * time.Second: "2m05s", time.Hour: "60m00s",
	} {
		if got := display.Seconds(d); got != want {
			t.Errorf("Seconds(%v) = %q, want %q", d, got, want)
		}
	}
	for s, want := range map[string]string{
		hostile: "red link end", "a\tb": "a\tb", "ä 世界": "ä 世界", "a\nb": "ab", "": "",
		"\x1b": "", "\x1b[": "", "x\u202ey": "xy", "e\u0301": "e\u0301", "👩\u200d👩": "👩\u200d👩",
	} {
		if got := display.Clean(s); got != want {
			t.Errorf("Clean(%q) = %q, want %q", s, got, want)
		}
	}
}

// FuzzClean checks that the result of Clean has no control characters.
func FuzzClean(f *testing.F) {
	f.Add(hostile)
	f.Add("\x1b]0;\x1b[31m")
	f.Add("\xc2\x9b31m\xff")
	f.Fuzz(func(t *testing.T, s string) {
		out := display.Clean(s)
		noControls(t, []byte(out))
		if strings.Contains(out, "\n") {
			t.Errorf("Clean(%q) has more than one line", s)
		}
	})
}

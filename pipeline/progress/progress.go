// Package progress carries what stages have to say while they work to whoever
// shows it: a live terminal view, plain lines, JSON lines or a CI log.
//
// Stages speak through the context, so that they know nothing of the display:
//
//	progress.Statusf(ctx, "compiling %s", platform)
//	progress.Line(ctx, line)
//	progress.Count(ctx, done, total, progress.Bytes)
package progress

import (
	"context"
	"fmt"
	"time"
)

// Kind is the kind of an [Event].
type Kind string

// The kinds of events.
const (
	Started  Kind = "started"  // a stage began
	Status   Kind = "status"   // what the stage is doing now, one short phrase
	Detailed Kind = "detailed" // Lines that replace those before, for a live view
	Output   Kind = "output"   // one line of a tool's own output
	Counted  Kind = "counted"  // Done of Total
	Warned   Kind = "warned"   // something the user should know; the stage goes on
	Finished Kind = "finished" // a stage ended, with its Outcome
)

// Outcome is how a stage ended.
type Outcome string

// The ways a stage ends.
const (
	Passed    Outcome = "passed"
	Failed    Outcome = "failed"
	Skipped   Outcome = "skipped"   // not run, for a stated reason
	Unchanged Outcome = "unchanged" // the result of an earlier run with the same input stands
	Cancelled Outcome = "cancelled" // stopped because another gate failed or the user asked
)

// Unit is what a [Counted] event counts.
type Unit string

// The units.
const (
	Items Unit = "items"
	Bytes Unit = "bytes"
	Tests Unit = "tests"
)

// Event is one thing that happened in a stage. It marshals to the JSON lines
// of --progress json.
type Event struct {
	Time     time.Time     `json:"time"`
	Stage    string        `json:"stage"`
	Kind     Kind          `json:"kind"`
	Text     string        `json:"text,omitempty"`
	Outcome  Outcome       `json:"outcome,omitempty"`
	Done     int64         `json:"done,omitempty"`
	Total    int64         `json:"total,omitempty"`
	Unit     Unit          `json:"unit,omitempty"`
	Duration time.Duration `json:"duration_ns,omitempty"`
	Lines    []string      `json:"lines,omitempty"`
	// File, Row and Column place a finding in the app's source; relative path,
	// 1-based. CI displays turn them into annotations.
	File   string `json:"file,omitempty"`
	Row    int    `json:"row,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Sink receives events. Emit is called from many goroutines and must not block
// for long.
type Sink interface {
	Emit(Event)
}

type key struct{}

type scope struct {
	sink  Sink
	stage string
}

// With returns a context whose events go to sink under the stage's name.
func With(ctx context.Context, sink Sink, stage string) context.Context {
	return context.WithValue(ctx, key{}, scope{sink, stage})
}

// Emit sends an event; the stage's name and the time are filled in. Without a
// sink in the context it does nothing.
func Emit(ctx context.Context, e Event) {
	s, ok := ctx.Value(key{}).(scope)
	if !ok {
		return
	}
	e.Stage = s.stage
	e.Time = time.Now()
	s.sink.Emit(e)
}

// Statusf says what the stage is doing now.
func Statusf(ctx context.Context, format string, args ...any) {
	Emit(ctx, Event{Kind: Status, Text: fmt.Sprintf(format, args...)})
}

// Detail shows lines below the stage until the next ones replace them; none
// removes them. Where there is no live view they are not shown, so what must be
// read is also said by [Line].
func Detail(ctx context.Context, lines []string) {
	Emit(ctx, Event{Kind: Detailed, Lines: lines})
}

// Line passes on one line of a tool's output, without its newline.
func Line(ctx context.Context, line string) {
	Emit(ctx, Event{Kind: Output, Text: line})
}

// Warnf says something the user should know though the stage goes on.
func Warnf(ctx context.Context, format string, args ...any) {
	Emit(ctx, Event{Kind: Warned, Text: fmt.Sprintf(format, args...)})
}

// Count says that done of total units are finished; total 0 means unknown.
func Count(ctx context.Context, done, total int64, unit Unit) {
	Emit(ctx, Event{Kind: Counted, Done: done, Total: total, Unit: unit})
}

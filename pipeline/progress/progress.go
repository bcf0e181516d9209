// Package progress passes events from running stages to a display: a live terminal
// view, plain lines, JSON lines or a CI log.
//
// Stages send events through the context, so that they do not depend on a display:
//
//	progress.Statusf(ctx, "compiling %s", platform)
//	progress.Line(ctx, line)
//	progress.Count(ctx, done, total, progress.Bytes)
//
// The package promises no compatibility to programs other than slipway.
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
	Started  Kind = "started"  // a stage has started
	Status   Kind = "status"   // Text is what the stage is doing now, in a short phrase
	Detailed Kind = "detailed" // Lines replace the previous ones in a live view
	Output   Kind = "output"   // Text is a line of the output of a tool
	Counted  Kind = "counted"  // Done of Total units are finished
	Warned   Kind = "warned"   // Text is a warning; the stage continues
	Finished Kind = "finished" // a stage has ended with Outcome
)

// Outcome is the outcome of a stage.
type Outcome string

// The outcomes of a stage.
const (
	Passed    Outcome = "passed"
	Failed    Outcome = "failed"
	Skipped   Outcome = "skipped"   // not run, for the reason in Text
	Unchanged Outcome = "unchanged" // the result of an earlier run with the same input was reused
	Cancelled Outcome = "cancelled" // stopped because another stage failed or the user interrupted the run
)

// Unit is the unit of a [Counted] event.
type Unit string

// The units.
const (
	Items Unit = "items"
	Bytes Unit = "bytes"
	Tests Unit = "tests"
)

// Event is an event of a stage. With --progress json, each event is printed as a line
// of JSON.
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
	// File, Row and Column are the location of a finding in the app's source. File is a
	// relative path, and Row and Column are 1-based. Displays for CI systems show
	// events with a location as annotations.
	File   string `json:"file,omitempty"`
	Row    int    `json:"row,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Sink receives events.
type Sink interface {
	// Emit receives an event. It is called from several goroutines and must not
	// block for long.
	Emit(Event)
}

type key struct{}

type scope struct {
	sink  Sink
	stage string
}

// With returns a context that sends events to sink, with the name of the stage.
func With(ctx context.Context, sink Sink, stage string) context.Context {
	return context.WithValue(ctx, key{}, scope{sink, stage})
}

// Emit sends an event to the sink in the context, with the name of the stage and the
// current time. If the context has no sink, it does nothing.
func Emit(ctx context.Context, e Event) {
	s, ok := ctx.Value(key{}).(scope)
	if !ok {
		return
	}
	e.Stage = s.stage
	e.Time = time.Now()
	s.sink.Emit(e)
}

// Statusf sends a [Status] event: what the stage is doing now.
func Statusf(ctx context.Context, format string, args ...any) {
	Emit(ctx, Event{Kind: Status, Text: fmt.Sprintf(format, args...)})
}

// Detail sends a [Detailed] event. A live view shows the lines below the stage until
// the next call replaces them; a call without lines removes them. Other displays do
// not show them, so important information must also be sent with [Line].
func Detail(ctx context.Context, lines []string) {
	Emit(ctx, Event{Kind: Detailed, Lines: lines})
}

// Line sends an [Output] event with a line of the output of a tool, without its
// newline.
func Line(ctx context.Context, line string) {
	Emit(ctx, Event{Kind: Output, Text: line})
}

// Warnf sends a [Warned] event: a warning for the user. The stage continues.
func Warnf(ctx context.Context, format string, args ...any) {
	Emit(ctx, Event{Kind: Warned, Text: fmt.Sprintf(format, args...)})
}

// Count sends a [Counted] event: done of total units are finished. If total is 0, it
// is not known.
func Count(ctx context.Context, done, total int64, unit Unit) {
	Emit(ctx, Event{Kind: Counted, Done: done, Total: total, Unit: unit})
}

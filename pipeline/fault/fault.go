// Package fault gives errors the two things a person at a terminal needs: how
// the run ends (the exit code) and what to do about it (the fix).
//
// Stages return ordinary wrapped errors; where the cause is known to be bad
// input or a gate that said no, they return an [Error] of that kind. The
// program prints the whole chain on one line and exits by [ExitCode].
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes of the program, the same for every command.
const (
	ExitOK          = 0   // everything asked for was done
	ExitFailed      = 1   // a gate or a stage failed
	ExitInput       = 2   // usage, configuration or another input is wrong
	ExitInterrupted = 130 // SIGINT or SIGTERM ended the run (128 + SIGINT)
)

// Kind tells why a run ends.
type Kind string

const (
	// Failed says that a stage could not do its work, for example a compiler error.
	Failed Kind = "failed"
	// Gate says that a stage did its work and the verdict is no, for example a failing
	// test, a lint finding or coverage under the floor.
	Gate Kind = "gate"
	// Input says that what was asked for is wrong; running it again cannot help.
	Input Kind = "input"
)

// Error is an error with a kind, a stable code for machines and a fix for
// people.
type Error struct {
	Kind Kind   // why the run ends
	Code string // stable and machine readable, for example "config.unknown-key"
	Err  error  // what happened, to what
	Fix  string // what to do about it; empty where we do not know
}

// Error returns what happened followed by the fix.
func (e *Error) Error() string {
	if e.Fix == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Fix + ")"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// WithFix returns a copy of e that says what to do about it.
func (e *Error) WithFix(format string, args ...any) *Error {
	c := *e
	c.Fix = fmt.Sprintf(format, args...)
	return &c
}

// Inputf returns an [Input] error; format takes %w like [fmt.Errorf].
func Inputf(code, format string, args ...any) *Error {
	return &Error{Kind: Input, Code: code, Err: fmt.Errorf(format, args...)}
}

// Gatef returns a [Gate] error; format takes %w like [fmt.Errorf].
func Gatef(code, format string, args ...any) *Error {
	return &Error{Kind: Gate, Code: code, Err: fmt.Errorf(format, args...)}
}

// Failedf returns a [Failed] error; format takes %w like [fmt.Errorf].
func Failedf(code, format string, args ...any) *Error {
	return &Error{Kind: Failed, Code: code, Err: fmt.Errorf(format, args...)}
}

// ExitCode maps an error to the program's exit code. Bad input wins over an
// interrupt, an interrupt over a failure: a stage that fails because it was
// interrupted must not be reported as broken.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var e *Error
	if errors.As(err, &e) && e.Kind == Input {
		return ExitInput
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	return ExitFailed
}

// CodeOf returns the stable code of the first [Error] in err's chain, or
// "interrupted" or "failed" where there is none.
func CodeOf(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return "interrupted"
	default:
		return "failed"
	}
}

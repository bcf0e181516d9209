// Package fault defines errors that carry a kind, which determines the exit
// code, a stable code for programs and a fix for the user.
//
// Stages return ordinary wrapped errors. If the cause is known to be bad input
// or a gate that did not pass, they return an [Error] of that kind. The slipway
// program prints the whole chain on one line and exits with [ExitCode].
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes of the slipway program. They are the same for every command.
const (
	ExitOK          = 0   // everything that was requested was done
	ExitFailed      = 1   // a gate or a stage failed
	ExitInput       = 2   // the usage, the configuration or another input is wrong
	ExitInterrupted = 130 // SIGINT or SIGTERM ended the run (128 + SIGINT)
)

// Kind is the reason why a run fails.
type Kind string

const (
	// Failed means that a stage could not do its work, for example because of a
	// compiler error.
	Failed Kind = "failed"
	// Gate means that a stage did its work and its gate did not pass, for example
	// because of a failing test, a lint finding or coverage below the minimum.
	Gate Kind = "gate"
	// Input means that the input is wrong. Running the same command again cannot
	// succeed.
	Input Kind = "input"
)

// Error is an error with a kind, a stable code for programs and a fix for the
// user.
type Error struct {
	Kind Kind   // reason why the run fails
	Code string // stable and machine readable, for example "config.unknown-key"
	Err  error  // what was being done, to what, and the cause
	Fix  string // how to fix it; empty if that is not known
}

// Error returns the text of e.Err, followed by the fix in parentheses if there
// is one.
func (e *Error) Error() string {
	if e.Fix == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Fix + ")"
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// WithFix returns a copy of e with a fix, formatted as by [fmt.Sprintf].
func (e *Error) WithFix(format string, args ...any) *Error {
	c := *e
	c.Fix = fmt.Sprintf(format, args...)
	return &c
}

// Inputf returns an [Input] error. The format supports %w, as in [fmt.Errorf].
func Inputf(code, format string, args ...any) *Error {
	return &Error{Kind: Input, Code: code, Err: fmt.Errorf(format, args...)}
}

// Gatef returns a [Gate] error. The format supports %w, as in [fmt.Errorf].
func Gatef(code, format string, args ...any) *Error {
	return &Error{Kind: Gate, Code: code, Err: fmt.Errorf(format, args...)}
}

// Failedf returns a [Failed] error. The format supports %w, as in [fmt.Errorf].
func Failedf(code, format string, args ...any) *Error {
	return &Error{Kind: Failed, Code: code, Err: fmt.Errorf(format, args...)}
}

// ExitCode returns the exit code of the program for an error. Bad input takes
// precedence over an interrupt, and an interrupt over a failure: a stage that
// fails because it was interrupted must not be reported as broken.
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

// CodeOf returns the stable code of the first [Error] in err's chain. Without
// one it returns "interrupted" for [context.Canceled] and "failed" for any other
// error. It returns "" if err is nil.
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

package graph

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Result is how one step ended.
type Result struct {
	Name    Name             `json:"name"`
	Outcome progress.Outcome `json:"outcome"`
	Summary string           `json:"summary,omitempty"` // the result in a few words
	Reason  string           `json:"reason,omitempty"`  // why the step did not run or did not pass
	Code    string           `json:"code,omitempty"`    // stable code of the error, for machines
	Allowed bool             `json:"allowed,omitempty"` // the step has failed, which was allowed
	Seconds float64          `json:"seconds"`
}

// Preflight calls Check of all steps in their order and returns the first error. Callers
// call it before they start anything, so that a mistake in the configuration of the last
// step is reported before the first step runs.
func Preflight(steps []Step) error {
	for _, s := range steps {
		if s.Check == nil {
			continue
		}
		if err := s.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Run runs each step as soon as the steps it depends on have passed. Steps that do not
// depend on each other run at the same time. steps is the result of [Closure]; a
// dependency on a step that is not in the list is ignored.
//
// The first failure cancels every step that is not a verdict. A step whose dependencies
// did not pass is not started and counts as cancelled. A step that panics has failed;
// the other steps keep their results. A failure that the step allows is in its result,
// but cancels nothing and is not in the error.
//
// When all steps have ended, Run returns one result for each step, in the order of steps.
// Its error joins the errors of the failed steps. If ctx was cancelled, it is the error of
// ctx. Progress is sent to sink.
func Run(ctx context.Context, sink progress.Sink, steps []Step) ([]Result, error) {
	if err := check(steps, Names(steps), false); err != nil {
		return nil, err // otherwise a step would wait forever
	}
	// rest is the context of every step that the first failure cancels.
	rest, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	nodes := map[Name]*node{}
	for _, s := range steps {
		nodes[s.Name] = &node{Step: s, ended: make(chan struct{})}
	}
	var running sync.WaitGroup
	for _, s := range steps {
		n := nodes[s.Name]
		running.Go(func() {
			defer close(n.ended)
			own := rest
			if n.Verdict {
				own = ctx
			}
			if n.wait(nodes) {
				n.result, n.err = execute(own, sink, n.Step)
			} else {
				n.result = cancelled(progress.With(ctx, sink, string(n.Name)), n.Name, cancelReason(rest))
			}
			if n.err != nil && !errors.Is(n.err, context.Canceled) {
				cancel(fmt.Errorf("%s failed", n.Name))
			}
		})
	}
	running.Wait()
	results := make([]Result, 0, len(steps))
	var failures []error
	for _, s := range steps {
		n := nodes[s.Name]
		results = append(results, n.result)
		// Steps that were cancelled because another one failed are not errors.
		if n.err != nil && !errors.Is(n.err, context.Canceled) {
			failures = append(failures, n.err)
		}
	}
	if ctx.Err() != nil {
		return results, ctx.Err()
	}
	return results, errors.Join(failures...)
}

// node is a step with its result. The fields result and err may be read once ended is
// closed.
type node struct {
	Step
	ended  chan struct{}
	result Result
	err    error
}

func (n *node) passed() bool { return n.err == nil && n.result.Outcome != progress.Cancelled }

// wait waits for the steps before n and reports whether all of them have passed.
func (n *node) wait(nodes map[Name]*node) bool {
	passed := true
	for _, name := range n.before() {
		before, ok := nodes[name]
		if !ok {
			continue // the step is not part of this run
		}
		<-before.ended
		passed = passed && before.passed()
	}
	return passed
}

// cancelled returns the result of a step that was not started, and emits it as progress.
func cancelled(ctx context.Context, name Name, reason string) Result {
	progress.Emit(ctx, progress.Event{Kind: progress.Finished, Outcome: progress.Cancelled, Text: reason})
	return Result{Name: name, Outcome: progress.Cancelled, Reason: reason}
}

// execute runs one step and sends its result to the sink and, if there is one, to the
// trace.
func execute(ctx context.Context, sink progress.Sink, s Step) (Result, error) {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/slipway-ci/slipway").Start(ctx, string(s.Name))
	defer span.End()
	ctx = progress.With(ctx, sink, string(s.Name))
	progress.Emit(ctx, progress.Event{Kind: progress.Started})
	start := time.Now()
	var out Outcome
	err := ctx.Err()
	if err == nil {
		out, err = protect(ctx, s)
	}
	took := time.Since(start)
	r := Result{Name: s.Name, Outcome: out.Kind, Summary: out.Summary, Seconds: took.Seconds()}
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, errPanic):
		r.Outcome, r.Reason, err = progress.Cancelled, cancelReason(ctx), ctx.Err()
	case err != nil:
		r.Outcome, r.Reason, r.Code = progress.Failed, err.Error(), fault.CodeOf(err)
		r.Allowed = s.Allow != nil && !errors.Is(err, errPanic) && s.Allow(err)
		err = fmt.Errorf("%s: %w", s.Name, err)
	case out.Kind == progress.Skipped:
		r.Reason, r.Summary = out.Summary, ""
	}
	text := firstLine(r.Summary + r.Reason)
	if r.Allowed {
		text, err = AllowedText+text, nil
	}
	span.SetAttributes(attribute.String("slipway.outcome", string(r.Outcome)), attribute.String("slipway.summary", text))
	if r.Outcome == progress.Failed {
		span.SetStatus(codes.Error, firstLine(r.Reason))
	}
	progress.Emit(ctx, progress.Event{Kind: progress.Finished, Outcome: r.Outcome, Text: text, Duration: took})
	return r, err
}

// AllowedText precedes the reason of a failure that was allowed.
const AllowedText = "allowed: "

// errPanic is wrapped by the error of a step that panicked. The step has failed even if
// it was cancelled in the meantime.
var errPanic = errors.New("internal error")

// protect runs a step and turns a panic in it, or in a library it calls, into an
// error. It cannot catch a panic in a goroutine that a library started.
func protect(ctx context.Context, s Step) (out Outcome, err error) {
	defer func() {
		value := recover()
		if value == nil {
			return
		}
		for _, line := range shortTrace(debug.Stack()) {
			progress.Line(ctx, line)
		}
		out = Outcome{}
		err = fault.Failedf("panic", "%w: %s", errPanic, firstLine(fmt.Sprint(value))).
			WithFix("this is a fault of slipway: report it with the log of this step at https://github.com/slipway-ci/slipway/issues")
	}()
	return s.Run(ctx)
}

// traceLines bounds the stack trace in the log to the ten innermost calls, with
// two lines each.
const traceLines = 20

// shortTrace returns the innermost calls of a panic from the output of
// [debug.Stack], without the frames of the recovery itself.
func shortTrace(stack []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(stack)), "\n")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "panic(") }); i >= 0 {
		lines = lines[min(i+2, len(lines)):]
	}
	if len(lines) > traceLines {
		lines = append(slices.Clone(lines[:traceLines]), "...")
	}
	return lines
}

// cancelReason returns why ctx was cancelled: because another step failed, or because
// the run was interrupted.
func cancelReason(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "interrupted"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

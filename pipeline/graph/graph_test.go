package graph_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink records events.
type sink struct {
	mu     sync.Mutex
	events []progress.Event
}

func (s *sink) Emit(e progress.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *sink) lines(stage graph.Name) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, e := range s.events {
		if e.Stage == string(stage) && e.Kind == progress.Output {
			lines = append(lines, e.Text)
		}
	}
	return lines
}

func passes(context.Context) (graph.Outcome, error) {
	return graph.Outcome{Kind: progress.Passed, Summary: "done"}, nil
}

func fails(context.Context) (graph.Outcome, error) {
	return graph.Outcome{}, fault.Gatef("gate.closed", "the gate is closed")
}

// untilStopped returns a step that closes started and runs until it is cancelled.
func untilStopped(started chan<- struct{}) func(context.Context) (graph.Outcome, error) {
	return func(ctx context.Context) (graph.Outcome, error) {
		close(started)
		<-ctx.Done()
		return graph.Outcome{}, ctx.Err()
	}
}

// waitFor returns a step that waits until c is closed and then does the work.
func waitFor(c <-chan struct{}, work func(context.Context) (graph.Outcome, error)) func(context.Context) (graph.Outcome, error) {
	return func(ctx context.Context) (graph.Outcome, error) {
		<-c
		return work(ctx)
	}
}

// outcomes returns the outcome of each step.
func outcomes(results []graph.Result) map[graph.Name]progress.Outcome {
	all := map[graph.Name]progress.Outcome{}
	for _, r := range results {
		all[r.Name] = r.Outcome
	}
	return all
}

func TestClosure(t *testing.T) {
	steps := []graph.Step{
		{Name: "lint"},
		{Name: "build"},
		{Name: "pack", Needs: []graph.Name{"build"}},
		{Name: "image", Needs: []graph.Name{"pack"}},
		{Name: "scan", Needs: []graph.Name{"build"}},
		{Name: "push", Needs: []graph.Name{"image"}, After: []graph.Name{"lint", "scan"}},
	}
	tests := []struct {
		name  string
		goals []graph.Name
		want  string
	}{
		{"nothing", nil, ""},
		{"a step without needs", []graph.Name{"lint"}, "lint"},
		{"needs of needs", []graph.Name{"image"}, "build pack image"},
		{"after adds nothing", []graph.Name{"push"}, "build pack image push"},
		{"two goals that share a need", []graph.Name{"push", "scan"}, "build pack image scan push"},
		{"a goal that another one needs", []graph.Name{"image", "build"}, "build pack image"},
		{"the order is the declared one", []graph.Name{"push", "lint", "scan"}, "lint build pack image scan push"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := graph.Closure(steps, tt.goals...)
			if err != nil {
				t.Fatal(err)
			}
			if names := strings.Trim(fmt.Sprint(graph.Names(got)), "[]"); names != tt.want {
				t.Errorf("got %q, want %q", names, tt.want)
			}
		})
	}
}

func TestMalformedGraphs(t *testing.T) {
	tests := []struct {
		name  string
		steps []graph.Step
		goals []graph.Name
		want  string
	}{
		{"unknown goal", []graph.Step{{Name: "a"}}, []graph.Name{"b"}, "there is no step b"},
		{"unknown need", []graph.Step{{Name: "a", Needs: []graph.Name{"b"}}}, nil, "step a refers to step b, which is not declared above it"},
		{"a cycle", []graph.Step{{Name: "a", After: []graph.Name{"b"}}, {Name: "b", Needs: []graph.Name{"a"}}}, nil, "step a refers to step b, which is not declared above it"},
		{"itself", []graph.Step{{Name: "a", Needs: []graph.Name{"a"}}}, nil, "step a refers to step a, which is not declared above it"},
		{"twice", []graph.Step{{Name: "a"}, {Name: "a"}}, nil, "step a is declared twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := graph.Closure(tt.steps, tt.goals...); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestOrder runs a diamond-shaped graph many times and checks that no step starts before
// the steps that it depends on have ended.
func TestOrder(t *testing.T) {
	for range 50 {
		var mu sync.Mutex
		var ended []graph.Name
		step := func(name graph.Name, needs, after []graph.Name) graph.Step {
			return graph.Step{Name: name, Needs: needs, After: after, Run: func(context.Context) (graph.Outcome, error) {
				mu.Lock()
				defer mu.Unlock()
				for _, n := range slices.Concat(needs, after) {
					if !slices.Contains(ended, n) {
						t.Errorf("%s ran before %s", name, n)
					}
				}
				ended = append(ended, name)
				return graph.Outcome{Kind: progress.Passed}, nil
			}}
		}
		results, err := graph.Run(t.Context(), &sink{}, []graph.Step{
			step("a", nil, nil),
			step("b", []graph.Name{"a"}, nil),
			step("c", nil, []graph.Name{"a"}),
			step("d", []graph.Name{"b"}, []graph.Name{"c"}),
		})
		if err != nil || len(ended) != 4 {
			t.Fatalf("ended %v: %v", ended, err)
		}
		if got := fmt.Sprint(results[0].Name, results[1].Name, results[2].Name, results[3].Name); got != "abcd" {
			t.Fatalf("the results are in the order %s", got)
		}
	}
}

// TestPartOfAGraph checks that a step does not wait for a step that is not part of the
// run.
func TestPartOfAGraph(t *testing.T) {
	steps, err := graph.Closure([]graph.Step{
		{Name: "lint", Run: fails},
		{Name: "image", Run: passes},
		{Name: "push", Needs: []graph.Name{"image"}, After: []graph.Name{"lint"}, Run: passes},
	}, "push")
	if err != nil {
		t.Fatal(err)
	}
	results, err := graph.Run(t.Context(), &sink{}, steps)
	if diff := cmp.Diff(map[graph.Name]progress.Outcome{"image": progress.Passed, "push": progress.Passed}, outcomes(results)); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// TestRunInTheWrongOrder checks that Run rejects a list in which a step would wait
// forever.
func TestRunInTheWrongOrder(t *testing.T) {
	_, err := graph.Run(t.Context(), &sink{}, []graph.Step{{Name: "b", After: []graph.Name{"a"}, Run: passes}, {Name: "a", Run: passes}})
	if err == nil {
		t.Error("the list was not rejected")
	}
}

// TestRunsAtTheSameTime runs two steps that wait for each other, so they can end only if
// they run at the same time.
func TestRunsAtTheSameTime(t *testing.T) {
	a, b := make(chan struct{}), make(chan struct{})
	meet := func(mine chan<- struct{}, other <-chan struct{}) func(context.Context) (graph.Outcome, error) {
		return func(ctx context.Context) (graph.Outcome, error) {
			close(mine)
			<-other
			return passes(ctx)
		}
	}
	if _, err := graph.Run(t.Context(), &sink{}, []graph.Step{{Name: "a", Run: meet(a, b)}, {Name: "b", Run: meet(b, a)}}); err != nil {
		t.Error(err)
	}
}

// TestAFailureCancels checks that the first failure cancels running steps, and that steps
// that depend on the failed one are not started.
func TestAFailureCancels(t *testing.T) {
	started := make(chan struct{})
	s := &sink{}
	results, err := graph.Run(t.Context(), s, []graph.Step{
		{Name: "slow", Run: untilStopped(started)},
		{Name: "gate", Run: waitFor(started, fails)},
		{Name: "push", Needs: []graph.Name{"gate"}, Run: func(context.Context) (graph.Outcome, error) {
			t.Error("push ran although gate failed")
			return graph.Outcome{}, nil
		}},
	})
	if got, want := fmt.Sprint(err), "gate: the gate is closed"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if fault.ExitCode(err) != fault.ExitFailed {
		t.Errorf("exit code %d", fault.ExitCode(err))
	}
	want := []graph.Result{
		{Name: "slow", Outcome: progress.Cancelled, Reason: "gate failed"},
		{Name: "gate", Outcome: progress.Failed, Reason: "the gate is closed", Code: "gate.closed"},
		{Name: "push", Outcome: progress.Cancelled, Reason: "gate failed"},
	}
	if diff := cmp.Diff(want, results, cmpopts.IgnoreFields(graph.Result{}, "Seconds")); diff != "" {
		t.Error(diff)
	}
	finished := map[string]progress.Outcome{}
	for _, e := range s.events {
		if e.Kind == progress.Finished {
			finished[e.Stage] = e.Outcome
		}
	}
	if diff := cmp.Diff(map[string]progress.Outcome{"slow": progress.Cancelled, "gate": progress.Failed, "push": progress.Cancelled}, finished); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

// TestVerdictsFinish checks that a verdict runs to its end although another step fails at
// the same time, and that a verdict that depends on it is run, too.
func TestVerdictsFinish(t *testing.T) {
	failed := make(chan struct{})
	var closeFailed sync.Once
	results, err := graph.Run(t.Context(), &sink{}, []graph.Step{
		{Name: "build", Verdict: true, Run: waitFor(failed, func(ctx context.Context) (graph.Outcome, error) {
			if ctx.Err() != nil {
				t.Error("a verdict was cancelled by another step's failure")
			}
			return passes(ctx)
		})},
		{Name: "scan", Needs: []graph.Name{"build"}, Verdict: true, Run: passes},
		{Name: "other", Run: func(ctx context.Context) (graph.Outcome, error) {
			defer closeFailed.Do(func() { close(failed) })
			return fails(ctx)
		}},
		{Name: "push", After: []graph.Name{"scan"}, Run: passes},
	})
	if err == nil {
		t.Error("no error although a step failed")
	}
	want := map[graph.Name]progress.Outcome{"build": progress.Passed, "scan": progress.Passed, "other": progress.Failed, "push": progress.Cancelled}
	if diff := cmp.Diff(want, outcomes(results)); diff != "" {
		t.Error(diff)
	}
}

// TestVerdictWithoutItsNeeds checks that a verdict is not started if a step that it needs
// has failed.
func TestVerdictWithoutItsNeeds(t *testing.T) {
	results, _ := graph.Run(t.Context(), &sink{}, []graph.Step{
		{Name: "build", Run: fails},
		{Name: "scan", Needs: []graph.Name{"build"}, Verdict: true, Run: func(context.Context) (graph.Outcome, error) {
			t.Error("scan ran although build failed")
			return graph.Outcome{}, nil
		}},
	})
	if got := outcomes(results)["scan"]; got != progress.Cancelled {
		t.Errorf("scan is %s", got)
	}
}

// TestEveryFailureIsReported checks that the error contains all failed steps in the
// declared order, and no step that was only cancelled.
func TestEveryFailureIsReported(t *testing.T) {
	_, err := graph.Run(t.Context(), &sink{}, []graph.Step{
		{Name: "lint", Verdict: true, Run: fails},
		{Name: "test", Verdict: true, Run: fails},
		{Name: "push", After: []graph.Name{"lint", "test"}, Run: passes},
	})
	if got, want := fmt.Sprint(err), "lint: the gate is closed\ntest: the gate is closed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func crash(pointer *int) int { return *pointer }

// TestPanic checks that a step that panics has failed, that its log contains a short stack
// trace that begins at the panic, that other steps keep their results, and that the exit
// code is 1.
func TestPanic(t *testing.T) {
	s := &sink{}
	results, err := graph.Run(t.Context(), s, []graph.Step{
		{Name: "lint", Verdict: true, Run: passes},
		{Name: "scan", Verdict: true, Run: func(context.Context) (graph.Outcome, error) {
			return graph.Outcome{Kind: progress.Passed, Summary: strconv.Itoa(crash(nil))}, nil
		}},
		{Name: "push", After: []graph.Name{"scan"}, Run: passes},
	})
	want := map[graph.Name]progress.Outcome{"lint": progress.Passed, "scan": progress.Failed, "push": progress.Cancelled}
	if diff := cmp.Diff(want, outcomes(results)); diff != "" {
		t.Error(diff)
	}
	const text = "internal error: runtime error: invalid memory address or nil pointer dereference"
	if err == nil || !strings.HasPrefix(err.Error(), "scan: "+text) || fault.ExitCode(err) != fault.ExitFailed || fault.CodeOf(err) != "panic" {
		t.Errorf("exit %d, code %s: %v", fault.ExitCode(err), fault.CodeOf(err), err)
	}
	lines := s.lines("scan")
	if len(lines) == 0 || len(lines) > 21 || !strings.Contains(lines[0], "crash") {
		t.Errorf("trace of %d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}

// TestPanicAfterCancellation checks that a step that panics after it was cancelled has
// failed.
func TestPanicAfterCancellation(t *testing.T) {
	started := make(chan struct{})
	results, _ := graph.Run(t.Context(), &sink{}, []graph.Step{
		{Name: "slow", Run: func(ctx context.Context) (graph.Outcome, error) {
			_, _ = untilStopped(started)(ctx)
			panic("while stopping")
		}},
		{Name: "gate", Run: waitFor(started, fails)},
	})
	if got := outcomes(results)["slow"]; got != progress.Failed {
		t.Errorf("slow is %s", got)
	}
}

// TestInterrupt checks that an interrupt cancels every step, including verdicts, and that
// Run returns when all steps have ended.
func TestInterrupt(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	one, two := make(chan struct{}), make(chan struct{})
	go func() {
		<-one
		<-two
		interrupt()
	}()
	results, err := graph.Run(ctx, &sink{}, []graph.Step{
		{Name: "test", Verdict: true, Run: untilStopped(one)},
		{Name: "build", Run: untilStopped(two)},
		{Name: "push", Needs: []graph.Name{"build"}, Run: passes},
	})
	if !errors.Is(err, context.Canceled) || fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("exit %d: %v", fault.ExitCode(err), err)
	}
	for _, r := range results {
		if r.Outcome != progress.Cancelled || r.Reason != "interrupted" {
			t.Errorf("%+v", r)
		}
	}
}

// TestPreflight checks that the checks are called in order until one fails.
func TestPreflight(t *testing.T) {
	var called []graph.Name
	step := func(name graph.Name, err error) graph.Step {
		return graph.Step{Name: name, Run: passes, Check: func() error {
			called = append(called, name)
			return err
		}}
	}
	steps := []graph.Step{step("lint", nil), {Name: "build", Run: passes}, step("push", nil)}
	if err := graph.Preflight(steps); err != nil || fmt.Sprint(called) != "[lint push]" {
		t.Errorf("called %v: %v", called, err)
	}
	called = nil
	steps = append(steps, step("sign", fault.Inputf("key.missing", "there is no key")), step("deploy", nil))
	if err := graph.Preflight(steps); fault.CodeOf(err) != "key.missing" || fmt.Sprint(called) != "[lint push sign]" {
		t.Errorf("called %v: %v", called, err)
	}
}

// TestSkipped checks that steps that depend on a skipped step are run, and that the result
// of the skipped step has its reason.
func TestSkipped(t *testing.T) {
	results, err := graph.Run(t.Context(), &sink{}, []graph.Step{
		{Name: "compress", Run: func(context.Context) (graph.Outcome, error) {
			return graph.Outcome{Kind: progress.Skipped, Summary: "upx is off"}, nil
		}},
		{Name: "image", Needs: []graph.Name{"compress"}, Run: passes},
	})
	want := []graph.Result{
		{Name: "compress", Outcome: progress.Skipped, Reason: "upx is off"},
		{Name: "image", Outcome: progress.Passed, Summary: "done"},
	}
	if diff := cmp.Diff(want, results, cmpopts.IgnoreFields(graph.Result{}, "Seconds")); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// A failure that a step allows is in its result. It cancels nothing, and the steps after
// it start.
func TestAllowedFailure(t *testing.T) {
	allow := func(want bool) func(error) bool {
		return func(err error) bool { return want && fault.CodeOf(err) == "gate.closed" }
	}
	panics := func(context.Context) (graph.Outcome, error) { panic("nil pointer") }
	tests := []struct {
		name string
		gate graph.Step
		want string // outcomes of the gate, of a step beside it and of one after it
		err  bool
	}{
		{"allowed", graph.Step{Run: fails, Allow: allow(true)}, "failed, then passed and passed", false},
		{"refused", graph.Step{Run: fails, Allow: allow(false)}, "failed, then cancelled and cancelled", true},
		{"another error", graph.Step{Run: func(context.Context) (graph.Outcome, error) { return graph.Outcome{}, errors.New("x") }, Allow: allow(true)}, "failed, then cancelled and cancelled", true},
		{"a panic", graph.Step{Run: panics, Allow: func(error) bool { return true }}, "failed, then cancelled and cancelled", true},
		{"passed", graph.Step{Run: passes, Allow: allow(true)}, "passed, then passed and passed", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.gate.Name = "gate"
			steps := []graph.Step{
				tt.gate,
				{Name: "beside", After: []graph.Name{"gate"}, Run: passes},
				{Name: "after", Needs: []graph.Name{"beside"}, After: []graph.Name{"gate"}, Run: passes},
			}
			var s sink
			results, err := graph.Run(t.Context(), &s, steps)
			got := fmt.Sprintf("%s, then %s and %s", results[0].Outcome, results[1].Outcome, results[2].Outcome)
			if got != tt.want || (err != nil) != tt.err {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
			allowed := tt.name == "allowed"
			if results[0].Allowed != allowed || allowed && (results[0].Code != "gate.closed" || results[0].Reason != "the gate is closed") {
				t.Errorf("%+v", results[0])
			}
			if last := s.finished("gate"); strings.HasPrefix(last, "allowed: ") != allowed {
				t.Errorf("the event says %q", last)
			}
		})
	}
}

// finished returns the text of the event with which a stage ended.
func (s *sink) finished(stage graph.Name) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Stage == string(stage) && e.Kind == progress.Finished {
			return e.Text
		}
	}
	return ""
}

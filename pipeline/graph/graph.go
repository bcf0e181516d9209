// Package graph runs the steps of a pipeline. It does not depend on what the steps
// do: it computes which steps a goal requires, runs each step as soon as the steps
// before it have passed, and cancels the remaining steps when one fails.
//
// The steps are declared as a list. A step may refer only to steps above it, so a
// list that passes [Check] has no cycles and can be read from top to bottom.
package graph

import (
	"context"
	"fmt"
	"slices"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Name is the name of a step. It must be unique in a list of steps.
type Name string

// Step is one node of the graph.
type Step struct {
	Name Name

	// Needs lists the steps whose results this step uses. A run that includes
	// this step also includes them.
	Needs []Name

	// After lists the steps that must pass before this step starts, if they are
	// part of the run. Unlike Needs it adds no steps to the run.
	After []Name

	// Verdict marks a step that runs to its end even if another step fails,
	// because developers need its report to correct their code. The first
	// failure cancels steps that are not verdicts. An interrupt cancels all
	// steps.
	Verdict bool

	// Allow reports whether the run goes on as if the step had passed although it
	// has failed with err. It is not called if the step was cancelled or has
	// panicked. A nil Allow never permits that.
	Allow func(err error) bool

	// Check returns an error if the step cannot run, for example because no key
	// is configured. [Preflight] calls the checks of all steps before any step
	// starts. A nil Check always passes.
	Check func() error

	// Run does the work of the step. Its context is cancelled when the step must
	// stop.
	Run func(context.Context) (Outcome, error)
}

// Outcome is the result of a step that did not fail.
type Outcome struct {
	Kind    progress.Outcome // [progress.Passed], [progress.Unchanged] or [progress.Skipped]
	Summary string           // the result in a few words; the reason if the step was skipped
}

// before returns every step that must end before s starts.
func (s Step) before() []Name { return slices.Concat(s.Needs, s.After) }

// Check returns an error if a list of steps cannot be run: if a name occurs twice, or if
// a step refers to a step that is not above it in the list.
func Check(steps []Step) error { return check(steps, Names(steps), true) }

// check implements Check. If whole is false, a step may also refer to a step that is
// not in the list.
func check(steps []Step, all []Name, whole bool) error {
	for i, s := range steps {
		above := all[:i]
		if slices.Contains(above, s.Name) {
			return fmt.Errorf("step %s is declared twice", s.Name)
		}
		for _, n := range s.before() {
			if !slices.Contains(above, n) && (whole || slices.Contains(all, n)) {
				return fmt.Errorf("step %s refers to step %s, which is not declared above it", s.Name, n)
			}
		}
	}
	return nil
}

// Closure returns the steps that the goals require, in the order in which they
// are declared: the goals, the steps that those need, and so on. It returns an
// error for a list that does not pass [Check] and for an unknown goal.
func Closure(steps []Step, goals ...Name) ([]Step, error) {
	if err := Check(steps); err != nil {
		return nil, err
	}
	for _, g := range goals {
		if !slices.ContainsFunc(steps, func(s Step) bool { return s.Name == g }) {
			return nil, fmt.Errorf("there is no step %s", g)
		}
	}
	wanted := slices.Clone(goals)
	var closure []Step
	for _, s := range slices.Backward(steps) { // a step's needs are above it
		if slices.Contains(wanted, s.Name) {
			wanted = append(wanted, s.Needs...)
			closure = append(closure, s)
		}
	}
	slices.Reverse(closure)
	return closure, nil
}

// Names returns the names of the steps.
func Names(steps []Step) []Name {
	names := make([]Name, 0, len(steps))
	for _, s := range steps {
		names = append(names, s.Name)
	}
	return names
}

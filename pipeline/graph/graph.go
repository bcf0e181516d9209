// Package graph runs the steps of a pipeline. It knows nothing of what the
// steps do: it computes which steps a goal requires, runs each step as soon as
// the steps before it have passed, and stops the rest when one fails.
//
// The steps are declared as a list in an order that a person can read from top
// to bottom. A step may only refer to steps above it, so a list that passes
// [Check] has no cycles.
//
// The package promises no compatibility to programs other than slipway.
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
	// this step includes them too.
	Needs []Name

	// After lists the steps that must pass before this step starts, if they are
	// part of the run at all. Unlike Needs it adds no step to the run.
	After []Name

	// Verdict marks a step that runs to its end even if another step fails,
	// because its report is what the developer needs next. A step that is not a
	// verdict is cancelled by the first failure. An interrupt cancels both.
	Verdict bool

	// Check reports whether the step could do its work, for example whether a
	// key is configured. [Preflight] makes the checks of a run before any step
	// starts. A nil Check always passes.
	Check func() error

	// Run does the work. Its context ends when the step is to stop.
	Run func(context.Context) (Outcome, error)
}

// Outcome is what a step reports about its own success.
type Outcome struct {
	Kind    progress.Outcome // [progress.Passed], [progress.Unchanged] or [progress.Skipped]
	Summary string           // the result in a few words; the reason if the step was skipped
}

// before returns every step that must end before s starts.
func (s Step) before() []Name { return slices.Concat(s.Needs, s.After) }

// Check reports a list of steps that cannot be run: a name that occurs twice,
// or a step that refers to a step which is not above it in the list.
func Check(steps []Step) error { return check(steps, Names(steps), true) }

// check is Check. Unless the list is whole, a step may also refer to a step that
// is not in the list.
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

package graph_test

import (
	"context"
	"fmt"

	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// silent is a sink that discards all events.
type silent struct{}

func (silent) Emit(progress.Event) {}

func Example() {
	work := func(name string) func(context.Context) (graph.Outcome, error) {
		return func(context.Context) (graph.Outcome, error) {
			fmt.Println("running", name)
			return graph.Outcome{Kind: progress.Passed, Summary: "done"}, nil
		}
	}
	steps := []graph.Step{
		{Name: "test", Verdict: true, Run: work("test")},
		{Name: "build", Run: work("build")},
		{Name: "push", Needs: []graph.Name{"build"}, After: []graph.Name{"test"}, Run: work("push")},
	}
	// The goal push needs build. It would wait for test, but test is not part of
	// the run, because push does not need it.
	closure, err := graph.Closure(steps, "push")
	if err != nil {
		fmt.Println(err)
		return
	}
	results, err := graph.Run(context.Background(), silent{}, closure)
	for _, r := range results {
		fmt.Println(r.Name, r.Outcome)
	}
	fmt.Println("error:", err)
	// Output:
	// running build
	// running push
	// build passed
	// push passed
	// error: <nil>
}

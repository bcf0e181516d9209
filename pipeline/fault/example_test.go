package fault_test

import (
	"errors"
	"fmt"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

func Example() {
	open := func(name string) error {
		return fault.Inputf("config.unreadable", "reading %s: %w", name, errors.New("permission denied")).
			WithFix("run chmod u+r %s", name)
	}
	err := fmt.Errorf("loading the configuration: %w", open("slipway.yaml"))
	fmt.Println(err)
	fmt.Println("code:", fault.CodeOf(err))
	fmt.Println("exit:", fault.ExitCode(err))
	// Output:
	// loading the configuration: reading slipway.yaml: permission denied (run chmod u+r slipway.yaml)
	// code: config.unreadable
	// exit: 2
}

func ExampleGatef() {
	err := fault.Gatef("test.coverage", "coverage is %.1f%%, below the minimum of %.1f%%", 61.2, 70.0)
	fmt.Println(err)
	fmt.Println("exit:", fault.ExitCode(err))
	// Output:
	// coverage is 61.2%, below the minimum of 70.0%
	// exit: 1
}

package command

import (
	"context"
	"os"
	"os/exec"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// runsGo reports whether a step runs the go command.
func runsGo(step graph.Name) bool {
	return step == ship.Lint || step == ship.Test || step == ship.Build
}

// checkGoCaches returns an error if HOME is not set and the go command therefore has no
// folder for one of its caches. Its own errors come in the middle of a stage and name
// only one of them.
func checkGoCaches(ctx context.Context) error {
	if os.Getenv("HOME") != "" {
		return nil
	}
	names := []string{"GOCACHE", "GOMODCACHE"}
	out, err := exec.CommandContext(ctx, "go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil //nolint:nilerr // the search for the toolchain reports a go command that cannot be run
	}
	var missing []string
	for i, folder := range strings.SplitN(string(out), "\n", len(names)) {
		if folder = strings.TrimSpace(folder); folder == "" || folder == "off" {
			missing = append(missing, names[i])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fault.Inputf("cache.no-home", "HOME is not set, so Go has no folder for its caches").
		WithFix("set HOME to a writable folder, or set %s", strings.Join(missing, " and "))
}

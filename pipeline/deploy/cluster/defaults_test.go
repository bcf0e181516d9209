package cluster_test

import (
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
)

// TestDefaultsAgree: package rollout can be used without slipway.yaml and has
// defaults of its own. They must be those of the configuration.
func TestDefaultsAgree(t *testing.T) {
	e, p := config.DefaultEnvironment(), rollout.DefaultPatience()
	if e.Restarts != p.Restarts || time.Duration(e.Readiness) != p.Readiness {
		t.Errorf("the configuration has %d restarts and %s, package rollout has %d and %s", e.Restarts, e.Readiness, p.Restarts, p.Readiness)
	}
}

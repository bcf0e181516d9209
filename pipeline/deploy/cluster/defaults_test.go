package cluster_test

import (
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
)

// TestDefaultsAgree checks that package rollout, which can be used without slipway.yaml,
// has the same defaults as the configuration.
func TestDefaultsAgree(t *testing.T) {
	e, p := config.DefaultEnvironment(), rollout.DefaultPatience()
	if e.Restarts != p.Restarts || time.Duration(e.Readiness) != p.Readiness {
		t.Errorf("the defaults of the configuration are %d restarts and %s, and those of package rollout are %d and %s", e.Restarts, e.Readiness, p.Restarts, p.Readiness)
	}
}

package cluster_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestLock(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	leases := p.Client.CoordinationV1().Leases(p.o.Namespace)
	hold := func(holder string) {
		lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		now := metav1.NowMicro()
		lease.Spec.HolderIdentity, lease.Spec.RenewTime = &holder, &now
		if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	hold("somebody in CI|elsewhere|boot|1|2|3")
	o := p.with(nil)
	o.Settings.LockTimeout = 0
	_, err := p.run(t, o)
	if fault.CodeOf(err) != "deploy.locked" || !strings.Contains(err.Error(), "somebody in CI") {
		t.Errorf("the error for a locked release is %v", err)
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].Lock != "somebody in CI" {
		t.Errorf("the status is %+v, %v", status, err)
	}
	// The holder sends no heartbeats, so it is replaced.
	p.mustDeploy(t, deploy.Untouched, nil)
	lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != "" {
		t.Errorf("the lock was not released: %+v %v", lease, err)
	}
}

// TestSecondDeploymentWaits starts two deployments at the same time.
func TestSecondDeploymentWaits(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := cluster.Tool{}.Deploy(t.Context(), p.with(map[string]any{"env": map[string]any{"RUN": strconv.Itoa(i)}}), testkit.Verified(p.image))
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].Revision != 3 || status[0].State != deploy.Deployed {
		t.Errorf("%+v %v", status, err)
	}
}

// TestLostLockStopsTheRun makes another run the holder of the lock while a deployment
// waits for its rollout.
func TestLostLockStopsTheRun(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	o := p.with(map[string]any{"mode": "unready"})
	o.Settings.Readiness = config.Duration(time.Minute)
	failed := make(chan error, 1)
	go func() {
		_, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
		failed <- err
	}()
	leases := p.Client.CoordinationV1().Leases(p.o.Namespace)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for replaced := false; !replaced; <-tick.C {
		lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
			other := "another|x|y|1|2|3"
			lease.Spec.HolderIdentity = &other
			_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
			replaced = err == nil
		}
	}
	if err := <-failed; fault.CodeOf(err) != "deploy.lock-lost" || fault.ExitCode(err) != fault.ExitFailed || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "another|x|y|1|2|3" {
		t.Errorf("the lock of the other run was changed: %+v %v", lease.Spec, err)
	}
}

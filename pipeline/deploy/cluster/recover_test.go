package cluster_test

import (
	"context"
	"fmt"
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

// TestPendingReleasesAreRecovered writes the state that a killed run leaves behind, for
// every operation of Helm (helm/helm#11863, helm/helm#7476, helm/helm#10323).
func TestPendingReleasesAreRecovered(t *testing.T) {
	for _, status := range []string{"pending-install", "pending-upgrade", "pending-rollback"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			p := newTestRelease(t)
			revision := 1
			if status != "pending-install" {
				p.mustDeploy(t, deploy.Installed, nil)
				revision = 2
			}
			set := map[string]any{"env": map[string]any{"OLD": "1"}, "extra": map[string]any{"leftover": map[string]any{"a": "b"}}}
			p.mustDeploy(t, map[bool]deploy.Action{true: deploy.Installed, false: deploy.Upgraded}[revision == 1], set)
			setStatus(t, p, revision, status)
			plan, err := cluster.Tool{}.Plan(t.Context(), p.with(nil), deploy.ImageOf(p.image))
			if err != nil || plan.Clusters[0].State != deploy.Unfinished {
				t.Errorf("the plan is %+v, %v", plan, err)
			}
			r := p.mustDeploy(t, deploy.Recovered, nil)
			if r.Before != deploy.Unfinished || r.Revision != revision+1 || !strings.Contains(r.Reason, status) {
				t.Errorf("%+v", r)
			}
			if e := env(p.deployment(t)); len(e) != 0 {
				t.Errorf("the variables of the killed run remain: %v", e)
			}
			if _, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), "leftover", metav1.GetOptions{}); err == nil {
				t.Error("the ConfigMap of the killed run remains")
			}
		})
	}
}

// TestOperationOfHelmIsNotRecovered deploys while helm, which does not acquire the lock,
// upgrades the release.
func TestOperationOfHelmIsNotRecovered(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"A": "1"}})
	setStatus(t, p, 2, "pending-upgrade")
	secrets := p.Client.CoreV1().Secrets(p.o.Namespace)
	secret, err := secrets.Get(t.Context(), "sh.helm.release.v1.app.v2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(secret.Labels, "slipway.digest")
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.deploy(t, nil); fault.CodeOf(err) != "deploy.locked" {
		t.Errorf("%v", err)
	}
}

func TestInterruptLeavesARecoverableRelease(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	image := testkit.Verified(p.image)
	ctx, cancel := context.WithCancel(t.Context())
	o := p.with(map[string]any{"mode": "unready"})
	o.Settings.Readiness = config.Duration(time.Minute)
	failed := make(chan error, 1)
	go func() {
		_, err := cluster.Tool{}.Deploy(ctx, o, image)
		failed <- err
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for p.deployment(t).Spec.Template.Spec.Containers[0].Args[0] != "unready" {
		<-tick.C
	}
	cancel()
	if err := <-failed; fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("%v", err)
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].State != deploy.Failed || status[0].Lock != "" {
		t.Errorf("%+v %v", status, err)
	}
	p.mustDeploy(t, deploy.Recovered, nil)
}

// setStatus changes the status of a revision in the storage of Helm to one that a killed
// run leaves behind.
func setStatus(t *testing.T, p *testRelease, revision int, status string) {
	t.Helper()
	secrets := p.Client.CoreV1().Secrets(p.o.Namespace)
	secret, err := secrets.Get(t.Context(), fmt.Sprintf("sh.helm.release.v1.app.v%d", revision), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data["release"] = recode(t, secret.Data["release"], func(r map[string]any) {
		info, _ := r["info"].(map[string]any)
		info["status"], info["description"] = status, "Preparing"
	})
	secret.Labels["status"] = status
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

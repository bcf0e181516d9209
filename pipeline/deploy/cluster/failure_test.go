package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// TestFailureIsExplainedAndRolledBack causes every kind of failure with an upgrade. The
// deployment must report the cause, and the old version must continue to run.
func TestFailureIsExplainedAndRolledBack(t *testing.T) {
	for _, tt := range failures() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newTestRelease(t)
			p.mustDeploy(t, deploy.Installed, nil)
			if tt.timeout > 0 {
				p.o.Settings.Timeout = config.Duration(tt.timeout)
			}
			if tt.prepare != nil {
				tt.prepare(t, p)
			}
			r, err := p.deploy(t, tt.set(p))
			if err == nil {
				t.Fatalf("the deployment succeeded: %+v", r)
			}
			if code := fault.CodeOf(err); code != "deploy."+tt.kind {
				t.Errorf("the code is %s, want deploy.%s: %v", code, tt.kind, err)
			}
			if r.Failure == nil || !strings.Contains(r.Failure.Message+strings.Join(r.Failure.Logs, "\n"), tt.want) {
				t.Errorf("the failure does not contain %q: %+v", tt.want, r.Failure)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has more than one line: %q", err)
			}
			if r.Action != deploy.RolledBack || r.Revision != 3 || r.Tried != 2 {
				t.Errorf("the action is %s, the revision %d, the failed revision %d (%s)", r.Action, r.Revision, r.Tried, r.RollbackErr)
			}
			d := p.deployment(t)
			if d.Status.AvailableReplicas != 1 || d.Spec.Template.Spec.Containers[0].Args[0] != "serve" {
				t.Errorf("the status after the rollback is %+v", d.Status)
			}
			if failure, ok := errors.AsType[*rollout.Failure](err); ok {
				t.Logf("%s: Kubernetes reported it at %s and slipway saw it %.1fs later: %v", tt.name, failure.Known.Format(time.TimeOnly), failure.Seen.Sub(failure.Known).Seconds(), err)
			}
			p.mustDeploy(t, deploy.Untouched, nil)
		})
	}
}

// failureCase is an upgrade that fails.
type failureCase struct {
	name, kind string
	want       string                            // a part of the message or the logs
	timeout    time.Duration                     // of the rollout; default: that of newTestRelease
	prepare    func(*testing.T, *testRelease)    // called before the upgrade; may be nil
	set        func(*testRelease) map[string]any // the values of the upgrade
}

func failures() []failureCase {
	values := func(m map[string]any) func(*testRelease) map[string]any {
		return func(*testRelease) map[string]any { return m }
	}
	return []failureCase{
		{name: "image pull", kind: "image-pull", want: "not found", set: func(p *testRelease) map[string]any {
			return map[string]any{"brokenImage": p.Registry + "/elsewhere@sha256:" + strings.Repeat("0", 64)}
		}},
		{name: "invalid image", kind: "invalid-image", want: "Bad//Image", set: values(map[string]any{"brokenImage": "Bad//Image"})},
		{name: "missing secret", kind: "config", want: `secret "nowhere" not found`, set: values(map[string]any{"secret": "nowhere"})},
		{name: "crash loop", kind: "crash-loop", want: "flux capacitor", set: values(map[string]any{"mode": "crash"})},
		{name: "startup probe", kind: "probe", want: "500", set: values(map[string]any{"mode": "unstarted"})},
		{name: "readiness probe", kind: "probe", want: "500", set: values(map[string]any{"mode": "unready"})},
		{name: "out of memory", kind: "oom", want: "32Mi", set: values(map[string]any{"mode": "oom", "memory": "32Mi"})},
		{name: "unschedulable", kind: "unschedulable", want: "cpu", timeout: 8 * time.Second, set: values(map[string]any{"cpu": "1000"})},
		{name: "admission", kind: "admission", want: "violates PodSecurity", set: values(map[string]any{"privileged": true})},
		{name: "service account", kind: "admission", want: "nobody", set: values(map[string]any{"serviceAccount": "nobody"})},
		{name: "quota", kind: "quota", want: "exceeded quota", prepare: func(t *testing.T, p *testRelease) {
			_, err := p.Client.CoreV1().ResourceQuotas(p.o.Namespace).Create(t.Context(), &core.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Name: "small"},
				Spec:       core.ResourceQuotaSpec{Hard: core.ResourceList{core.ResourceRequestsCPU: resource.MustParse("15m")}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}, set: values(map[string]any{"env": map[string]any{"A": "1"}})},
		{name: "hook", kind: "job-failed", want: "flux capacitor", set: values(map[string]any{"hook": "crash"})},
		{name: "deadline", kind: "deadline", want: "", timeout: 4 * time.Second, set: values(map[string]any{"minReady": 120, "env": map[string]any{"A": "1"}})},
	}
}

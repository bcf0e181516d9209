package cluster_test

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
)

func TestPlan(t *testing.T) {
	p := newTestRelease(t)
	p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": "hunter2hunter2"}}}
	plan := func(set map[string]any) deploy.ClusterPlan {
		t.Helper()
		r, err := cluster.Tool{}.Plan(t.Context(), p.with(set), deploy.ImageOf(p.image))
		if err != nil {
			t.Fatal(err)
		}
		return r.Clusters[0]
	}
	first := plan(nil)
	if first.State != deploy.Absent || !slices.ContainsFunc(first.Changes, func(c deploy.Change) bool { return c.Object == "deployment/app" && c.Action == "create" }) {
		t.Errorf("%+v", first)
	}
	if _, err := p.Client.CoreV1().Namespaces().Get(t.Context(), p.o.Namespace, metav1.GetOptions{}); err == nil {
		t.Error("the plan created the namespace")
	}
	p.mustDeploy(t, deploy.Installed, map[string]any{"secret": "credentials", "extra": map[string]any{"gone": map[string]any{"a": "b"}}})
	if same := plan(map[string]any{"secret": "credentials", "extra": map[string]any{"gone": map[string]any{"a": "b"}}}); len(same.Changes) != 0 {
		t.Errorf("the plan without a change contains %+v", same.Changes)
	}
	before := p.deployment(t)
	c := plan(map[string]any{"secret": "credentials", "env": map[string]any{"COLOUR": "blue"}, "hook": "exit0"})
	if len(c.Changes) != 2 || c.Changes[0].Object != "deployment/app" || c.Changes[1].Object != "configmap/gone" || c.Changes[1].Action != "delete" || len(c.Hooks) != 1 {
		t.Fatalf("%+v", c)
	}
	if d := c.Changes[0].Diff; !strings.Contains(d, "+        - name: COLOUR") || strings.Contains(d, "managedFields") || strings.Contains(d, "resourceVersion") {
		t.Errorf("the diff is\n%s", d)
	}
	if p.deployment(t).ResourceVersion != before.ResourceVersion {
		t.Error("the plan changed the Deployment")
	}
}

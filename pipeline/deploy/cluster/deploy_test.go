package cluster_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestInstallUpgradeUnchanged(t *testing.T) {
	p := newTestRelease(t)
	first := p.mustDeploy(t, deploy.Installed, nil)
	if first.Revision != 1 || first.Before != deploy.Absent || len(first.Workloads) != 1 || first.Workloads[0].Ready != 1 {
		t.Errorf("the result of the installation is %+v", first)
	}
	ns, err := p.Client.CoreV1().Namespaces().Get(t.Context(), p.o.Namespace, metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("the namespace has the labels %v, %v", ns.Labels, err)
	}
	before := p.deployment(t)
	again := p.mustDeploy(t, deploy.Untouched, nil)
	if again.Revision != 1 || p.deployment(t).ResourceVersion != before.ResourceVersion {
		t.Errorf("a deployment without a change changed something: %+v", again)
	}
	up := p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"COLOUR": "blue"}})
	if up.Revision != 2 || up.Previous != 1 || env(p.deployment(t))["COLOUR"] != "blue" {
		t.Errorf("the result of the upgrade is %+v", up)
	}
	// A change by hand is reverted.
	d := p.deployment(t)
	d.Spec.Template.Spec.Containers[0].Env[0].Value = "red"
	if _, err := p.Client.AppsV1().Deployments(p.o.Namespace).Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"COLOUR": "blue"}})
	if got := env(p.deployment(t))["COLOUR"]; got != "blue" {
		t.Errorf("COLOUR is %q after a deployment over a change by hand", got)
	}
	all, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || len(all) != 1 || all[0].State != deploy.Deployed || all[0].Revision != 3 || all[0].Lock != "" || len(all[0].History) != 3 || !strings.Contains(all[0].Image, p.image.DigestStr()) {
		t.Errorf("the status is %+v, %v", all, err)
	}
	back, err := cluster.Tool{}.Rollback(t.Context(), p.o, 0)
	if err != nil || back.Clusters[0].Action != deploy.RolledBack || back.Clusters[0].Revision != 4 {
		t.Errorf("the result of the rollback is %+v, %v", back, err)
	}
	_, err = cluster.Tool{}.Rollback(t.Context(), p.o, 99)
	if fault.CodeOf(err) != "deploy.no-revision" || fault.ExitCode(err) != fault.ExitInput {
		t.Errorf("the error of a rollback to a missing revision is %v", err)
	}
}

func TestFirstInstallIsKeptAndReplaced(t *testing.T) {
	p := newTestRelease(t)
	r, err := p.deploy(t, map[string]any{"mode": "crash", "extra": map[string]any{"leftover": map[string]any{"a": "b"}}, "env": map[string]any{"OLD": "1"}})
	if fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.Kept || r.Tried != 1 || r.Revision != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	p.deployment(t) // it still exists for inspection
	again := p.mustDeploy(t, deploy.Recovered, nil)
	if again.Before != deploy.Failed || again.Revision != 2 {
		t.Errorf("%+v", again)
	}
	if e := env(p.deployment(t)); len(e) != 0 {
		t.Errorf("the variables of the failed installation remain: %v", e)
	}
	if _, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), "leftover", metav1.GetOptions{}); err == nil {
		t.Error("the ConfigMap of the failed installation remains")
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || len(status[0].History) != 2 || status[0].History[1].Good {
		t.Errorf("the failed revision is reported as good: %+v %v", status, err)
	}
}

// TestTerminatingObjectIsCreatedAgain deploys an object again while a finalizer delays
// its deletion.
func TestTerminatingObjectIsCreatedAgain(t *testing.T) {
	p := newTestRelease(t)
	with := map[string]any{"extra": map[string]any{"slow": map[string]any{"a": "b"}}}
	p.mustDeploy(t, deploy.Installed, with)
	maps := p.Client.CoreV1().ConfigMaps(p.o.Namespace)
	patch := func(text string) {
		if _, err := maps.Patch(t.Context(), "slow", types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	patch(`{"metadata":{"finalizers":["example.com/hold"]}}`)
	p.mustDeploy(t, deploy.Upgraded, nil)
	timer := time.AfterFunc(2*time.Second, func() { patch(`{"metadata":{"finalizers":null}}`) })
	defer timer.Stop()
	p.mustDeploy(t, deploy.Upgraded, with)
	if m, err := maps.Get(t.Context(), "slow", metav1.GetOptions{}); err != nil || m.DeletionTimestamp != nil {
		t.Errorf("%+v %v", m, err)
	}
}

func TestOnlyTheVerifiedImageRuns(t *testing.T) {
	p := newTestRelease(t)
	o := p.with(map[string]any{"image": map[string]any{"repository": p.image.Context().Name(), "digest": p.image.DigestStr()}})
	o.ImageValues = config.ImageValues{Reference: "unused"} // so that the chart runs an image other than the verified one
	p.image = p.image.Context().Digest("sha256:" + strings.Repeat("1", 64))
	r, err := p.run(t, o)
	if fault.CodeOf(err) != "deploy.other-image" || r.Action != deploy.NotReached {
		t.Errorf("%+v %v", r, err)
	}
	other, err := name.NewDigest("registry.example.com/other@" + p.image.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	p.image = other
	if _, err := p.run(t, o); fault.CodeOf(err) != "deploy.image-unused" {
		t.Errorf("%v", err)
	}
	list, err := p.Client.AppsV1().Deployments(p.o.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) > 0 {
		t.Errorf("an image that was not verified was deployed: %v %v", list.Items, err)
	}
}

// TestReleaseTooLargeForHelm covers helm/helm#6711.
func TestReleaseTooLargeForHelm(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	r, err := p.deploy(t, map[string]any{"large": true})
	if fault.CodeOf(err) != "deploy.release-too-large" || r.Action != deploy.NotReached {
		t.Errorf("%+v %v", r, err)
	}
	p.mustDeploy(t, deploy.Untouched, nil)
}

func TestChartTests(t *testing.T) {
	p := newTestRelease(t)
	p.o.Settings.Test = true
	r := p.mustDeploy(t, deploy.Installed, map[string]any{"test": "exit0"})
	if len(r.Tests) != 1 {
		t.Errorf("%+v", r)
	}
	r, err := p.deploy(t, map[string]any{"test": "crash"})
	if fault.CodeOf(err) != "deploy.job-failed" || r.Action != deploy.RolledBack {
		t.Errorf("%+v %v", r, err)
	}
}

// TestSeveralClusters uses namespaces instead of clusters.
func TestSeveralClusters(t *testing.T) {
	p := newTestRelease(t)
	o := p.with(nil)
	o.Settings.Clusters = []config.Cluster{{Name: "north"}, {Name: "south", Namespace: p.Name(t)}, {Name: "west", Namespace: p.Name(t)}}
	if _, err := (cluster.Tool{}).Deploy(t.Context(), o, testkit.Verified(p.image)); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("mode: crash\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o = p.with(map[string]any{"env": map[string]any{"COLOUR": "blue"}})
	first, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || first[0].Revision != 1 {
		t.Fatal(first, err)
	}
	south, west := p.Name(t), p.Name(t)
	o.Settings.Clusters = []config.Cluster{{Name: "north"}, {Name: "south", Namespace: south, Values: []string{bad}}, {Name: "west", Namespace: west}}
	o.Settings.RollbackAll = true
	r, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
	if fault.CodeOf(err) != "deploy.crash-loop" || !strings.Contains(err.Error(), "cluster south") {
		t.Errorf("%v", err)
	}
	if len(r.Clusters) != 3 || r.Clusters[0].Action != deploy.RolledBack || r.Clusters[1].Action != deploy.Kept || r.Clusters[2].Action != deploy.NotReached {
		t.Errorf("%+v", r.Clusters)
	}
	if e := env(p.deployment(t)); len(e) != 0 {
		t.Errorf("north was not rolled back: %v", e)
	}
}

func TestBadInput(t *testing.T) {
	p := newTestRelease(t)
	for _, tt := range []struct {
		name, code string
		change     func(*deploy.Options)
	}{
		{"missing kubeconfig", "deploy.kubeconfig", func(o *deploy.Options) { o.Kubeconfig = filepath.Join(t.TempDir(), "none") }},
		{"missing context", "deploy.kubeconfig", func(o *deploy.Options) { o.Settings.Clusters = []config.Cluster{{Context: "nowhere"}} }},
		{"missing chart", "deploy.chart", func(o *deploy.Options) { o.Chart.Path = t.TempDir() }},
		{"malformed server", "usage", func(o *deploy.Options) { o.Server = "https://nowhere/" }},
		{"failing template", "deploy.chart", func(o *deploy.Options) { o.Settings.Set = map[string]any{"env": "text"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := p.with(nil)
			tt.change(&o)
			_, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
			if fault.CodeOf(err) != tt.code || fault.ExitCode(err) != fault.ExitInput || strings.Contains(err.Error(), "\n") {
				t.Errorf("the code is %s and the exit code is %d: %v", fault.CodeOf(err), fault.ExitCode(err), err)
			}
		})
	}
	o := p.with(nil)
	o.Server = "127.0.0.1:9" // no process listens on this port
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := (cluster.Tool{}).Deploy(ctx, o, testkit.Verified(p.image)); fault.CodeOf(err) != "deploy.unreachable" {
		t.Errorf("the error for an unreachable cluster is %v", err)
	}
}

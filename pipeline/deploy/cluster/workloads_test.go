package cluster_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// newService returns a release of slipway's own chart.
func newService(t *testing.T, values map[string]any) *testRelease {
	t.Helper()
	p := newTestRelease(t)
	p.o.Chart = deploy.Chart{Service: "app", Values: values}
	return p
}

// probes are fast, so that rollouts in tests do not take longer than needed.
var probes = map[string]any{
	"startup": map[string]any{"periodSeconds": 1}, "readiness": map[string]any{"periodSeconds": 1},
}

// TestStatefulSetKeepsItsData upgrades a StatefulSet, upgrades it to a version that does not
// work, and rolls it back. What its pod has written remains.
func TestStatefulSetKeepsItsData(t *testing.T) {
	t.Parallel()
	p := newService(t, map[string]any{
		"kind": "StatefulSet", "replicas": 1, "drainSeconds": 0, "minReadySeconds": 0, "probes": probes, "env": map[string]any{"DATA": "/data"},
		"statefulSet": map[string]any{"volumes": []any{map[string]any{"name": "data", "mountPath": "/data", "size": "1Mi", "storageClass": volumeName(t)}}},
	})
	volume(t, p, volumeName(t))
	p.mustDeploy(t, deploy.Installed, nil)
	p.image = images.Image(t, p.Cluster, "2")
	p.mustDeploy(t, deploy.Upgraded, nil)
	wantVersions(t, p, "1 2")
	if r, err := p.deploy(t, map[string]any{"args": []any{"crash"}}); fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.RolledBack {
		t.Errorf("%s %v", r.Action, err)
	}
	wantVersions(t, p, "1 2 2")
	set, err := p.Client.AppsV1().StatefulSets(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if set.Spec.ServiceName != "app-headless" || set.Status.ReadyReplicas != 1 {
		t.Errorf("%+v", set.Status)
	}
}

// volumeName returns the name of the volume of a test, which is also the name of its storage class.
func volumeName(t *testing.T) string {
	return "volume-" + strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
}

// volume creates a volume on the node for the first pod of the release.
func volume(t *testing.T, p *testRelease, name string) {
	t.Helper()
	nodes, err := p.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The node of devcluster sees only some folders of this machine, for example this one.
	dir, err := os.MkdirTemp(filepath.Join(filepath.Dir(p.Kubeconfig), "kubelet"), "slipway-volume-")
	if err != nil {
		t.Skipf("there is no folder that the node can use for a volume: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // the group of the pod gets it only when it is mounted
		t.Fatal(err)
	}
	_, err = p.Client.CoreV1().PersistentVolumes().Create(t.Context(), &core.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: core.PersistentVolumeSpec{
			Capacity: core.ResourceList{core.ResourceStorage: resource.MustParse("1Mi")}, AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			StorageClassName: name, PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: filepath.Join("/var/lib/kubelet", filepath.Base(dir))}},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
				MatchExpressions: []core.NodeSelectorRequirement{{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{nodes.Items[0].Name}}},
			}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := p.Client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// wantVersions asks the first pod which versions have written to its volume.
func wantVersions(t *testing.T, p *testRelease, want string) {
	t.Helper()
	pod, err := p.Client.CoreV1().Pods(p.o.Namespace).Get(t.Context(), "app-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + pod.Status.PodIP + ":8080/versions")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(string(raw)), " "); got != want {
		t.Errorf("the volume was written by %q, want %q", got, want)
	}
}

// TestVolumeThatDoesNotBind covers a claim for which there is no volume.
func TestVolumeThatDoesNotBind(t *testing.T) {
	t.Parallel()
	p := newService(t, map[string]any{
		"kind": "StatefulSet", "replicas": 1, "probes": probes,
		"statefulSet": map[string]any{"volumes": []any{map[string]any{"name": "data", "mountPath": "/data", "size": "1Mi", "storageClass": "nowhere"}}},
	})
	p.o.Settings.Timeout = config.Duration(8 * time.Second)
	r, err := p.deploy(t, nil)
	if code := fault.CodeOf(err); (code != "deploy.volume" && code != "deploy.unschedulable") || r.Failure == nil ||
		!strings.Contains(r.Failure.Message+err.Error(), "PersistentVolumeClaim") {
		t.Errorf("%s: %v\n%+v", code, err, r.Failure)
	}
}

func TestDaemonSetRunsOnEveryNode(t *testing.T) {
	t.Parallel()
	p := newService(t, map[string]any{"kind": "DaemonSet", "drainSeconds": 0, "minReadySeconds": 0, "probes": probes})
	p.mustDeploy(t, deploy.Installed, nil)
	nodes, err := p.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.image = images.Image(t, p.Cluster, "2")
	p.mustDeploy(t, deploy.Upgraded, nil)
	set, err := p.Client.AppsV1().DaemonSets(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if int(set.Status.UpdatedNumberScheduled) != len(nodes.Items) || int(set.Status.NumberAvailable) != len(nodes.Items) {
		t.Errorf("%d nodes: %+v", len(nodes.Items), set.Status)
	}
}

// TestJobIsFollowed deploys a Job, another version of it, and one that fails.
func TestJobIsFollowed(t *testing.T) {
	t.Parallel()
	p := newService(t, map[string]any{"kind": "Job", "args": []any{"exit0"}, "job": map[string]any{"backoffLimit": 0}})
	jobs := func() []batch.Job {
		t.Helper()
		all, err := p.Client.BatchV1().Jobs(p.o.Namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return all.Items
	}
	p.mustDeploy(t, deploy.Installed, nil)
	first := jobs()
	if len(first) != 1 || first[0].Status.Succeeded != 1 {
		t.Fatalf("%+v", first)
	}
	p.mustDeploy(t, deploy.Untouched, nil)
	p.image = images.Image(t, p.Cluster, "2")
	p.mustDeploy(t, deploy.Upgraded, nil)
	if now := jobs(); len(now) != 1 || now[0].Name == first[0].Name || now[0].Status.Succeeded != 1 {
		t.Errorf("%+v", now)
	}
	r, err := p.deploy(t, map[string]any{"args": []any{"crash"}})
	if fault.CodeOf(err) != "deploy.job-failed" || r.Failure == nil || !strings.Contains(strings.Join(r.Failure.Logs, "\n"), "flux capacitor") {
		t.Errorf("%v\n%+v", err, r.Failure)
	}
}

// TestCronJobRunIsFollowed deploys a CronJob that runs once after each deployment, and one
// whose run fails.
func TestCronJobRunIsFollowed(t *testing.T) {
	t.Parallel()
	p := newService(t, map[string]any{
		"kind": "CronJob", "args": []any{"exit0"}, "job": map[string]any{"backoffLimit": 0},
		"cronJob": map[string]any{"schedule": "0 3 * * *", "runOnDeploy": true},
	})
	p.mustDeploy(t, deploy.Installed, nil)
	job, err := p.Client.BatchV1().Jobs(p.o.Namespace).Get(t.Context(), "app-deploy", metav1.GetOptions{})
	if err != nil || job.Status.Succeeded != 1 {
		t.Fatalf("%v %+v", err, job)
	}
	r, err := p.deploy(t, map[string]any{"args": []any{"crash"}})
	if fault.CodeOf(err) != "deploy.job-failed" || r.Failure == nil || r.Action != deploy.RolledBack ||
		!strings.Contains(strings.Join(r.Failure.Logs, "\n"), "flux capacitor") {
		t.Errorf("%v\n%+v", err, r)
	}
	cron, err := p.Client.BatchV1().CronJobs(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := cron.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args; len(got) != 1 || got[0] != "exit0" {
		t.Errorf("after the rollback the arguments are %v", got)
	}
}

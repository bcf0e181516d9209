package rollout_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
)

var apps = testcluster.Apps{Source: "testdata/app"}

// cluster returns a real cluster and the image of testdata/app. If there is no cluster, it
// skips the test.
func cluster(t *testing.T) (*rest.Config, string) {
	t.Helper()
	c := testcluster.Need(t)
	c.Config.WarningHandlerWithContext = rest.NoWarnings{}
	return c.Config, apps.Image(t, c, "rollout").String()
}

// testNamespace is a namespace on a real cluster that one test uses.
type testNamespace struct {
	t         *testing.T
	config    *rest.Config
	dynamic   dynamic.Interface
	namespace string
	image     string
}

// newTestNamespace creates a namespace, which is deleted when the test ends.
func newTestNamespace(t *testing.T, labels map[string]string) *testNamespace {
	config, image := cluster(t)
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	w := &testNamespace{t: t, config: config, dynamic: d, image: image}
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"generateName": "rollout-"}}}
	ns.SetLabels(labels)
	made, err := d.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(t.Context(), ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.namespace = made.GetName()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = d.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Delete(ctx, w.namespace, metav1.DeleteOptions{})
	})
	return w
}

// apply creates or updates the objects in a manifest. IMAGE is replaced by the test image,
// and REPOSITORY by its repository.
func (w *testNamespace) apply(manifest string) []*unstructured.Unstructured {
	w.t.Helper()
	repository, _, _ := strings.Cut(w.image, "@")
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(strings.NewReplacer("IMAGE", w.image, "REPOSITORY", repository).Replace(manifest), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			w.t.Fatalf("%v in\n%s", err, doc)
		}
		u.SetNamespace(w.namespace)
		gvk := u.GroupVersionKind()
		ri := w.dynamic.Resource(gvk.GroupVersion().WithResource(resourceOf(gvk.Kind))).Namespace(w.namespace)
		if _, err := ri.Apply(w.t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			w.t.Fatalf("%v in\n%s", err, doc)
		}
		out = append(out, u)
	}
	return out
}

// track tracks objects and logs the progress.
func (w *testNamespace) track(since time.Time, timeout time.Duration, objects []*unstructured.Unstructured) (rollout.Result, error) {
	var last rollout.Snapshot
	res, err := rollout.Track(w.t.Context(), rollout.Options{
		Config: w.config, Objects: objects, Timeout: timeout, Since: since,
		Observe: func(s rollout.Snapshot) {
			for _, line := range s.Since(last) {
				w.t.Log(s.Elapsed.Round(time.Millisecond), line)
			}
			last = s
		},
	})
	return res, err
}

// deployment returns the manifest of a Deployment. container contains the fields of its
// container except for the name, and pod the fields of its pod spec except for the
// containers.
func deployment(replicas int, container, pod string) string {
	indent := func(s, by string) string {
		if s == "" {
			return ""
		}
		return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by) + "\n"
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: %d
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
%s      containers:
      - name: app
%s`, replicas, indent(pod, "      "), indent(container, "        "))
}

const (
	startup   = "startupProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 3}\n"
	readiness = "readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1, failureThreshold: 3}\n"
)

// run returns the fields of a container that runs testdata/app in a mode.
func run(mode string) string { return "image: IMAGE\ncommand: [/app, " + mode + "]\n" }

// failureCase is a manifest whose rollout fails.
type failureCase struct {
	manifest string
	labels   map[string]string // of the namespace
	kind     rollout.Kind
	timeout  time.Duration
	within   time.Duration // from when Kubernetes reports the failure; 0 does not check it
	want     string        // a part of the error
}

func failureCases() map[string]failureCase {
	return map[string]failureCase{
		"image-not-found":  {deployment(1, "image: REPOSITORY:nothing", ""), nil, rollout.ImagePull, time.Minute, 5 * time.Second, "cannot pull"},
		"invalid-image":    {deployment(1, "image: UPPER/x:y:z", ""), nil, rollout.InvalidImage, time.Minute, 5 * time.Second, "invalid image name"},
		"secret":           {deployment(1, run("serve")+"envFrom: [{secretRef: {name: nothing}}]", ""), nil, rollout.Config, time.Minute, 5 * time.Second, `secret "nothing" not found`},
		"mount":            {deployment(1, run("serve")+"volumeMounts: [{name: v, mountPath: /v}]", "volumes: [{name: v, configMap: {name: nothing}}]"), nil, rollout.Config, time.Minute, 5 * time.Second, `configmap "nothing" not found`},
		"crash":            {deployment(1, run("crash")+readiness, ""), nil, rollout.CrashLoop, 2 * time.Minute, 5 * time.Second, "exit code 3"},
		"bad-command":      {deployment(1, "image: IMAGE\ncommand: [/nope]", ""), nil, rollout.CrashLoop, 2 * time.Minute, 5 * time.Second, "could not be started"},
		"oom":              {deployment(1, run("oom")+readiness+"resources: {limits: {memory: 32Mi}}", ""), nil, rollout.OOM, 2 * time.Minute, 5 * time.Second, "32Mi"},
		"startup-probe":    {deployment(1, run("broken")+startup, ""), nil, rollout.Probe, 2 * time.Minute, 5 * time.Second, "Startup probe failed"},
		"readiness":        {deployment(1, run("unready")+startup+readiness, ""), nil, rollout.Probe, 2 * time.Minute, 40 * time.Second, "Readiness probe failed"},
		"readiness-late":   {deployment(1, run("unready")+readiness, ""), nil, rollout.Probe, 10 * time.Second, 0, "Readiness probe failed"},
		"unschedulable":    {deployment(1, run("serve"), "nodeSelector: {no: where}"), nil, rollout.Unschedulable, 5 * time.Second, 0, "cannot be scheduled"},
		"pod-security":     {deployment(1, run("serve"), ""), map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}, rollout.Admission, time.Minute, 5 * time.Second, "violates PodSecurity"},
		"service-account":  {deployment(1, run("serve"), "serviceAccountName: nobody"), nil, rollout.Admission, time.Minute, 5 * time.Second, "nobody"},
		"job-failed":       {job("backoffLimit: 0", run("crash")), nil, rollout.JobFailed, time.Minute, 5 * time.Second, "exit code 3"},
		"job-image":        {job("backoffLimit: 3", "image: REPOSITORY:nothing"), nil, rollout.ImagePull, time.Minute, 5 * time.Second, "cannot pull"},
		"paused":           {strings.Replace(deployment(1, run("serve"), ""), "  replicas", "  paused: true\n  replicas", 1), nil, rollout.Stalled, time.Minute, 5 * time.Second, "is paused"},
		"quota":            {"apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: \"0\"}}\n---\n" + deployment(1, run("serve"), ""), nil, rollout.Quota, time.Minute, 5 * time.Second, "exceeded quota"},
		"progress-stalled": {strings.Replace(deployment(1, run("serve"), "nodeSelector: {no: where}"), "  replicas", "  progressDeadlineSeconds: 2\n  replicas", 1), nil, rollout.Unschedulable, time.Minute, 0, "ProgressDeadlineExceeded"},
	}
}

func TestClusterFailures(t *testing.T) {
	for name, c := range failureCases() {
		t.Run(name, func(t *testing.T) {
			w := newTestNamespace(t, c.labels)
			t.Parallel()
			since := time.Now()
			_, err := w.track(since, c.timeout, w.apply(c.manifest))
			f := failure(t, err, c.kind)
			t.Logf("%v\nknown %s, seen %s, logs %q", f, f.Known.Format(time.TimeOnly), f.Seen.Format(time.TimeOnly), f.Logs)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error does not contain %q: %v", c.want, err)
			}
			// Kubernetes records times with a resolution of one second.
			if late := time.Since(f.Known); c.within > 0 && late > c.within+time.Second {
				t.Errorf("the failure was reported %s after Kubernetes reported it", late)
			}
			if (c.kind == rollout.CrashLoop && name == "crash" || c.kind == rollout.JobFailed) && !strings.Contains(strings.Join(f.Logs, "\n"), "cannot reach the database") {
				t.Errorf("the logs are %q", f.Logs)
			}
			if len(f.Events) == 0 && c.kind != rollout.Stalled {
				t.Error("the events are missing")
			}
		})
	}
}

// job returns the manifest of a Job.
func job(spec, container string) string {
	return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: job}\nspec:\n  " + spec + "\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - name: app\n        " +
		strings.ReplaceAll(strings.TrimSpace(container), "\n", "\n        ") + "\n"
}

func TestClusterReady(t *testing.T) {
	w := newTestNamespace(t, nil)
	good := deployment(2, run("serve")+readiness, "")
	since := time.Now()
	objects := w.apply(good + "\n---\n" + job("backoffLimit: 0", run("exit0")) + "\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: test}\nspec:\n  restartPolicy: Never\n  containers:\n  - {name: app, image: IMAGE, command: [/app, exit0]}\n" + "\n---\n" +
		"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: sts}\nspec:\n  serviceName: sts\n  replicas: 2\n  selector: {matchLabels: {app: sts}}\n  template:\n    metadata: {labels: {app: sts}}\n    spec:\n      containers:\n      - {name: app, image: IMAGE, command: [/app, serve]}\n" + "\n---\n" +
		"apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: ds}\nspec:\n  selector: {matchLabels: {app: ds}}\n  template:\n    metadata: {labels: {app: ds}}\n    spec:\n      containers:\n      - {name: app, image: IMAGE, command: [/app, serve]}\n")
	begin := time.Now()
	res, err := w.track(since, 2*time.Minute, objects)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range res.Workloads {
		t.Logf("%s took %s", x.Object, x.Took)
	}
	// Kubernetes records times with a resolution of one second.
	d := res.Workloads[0]
	if late := begin.Add(d.Took).Sub(d.AvailableAt); d.AvailableAt.IsZero() || late > 1300*time.Millisecond {
		t.Errorf("the Deployment was reported as ready %s after it was available", late)
	}

	// The pod of a broken new revision fails the rollout, and the old pods remain.
	since = time.Now()
	_, err = w.track(since, time.Minute, w.apply(deployment(2, "image: REPOSITORY:nothing\n"+readiness, "")))
	failure(t, err, rollout.ImagePull)

	// The pod of the broken revision is old now and must not fail the next rollout.
	if _, err = w.track(time.Now(), time.Minute, w.apply(deployment(2, run("serve")+readiness, "terminationGracePeriodSeconds: 2"))); err != nil {
		t.Error(err)
	}

	// A rollout without a change is ready at once.
	objs := w.apply(deployment(2, run("serve")+readiness, "terminationGracePeriodSeconds: 2"))
	begin = time.Now()
	if _, err = w.track(begin, time.Minute, objs); err != nil || time.Since(begin) > 300*time.Millisecond {
		t.Errorf("a rollout without a change took %s: %v", time.Since(begin), err)
	}
}

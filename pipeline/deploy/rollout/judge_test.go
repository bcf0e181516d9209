package rollout

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/internal/testkit"
)

// began is when the rollout of every fixture began.
var began = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)

func unmasked(s string) string { return s }

// readObjects reads a fixture: the applied object, then its ReplicaSets, pods and events.
func readObjects(t testing.TB, path string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		js, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(js); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, u)
	}
	return out
}

func stateOf(t testing.TB, objects []*unstructured.Unstructured) state {
	t.Helper()
	s := state{name: objectName(objects[0]), gvk: objects[0].GroupVersionKind(), object: objects[0]}
	for _, u := range objects[1:] {
		var err error
		switch u.GetKind() {
		case "Pod":
			p := &corev1.Pod{}
			err = decode(u, p)
			s.pods = append(s.pods, p)
		case "ReplicaSet":
			rs := &appsv1.ReplicaSet{}
			err = decode(u, rs)
			s.sets = append(s.sets, rs)
		case "Event":
			e := &corev1.Event{}
			err = decode(u, e)
			s.events = append(s.events, eventOf(e, unmasked))
		default:
			err = fmt.Errorf("the fixture contains a %s", u.GetKind())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	sortEvents(s.events)
	return s
}

func TestWorkload(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil || len(files) < 100 {
		t.Fatalf("there are %d fixtures, want at least 100: %v", len(files), err)
	}
	j := judge{patience: Patience{}.withDefaults(), since: began}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			s := stateOf(t, readObjects(t, file))
			w, findings := j.workload(s)
			snap := Snapshot{Time: began.Add(30 * time.Second), Workloads: []Workload{w}, Warnings: w.Warnings}
			var verdicts []string
			for _, f := range findings {
				f.Object = s.name
				snap.Problems = append(snap.Problems, f.Problem)
				when := "fails after " + f.grace.String()
				switch f.grace {
				case 0:
					when = "fails at once"
				case untilDeadline:
					when = "only a warning"
				default:
				}
				known := "-"
				if !f.Known.IsZero() {
					known = f.Known.UTC().Format(time.TimeOnly)
				}
				verdicts = append(verdicts, fmt.Sprintf("%s: %s, known %s, exit %d\n  %s",
					f.Kind, when, known, f.ExitCode, (&Failure{Problem: f.Problem}).Error()))
			}
			state := "waits: " + w.Message
			if w.Done {
				state = "done: " + w.Message
			}
			got := strings.Join(snap.Lines(), "\n") + "\n--\n" + state + "\n" + strings.Join(append(verdicts, ""), "\n")
			testkit.Golden(t, filepath.Join("testdata/cases", name+".golden"), []byte(got))
		})
	}
}

// TestVerdicts checks the most important part of the cases of TestWorkload, because golden
// files can be updated by mistake: whether the workload is ready, or the problem that ends
// the rollout and when, or "warns" if a problem does that only at the deadline.
func TestVerdicts(t *testing.T) {
	for name, want := range verdicts() {
		t.Run(name, func(t *testing.T) {
			s := stateOf(t, readObjects(t, "testdata/cases/"+name+".yaml"))
			w, findings := judge{patience: Patience{}.withDefaults(), since: began}.workload(s)
			got := ""
			if w.Done {
				got = ready
			}
			for _, f := range findings {
				if f.grace == untilDeadline && got == "" {
					got = warns
				} else if f.grace != untilDeadline {
					got = fmt.Sprintf("%s %s", f.Kind, f.grace)
				}
			}
			if got != want {
				t.Errorf("got %q, want %q: %+v", got, want, findings)
			}
		})
	}
}

const warns, ready = "warns", "ready"

func verdicts() map[string]string {
	return map[string]string{
		"image-hiccup": warns, "image-hiccup-twice": "image-pull 3s", "image-not-found": "image-pull 3s",
		"image-back-off": "image-pull 3s", "image-from-before": warns, "invalid-image": "invalid-image 0s",
		"config-secret": "config 3s", "config-key": "config 3s", "create-container-error": "config 3s",
		"mount-secret": "config 3s", "mount-passed": "", "mount-other": warns, "sandbox": warns,
		"crash-first": warns, "crash-loop": "crash-loop 0s", "crash-terminated-again": "crash-loop 0s",
		"crash-recovering": warns, "crash-recovered": "", "crash-before": warns, "crash-init": "crash-loop 0s", "init-done": "",
		"oom": "oom 0s", "oom-first": warns,
		"probe-startup": "probe 0s", "probe-startup-first": warns, "probe-liveness": "probe 0s", "probe-then-crash": "crash-loop 0s",
		"readiness": "probe 30s", "readiness-below-threshold": warns, "readiness-no-startup-probe": warns,
		"unschedulable": warns, "evicted-once": warns, "evicted-twice": "evicted 0s",
		"terminating": "", "old-pod-crashes": "", "just-applied": "",
		"quota": "quota 3s", "quota-while-terminating": warns, "admission-pod-security": "admission 3s",
		"admission-webhook": "admission 3s", "admission-service-account": "admission 3s", "create-busy": warns, "set-create-error": "quota 3s",
		"ready": ready, "replicas-zero": ready, "hpa-scaled": ready, "old-pods-remain": "", "paused": "stalled 0s",
		"progress-deadline": "stalled 0s", "progress-deadline-before": warns, "being-deleted": "deleted 0s",
		"sts-crash": "crash-loop 0s", "sts-old-holds-up": warns, "sts-ready": ready, "sts-partition": ready,
		"sts-on-delete": ready, "sts-on-delete-new-unready": "", "sts-quota": "quota 3s", "sts-stale": "",
		"sts-abandoned": warns, "sts-old-unready": warns, "sts-old-unready-parallel": "", "sts-old-unready-partition": warns, "sts-old-unready-after-new": "",
		"sts-on-delete-blocked": warns, "sts-on-delete-many": ready, "sts-on-delete-updated": ready,
		"ds-on-delete-updated": ready, "ds-on-delete-rolled-back": ready, "ds-on-delete-rolled-back-unready": "", "ds-on-delete-old-unready": ready,
		"ds-crash": "crash-loop 0s", "ds-old-crashes": "", "ds-no-generation": "crash-loop 0s", "ds-ready": ready, "ds-no-nodes": ready, "ds-on-delete": ready,
		"job-running": "", "job-complete": ready, "job-pod-failed-within-limit": warns, "job-failed": "job-failed 0s",
		"job-failure-target": "job-failed 0s", "job-image": "image-pull 3s", "job-on-failure-crash": warns, "job-oom": "job-failed 0s",
		"job-admission": "admission 3s", "job-suspended": warns,
		"pod-running": "", "pod-succeeded": ready, "pod-failed": "job-failed 0s", "pod-oom": "oom 0s", "pod-always-ready": ready, "pod-image": "image-pull 3s",
		"set-ready": ready, "set-crash": "crash-loop 0s",
		"pvc-bound": ready, "pvc-pending": "", "pvc-first-consumer": ready, "pvc-no-provisioner": warns,
		"service-balancer-waits": warns, "service-balancer": ready, "crd-established": ready, "crd-names": "stalled 0s",
		"custom-stalled": "stalled 0s", "custom-reconciling": "", "custom-ready": ready, "custom-stale": "",
	}
}

func TestUnknownObjects(t *testing.T) {
	j := judge{patience: Patience{}.withDefaults()}
	s := stateOf(t, readObjects(t, "testdata/cases/ready.yaml"))
	s.object = nil
	if w, findings := j.workload(s); w.Done || len(findings) != 0 {
		t.Errorf("not found yet: %+v %+v", w, findings)
	}
	s.deleted = true
	if w, findings := j.workload(s); w.Done || len(findings) != 1 || findings[0].Kind != Deleted || findings[0].grace != 0 {
		t.Errorf("deleted: %+v %+v", w, findings)
	}
	for apiKind, want := range map[string]bool{
		"v1/ConfigMap": false, "v1/Secret": false, "v1/Service": false, "v1/ServiceAccount": false,
		"rbac.authorization.k8s.io/v1/Role": false, "batch/v1/CronJob": false, "networking.k8s.io/v1/Ingress": false,
		"apps/v1/Deployment": true, "batch/v1/Job": true, "v1/Pod": true, "shop.io/v1/Thing": true,
		"apiextensions.k8s.io/v1/CustomResourceDefinition": true, "v1/PersistentVolumeClaim": true,
	} {
		u := &unstructured.Unstructured{}
		i := strings.LastIndex(apiKind, "/")
		u.SetAPIVersion(apiKind[:i])
		u.SetKind(apiKind[i+1:])
		if hasStatus(u) != want {
			t.Errorf("hasStatus(%s) is %v, want %v", apiKind, !want, want)
		}
	}
}

func TestSince(t *testing.T) {
	j := judge{patience: Patience{}.withDefaults(), since: began}
	var before Snapshot
	var got []string
	next := func(away, name string, warnings ...string) {
		s := Snapshot{Away: away, Warnings: warnings}
		st := stateOf(t, readObjects(t, "testdata/cases/"+name+".yaml"))
		w, findings := j.workload(st)
		s.Workloads = []Workload{w}
		for _, f := range findings {
			f.Object = st.name
			s.Problems = append(s.Problems, f.Problem)
		}
		got = append(got, "# "+name)
		got = append(got, s.Since(before)...)
		before = s
	}
	next("", "just-applied")
	next("", "pending-creating")
	next("", "pending-creating")
	next("", "image-hiccup")
	next("", "image-not-found")
	next("the API server has not answered since 06:00:09: connection refused", "image-not-found")
	next("", "image-not-found", "reading events in namespace shop is not allowed")
	next("", "ready", "reading events in namespace shop is not allowed")
	testkit.Golden(t, "testdata/since.golden", []byte(strings.Join(got, "\n")+"\n"))
}

func TestFailureLine(t *testing.T) {
	f := &Failure{Problem: Problem{
		Kind: ImagePull, Object: "deployment/shop/order-service", Pod: "order-service-7c9-abcde", Container: "app",
		Message: "cannot pull 127.0.0.1:5077/x@sha256:12: not\nfound", Fix: "push it",
	}}
	want := "deployment order-service: container app of pod order-service-7c9-abcde cannot pull 127.0.0.1:5077/x@sha256:12: not found (push it)"
	if f.Error() != want {
		t.Errorf("got  %s\nwant %s", f.Error(), want)
	}
}

func TestFold(t *testing.T) {
	e := func(reason string, at, n int) Event {
		return Event{Object: "pod/a", Reason: reason, Message: reason, Count: int32(n), First: began.Add(time.Duration(at) * time.Second), Last: began.Add(time.Duration(at+n) * time.Second)}
	}
	got := fold([]Event{e("B", 5, 1), e("A", 1, 2), e("B", 2, 1), e("C", 9, 1)}, 2)
	if len(got) != 2 || got[0].Reason != "B" || got[0].Count != 2 || !got[0].First.Equal(began.Add(2*time.Second)) || got[1].Reason != "C" {
		t.Errorf("%+v", got)
	}
}

func TestEventForms(t *testing.T) {
	u := readObjects(t, "testdata/event-series.yaml")[0]
	var e corev1.Event
	if err := decode(u, &e); err != nil {
		t.Fatal(err)
	}
	got := eventOf(&e, func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") })
	if got.Count != 4 || got.Container != "app" || got.Object != "pod/order-new-abcde" || got.Message != "it said ***" ||
		!got.First.Equal(began.Add(time.Second)) || !got.Last.Equal(began.Add(9*time.Second)) {
		t.Errorf("%+v", got)
	}
}

func TestTailLines(t *testing.T) {
	mask := func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") }
	got, err := tailLines(strings.NewReader("one\ntwo\r\n\nhunter2 "+strings.Repeat("x", 5000)+"\nlast"), 3, mask)
	if err != nil || len(got) != 3 || got[0] != "" || !strings.HasPrefix(got[1], "*** xxx") || len(got[1]) > 2100 || got[2] != "last" {
		t.Errorf("%q %v", got, err)
	}
}

func FuzzPod(f *testing.F) {
	files, _ := filepath.Glob("testdata/cases/*.yaml")
	for _, file := range files {
		for _, u := range readObjects(f, file) {
			if u.GetKind() == "Pod" {
				js, _ := u.MarshalJSON()
				f.Add(js, "Unhealthy", "Startup probe failed: "+u.GetName())
			}
		}
	}
	f.Add([]byte(`{"spec":{"initContainers":[{"name":"a","restartPolicy":"Always"}]},"status":{"initContainerStatuses":[{"name":"a","state":{"waiting":{"reason":"RunContainerError"}},"restartCount":-1}]}}`),
		"FailedMount", `secret "x" not found`)
	j := judge{patience: Patience{}.withDefaults(), since: began}
	f.Fuzz(func(t *testing.T, data []byte, reason, message string) {
		var pod corev1.Pod
		if json.Unmarshal(data, &pod) != nil {
			return
		}
		events := []Event{{Reason: reason, Message: message, Last: began, Count: 1}, {Reason: "Killing", Container: "app", Message: message, Last: began}}
		p, findings := j.pod(&pod, events)
		for _, f := range findings {
			if f.Kind == "" || f.Message == "" {
				t.Errorf("the finding has no kind or no message: %+v", f)
			}
			if f.Pod != pod.Name {
				t.Errorf("the finding is about pod %q, want %q", f.Pod, pod.Name)
			}
			if line := (&Failure{Problem: f.Problem}).Error(); strings.ContainsAny(line, "\n\r") {
				t.Errorf("the failure has more than one line: %q", line)
			}
		}
		if pod.DeletionTimestamp != nil && (len(findings) > 0 || p.Ready) {
			t.Errorf("a pod that is being deleted has problems or is ready: %+v %+v", p, findings)
		}
		w := Workload{Object: "pod/a/b", Pods: []Pod{p}}
		_ = Snapshot{Workloads: []Workload{w}}.Lines()
	})
}

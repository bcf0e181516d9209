package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Workload is how far one object is.
type Workload struct {
	Object string `json:"object"` // kind/namespace/name, the kind in lower case
	Done   bool   `json:"done"`
	// Desired, Updated, Ready and Available are pods; all zero for what has
	// none. Updated counts those of the new revision; of a Job, Desired counts
	// completions and Ready those that succeeded.
	Desired   int32 `json:"desired"`
	Updated   int32 `json:"updated"`
	Ready     int32 `json:"ready"`
	Available int32 `json:"available"`
	// Message says what it waits for, or how it is done.
	Message string `json:"message,omitempty"`
	Pods    []Pod  `json:"pods,omitempty"` // of the new revision
	// AvailableAt is when Kubernetes says it became available, in whole
	// seconds; zero where it does not say.
	AvailableAt time.Time `json:"available_at,omitzero"`
	// Took is from the beginning of Track until it was seen done.
	Took time.Duration `json:"took_ns,omitempty"`
	// Warnings are what was odd without being wrong.
	Warnings []string `json:"warnings,omitempty"`

	pods bool // it is a kind that has pods
}

// state is all that is known of one object. The judgement is a pure function
// of it.
type state struct {
	name   string // kind/namespace/name
	gvk    schema.GroupVersionKind
	object *unstructured.Unstructured // nil: not found (yet)
	gone   bool                       // it was there and was deleted
	pods   []*corev1.Pod              // all that its selector matches
	sets   []*appsv1.ReplicaSet
	events []Event // about the object, its ReplicaSets and pods, oldest first
}

// about returns the events that are about one object.
func (s state) about(kind, name string) []Event {
	want := kind + "/" + name
	var out []Event
	for _, e := range s.events {
		if e.Object == want {
			out = append(out, e)
		}
	}
	return out
}

// isWorkload says whether an object is of a kind that has pods.
func isWorkload(gvk schema.GroupVersionKind) bool {
	switch gvk.Group + "/" + gvk.Kind {
	case "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet", "apps/ReplicaSet", "batch/Job", "/Pod":
		return true
	}
	return false
}

// hasStatus says whether there is anything to wait for after an object was
// accepted by the API server. What is not known may have.
func hasStatus(u *unstructured.Unstructured) bool {
	gvk := u.GroupVersionKind()
	switch gvk.Group {
	case "":
		switch gvk.Kind {
		case "Service":
			kind, _, _ := unstructured.NestedString(u.Object, "spec", "type")
			return kind == string(corev1.ServiceTypeLoadBalancer)
		case "Pod", "PersistentVolumeClaim", "PersistentVolume", "Namespace", "ReplicationController":
			return true
		}
		return false
	case "apps", "apiextensions.k8s.io", "apiregistration.k8s.io":
		return gvk.Kind != "ControllerRevision"
	case "batch":
		return gvk.Kind == "Job"
	case "rbac.authorization.k8s.io", "networking.k8s.io", "policy", "autoscaling", "scheduling.k8s.io",
		"storage.k8s.io", "admissionregistration.k8s.io", "discovery.k8s.io", "node.k8s.io",
		"coordination.k8s.io", "events.k8s.io", "certificates.k8s.io", "flowcontrol.apiserver.k8s.io":
		return false
	}
	return true
}

// workload tells how far an object is and what stands in its way.
func (j judge) workload(s state) (Workload, []trouble) {
	w := Workload{Object: s.name, pods: isWorkload(s.gvk)}
	fail := func(kind Kind, reason, message, fix string, known time.Time) trouble {
		return trouble{Problem: Problem{Kind: kind, Reason: reason, Message: message, Fix: fix, Known: known}}
	}
	u := s.object
	switch {
	case s.gone:
		w.Message = "deleted"
		return w, []trouble{fail(Deleted, "Deleted", "was deleted during the rollout", "find out who deleted it, and deploy again", time.Time{})}
	case u == nil:
		w.Message = "not found yet"
		return w, nil
	case u.GetDeletionTimestamp() != nil && !ended(u):
		w.Message = "being deleted"
		return w, []trouble{fail(Deleted, "Terminating", "is being deleted", "find out who deletes it, and deploy again", u.GetDeletionTimestamp().Time)}
	}

	var ts []trouble
	switch s.gvk.Group + "/" + s.gvk.Kind {
	case "apps/Deployment":
		ts = j.deployment(s, &w)
	case "apps/StatefulSet":
		ts = j.statefulSet(s, &w)
	case "apps/DaemonSet":
		ts = j.daemonSet(s, &w)
	case "apps/ReplicaSet":
		ts = j.replicaSet(s, &w)
	case "batch/Job":
		ts = j.job(s, &w)
	case "/Pod":
		ts = j.barePod(s, &w)
	default:
		ts = j.other(s, &w)
	}
	if w.Done {
		ts = nil // what troubles single pods of a workload that is ready is no verdict on it
	}
	for i := range ts {
		ts[i].Message = oneLine(ts[i].Message)
	}
	return w, ts
}

// ended says whether a Job or Pod has run to its end; its deletion afterwards,
// by a time to live or a hook's delete policy, means nothing.
func ended(u *unstructured.Unstructured) bool {
	switch u.GetKind() {
	case "Pod":
		phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
		return phase == string(corev1.PodSucceeded) || phase == string(corev1.PodFailed)
	case "Job":
		var job batchv1.Job
		if decode(u, &job) != nil {
			return false
		}
		return jobCondition(&job, batchv1.JobComplete) != nil || jobCondition(&job, batchv1.JobFailed) != nil
	}
	return false
}

func decode(u *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
}

// undecodable stands for an object that is not what its kind says; the API
// server does not hand out such.
func undecodable(w *Workload, err error) []trouble {
	w.Message = oneLine("cannot be read: " + err.Error())
	return []trouble{{grace: untilDeadline, Problem: Problem{Kind: Stalled, Reason: "Unreadable", Message: w.Message}}}
}

func number(p *int32, otherwise int32) int32 {
	if p == nil {
		return otherwise
	}
	return *p
}

// owned says whether owner controls the object.
func owned(o metav1.Object, owner types.UID) bool {
	ref := metav1.GetControllerOf(o)
	return ref != nil && ref.UID == owner
}

// judgePods fills in the pods of the new revision and collects their troubles.
func (j judge) judgePods(s state, w *Workload, mine func(*corev1.Pod) bool) []trouble {
	var ts []trouble
	for _, pod := range s.pods {
		if !mine(pod) {
			continue
		}
		p, more := j.pod(pod, s.about("pod", pod.Name))
		w.Pods = append(w.Pods, p)
		ts = append(ts, more...)
	}
	slices.SortFunc(w.Pods, func(a, b Pod) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name)) })
	// The node throws each pod out and the controller makes the next: once may
	// be chance.
	evicted := int32(0)
	for _, t := range ts {
		if t.Kind == Evicted {
			evicted++
		}
	}
	for i := range ts {
		if ts[i].Kind == Evicted && evicted >= j.patience.Restarts {
			ts[i].grace = 0
		}
	}
	return ts
}

// namespaceOf reads the namespace out of kind/namespace/name.
func namespaceOf(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}

func kindName(object string) (kind, name string) {
	kind, _, _ = strings.Cut(object, "/")
	return kind, object[strings.LastIndex(object, "/")+1:]
}

// kstatus fills in the verdict of kstatus and returns the trouble where it is
// that Kubernetes gave up.
func (j judge) kstatus(s state, w *Workload) []trouble {
	res, err := status.Compute(s.object)
	if err != nil {
		return undecodable(w, err)
	}
	w.Message = res.Message
	switch res.Status {
	case status.CurrentStatus:
		w.Done = true
	case status.FailedStatus:
		t := trouble{Problem: Problem{Kind: Stalled, Reason: "Failed", Message: "will not become ready: " + res.Message}}
		for _, c := range res.Conditions {
			t.Reason = cmp.Or(c.Reason, t.Reason)
			if c.Message != "" && c.Message != res.Message {
				t.Message = "will not become ready: " + c.Message
			}
		}
		return []trouble{t}
	default:
	}
	return nil
}

// other judges everything without pods by kstatus, and where kstatus is
// content before the object can be used, by what it can be used for.
func (j judge) other(s state, w *Workload) []trouble {
	ts := j.kstatus(s, w)
	u := s.object
	switch s.gvk.Group + "/" + s.gvk.Kind {
	case "/Service":
		if balanced(u) {
			break
		}
		w.Done, w.Message = false, "waiting for the load balancer's address"
		ts = append(ts, trouble{grace: untilDeadline, Problem: Problem{
			Kind: Stalled, Reason: "NoLoadBalancer", Message: "got no address from a load balancer",
			Fix: "see whether the cluster has a load balancer for Services, or use another type",
		}})
	case "/PersistentVolumeClaim":
		if w.Done {
			break
		}
		_, name := kindName(s.name)
		for _, e := range slices.Backward(s.about("persistentvolumeclaim", name)) {
			switch e.Reason {
			case "WaitForFirstConsumer":
				// It binds when a pod uses it, and then the pod's workload waits.
				w.Done, w.Message = true, "bound when the first pod uses it"
				return nil
			case "ProvisioningFailed", "FailedBinding":
				return append(ts, trouble{grace: untilDeadline, Problem: Problem{
					Kind: Volume, Reason: e.Reason, Message: "is not bound: " + e.Message, Known: e.First,
				}})
			}
		}
	}
	return ts
}

// balanced says whether a Service of type LoadBalancer can be reached. Others
// have nothing to wait for.
func balanced(u *unstructured.Unstructured) bool {
	var svc corev1.Service
	if decode(u, &svc) != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return true
	}
	return len(svc.Status.LoadBalancer.Ingress) > 0 || len(svc.Spec.ExternalIPs) > 0
}

// counts is the short form of how far a workload is.
func (w Workload) counts() string {
	switch {
	case strings.HasPrefix(w.Object, "job/"):
		return strconv.Itoa(int(w.Ready)) + "/" + strconv.Itoa(int(w.Desired)) + " succeeded"
	case w.pods && !strings.HasPrefix(w.Object, "pod/"):
		return fmt.Sprintf("%d/%d updated, %d ready, %d available", w.Updated, w.Desired, w.Ready, w.Available)
	}
	return ""
}

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

// Workload is the state of a tracked object.
type Workload struct {
	Object string `json:"object"` // kind/namespace/name, with the kind in lower case
	Done   bool   `json:"done"`   // whether it is ready
	// Desired, Updated, Ready and Available are numbers of pods, which are 0 for objects
	// without pods. Updated is the number of pods of the new revision. For a Job, Desired
	// is the number of completions, and Ready is the number of pods that have succeeded.
	Desired   int32 `json:"desired"`
	Updated   int32 `json:"updated"`
	Ready     int32 `json:"ready"`
	Available int32 `json:"available"`
	// Old is the number of pods that keep the old revision although the rollout is done,
	// because of the update strategy.
	Old int32 `json:"old,omitempty"`
	// Message is what the object waits for, or why it is done.
	Message string `json:"message,omitempty"`
	Pods    []Pod  `json:"pods,omitempty"` // the pods of the new revision
	// Blocking is the pod of an old revision that a StatefulSet waits for, if there is one.
	Blocking *Blocking `json:"blocking,omitempty"`
	// AvailableAt is when the object became available. It is a condition in the cluster
	// with a resolution of one second, and zero if there is none.
	AvailableAt time.Time `json:"available_at,omitzero"`
	// Took is the time from the beginning of Track until the object was done.
	Took time.Duration `json:"took_ns,omitempty"`
	// Warnings are unusual states that do not fail the rollout.
	Warnings []string `json:"warnings,omitempty"`

	pods     bool // whether objects of this kind have pods
	onDelete bool // whether its pods are only replaced when they are deleted
}

// state is everything that is known about an object.
type state struct {
	name    string // kind/namespace/name
	gvk     schema.GroupVersionKind
	object  *unstructured.Unstructured // nil if it was not found
	deleted bool                       // whether it was deleted during the rollout
	pods    []*corev1.Pod              // all pods that match its selector
	sets    []*appsv1.ReplicaSet
	events  []Event // the events about the object, its ReplicaSets and its pods, oldest first
}

// eventsOf returns the events about one object, which can be the object itself, a
// ReplicaSet or a pod.
func (s state) eventsOf(kind, name string) []Event {
	want := kind + "/" + name
	var out []Event
	for _, e := range s.events {
		if e.Object == want {
			out = append(out, e)
		}
	}
	return out
}

// isWorkload reports whether objects of a kind have pods.
func isWorkload(gvk schema.GroupVersionKind) bool {
	switch gvk.Group + "/" + gvk.Kind {
	case "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet", "apps/ReplicaSet", "batch/Job", "/Pod":
		return true
	}
	return false
}

// hasStatus reports whether an object can be not ready after the API server has accepted
// it. Objects of unknown kinds are assumed to have a status.
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

// workload returns the state of an object and its problems.
func (j judge) workload(s state) (Workload, []finding) {
	w := Workload{Object: s.name, pods: isWorkload(s.gvk)}
	u := s.object
	switch {
	case s.deleted:
		w.Message = "deleted"
		return w, []finding{{Problem: Problem{
			Kind: Deleted, Reason: "Deleted", Message: "was deleted during the rollout", Fix: "find out who deleted it, and deploy again",
		}}}
	case u == nil:
		w.Message = "not found yet"
		return w, nil
	case u.GetDeletionTimestamp() != nil && !ended(u):
		w.Message = "being deleted"
		return w, []finding{{Problem: Problem{
			Kind: Deleted, Reason: "Terminating", Message: "is being deleted", Fix: "find out who deletes it, and deploy again",
			Known: u.GetDeletionTimestamp().Time,
		}}}
	}

	var findings []finding
	switch s.gvk.Group + "/" + s.gvk.Kind {
	case "apps/Deployment":
		findings = j.deployment(s, &w)
	case "apps/StatefulSet":
		findings = j.statefulSet(s, &w)
	case "apps/DaemonSet":
		findings = j.daemonSet(s, &w)
	case "apps/ReplicaSet":
		findings = j.replicaSet(s, &w)
	case "batch/Job":
		findings = j.job(s, &w)
	case "/Pod":
		findings = j.barePod(s, &w)
	default:
		findings = j.generic(s, &w)
	}
	if w.Done {
		findings = nil // problems of single pods do not matter if the workload is ready
	}
	for i := range findings {
		findings[i].Message = oneLine(findings[i].Message)
	}
	return w, findings
}

// ended reports whether a Job or Pod has finished. If it is deleted after that, for example
// because of its time to live or the delete policy of a hook, that is no failure.
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

// unreadable returns the problem of an object that does not match the Go type of its kind.
// The API server does not return objects of that sort.
func unreadable(w *Workload, err error) []finding {
	w.Message = oneLine("cannot be read: " + err.Error())
	return []finding{{grace: untilDeadline, Problem: Problem{Kind: Stalled, Reason: "Unreadable", Message: w.Message}}}
}

func valueOr(p *int32, defaultValue int32) int32 {
	if p == nil {
		return defaultValue
	}
	return *p
}

// owned reports whether owner is the controller of the object.
func owned(o metav1.Object, owner types.UID) bool {
	ref := metav1.GetControllerOf(o)
	return ref != nil && ref.UID == owner
}

// judgePods sets the pods of the workload to those for which belongs returns true, and
// returns their problems.
func (j judge) judgePods(s state, w *Workload, belongs func(*corev1.Pod) bool) []finding {
	var findings []finding
	for _, pod := range s.pods {
		if !belongs(pod) {
			continue
		}
		p, more := j.pod(pod, s.eventsOf("pod", pod.Name))
		w.Pods = append(w.Pods, p)
		findings = append(findings, more...)
	}
	slices.SortFunc(w.Pods, func(a, b Pod) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name)) })
	// After an eviction the controller creates another pod. A single eviction may be a
	// coincidence.
	evicted := int32(0)
	for _, t := range findings {
		if t.Kind == Evicted {
			evicted++
		}
	}
	for i := range findings {
		if findings[i].Kind == Evicted && evicted >= j.patience.Restarts {
			findings[i].grace = 0
		}
	}
	return findings
}

// namespaceOf returns the namespace in kind/namespace/name, or an empty text.
func namespaceOf(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}

// kindName returns the kind and the name in kind/namespace/name.
func kindName(object string) (kind, name string) {
	kind, _, _ = strings.Cut(object, "/")
	return kind, object[strings.LastIndex(object, "/")+1:]
}

// kstatus sets the state of the workload to the result of kstatus. If kstatus reports a
// failure, it returns that as a problem.
func (j judge) kstatus(s state, w *Workload) []finding {
	res, err := status.Compute(s.object)
	if err != nil {
		return unreadable(w, err)
	}
	w.Message = res.Message
	switch res.Status {
	case status.CurrentStatus:
		w.Done = true
	case status.FailedStatus:
		t := finding{Problem: Problem{Kind: Stalled, Reason: "Failed", Message: "will not become ready: " + res.Message}}
		for _, c := range res.Conditions {
			t.Reason = cmp.Or(c.Reason, t.Reason)
			if c.Message != "" && c.Message != res.Message {
				t.Message = "will not become ready: " + c.Message
			}
		}
		return []finding{t}
	default:
	}
	return nil
}

// generic examines an object without pods with kstatus. A Service of type LoadBalancer and
// a PersistentVolumeClaim are examined further, because kstatus does not reflect whether
// they can be used.
func (j judge) generic(s state, w *Workload) []finding {
	findings := j.kstatus(s, w)
	u := s.object
	switch s.gvk.Group + "/" + s.gvk.Kind {
	case "/Service":
		if hasAddress(u) {
			break
		}
		w.Done, w.Message = false, "waiting for the load balancer's address"
		findings = append(findings, finding{grace: untilDeadline, Problem: Problem{
			Kind: Stalled, Reason: "NoLoadBalancer", Message: "has no address from a load balancer",
			Fix: "check that the cluster provides load balancers for Services, or use another type of Service",
		}})
	case "bitnami.com/SealedSecret":
		return append(findings, sealedSecret(u, w)...)
	case "/PersistentVolumeClaim":
		if w.Done {
			break
		}
		_, name := kindName(s.name)
		for _, e := range slices.Backward(s.eventsOf("persistentvolumeclaim", name)) {
			switch e.Reason {
			case "WaitForFirstConsumer":
				// It is bound when a pod uses it, and the workload of that pod waits for it.
				w.Done, w.Message = true, "will be bound when the first pod uses it"
				return nil
			case "ProvisioningFailed", "FailedBinding":
				return append(findings, finding{grace: untilDeadline, Problem: Problem{
					Kind: Volume, Reason: e.Reason, Message: "is not bound: " + e.Message, Known: e.First,
				}})
			}
		}
	}
	return findings
}

// Unsealed reports whether the controller of Sealed Secrets has unsealed a sealed Secret as it
// is now and, if it cannot, why (https://github.com/bitnami-labs/sealed-secrets). kstatus does
// not know its condition.
func Unsealed(u *unstructured.Unstructured) (done bool, problem string) {
	if observed, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); observed < u.GetGeneration() {
		return false, ""
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		fields, _ := c.(map[string]any)
		switch {
		case fields["type"] != "Synced":
		case fields["status"] == "True":
			return true, ""
		case fields["status"] == "False":
			return false, fmt.Sprint(fields["message"])
		}
	}
	return false, ""
}

// sealedSecret examines a sealed Secret.
func sealedSecret(u *unstructured.Unstructured, w *Workload) []finding {
	done, problem := Unsealed(u)
	switch {
	case done:
		w.Done, w.Message = true, "unsealed"
	case problem != "":
		w.Done, w.Message = false, "cannot be unsealed"
		return []finding{{Problem: Problem{
			Kind: Config, Reason: "NotUnsealed", Message: "cannot be unsealed: " + problem,
			Fix: "it was sealed for another cluster, name or namespace; seal it again",
		}}}
	default:
		w.Done, w.Message = false, "waiting until the controller has unsealed it"
	}
	return nil
}

// hasAddress reports whether a Service of type LoadBalancer has an address. It returns true
// for Services of other types.
func hasAddress(u *unstructured.Unstructured) bool {
	var svc corev1.Service
	if decode(u, &svc) != nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return true
	}
	return len(svc.Status.LoadBalancer.Ingress) > 0 || len(svc.Spec.ExternalIPs) > 0
}

// counts returns the numbers of pods of a workload as text, or an empty text if the object
// has no pods.
func (w Workload) counts() string {
	switch {
	case strings.HasPrefix(w.Object, "job/"):
		return strconv.Itoa(int(w.Ready)) + "/" + strconv.Itoa(int(w.Desired)) + " succeeded"
	case w.pods && !strings.HasPrefix(w.Object, "pod/"):
		return fmt.Sprintf("%d/%d updated, %d ready, %d available", w.Updated, w.Desired, w.Ready, w.Available)
	}
	return ""
}

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

// terminating says whether any pod is on its way out; until it is gone it
// counts against the quota.
func (s state) terminating() bool {
	return slices.ContainsFunc(s.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// notCreated tells from the API server's own words why pods are not created.
func (j judge) notCreated(s state, reason, message string, known time.Time) trouble {
	t := trouble{grace: j.patience.Create, Problem: Problem{Kind: Admission, Reason: reason, Known: known, Message: "cannot create pods: " + message}}
	ns := namespaceOf(s.name)
	switch {
	case strings.Contains(message, "exceeded quota"):
		t.Kind = Quota
		t.Fix = "raise the ResourceQuota of namespace " + ns + ", or lower what the pods request"
		if s.terminating() {
			t.grace = untilDeadline
		}
	case strings.Contains(message, "failed quota"):
		t.Kind = Quota
		t.Fix = "set the requests and limits that the ResourceQuota of namespace " + ns + " asks for"
	case strings.Contains(message, "violates PodSecurity"):
		t.Fix = "set the securityContext that the Pod Security level of namespace " + ns + " asks for"
	case strings.Contains(message, "error looking up service account"):
		t.Fix = "create the ServiceAccount in namespace " + ns
		if _, after, ok := strings.Cut(message, `serviceaccount "`); ok {
			name, _, _ := strings.Cut(after, `"`)
			t.Fix = "create ServiceAccount " + name + " in namespace " + ns
		}
	case strings.Contains(message, "failed calling webhook"):
		t.Fix = "make the admission webhook answer"
	case strings.Contains(message, "admission webhook"):
		t.Fix = "satisfy the admission webhook, or change its policy"
	case !strings.Contains(message, "forbidden"):
		// An API server that is busy or away, for example: the controller tries
		// again.
		t.Kind, t.grace = Stalled, untilDeadline
	}
	return t
}

// namespaceOf reads the namespace out of kind/namespace/name.
func namespaceOf(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}

// createEvents judges kinds whose controllers report failed creations by event
// alone: it stands while no newer pod exists.
func (j judge) createEvents(s state, kind string, mine func(*corev1.Pod) bool) []trouble {
	_, name := kindName(s.name)
	events := s.about(kind, name)
	for _, e := range slices.Backward(events) {
		if e.Reason == "SuccessfulCreate" {
			return nil
		}
		if e.Reason != "FailedCreate" || !j.fresh(e.Last) {
			continue
		}
		for _, p := range s.pods {
			if mine(p) && p.CreationTimestamp.After(e.Last) {
				return nil
			}
		}
		return []trouble{j.notCreated(s, e.Reason, e.Message, e.First)}
	}
	return nil
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

func (j judge) deployment(s state, w *Workload) []trouble {
	var d appsv1.Deployment
	if err := decode(s.object, &d); err != nil {
		return undecodable(w, err)
	}
	w.Desired = number(d.Spec.Replicas, 1)
	if d.Spec.Paused {
		w.Message = "paused"
		return []trouble{{Problem: Problem{
			Kind: Stalled, Reason: "Paused", Message: "is paused: Kubernetes will not roll it out",
			Fix: fmt.Sprintf("kubectl -n %s rollout resume deployment/%s, or take spec.paused out", d.Namespace, d.Name),
		}}}
	}
	w.Ready, w.Available = d.Status.ReadyReplicas, d.Status.AvailableReplicas
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting for the controller to take up the change"
		return nil
	}
	w.Updated = d.Status.UpdatedReplicas
	ts := j.kstatus(s, w)
	var out []trouble
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable":
			w.AvailableAt = c.LastUpdateTime.Time
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" && len(ts) > 0:
			ts[0].Known = c.LastUpdateTime.Time
			if !j.fresh(c.LastUpdateTime.Time) {
				// Applying the same template again does not reset it.
				ts[0].grace = untilDeadline
				ts[0].Message += " (before this rollout)"
			}
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ReplicaSetCreateError":
			t := j.notCreated(s, c.Reason, c.Message, c.LastUpdateTime.Time)
			t.Message = strings.Replace(t.Message, "pods", "its ReplicaSet", 1)
			out = append(out, t)
		}
	}
	set := newSet(&d, s.sets)
	if set == nil {
		return append(out, ts...)
	}
	mine := func(p *corev1.Pod) bool { return owned(p, set.UID) }
	for _, c := range set.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" {
			out = append(out, j.notCreated(s, c.Reason, c.Message, c.LastTransitionTime.Time))
		}
	}
	out = append(out, j.judgePods(s, w, mine)...)
	return append(out, ts...)
}

// newSet returns the ReplicaSet of the Deployment's present revision, nil
// before there is one.
func newSet(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	const revision = "deployment.kubernetes.io/revision"
	want := d.Annotations[revision]
	for _, rs := range sets {
		if want != "" && owned(rs, d.UID) && rs.Annotations[revision] == want {
			return rs
		}
	}
	return nil
}

func (j judge) statefulSet(s state, w *Workload) []trouble {
	var d appsv1.StatefulSet
	if err := decode(s.object, &d); err != nil {
		return undecodable(w, err)
	}
	w.Desired = number(d.Spec.Replicas, 1)
	w.Ready, w.Available = d.Status.ReadyReplicas, d.Status.AvailableReplicas
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting for the controller to take up the change"
		return nil
	}
	w.Updated = d.Status.UpdatedReplicas
	var ts []trouble
	mine := func(p *corev1.Pod) bool {
		return owned(p, d.UID) && d.Status.UpdateRevision != "" && p.Labels[appsv1.ControllerRevisionHashLabelKey] == d.Status.UpdateRevision
	}
	out := append(j.createEvents(s, "statefulset", mine), j.judgePods(s, w, mine)...)
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		onDelete(w, d.Status.Replicas)
	} else {
		ts = j.kstatus(s, w)
	}
	w.AvailableAt = readySince(s.pods, mine)
	if !w.Done && len(out) == 0 {
		// The controller replaces pod after pod and waits for each, so a broken
		// old one holds up the new.
		old := &Workload{}
		for _, t := range j.judgePods(s, old, func(p *corev1.Pod) bool { return owned(p, d.UID) && !mine(p) }) {
			t.grace = untilDeadline
			t.Message += " (a pod of the old revision, which holds up the new)"
			out = append(out, t)
		}
	}
	return append(out, ts...)
}

// onDelete judges a workload whose pods are replaced when somebody deletes
// them: it is done when all it has to have exist and the new ones among them
// are ready.
func onDelete(w *Workload, have int32) {
	ready := int32(0)
	for _, p := range w.Pods {
		if p.Ready {
			ready++
		}
	}
	w.Done = have >= w.Desired && ready >= w.Updated
	w.Message = fmt.Sprintf("update strategy OnDelete, %d/%d pods are new", w.Updated, w.Desired)
	if w.Updated < w.Desired {
		w.Warnings = append(w.Warnings, fmt.Sprintf(
			"%s: %d of %d pods stay on the old revision until they are deleted (update strategy OnDelete)",
			spaced(w.Object), w.Desired-w.Updated, w.Desired))
	}
}

// readySince is when the last of the pods became ready.
func readySince(pods []*corev1.Pod, mine func(*corev1.Pod) bool) time.Time {
	var last time.Time
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if mine(p) && c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(last) {
				last = c.LastTransitionTime.Time
			}
		}
	}
	return last
}

func (j judge) daemonSet(s state, w *Workload) []trouble {
	var d appsv1.DaemonSet
	if err := decode(s.object, &d); err != nil {
		return undecodable(w, err)
	}
	w.Desired, w.Ready, w.Available = d.Status.DesiredNumberScheduled, d.Status.NumberReady, d.Status.NumberAvailable
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting for the controller to take up the change"
		return nil
	}
	w.Updated = d.Status.UpdatedNumberScheduled
	mine := newDaemons(&d, s.pods)
	out := append(j.createEvents(s, "daemonset", mine), j.judgePods(s, w, mine)...)
	w.AvailableAt = readySince(s.pods, mine)
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		onDelete(w, d.Status.CurrentNumberScheduled)
		return out
	}
	return append(out, j.kstatus(s, w)...)
}

// newDaemons picks the pods of a DaemonSet's present revision. Its status does
// not name the revision; the template's generation, which its pods carry as a
// label, leads to the hash.
func newDaemons(d *appsv1.DaemonSet, pods []*corev1.Pod) func(*corev1.Pod) bool {
	generation := d.Annotations[appsv1.DeprecatedTemplateGeneration]
	hash := ""
	var newest *corev1.Pod
	for _, p := range pods {
		if !owned(p, d.UID) {
			continue
		}
		if generation != "" && p.Labels["pod-template-generation"] == generation {
			hash = p.Labels[appsv1.ControllerRevisionHashLabelKey]
		}
		if newest == nil || newest.CreationTimestamp.Before(&p.CreationTimestamp) {
			newest = p
		}
	}
	if generation == "" && newest != nil {
		hash = newest.Labels[appsv1.ControllerRevisionHashLabelKey]
	}
	return func(p *corev1.Pod) bool {
		return owned(p, d.UID) && hash != "" && p.Labels[appsv1.ControllerRevisionHashLabelKey] == hash
	}
}

func (j judge) replicaSet(s state, w *Workload) []trouble {
	var d appsv1.ReplicaSet
	if err := decode(s.object, &d); err != nil {
		return undecodable(w, err)
	}
	w.Desired = number(d.Spec.Replicas, 1)
	w.Ready, w.Available = d.Status.ReadyReplicas, d.Status.AvailableReplicas
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting for the controller to take up the change"
		return nil
	}
	w.Updated = d.Status.Replicas
	mine := func(p *corev1.Pod) bool { return owned(p, d.UID) }
	var out []trouble
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" {
			out = append(out, j.notCreated(s, c.Reason, c.Message, c.LastTransitionTime.Time))
		}
	}
	out = append(out, j.judgePods(s, w, mine)...)
	w.AvailableAt = readySince(s.pods, mine)
	return append(out, j.kstatus(s, w)...)
}

func jobCondition(job *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i, c := range job.Status.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// job judges a Job itself: to kstatus one that runs is already fine.
func (j judge) job(s state, w *Workload) []trouble {
	var d batchv1.Job
	if err := decode(s.object, &d); err != nil {
		return undecodable(w, err)
	}
	w.Desired = number(d.Spec.Completions, number(d.Spec.Parallelism, 1))
	w.Updated = d.Status.Active + d.Status.Succeeded
	w.Ready, w.Available = d.Status.Succeeded, d.Status.Succeeded
	mine := func(p *corev1.Pod) bool { return owned(p, d.UID) }
	ts := j.judgePods(s, w, mine)
	if c := jobCondition(&d, batchv1.JobComplete); c != nil {
		w.Done, w.Message, w.AvailableAt = true, "complete", c.LastTransitionTime.Time
		return nil
	}
	over := jobCondition(&d, batchv1.JobFailed)
	if over == nil {
		// Nothing can save it any more; Failed follows when its pods are gone.
		over = jobCondition(&d, batchv1.JobFailureTarget)
	}
	if over != nil {
		w.Message = "failed"
		t := trouble{Problem: Problem{
			Kind: JobFailed, Reason: over.Reason, Known: over.LastTransitionTime.Time,
			Message: "failed: " + cmp.Or(over.Message, over.Reason, "no reason given"),
		}}
		if p := lastFailed(s.pods, mine); p != nil {
			pt := j.failed(p)
			t.Pod, t.Node, t.Container, t.ExitCode, t.Restarts, t.Fix = p.Name, p.Spec.NodeName, pt.Container, pt.ExitCode, pt.Restarts, pt.Fix
			t.Message = pt.Message + "; the Job gave up: " + cmp.Or(over.Message, over.Reason)
		}
		return []trouble{t}
	}
	// Its own backoffLimit decides how often it may fail.
	for i := range ts {
		switch ts[i].Kind {
		case CrashLoop, OOM, Probe, Evicted, JobFailed:
			ts[i].grace = untilDeadline
		default:
		}
	}
	w.Message = fmt.Sprintf("%d active, %d failed, %d/%d succeeded", d.Status.Active, d.Status.Failed, d.Status.Succeeded, w.Desired)
	if d.Spec.Suspend != nil && *d.Spec.Suspend {
		w.Message = "suspended"
		ts = append(ts, trouble{grace: untilDeadline, Problem: Problem{
			Kind: Stalled, Reason: "Suspended", Message: "is suspended: it does not run until somebody resumes it", Fix: "take spec.suspend out",
		}})
	}
	return append(ts, j.createEvents(s, "job", mine)...)
}

// lastFailed is the pod that failed last.
func lastFailed(pods []*corev1.Pod, mine func(*corev1.Pod) bool) *corev1.Pod {
	var last *corev1.Pod
	for _, p := range pods {
		if mine(p) && p.Status.Phase == corev1.PodFailed && (last == nil || last.CreationTimestamp.Before(&p.CreationTimestamp)) {
			last = p
		}
	}
	return last
}

// barePod judges a pod without an owner. One that is not restarted is there to
// succeed, for example a chart's test.
func (j judge) barePod(s state, w *Workload) []trouble {
	var p corev1.Pod
	if err := decode(s.object, &p); err != nil {
		return undecodable(w, err)
	}
	w.Desired, w.Updated = 1, 1
	s.pods = []*corev1.Pod{&p}
	mine := func(*corev1.Pod) bool { return true }
	ts := j.judgePods(s, w, mine)
	w.Message = strings.ToLower(cmp.Or(string(p.Status.Phase), "pending"))
	if w.Pods[0].Ready {
		w.Ready, w.Available = 1, 1
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		w.Done, w.Ready, w.Available = true, 1, 1
	case p.Status.Phase == corev1.PodFailed:
		for i := range ts {
			ts[i].grace = 0
		}
	case cmp.Or(p.Spec.RestartPolicy, corev1.RestartPolicyAlways) == corev1.RestartPolicyAlways:
		w.Done = w.Pods[0].Ready
		w.AvailableAt = readySince(s.pods, mine)
	}
	return ts
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

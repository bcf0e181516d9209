package rollout

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

func (j judge) deployment(s state, w *Workload) []finding {
	var d appsv1.Deployment
	if err := decode(s.object, &d); err != nil {
		return unreadable(w, err)
	}
	w.Desired = valueOr(d.Spec.Replicas, 1)
	if d.Spec.Paused {
		w.Message = "paused"
		return []finding{{Problem: Problem{
			Kind: Stalled, Reason: "Paused", Message: "is paused, so Kubernetes does not roll it out",
			Fix: fmt.Sprintf("run kubectl -n %s rollout resume deployment/%s, or remove spec.paused", d.Namespace, d.Name),
		}}}
	}
	w.Ready, w.Available = d.Status.ReadyReplicas, d.Status.AvailableReplicas
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting until the controller observes the change"
		return nil
	}
	w.Updated = d.Status.UpdatedReplicas
	findings := j.kstatus(s, w)
	var out []finding
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable":
			w.AvailableAt = c.LastUpdateTime.Time
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" && len(findings) > 0:
			findings[0].Known = c.LastUpdateTime.Time
			if !j.duringRollout(c.LastUpdateTime.Time) {
				// Kubernetes does not reset the condition if the same template is
				// applied again.
				findings[0].grace = untilDeadline
				findings[0].Message += " (before this rollout)"
			}
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ReplicaSetCreateError":
			t := j.notCreated(s, c.Reason, c.Message, c.LastUpdateTime.Time)
			t.Message = strings.Replace(t.Message, "pods", "its ReplicaSet", 1)
			out = append(out, t)
		}
	}
	set := newSet(&d, s.sets)
	if set == nil {
		return append(out, findings...)
	}
	belongs := func(p *corev1.Pod) bool { return owned(p, set.UID) }
	out = append(out, j.failedCreate(s, set)...)
	out = append(out, j.judgePods(s, w, belongs)...)
	return append(out, findings...)
}

// failedCreate returns why a ReplicaSet cannot create pods, according to its conditions.
func (j judge) failedCreate(s state, set *appsv1.ReplicaSet) []finding {
	var out []finding
	for _, c := range set.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" {
			out = append(out, j.notCreated(s, c.Reason, c.Message, c.LastTransitionTime.Time))
		}
	}
	return out
}

// newSet returns the ReplicaSet of the current revision of a Deployment, or nil if it does
// not exist yet.
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

// readySince returns when the last of the pods became ready.
func readySince(pods []*corev1.Pod, belongs func(*corev1.Pod) bool) time.Time {
	var last time.Time
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if belongs(p) && c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(last) {
				last = c.LastTransitionTime.Time
			}
		}
	}
	return last
}

func (j judge) replicaSet(s state, w *Workload) []finding {
	var d appsv1.ReplicaSet
	if err := decode(s.object, &d); err != nil {
		return unreadable(w, err)
	}
	w.Desired = valueOr(d.Spec.Replicas, 1)
	w.Ready, w.Available = d.Status.ReadyReplicas, d.Status.AvailableReplicas
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting until the controller observes the change"
		return nil
	}
	w.Updated = d.Status.Replicas
	belongs := func(p *corev1.Pod) bool { return owned(p, d.UID) }
	out := append(j.failedCreate(s, &d), j.judgePods(s, w, belongs)...)
	w.AvailableAt = readySince(s.pods, belongs)
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

// job examines a Job without kstatus, which considers a running Job to be ready.
func (j judge) job(s state, w *Workload) []finding {
	var d batchv1.Job
	if err := decode(s.object, &d); err != nil {
		return unreadable(w, err)
	}
	w.Desired = valueOr(d.Spec.Completions, valueOr(d.Spec.Parallelism, 1))
	w.Updated = d.Status.Active + d.Status.Succeeded
	w.Ready, w.Available = d.Status.Succeeded, d.Status.Succeeded
	belongs := func(p *corev1.Pod) bool { return owned(p, d.UID) }
	findings := j.judgePods(s, w, belongs)
	if c := jobCondition(&d, batchv1.JobComplete); c != nil {
		w.Done, w.Message, w.AvailableAt = true, "complete", c.LastTransitionTime.Time
		return nil
	}
	over := jobCondition(&d, batchv1.JobFailed)
	if over == nil {
		// The Job will fail: the condition Failed follows when its pods are deleted.
		over = jobCondition(&d, batchv1.JobFailureTarget)
	}
	if over != nil {
		w.Message = "failed"
		t := finding{Problem: Problem{
			Kind: JobFailed, Reason: over.Reason, Known: over.LastTransitionTime.Time,
			Message: "failed: " + cmp.Or(over.Message, over.Reason, "Kubernetes reports no reason"),
		}}
		if p := lastFailed(s.pods, belongs); p != nil {
			pt := j.failed(p)
			t.Pod, t.Node, t.Container, t.ExitCode, t.Restarts, t.Fix = p.Name, p.Spec.NodeName, pt.Container, pt.ExitCode, pt.Restarts, pt.Fix
			t.Message = pt.Message + "; the Job has failed: " + cmp.Or(over.Message, over.Reason)
		}
		return []finding{t}
	}
	// The backoffLimit of the Job determines how often its pods may fail.
	for i := range findings {
		switch findings[i].Kind {
		case CrashLoop, OOM, Probe, Evicted, JobFailed:
			findings[i].grace = untilDeadline
		default:
		}
	}
	w.Message = fmt.Sprintf("%d active, %d failed, %d/%d succeeded", d.Status.Active, d.Status.Failed, d.Status.Succeeded, w.Desired)
	if d.Spec.Suspend != nil && *d.Spec.Suspend {
		w.Message = "suspended"
		findings = append(findings, finding{grace: untilDeadline, Problem: Problem{
			Kind: Stalled, Reason: "Suspended", Message: "is suspended, so it does not run until it is resumed", Fix: "remove spec.suspend",
		}})
	}
	return append(findings, j.createEvents(s, "job", belongs)...)
}

// lastFailed returns the newest pod that has failed, or nil.
func lastFailed(pods []*corev1.Pod, belongs func(*corev1.Pod) bool) *corev1.Pod {
	var last *corev1.Pod
	for _, p := range pods {
		if belongs(p) && p.Status.Phase == corev1.PodFailed && (last == nil || last.CreationTimestamp.Before(&p.CreationTimestamp)) {
			last = p
		}
	}
	return last
}

// barePod examines a pod without a controller. A pod that is not restarted is expected to
// succeed, for example the test of a chart.
func (j judge) barePod(s state, w *Workload) []finding {
	var p corev1.Pod
	if err := decode(s.object, &p); err != nil {
		return unreadable(w, err)
	}
	w.Desired, w.Updated = 1, 1
	s.pods = []*corev1.Pod{&p}
	belongs := func(*corev1.Pod) bool { return true }
	findings := j.judgePods(s, w, belongs)
	w.Message = strings.ToLower(cmp.Or(string(p.Status.Phase), "pending"))
	if w.Pods[0].Ready {
		w.Ready, w.Available = 1, 1
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		w.Done, w.Ready, w.Available = true, 1, 1
	case p.Status.Phase == corev1.PodFailed:
		for i := range findings {
			findings[i].grace = 0
		}
	case cmp.Or(p.Spec.RestartPolicy, corev1.RestartPolicyAlways) == corev1.RestartPolicyAlways:
		w.Done = w.Pods[0].Ready
		w.AvailableAt = readySince(s.pods, belongs)
	}
	return findings
}

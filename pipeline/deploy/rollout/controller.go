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
	out = append(out, j.failedCreate(s, set)...)
	out = append(out, j.judgePods(s, w, mine)...)
	return append(out, ts...)
}

// failedCreate is what a ReplicaSet says of pods it could not create.
func (j judge) failedCreate(s state, set *appsv1.ReplicaSet) []trouble {
	var out []trouble
	for _, c := range set.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" {
			out = append(out, j.notCreated(s, c.Reason, c.Message, c.LastTransitionTime.Time))
		}
	}
	return out
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
	out := append(j.failedCreate(s, &d), j.judgePods(s, w, mine)...)
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

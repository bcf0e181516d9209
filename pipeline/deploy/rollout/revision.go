package rollout

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Blocking is a pod of an old revision that a StatefulSet waits for. The controller of a
// StatefulSet with the pod management policy OrderedReady does nothing until the pod is
// ready, so a pod of a broken revision also blocks the revision that corrects it
// (https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback).
type Blocking struct {
	Namespace       string    `json:"namespace"`
	Pod             string    `json:"pod"`
	UID             types.UID `json:"uid"`
	ResourceVersion string    `json:"resource_version"`
	// Revision is the value of the label controller-revision-hash of the pod.
	Revision string `json:"revision"`
	// Previous is whether the revision is that of the last rollout that was complete. The
	// first revision of a StatefulSet counts as complete.
	Previous bool `json:"previous"`
	// Failing is whether the kubelet waits before it starts a container again, for example
	// because it crashes or its image cannot be pulled.
	Failing bool `json:"failing"`
	// Kept is why the controller would not replace the pod by one of the new revision if
	// it were deleted, or only because somebody decided to delete it. If it is empty, the
	// controller would replace it.
	Kept string `json:"kept,omitempty"`
}

// Command returns the command that deletes the pod.
func (b Blocking) Command() string { return deleteCommand(b.Namespace, b.Pod) }

func deleteCommand(namespace string, pods ...string) string {
	return "kubectl -n " + namespace + " delete pod " + strings.Join(pods, " ")
}

// revisionOf returns the revision of a pod of a StatefulSet or DaemonSet.
func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

func (j judge) statefulSet(s state, w *Workload) []finding {
	var d appsv1.StatefulSet
	if err := decode(s.object, &d); err != nil {
		return unreadable(w, err)
	}
	w.Desired = valueOr(d.Spec.Replicas, 1)
	w.Ready, w.Available = d.Status.ReadyReplicas, d.Status.AvailableReplicas
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting until the controller observes the change"
		return nil
	}
	w.Updated = d.Status.UpdatedReplicas
	var findings []finding
	belongs := func(p *corev1.Pod) bool {
		return owned(p, d.UID) && d.Status.UpdateRevision != "" && revisionOf(p) == d.Status.UpdateRevision
	}
	out := append(j.createEvents(s, "statefulset", belongs), j.judgePods(s, w, belongs)...)
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		onDelete(w, d.Status.Replicas, d.Spec.Selector, oldPods(s.pods, d.UID, belongs))
	} else {
		findings = j.kstatus(s, w)
		if n := partition(&d); n > 0 && w.Done && w.Updated < w.Desired {
			w.Old = w.Desired - w.Updated
			w.Message = fmt.Sprintf("%d of %d pods keep the old revision (partition %d)", w.Old, w.Desired, n)
		}
	}
	w.AvailableAt = readySince(s.pods, belongs)
	if !w.Done {
		w.Blocking = blocking(&d, s.pods)
	}
	if w.Blocking != nil && len(out) == 0 {
		out = j.blockedBy(s, *w.Blocking)
	}
	return append(out, findings...)
}

// partition returns the lowest ordinal whose pod gets the new revision.
func partition(d *appsv1.StatefulSet) int32 {
	if u := d.Spec.UpdateStrategy.RollingUpdate; u != nil {
		return valueOr(u.Partition, 0)
	}
	return 0
}

// blocking returns the pod of an old revision that the controller waits for, or nil. The
// controller examines the pods in the order of their ordinals, and stops at the first one
// that is not ready.
func blocking(d *appsv1.StatefulSet, pods []*corev1.Pod) *Blocking {
	if d.Spec.PodManagementPolicy == appsv1.ParallelPodManagement || d.Status.UpdateRevision == "" {
		return nil // the controller replaces pods that are not ready
	}
	byName := map[string]*corev1.Pod{}
	for _, p := range pods {
		if owned(p, d.UID) {
			byName[p.Name] = p
		}
	}
	first := int32(0)
	if d.Spec.Ordinals != nil {
		first = d.Spec.Ordinals.Start
	}
	for ordinal := first; ordinal < first+valueOr(d.Spec.Replicas, 1); ordinal++ {
		p := byName[fmt.Sprintf("%s-%d", d.Name, ordinal)]
		switch {
		case p == nil, p.DeletionTimestamp != nil, p.Status.Phase == corev1.PodFailed, p.Status.Phase == corev1.PodSucceeded:
			return nil // the controller creates this pod, or creates it again
		case isReady(p):
			continue
		case revisionOf(p) == d.Status.UpdateRevision:
			return nil // the controller waits for a pod of the new revision
		}
		b := &Blocking{
			Namespace: p.Namespace, Pod: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			Revision: revisionOf(p), Previous: revisionOf(p) == d.Status.CurrentRevision, Failing: failing(p),
		}
		switch n := partition(d); {
		case d.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType:
			b.Kept = "update strategy OnDelete"
		case ordinal < n:
			b.Kept = fmt.Sprintf("partition %d of the update strategy", n)
		}
		return b
	}
	return nil
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// failing reports whether the kubelet waits before it starts a container of the pod again.
func failing(p *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses), func(cs corev1.ContainerStatus) bool {
		w := cs.State.Waiting
		return w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing"
	})
}

// blockedBy returns the problems of a pod that blocks the rollout. They end the rollout
// only at the deadline, because the pod may become ready or be deleted.
func (j judge) blockedBy(s state, b Blocking) []finding {
	findings := j.judgePods(s, &Workload{}, func(p *corev1.Pod) bool { return p.UID == b.UID })
	if len(findings) == 0 {
		findings = []finding{{Problem: Problem{Kind: Stalled, Pod: b.Pod, Reason: "NotReady", Message: "is not ready"}}}
	}
	for i := range findings {
		f := &findings[i]
		f.grace = untilDeadline
		f.Message += " (this pod of the old revision blocks the new revision)"
		f.Fix = "run " + b.Command()
		if strings.HasPrefix(b.Kept, "partition") {
			f.Message = strings.TrimSuffix(f.Message, ")") + ", and " + b.Kept + " keeps it)"
			f.Fix = "lower spec.updateStrategy.rollingUpdate.partition, or run " + b.Command() + " to start it again"
		}
	}
	return findings
}

// oldPods returns the names of the pods of a workload that do not belong to the new
// revision, and their revisions.
func oldPods(pods []*corev1.Pod, owner types.UID, belongs func(*corev1.Pod) bool) (old []*corev1.Pod) {
	for _, p := range pods {
		if owned(p, owner) && !belongs(p) && p.DeletionTimestamp == nil {
			old = append(old, p)
		}
	}
	return old
}

// onDelete examines a workload whose pods are only replaced when somebody deletes them. It
// is done if all its pods exist and those of the new revision are ready.
func onDelete(w *Workload, have int32, selector *metav1.LabelSelector, old []*corev1.Pod) {
	ready := int32(0)
	for _, p := range w.Pods {
		if p.Ready {
			ready++
		}
	}
	all := ready
	for _, p := range old {
		if isReady(p) {
			all++
		}
	}
	w.onDelete = true
	// The pods can be ready a moment before the status counts them.
	w.Done = have >= w.Desired && w.Ready >= min(all, w.Desired) && (ready >= w.Updated || w.Ready >= w.Desired)
	w.Old = max(have-w.Updated, 0)
	switch {
	case !w.Done:
		w.Message = fmt.Sprintf("%d of %d pods of the new revision are ready, %d run the old revision (update strategy OnDelete)", ready, w.Desired-w.Old, w.Old)
	case w.Old == 0:
		w.Message = "update strategy OnDelete, all pods run the new revision"
	default:
		w.Message = fmt.Sprintf("%d of %d pods run the old revision (update strategy OnDelete)", w.Old, w.Desired)
	}
	if w.Old == 0 {
		return
	}
	warning := fmt.Sprintf("%s: %d of %d pods run the old revision until they are deleted (update strategy OnDelete)", displayName(w.Object), w.Old, w.Desired)
	if c := replaceCommand(namespaceOf(w.Object), selector, old); c != "" {
		warning += "; to replace them, run " + c
	}
	w.Warnings = append(w.Warnings, warning)
}

// manyPods is the number of pods from which on a command selects them by their labels.
const manyPods = 6

// replaceCommand returns the command that deletes the pods of the old revision, or an empty
// text if they are not known.
func replaceCommand(namespace string, selector *metav1.LabelSelector, old []*corev1.Pod) string {
	var names, revisions []string
	for _, p := range old {
		names = append(names, p.Name)
		revisions = append(revisions, revisionOf(p))
	}
	slices.Sort(names)
	slices.Sort(revisions)
	revisions = slices.Compact(revisions)
	switch {
	case len(names) == 0:
		return ""
	case len(names) < manyPods || selector == nil || slices.Contains(revisions, ""):
		return deleteCommand(namespace, names...)
	}
	return fmt.Sprintf("kubectl -n %s delete pod -l '%s,%s in (%s)'", namespace, metav1.FormatLabelSelector(selector),
		appsv1.ControllerRevisionHashLabelKey, strings.Join(revisions, ","))
}

func (j judge) daemonSet(s state, w *Workload) []finding {
	var d appsv1.DaemonSet
	if err := decode(s.object, &d); err != nil {
		return unreadable(w, err)
	}
	w.Desired, w.Ready, w.Available = d.Status.DesiredNumberScheduled, d.Status.NumberReady, d.Status.NumberAvailable
	if d.Status.ObservedGeneration < d.Generation {
		w.Message = "waiting until the controller observes the change"
		return nil
	}
	w.Updated = d.Status.UpdatedNumberScheduled
	belongs := newestRevision(&d, s.pods)
	out := append(j.createEvents(s, "daemonset", belongs), j.judgePods(s, w, belongs)...)
	w.AvailableAt = readySince(s.pods, belongs)
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		onDelete(w, d.Status.CurrentNumberScheduled, d.Spec.Selector, oldPods(s.pods, d.UID, belongs))
		return out
	}
	return append(out, j.kstatus(s, w)...)
}

// newestRevision returns a function that reports whether a pod belongs to the current
// revision of a DaemonSet. The status of a DaemonSet does not contain the revision, but
// its pods are labeled with the generation of the template and with the hash of the
// revision. After a rollback, pods of the revision have the generation that it had
// before; then the revision is that of as many pods as the status counts as updated.
func newestRevision(d *appsv1.DaemonSet, pods []*corev1.Pod) func(*corev1.Pod) bool {
	generation := d.Annotations[appsv1.DeprecatedTemplateGeneration]
	hash := ""
	count := map[string]int32{}
	var newest *corev1.Pod
	for _, p := range pods {
		if !owned(p, d.UID) {
			continue
		}
		if generation != "" && p.Labels["pod-template-generation"] == generation {
			hash = revisionOf(p)
		}
		if p.DeletionTimestamp == nil {
			count[revisionOf(p)]++
		}
		if newest == nil || newest.CreationTimestamp.Before(&p.CreationTimestamp) {
			newest = p
		}
	}
	if generation == "" && newest != nil {
		hash = revisionOf(newest)
	}
	if n := d.Status.UpdatedNumberScheduled; hash == "" && n > 0 {
		for candidate, pods := range count {
			switch {
			case pods != n:
			case hash != "":
				return func(*corev1.Pod) bool { return false } // two revisions have as many pods
			default:
				hash = candidate
			}
		}
	}
	return func(p *corev1.Pod) bool {
		return owned(p, d.UID) && hash != "" && revisionOf(p) == hash
	}
}

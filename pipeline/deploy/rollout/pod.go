package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// untilDeadline is the grace of trouble that may well pass by itself: it is
// shown, and names the cause at the deadline, but does not end the rollout.
const untilDeadline time.Duration = -1

// trouble is a Problem together with how long it may stand.
type trouble struct {
	Problem
	grace time.Duration // 0: fails at once; untilDeadline: never before the deadline
}

// Pod is a pod of the new revision.
type Pod struct {
	Name     string    `json:"name"`
	Node     string    `json:"node,omitempty"`
	Phase    string    `json:"phase"` // as kubectl's: the phase, or Terminating
	Ready    bool      `json:"ready"`
	Restarts int32     `json:"restarts"`         // of all its containers
	Reason   string    `json:"reason,omitempty"` // why it is not ready, for example CrashLoopBackOff
	Created  time.Time `json:"created,omitzero"` // its age counts from here
}

// judge is what a verdict on pods depends on beside the pod and its events.
type judge struct {
	patience Patience
	since    time.Time // what was already so before is no verdict on this rollout
}

// skew is how far the cluster's clock may be behind ours.
const skew = 5 * time.Second

// fresh says whether t belongs to this rollout. Kubernetes' times are whole
// seconds.
func (j judge) fresh(t time.Time) bool {
	return !t.Before(j.since.Add(-skew).Truncate(time.Second))
}

// pod tells what stands in the way of a pod. It is a pure function of its
// arguments. events are those about the pod, oldest first.
func (j judge) pod(pod *corev1.Pod, events []Event) (Pod, []trouble) {
	out := Pod{
		Name:    pod.Name,
		Node:    pod.Spec.NodeName,
		Phase:   cmp.Or(string(pod.Status.Phase), string(corev1.PodPending)),
		Created: pod.CreationTimestamp.Time,
	}
	scheduled := true
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			out.Ready = true
		}
	}
	for _, cs := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		out.Restarts += cs.RestartCount
	}
	if pod.DeletionTimestamp != nil {
		// It was replaced or scaled away: no sign of anything.
		out.Phase, out.Ready = "Terminating", false
		return out, nil
	}

	var all []trouble
	add := func(t trouble) {
		t.Pod, t.Node = pod.Name, pod.Spec.NodeName
		if len(t.Message) > 1500 {
			t.Message = strings.ToValidUTF8(t.Message[:1500], "") + "..."
		}
		all = append(all, t)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			scheduled = false
			add(unscheduled(c))
		}
	}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded:
		return out, nil
	case pod.Status.Phase == corev1.PodFailed:
		add(j.failed(pod))
	case scheduled:
		if t, ok := j.setup(pod, events); ok {
			add(t)
		}
		for i := range pod.Spec.InitContainers {
			c := container{judge: j, pod: pod, spec: &pod.Spec.InitContainers[i], init: true, events: events}
			if cs, ok := statusOf(pod.Status.InitContainerStatuses, c.spec.Name); ok {
				c.troubles(cs, add)
			}
		}
		for i := range pod.Spec.Containers {
			c := container{judge: j, pod: pod, spec: &pod.Spec.Containers[i], events: events}
			if cs, ok := statusOf(pod.Status.ContainerStatuses, c.spec.Name); ok {
				c.troubles(cs, add)
			}
		}
	}
	if !out.Ready {
		out.Reason = reason(pod, all)
	}
	return out, all
}

// reason is the one word for why a pod is not ready.
func reason(pod *corev1.Pod, all []trouble) string {
	for _, t := range all {
		if t.Reason != "" {
			return t.Reason
		}
	}
	for _, cs := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if cs.State.Waiting != nil && cs.State.Waiting.Reason != "" {
			return cs.State.Waiting.Reason
		}
	}
	return pod.Status.Reason
}

func statusOf(all []corev1.ContainerStatus, name string) (*corev1.ContainerStatus, bool) {
	for i := range all {
		if all[i].Name == name {
			return &all[i], true
		}
	}
	return nil, false
}

func unscheduled(c corev1.PodCondition) trouble {
	t := trouble{grace: untilDeadline, Problem: Problem{
		Kind:    Unschedulable,
		Reason:  cmp.Or(c.Reason, corev1.PodReasonUnschedulable),
		Message: "cannot be scheduled: " + cmp.Or(c.Message, c.Reason, "no reason given"),
		Known:   c.LastTransitionTime.Time,
	}}
	switch {
	case c.Reason == corev1.PodReasonSchedulingGated:
		t.Fix = "remove the pod's schedulingGates, or wait for who lifts them"
	case strings.Contains(c.Message, "Insufficient"):
		t.Fix = "lower resources.requests or add nodes"
	case strings.Contains(c.Message, "untolerated taint"):
		t.Fix = "tolerate the taint or add nodes without it"
	case strings.Contains(c.Message, "affinity") || strings.Contains(c.Message, "selector"):
		t.Fix = "correct nodeSelector or affinity, or label a node"
	case strings.Contains(c.Message, "persistentvolumeclaim"), strings.Contains(c.Message, "PersistentVolumeClaim"):
		t.Fix = "create the claim, or give it a StorageClass that exists"
	}
	return t
}

// failed judges a pod that ended for good.
func (j judge) failed(pod *corev1.Pod) trouble {
	t := trouble{grace: untilDeadline}
	switch r := pod.Status.Reason; {
	case r == "Evicted", r == "Preempting":
		t.Problem = Problem{
			Kind: Evicted, Reason: r,
			Message: "was evicted: " + cmp.Or(pod.Status.Message, "no reason given"),
			Fix:     "give the container the resources it uses, in requests and limits",
		}
		if strings.Contains(pod.Status.Message, "ephemeral") {
			t.Fix = "raise resources.limits.ephemeral-storage or write less to the container's disk"
		}
		return t
	case strings.HasPrefix(r, "OutOf"), r == "NodeAffinity", r == "UnexpectedAdmissionError":
		t.Problem = Problem{Kind: Unschedulable, Reason: r, Message: "was refused by its node: " + cmp.Or(pod.Status.Message, r)}
		return t
	}
	t.Problem = Problem{
		Kind: JobFailed, Reason: cmp.Or(pod.Status.Reason, "Failed"),
		Message: "failed: " + cmp.Or(pod.Status.Message, pod.Status.Reason, "no reason given"),
	}
	for _, cs := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		end := cs.State.Terminated
		if end == nil || end.ExitCode == 0 {
			continue
		}
		t.Container, t.ExitCode, t.Restarts = cs.Name, end.ExitCode, cs.RestartCount
		t.Reason, t.Known = cmp.Or(end.Reason, t.Reason), end.FinishedAt.Time
		t.Message = fmt.Sprintf("failed with exit code %d%s", end.ExitCode, tail(end.Message))
		t.Fix = logsCommand(pod, cs.Name, false)
		if end.Reason == "OOMKilled" {
			t.Kind = OOM
			t.Message, t.Fix = oomText(specOf(pod, cs.Name), cs.RestartCount)
		}
		break
	}
	return t
}

func specOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return &corev1.Container{Name: name}
}

// tail appends a message where there is one.
func tail(message string) string {
	if message = oneLine(message); message != "" {
		return ": " + message
	}
	return ""
}

func logsCommand(pod *corev1.Pod, container string, previous bool) string {
	c := fmt.Sprintf("see kubectl -n %s logs %s -c %s", pod.Namespace, pod.Name, container)
	if previous {
		c += " --previous"
	}
	return c
}

// setup judges what happens before the first container: volumes and the pod's
// sandbox. Only events tell.
func (j judge) setup(pod *corev1.Pod, events []Event) (trouble, bool) {
	var t trouble
	var found bool
	for _, e := range events {
		switch e.Reason {
		case "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "FailedCreatePodContainer":
		case "Pulling", "Pulled", "Created", "Started":
			// The pod got past its volumes and sandbox.
			found = false
			continue
		default:
			continue
		}
		if !j.fresh(e.Last) {
			continue
		}
		found = true
		t = trouble{grace: untilDeadline, Problem: Problem{Reason: e.Reason, Message: "cannot start: " + e.Message, Known: e.First}}
		if t.Kind = Volume; strings.HasPrefix(e.Reason, "FailedCreatePod") {
			t.Kind = Sandbox
		}
		if what, fix := missing(e.Message, pod.Namespace); fix != "" {
			t.Kind, t.grace = Config, j.patience.Config
			t.Message, t.Fix = "cannot start: "+what, fix
		}
	}
	for _, cs := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if cs.State.Waiting == nil || (cs.State.Waiting.Reason != "ContainerCreating" && cs.State.Waiting.Reason != "PodInitializing") {
			return t, false
		}
	}
	return t, found
}

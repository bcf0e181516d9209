package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// untilDeadline is the grace of a problem that can resolve itself. The problem is shown as
// a warning and does not end the rollout, but it is reported as the cause if the deadline
// passes.
const untilDeadline time.Duration = -1

// finding is a problem and how long it may last before it ends the rollout.
type finding struct {
	Problem
	grace time.Duration // 0 ends the rollout at once
}

// Pod is a pod of the new revision.
type Pod struct {
	Name     string    `json:"name"`
	Node     string    `json:"node,omitempty"`
	Phase    string    `json:"phase"` // the phase of the pod, or Terminating, as in the output of kubectl
	Ready    bool      `json:"ready"`
	Restarts int32     `json:"restarts"`         // the sum of the restarts of its containers
	Reason   string    `json:"reason,omitempty"` // why it is not ready, for example CrashLoopBackOff
	Created  time.Time `json:"created,omitzero"` // when it was created
}

// judge finds the problems of objects and pods. Its methods are pure functions of what the
// watches have shown.
type judge struct {
	patience Patience
	since    time.Time // when the rollout began; earlier failures do not end it
}

// clockSkew is how far the clock of the cluster may be behind the local clock.
const clockSkew = 5 * time.Second

// duringRollout reports whether t is not before the rollout. Kubernetes records times with
// a resolution of one second.
func (j judge) duringRollout(t time.Time) bool {
	return !t.Before(j.since.Add(-clockSkew).Truncate(time.Second))
}

// pod returns the state of a pod and its problems. events are the events about the pod,
// oldest first.
func (j judge) pod(pod *corev1.Pod, events []Event) (Pod, []finding) {
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
		// The pod was replaced or the workload was scaled down, which is no problem.
		out.Phase, out.Ready = "Terminating", false
		return out, nil
	}

	var all []finding
	add := func(t finding) {
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
				c.findings(cs, add)
			}
		}
		for i := range pod.Spec.Containers {
			c := container{judge: j, pod: pod, spec: &pod.Spec.Containers[i], events: events}
			if cs, ok := statusOf(pod.Status.ContainerStatuses, c.spec.Name); ok {
				c.findings(cs, add)
			}
		}
	}
	if !out.Ready {
		out.Reason = reason(pod, all)
	}
	return out, all
}

// reason returns one word for why a pod is not ready.
func reason(pod *corev1.Pod, all []finding) string {
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

// statusOf returns the status of the container of that name.
func statusOf(all []corev1.ContainerStatus, name string) (*corev1.ContainerStatus, bool) {
	for i := range all {
		if all[i].Name == name {
			return &all[i], true
		}
	}
	return nil, false
}

// unscheduled examines a pod that cannot be scheduled to a node.
func unscheduled(c corev1.PodCondition) finding {
	t := finding{grace: untilDeadline, Problem: Problem{
		Kind:    Unschedulable,
		Reason:  cmp.Or(c.Reason, corev1.PodReasonUnschedulable),
		Message: "cannot be scheduled: " + cmp.Or(c.Message, c.Reason, "Kubernetes reports no reason"),
		Known:   c.LastTransitionTime.Time,
	}}
	switch {
	case c.Reason == corev1.PodReasonSchedulingGated:
		t.Fix = "remove the schedulingGates of the pod, or wait until their controller removes them"
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

// failed examines a pod that has failed and is not restarted.
func (j judge) failed(pod *corev1.Pod) finding {
	t := finding{grace: untilDeadline}
	switch r := pod.Status.Reason; {
	case r == "Evicted", r == "Preempting":
		t.Problem = Problem{
			Kind: Evicted, Reason: r,
			Message: "was evicted: " + cmp.Or(pod.Status.Message, "Kubernetes reports no reason"),
			Fix:     "set the requests and limits of the container to the resources that it uses",
		}
		if strings.Contains(pod.Status.Message, "ephemeral") {
			t.Fix = "raise resources.limits.ephemeral-storage, or write less to the file system of the container"
		}
		return t
	case strings.HasPrefix(r, "OutOf"), r == "NodeAffinity", r == "UnexpectedAdmissionError":
		t.Problem = Problem{Kind: Unschedulable, Reason: r, Message: "was rejected by its node: " + cmp.Or(pod.Status.Message, r)}
		return t
	}
	t.Problem = Problem{
		Kind: JobFailed, Reason: cmp.Or(pod.Status.Reason, "Failed"),
		Message: "failed: " + cmp.Or(pod.Status.Message, pod.Status.Reason, "Kubernetes reports no reason"),
	}
	for _, cs := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		end := cs.State.Terminated
		if end == nil || end.ExitCode == 0 {
			continue
		}
		t.Container, t.ExitCode, t.Restarts = cs.Name, end.ExitCode, cs.RestartCount
		t.Reason, t.Known = cmp.Or(end.Reason, t.Reason), end.FinishedAt.Time
		t.Message = fmt.Sprintf("failed with exit code %d%s", end.ExitCode, suffix(end.Message))
		t.Fix = logsCommand(pod, cs.Name, false)
		if end.Reason == "OOMKilled" {
			t.Kind = OOM
			t.Message, t.Fix = oomText(specOf(pod, cs.Name), cs.RestartCount)
		}
		break
	}
	return t
}

// specOf returns the container of that name in the spec of a pod.
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

// suffix returns ": " and the message on one line, or an empty text if the message is
// empty.
func suffix(message string) string {
	if message = oneLine(message); message != "" {
		return ": " + message
	}
	return ""
}

// logsCommand returns a fix that shows the logs of a container.
func logsCommand(pod *corev1.Pod, container string, previous bool) string {
	c := fmt.Sprintf("run kubectl -n %s logs %s -c %s", pod.Namespace, pod.Name, container)
	if previous {
		c += " --previous"
	}
	return c
}

// setup examines what happens before the first container starts: the volumes and the
// sandbox of the pod. Kubernetes reports problems with them only in events.
func (j judge) setup(pod *corev1.Pod, events []Event) (finding, bool) {
	var t finding
	var found bool
	for _, e := range events {
		switch e.Reason {
		case "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "FailedCreatePodContainer":
		case "Pulling", "Pulled", "Created", "Started":
			// The volumes and the sandbox are set up.
			found = false
			continue
		default:
			continue
		}
		if !j.duringRollout(e.Last) {
			continue
		}
		found = true
		t = finding{grace: untilDeadline, Problem: Problem{Reason: e.Reason, Message: "cannot start: " + e.Message, Known: e.First}}
		if t.Kind = Volume; strings.HasPrefix(e.Reason, "FailedCreatePod") {
			t.Kind = Sandbox
		}
		if what, fix := missingObject(e.Message, pod.Namespace); fix != "" {
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

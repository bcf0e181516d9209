package rollout

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// container examines one container of a pod.
type container struct {
	judge
	pod    *corev1.Pod
	spec   *corev1.Container
	init   bool
	events []Event
}

// findings passes the problems of the container to add.
func (c container) findings(cs *corev1.ContainerStatus, add func(finding)) {
	emit := func(t finding) {
		t.Container, t.Restarts = cs.Name, cs.RestartCount
		add(t)
	}
	if w := cs.State.Waiting; w != nil {
		if is, final := pullReason(w.Reason); is {
			emit(c.pull(w, final))
			return
		}
		switch w.Reason {
		case "InvalidImageName", "ErrInvalidImageName":
			emit(finding{Problem: Problem{
				Kind: InvalidImage, Reason: w.Reason,
				Message: fmt.Sprintf("has the invalid image name %q%s", c.spec.Image, suffix(shortPull(w.Message, c.spec.Image))),
				Fix:     "correct the image reference",
			}})
			return
		case "CreateContainerConfigError", "CreateContainerError":
			emit(c.config(w))
			return
		}
	}
	if t, ok := c.crash(cs); ok {
		emit(t)
	}
	if t, ok := c.probing(cs); ok {
		emit(t)
	}
}

// attempts returns the latest matching event since the rollout began, and how often these
// events occurred.
func (c container) attempts(match func(Event) bool) (last Event, count int32) {
	for _, e := range c.events {
		if (e.Container == "" || e.Container == c.spec.Name) && match(e) && c.duringRollout(e.Last) {
			last = e
			count += e.Count
		}
	}
	return last, count
}

// config examines a container that cannot be created, for example because a Secret is
// missing.
func (c container) config(w *corev1.ContainerStateWaiting) finding {
	last, tries := c.attempts(func(e Event) bool { return e.Reason == "Failed" && !strings.HasPrefix(e.Message, "Failed to pull") })
	t := finding{grace: c.patience.Config, Problem: Problem{
		Kind: Config, Reason: w.Reason, Known: last.First,
		Message: "cannot start: " + cmp.Or(oneLine(w.Message), w.Reason),
	}}
	if what, fix := missingObject(w.Message, c.pod.Namespace); fix != "" {
		t.Message, t.Fix = "cannot start: "+what, fix
	} else if strings.Contains(w.Message, "runAsNonRoot") {
		t.Fix = "set runAsUser to a number other than 0, or build the image with a numeric user"
	}
	if !c.duringRollout(c.pod.CreationTimestamp.Time) && tries == 0 {
		t.grace = untilDeadline
		t.Message += " (before this rollout; Kubernetes will retry)"
	}
	return t
}

// missingObject extracts from a message of the kubelet which Secret, ConfigMap or key is
// missing. what is the relevant part of the message, and fix is how to create the object.
// Both are empty if the message has another cause.
func missingObject(message, namespace string) (what, fix string) {
	m := oneLine(message)
	if s := regexp.MustCompile(`couldn't find key (\S+) in (Secret|ConfigMap) (?:[^/\s]+/)?([^\s,]+)`).FindStringSubmatch(m); s != nil {
		return s[0], fmt.Sprintf("add key %s to %s %s in namespace %s", s[1], s[2], s[3], namespace)
	}
	if s := regexp.MustCompile(`references non-existent (secret|config) key: (\S+)`).FindStringSubmatch(m); s != nil {
		kind := map[string]string{"secret": "Secret", "config": "ConfigMap"}[s[1]]
		return s[0], fmt.Sprintf("add key %s to the %s that the volume uses, in namespace %s", s[2], kind, namespace)
	}
	if s := regexp.MustCompile(`(secret|configmap)s? "([^"]+)" not found`).FindStringSubmatch(m); s != nil {
		kind := map[string]string{"secret": "Secret", "configmap": "ConfigMap"}[s[1]]
		return s[0], fmt.Sprintf("create %s %s in namespace %s", kind, s[2], namespace)
	}
	return "", ""
}

// crash examines a container that has ended and was restarted or will be restarted.
func (c container) crash(cs *corev1.ContainerStatus) (finding, bool) {
	w, end := cs.State.Waiting, cs.State.Terminated
	looping := w != nil && (w.Reason == "CrashLoopBackOff" || w.Reason == "RunContainerError")
	down := looping || end != nil
	last := end
	if last == nil {
		last = cs.LastTerminationState.Terminated
	}
	switch {
	case last == nil && !looping:
		return finding{}, false
	case last == nil:
		last = &corev1.ContainerStateTerminated{Reason: w.Reason, Message: w.Message}
	}
	if cs.State.Running != nil && (cs.Ready || c.init || (cs.RestartCount == 0)) {
		return finding{}, false
	}
	restarts := c.isRestarted()
	if end != nil && (!restarts || end.ExitCode == 0 && !c.mustNotExit()) {
		// It was meant to end, or the phase of the pod shows that it failed.
		return finding{}, false
	}
	if w != nil && !looping {
		return finding{}, false // it is being created again
	}

	t := finding{grace: untilDeadline, Problem: Problem{
		Kind: CrashLoop, ExitCode: last.ExitCode, Known: last.FinishedAt.Time,
		Reason: last.Reason,
		Fix:    logsCommand(c.pod, cs.Name, true),
	}}
	if looping {
		t.Reason = w.Reason
	}
	enough := down && cs.RestartCount >= c.patience.Restarts
	switch kill, ok := c.probeKill(last); {
	case last.Reason == "OOMKilled":
		t.Kind, t.Reason = OOM, last.Reason
		t.Message, t.Fix = oomText(c.spec, cs.RestartCount)
	case ok:
		t.Kind = Probe
		probe, message := c.probeMessage(kill)
		t.Message = fmt.Sprintf("was killed because its %s probe failed%s%s", probe, restarted(cs.RestartCount), suffix(message))
		t.Fix = "make the app answer the " + probe + " probe in time, or correct the probe"
		enough = enough || cs.RestartCount >= 1
	case last.Reason == "StartError", last.Reason == "ContainerCannotRun", last.Reason == "RunContainerError":
		t.Message = "could not be started" + restarted(cs.RestartCount) + suffix(last.Message)
		t.Fix = "correct the command of the container, or the content of the image"
	default:
		t.Message = fmt.Sprintf("ended with exit code %d%s", last.ExitCode, restarted(cs.RestartCount))
		if last.ExitCode == 0 {
			t.Message += "; a container of a workload must not end"
		}
		t.Message += suffix(last.Message)
	}
	if !c.duringRollout(last.FinishedAt.Time) && !last.FinishedAt.IsZero() {
		t.Message += " (before this rollout; Kubernetes will restart it)"
		enough = false
	}
	if enough {
		t.grace = 0
	}
	return t, true
}

// isRestarted reports whether the kubelet restarts the container if it fails.
func (c container) isRestarted() bool {
	if c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return true
	}
	return c.pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// mustNotExit reports whether it is a failure if the container ends with exit code 0.
func (c container) mustNotExit() bool {
	if c.spec.RestartPolicy != nil {
		return *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	return !c.init && cmp.Or(c.pod.Spec.RestartPolicy, corev1.RestartPolicyAlways) == corev1.RestartPolicyAlways
}

// restarted returns a text for the number of restarts, with a leading space.
func restarted(n int32) string {
	switch n {
	case 0:
		return ""
	case 1:
		return " (restarted once)"
	default:
		return fmt.Sprintf(" (restarted %d times)", n)
	}
}

// oomText returns the message and the fix for a container that used too much memory.
func oomText(spec *corev1.Container, restarts int32) (message, fix string) {
	limit, ok := spec.Resources.Limits[corev1.ResourceMemory]
	if !ok {
		return "was killed because the node ran out of memory" + restarted(restarts),
			"set resources.requests.memory of container " + spec.Name + " to the amount that it uses"
	}
	return fmt.Sprintf("was killed for using more than its memory limit of %s%s", limit.String(), restarted(restarts)),
		fmt.Sprintf("raise resources.limits.memory of container %s above %s, or reduce the memory that it uses", spec.Name, limit.String())
}

// probeKill returns the event about a failed probe because of which the kubelet killed
// this instance of the container. The exit code does not show that, because it is the
// same for every kill.
func (c container) probeKill(end *corev1.ContainerStateTerminated) (Event, bool) {
	for _, e := range slices.Backward(c.events) {
		if e.Reason == "Killing" && e.Container == c.spec.Name && !e.Last.Before(end.StartedAt.Time) &&
			(strings.Contains(e.Message, "failed liveness probe") || strings.Contains(e.Message, "failed startup probe")) {
			return e, true
		}
	}
	return Event{}, false
}

// probeMessage returns which probe failed, and the message of its last failure.
func (c container) probeMessage(kill Event) (probe, message string) {
	probe = "liveness"
	if strings.Contains(kill.Message, "startup") {
		probe = "startup"
	}
	for _, e := range slices.Backward(c.events) {
		if e.Reason == "Unhealthy" && e.Container == c.spec.Name && strings.HasPrefix(strings.ToLower(e.Message), probe+" probe") {
			return probe, e.Message
		}
	}
	return probe, ""
}

// probing examines a running container whose startup or readiness probe fails.
func (c container) probing(cs *corev1.ContainerStatus) (finding, bool) {
	run := cs.State.Running
	if run == nil || cs.Ready && (cs.Started == nil || *cs.Started) {
		return finding{}, false
	}
	name, threshold, grace := "startup", int32(0), untilDeadline
	if cs.Started == nil || *cs.Started {
		if c.spec.ReadinessProbe == nil {
			return finding{}, false
		}
		name, threshold = "readiness", cmp.Or(c.spec.ReadinessProbe.FailureThreshold, 3)
	}
	var last Event
	var failures int32
	for _, e := range c.events {
		if e.Reason == "Unhealthy" && e.Container == c.spec.Name && !e.Last.Before(run.StartedAt.Time) &&
			strings.HasPrefix(strings.ToLower(e.Message), name+" probe") {
			last = e
			failures += e.Count
		}
	}
	if failures == 0 {
		return finding{}, false
	}
	// Only with a startup probe can an app that is still starting be distinguished from
	// one that has started and does not work.
	if name == "readiness" && c.spec.StartupProbe != nil && failures >= threshold {
		grace = c.patience.Readiness
	}
	return finding{grace: grace, Problem: Problem{
		Kind: Probe, Reason: "Unhealthy", Known: last.First,
		Message: "is not ready: " + last.Message,
		Fix:     "make the app answer the " + name + " probe, or correct the probe",
	}}, true
}

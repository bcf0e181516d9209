package rollout

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// container judges one container of a pod.
type container struct {
	judge
	pod    *corev1.Pod
	spec   *corev1.Container
	init   bool
	events []Event
}

func (c container) troubles(cs *corev1.ContainerStatus, add func(trouble)) {
	emit := func(t trouble) {
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
			emit(trouble{Problem: Problem{
				Kind: InvalidImage, Reason: w.Reason,
				Message: fmt.Sprintf("has the invalid image name %q%s", c.spec.Image, tail(shortPull(w.Message, c.spec.Image))),
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

// attempts returns the latest of the events that tell of a try since the
// rollout began, and how many tries they count.
func (c container) attempts(match func(Event) bool) (last Event, count int32) {
	for _, e := range c.events {
		if (e.Container == "" || e.Container == c.spec.Name) && match(e) && c.fresh(e.Last) {
			last = e
			count += e.Count
		}
	}
	return last, count
}

func (c container) config(w *corev1.ContainerStateWaiting) trouble {
	last, tries := c.attempts(func(e Event) bool { return e.Reason == "Failed" && !strings.HasPrefix(e.Message, "Failed to pull") })
	t := trouble{grace: c.patience.Config, Problem: Problem{
		Kind: Config, Reason: w.Reason, Known: last.First,
		Message: "cannot start: " + cmp.Or(oneLine(w.Message), w.Reason),
	}}
	if what, fix := missing(w.Message, c.pod.Namespace); fix != "" {
		t.Message, t.Fix = "cannot start: "+what, fix
	} else if strings.Contains(w.Message, "runAsNonRoot") {
		t.Fix = "set runAsUser to a number other than 0, or build the image with a numeric user"
	}
	if !c.fresh(c.pod.CreationTimestamp.Time) && tries == 0 {
		t.grace = untilDeadline
		t.Message += " (from before this rollout; Kubernetes will try again)"
	}
	return t
}

// missing reads which Secret, ConfigMap or key kubelet did not find, and says
// what to create; without one it returns an empty fix.
func missing(message, namespace string) (what, fix string) {
	m := oneLine(message)
	if s := regexp.MustCompile(`couldn't find key (\S+) in (Secret|ConfigMap) (?:[^/\s]+/)?([^\s,]+)`).FindStringSubmatch(m); s != nil {
		return s[0], fmt.Sprintf("add key %s to %s %s in namespace %s", s[1], s[2], s[3], namespace)
	}
	if s := regexp.MustCompile(`references non-existent (secret|config) key: (\S+)`).FindStringSubmatch(m); s != nil {
		kind := map[string]string{"secret": "Secret", "config": "ConfigMap"}[s[1]]
		return s[0], fmt.Sprintf("add key %s to the %s that the volume takes, in namespace %s", s[2], kind, namespace)
	}
	if s := regexp.MustCompile(`(secret|configmap)s? "([^"]+)" not found`).FindStringSubmatch(m); s != nil {
		kind := map[string]string{"secret": "Secret", "configmap": "ConfigMap"}[s[1]]
		return s[0], fmt.Sprintf("create %s %s in namespace %s", kind, s[2], namespace)
	}
	return "", ""
}

// crash judges a container that ended and was, or will be, started again.
func (c container) crash(cs *corev1.ContainerStatus) (trouble, bool) {
	w, end := cs.State.Waiting, cs.State.Terminated
	looping := w != nil && (w.Reason == "CrashLoopBackOff" || w.Reason == "RunContainerError")
	down := looping || end != nil
	last := end
	if last == nil {
		last = cs.LastTerminationState.Terminated
	}
	switch {
	case last == nil && !looping:
		return trouble{}, false
	case last == nil:
		last = &corev1.ContainerStateTerminated{Reason: w.Reason, Message: w.Message}
	}
	if cs.State.Running != nil && (cs.Ready || c.init || (cs.RestartCount == 0)) {
		return trouble{}, false
	}
	restarts := c.restarts()
	if end != nil && (!restarts || end.ExitCode == 0 && !c.mustRun()) {
		// It ended as it should, or the pod's phase will tell.
		return trouble{}, false
	}
	if w != nil && !looping {
		return trouble{}, false // being created again
	}

	t := trouble{grace: untilDeadline, Problem: Problem{
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
		probe, said := c.probeWords(kill)
		t.Message = fmt.Sprintf("was stopped by its %s probe%s%s", probe, restarted(cs.RestartCount), tail(said))
		t.Fix = "make the app answer the " + probe + " probe in time, or correct the probe"
		enough = enough || cs.RestartCount >= 1
	case last.Reason == "StartError", last.Reason == "ContainerCannotRun", last.Reason == "RunContainerError":
		t.Message = "could not be started" + restarted(cs.RestartCount) + tail(last.Message)
		t.Fix = "correct the container's command, or what the image holds"
	default:
		t.Message = fmt.Sprintf("ended with exit code %d%s", last.ExitCode, restarted(cs.RestartCount))
		if last.ExitCode == 0 {
			t.Message += "; a container of a workload must not end"
		}
		t.Message += tail(last.Message)
	}
	if !c.fresh(last.FinishedAt.Time) && !last.FinishedAt.IsZero() {
		t.Message += " (before this rollout; Kubernetes will start it again)"
		enough = false
	}
	if enough {
		t.grace = 0
	}
	return t, true
}

// restarts says whether kubelet starts the container again when it fails.
func (c container) restarts() bool {
	if c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return true
	}
	return c.pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// mustRun says whether ending with exit code 0 is wrong too.
func (c container) mustRun() bool {
	if c.spec.RestartPolicy != nil {
		return *c.spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	return !c.init && cmp.Or(c.pod.Spec.RestartPolicy, corev1.RestartPolicyAlways) == corev1.RestartPolicyAlways
}

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

func oomText(spec *corev1.Container, restarts int32) (message, fix string) {
	limit, ok := spec.Resources.Limits[corev1.ResourceMemory]
	if !ok {
		return "was killed because the node ran out of memory" + restarted(restarts),
			"set resources.requests.memory of container " + spec.Name + " to what it uses"
	}
	return fmt.Sprintf("was killed for using more than its memory limit of %s%s", limit.String(), restarted(restarts)),
		fmt.Sprintf("raise resources.limits.memory of container %s above %s, or have it use less", spec.Name, limit.String())
}

// probeKill returns the event that says that a probe made kubelet stop the
// instance that ended so. An exit code cannot tell: a kill looks like any other.
func (c container) probeKill(end *corev1.ContainerStateTerminated) (Event, bool) {
	for _, e := range slices.Backward(c.events) {
		if e.Reason == "Killing" && e.Container == c.spec.Name && !e.Last.Before(end.StartedAt.Time) &&
			(strings.Contains(e.Message, "failed liveness probe") || strings.Contains(e.Message, "failed startup probe")) {
			return e, true
		}
	}
	return Event{}, false
}

// probeWords returns which probe it was and what the probe itself said.
func (c container) probeWords(kill Event) (probe, said string) {
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

// probing judges a running container that its probes do not like (yet).
func (c container) probing(cs *corev1.ContainerStatus) (trouble, bool) {
	run := cs.State.Running
	if run == nil || cs.Ready && (cs.Started == nil || *cs.Started) {
		return trouble{}, false
	}
	name, threshold, grace := "startup", int32(0), untilDeadline
	if cs.Started == nil || *cs.Started {
		if c.spec.ReadinessProbe == nil {
			return trouble{}, false
		}
		name, threshold = "readiness", cmp.Or(c.spec.ReadinessProbe.FailureThreshold, 3)
	}
	var said Event
	var failures int32
	for _, e := range c.events {
		if e.Reason == "Unhealthy" && e.Container == c.spec.Name && !e.Last.Before(run.StartedAt.Time) &&
			strings.HasPrefix(strings.ToLower(e.Message), name+" probe") {
			said = e
			failures += e.Count
		}
	}
	if failures == 0 {
		return trouble{}, false
	}
	// Only a startup probe tells an app that is still starting from one that
	// has started and does not work.
	if name == "readiness" && c.spec.StartupProbe != nil && failures >= threshold {
		grace = c.patience.Readiness
	}
	return trouble{grace: grace, Problem: Problem{
		Kind: Probe, Reason: "Unhealthy", Known: said.First,
		Message: "is not ready: " + said.Message,
		Fix:     "make the app answer the " + name + " probe, or correct the probe",
	}}, true
}

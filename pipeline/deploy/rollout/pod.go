package rollout

import (
	"cmp"
	"fmt"
	"regexp"
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

// container judges one container of a pod.
type container struct {
	judge
	pod    *corev1.Pod
	spec   *corev1.Container
	init   bool
	events []Event
}

// pullReasons are kubelet's words for an image it could not get. A hiccup may
// lie behind all of them but the last two.
func pullReason(r string) (is, final bool) {
	switch r {
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable":
		return true, false
	case "ErrImageNeverPull", "ImageInspectError", "SignatureValidationFailed":
		return true, true
	}
	return false, false
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

func (c container) pull(w *corev1.ContainerStateWaiting, final bool) trouble {
	last, tries := c.attempts(func(e Event) bool {
		return e.Reason == "Failed" && strings.HasPrefix(e.Message, "Failed to pull image")
	})
	cause := shortPull(w.Message, c.spec.Image)
	if strings.HasPrefix(w.Message, "Back-off pulling image") {
		// Newer kubelets append the cause of the last try, older ones leave it
		// to the event.
		_, after, _ := strings.Cut(w.Message, ": ErrImagePull: ")
		cause = shortPull(after, c.spec.Image)
		if cause == "" {
			cause = shortPull(last.Message, c.spec.Image)
		}
	}
	t := trouble{grace: untilDeadline, Problem: Problem{
		Kind:    ImagePull,
		Reason:  w.Reason,
		Message: "cannot pull " + c.spec.Image + tail(cmp.Or(cause, w.Message)),
		Known:   last.First,
	}}
	var sure bool
	t.Fix, sure = c.pullFix(cause)
	// A pod from before this rollout may be waiting out a long back-off with
	// the image long there: only a new try counts.
	if !c.fresh(c.pod.CreationTimestamp.Time) && tries == 0 {
		t.Message += " (from before this rollout; Kubernetes will try again)"
		return t
	}
	if final || sure || tries >= 2 || w.Reason == "ImagePullBackOff" {
		t.grace = c.patience.Image
	}
	return t
}

// pullFix says what to do about a failed pull, and whether the registry's
// answer was so definite that trying again cannot help.
func (c container) pullFix(cause string) (fix string, definite bool) {
	low := strings.ToLower(cause)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(low, w) })
	}
	host := registryHost(c.spec.Image)
	switch {
	case c.spec.ImagePullPolicy == corev1.PullNever:
		return "load the image onto the node, or set imagePullPolicy to IfNotPresent", true
	case has("unauthorized", "authorization failed", "authentication required", "denied", "forbidden"):
		return fmt.Sprintf("give namespace %s an imagePullSecret for %s that may pull the image", c.pod.Namespace, host), true
	case has("not found", "manifest unknown", "name unknown"):
		return "push the image, or correct its name, tag or digest", true
	case has("no match for platform"):
		return "build the image for the node's platform", true
	case has("server gave http response to https client"):
		return "tell the node's container runtime to reach " + host + " without TLS", true
	case has("x509", "certificate"):
		return "have the node's container runtime trust the certificate of " + host, true
	case has("connection refused", "no such host", "i/o timeout", "no route to host", "deadline exceeded"):
		return "make " + host + " reachable from the node", false
	case has("too many requests", "toomanyrequests", "429"):
		return "pull through a mirror, or log in to " + host, false
	}
	return "", false
}

// registryHost is the part of an image reference before its first slash, or
// Docker Hub's name.
func registryHost(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return "docker.io"
}

// shortPull takes the layers of wrapping off what a container runtime says
// about a failed pull.
func shortPull(message, image string) string {
	m := oneLine(message)
	for {
		before := m
		for _, wrap := range []string{
			`^Failed to pull image "[^"]*": `,
			`^Failed to apply default image tag "[^"]*": `,
			`^rpc error: code = \w+ desc = `,
			`^failed to pull and unpack image "[^"]*": `,
			`^failed to resolve (reference )?"[^"]*": `,
			`^failed to resolve image: `,
			`^Error response from daemon: `,
			`^(pull access|unexpected status from) HEAD request to \S+: `,
		} {
			m = regexp.MustCompile(wrap).ReplaceAllString(m, "")
		}
		if image != "" {
			m = strings.TrimPrefix(m, image+": ")
		}
		if m == before {
			return m
		}
	}
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

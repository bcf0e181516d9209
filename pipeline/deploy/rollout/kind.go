package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is a kind of failure, for machines. The code of the error is "deploy." followed by
// the kind. To add a kind, add a constant here and a row in [Kinds].
type Kind string

// The kinds of failure.
const (
	Deleted       Kind = "deleted"
	InvalidImage  Kind = "invalid-image"
	Config        Kind = "config"
	ImagePull     Kind = "image-pull"
	OOM           Kind = "oom"
	Probe         Kind = "probe"
	CrashLoop     Kind = "crash-loop"
	Quota         Kind = "quota"
	Admission     Kind = "admission"
	Evicted       Kind = "evicted"
	JobFailed     Kind = "job-failed"
	Volume        Kind = "volume"
	Sandbox       Kind = "sandbox"
	Unschedulable Kind = "unschedulable"
	Stalled       Kind = "stalled"
	Deadline      Kind = "deadline"
)

// KindInfo describes a kind of failure.
type KindInfo struct {
	Kind
	// Logs is true if the container may have run, so that its logs can explain the
	// failure.
	Logs bool
	// Means describes the problem, for docs/deploy.md.
	Means string
	// When describes when the problem ends the rollout, for docs/deploy.md.
	When string
}

// Kinds returns all kinds of failure, with the most specific cause first: if there are
// several problems at the same time, the one whose kind comes first is reported as the
// cause. A table in docs/deploy.md is generated from it.
func Kinds() []KindInfo {
	patience := DefaultPatience()
	restarts := fmt.Sprintf("after `restarts` restarts, %d by default", patience.Restarts)
	readiness := fmt.Sprintf("`readiness`, %s by default", patience.Readiness)
	short := "after " + patience.Image.String()
	const timeout = "at the timeout; until then it is a warning, because the problem can resolve itself"
	return []KindInfo{
		{Kind: Deleted, Logs: true, Means: "the object was deleted during the rollout", When: "at once"},
		{Kind: InvalidImage, Means: "the image reference cannot be parsed", When: "at once"},
		{Kind: Config, Means: "a Secret, ConfigMap or key is missing, or the container cannot be created", When: short},
		{Kind: ImagePull, Means: "the node cannot pull the image", When: short + ", unless the cause may be temporary"},
		{Kind: OOM, Logs: true, Means: "a container used more memory than its limit or the node allows", When: restarts},
		{Kind: Probe, Logs: true, Means: "the container is restarted because its startup or liveness probe fails, or its readiness probe fails after the startup probe has passed", When: "at the first restart, or for a readiness probe after " + readiness},
		{Kind: CrashLoop, Logs: true, Means: "a container ends repeatedly", When: restarts},
		{Kind: Quota, Logs: true, Means: "a ResourceQuota forbids the pods", When: short},
		{Kind: Admission, Logs: true, Means: "Pod Security, an admission webhook or another rule forbids the pods", When: short},
		{Kind: Evicted, Logs: true, Means: "the node evicted the pods", When: restarts},
		{Kind: JobFailed, Logs: true, Means: "a Job, a hook or a test failed", When: "at once"},
		{Kind: Volume, Means: "a volume cannot be attached or mounted", When: timeout},
		{Kind: Sandbox, Means: "the node cannot set up the pod, for example its network", When: timeout},
		{Kind: Unschedulable, Means: "the pod cannot be scheduled to a node, or the node rejects it", When: timeout},
		{Kind: Stalled, Logs: true, Means: "Kubernetes has stopped the rollout, or does not start it", When: "at once"},
		{Kind: Deadline, Logs: true, Means: "the rollout is not ready in time, and no more specific cause is known", When: "at the timeout"},
	}
}

// info returns the row of a kind and its position. A kind without a row comes last.
func (k Kind) info() (info KindInfo, rank int) {
	all := Kinds()
	rank = slices.IndexFunc(all, func(i KindInfo) bool { return i.Kind == k })
	if rank < 0 {
		return KindInfo{Kind: k, Logs: true}, len(all)
	}
	return all[rank], rank
}

// rank returns the position of a kind in [Kinds].
func (k Kind) rank() int {
	_, rank := k.info()
	return rank
}

// KindsTable returns the table of [Kinds] in docs/deploy.md, as Markdown.
func KindsTable() string {
	var b strings.Builder
	b.WriteString("| code | what is wrong | ends the rollout |\n|---|---|---|\n")
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "| `deploy.%s` | %s | %s |\n", k.Kind, k.Means, k.When)
	}
	return b.String()
}

package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is what went wrong, for machines. The code of the error is "deploy."
// followed by the kind. A new kind is a constant here and a row in [Kinds].
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
	// Logs says that the container has run, so that its logs can explain the
	// failure.
	Logs bool
	// Means says what is wrong, and When says when that ends the rollout. Both are
	// for docs/deploy.md.
	Means, When string
}

// Kinds returns the table of all kinds of failure. The order is that of how much
// a kind explains: if several problems stand at the same time, the first of them
// in this table is the verdict. docs/deploy.md is generated from it.
func Kinds() []KindInfo {
	patience := DefaultPatience()
	restarts := fmt.Sprintf("after `restarts` restarts, %d by default", patience.Restarts)
	readiness := fmt.Sprintf("`readiness`, %s by default", patience.Readiness)
	short := "after " + patience.Image.String()
	const warns = "a warning at first; at the timeout, because it can pass by itself"
	return []KindInfo{
		{Kind: Deleted, Logs: true, Means: "the object was deleted during the rollout", When: "at once"},
		{Kind: InvalidImage, Means: "the image reference cannot be parsed", When: "at once"},
		{Kind: Config, Means: "a Secret, ConfigMap or key is missing, or the container cannot be created", When: short},
		{Kind: ImagePull, Means: "the node cannot pull the image", When: short + ", unless it may have been a passing fault"},
		{Kind: OOM, Logs: true, Means: "a container used more memory than its limit or the node allows", When: restarts},
		{Kind: Probe, Logs: true, Means: "a startup or liveness probe restarts the container, or a readiness probe fails after the start", When: "at the first restart; " + readiness + " for a readiness probe"},
		{Kind: CrashLoop, Logs: true, Means: "a container ends again and again", When: restarts},
		{Kind: Quota, Logs: true, Means: "a ResourceQuota forbids the pods", When: short},
		{Kind: Admission, Logs: true, Means: "Pod Security, an admission webhook or another rule forbids the pods", When: short},
		{Kind: Evicted, Logs: true, Means: "the node evicted the pods", When: restarts},
		{Kind: JobFailed, Logs: true, Means: "a Job, a hook or a test failed", When: "at once"},
		{Kind: Volume, Means: "a volume cannot be attached or mounted", When: warns},
		{Kind: Sandbox, Means: "the node cannot set up the pod, for example its network", When: warns},
		{Kind: Unschedulable, Means: "no node takes the pod", When: warns},
		{Kind: Stalled, Logs: true, Means: "Kubernetes gave up, or will not begin", When: "at once"},
		{Kind: Deadline, Logs: true, Means: "not ready in time, for no better known reason", When: "at the timeout"},
	}
}

// info is the row of a kind. A kind without a row explains least.
func (k Kind) info() (info KindInfo, rank int) {
	all := Kinds()
	rank = slices.IndexFunc(all, func(i KindInfo) bool { return i.Kind == k })
	if rank < 0 {
		return KindInfo{Kind: k, Logs: true}, len(all)
	}
	return all[rank], rank
}

// rank orders kinds by how much they explain.
func (k Kind) rank() int {
	_, rank := k.info()
	return rank
}

// KindsTable returns [Kinds] as a table in Markdown.
func KindsTable() string {
	var b strings.Builder
	b.WriteString("| code | what is wrong | ends the rollout |\n|---|---|---|\n")
	for _, k := range Kinds() {
		fmt.Fprintf(&b, "| `deploy.%s` | %s | %s |\n", k.Kind, k.Means, k.When)
	}
	return b.String()
}

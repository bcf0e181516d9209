package rollout

import (
	"fmt"
	"strings"
	"time"
)

// Kind is what went wrong, for machines.
type Kind string

// The kinds of trouble.
const (
	ImagePull     Kind = "image-pull"    // the registry does not give the image
	InvalidImage  Kind = "invalid-image" // the image reference cannot be parsed
	Config        Kind = "config"        // a missing Secret, ConfigMap or key, or a container that cannot be created
	CrashLoop     Kind = "crash-loop"    // a container ends again and again
	Probe         Kind = "probe"         // a startup, liveness or readiness probe fails
	OOM           Kind = "oom"           // a container uses more memory than it may
	Unschedulable Kind = "unschedulable" // no node takes the pod
	Volume        Kind = "volume"        // a volume cannot be attached or mounted
	Sandbox       Kind = "sandbox"       // the node cannot set up the pod, for example its network
	Quota         Kind = "quota"         // a ResourceQuota forbids the pods
	Admission     Kind = "admission"     // Pod Security, a webhook or another rule forbids the pods
	Evicted       Kind = "evicted"       // a node threw the pod out
	JobFailed     Kind = "job-failed"    // a Job or a pod that should succeed has failed
	Deadline      Kind = "deadline"      // not ready in time, for no better known reason
	Deleted       Kind = "deleted"       // the object was deleted meanwhile
	Stalled       Kind = "stalled"       // Kubernetes itself says that it gave up, or will not begin
)

// rank orders kinds by how much they explain: where several stand, the first
// is the verdict.
func (k Kind) rank() int {
	for i, other := range []Kind{
		Deleted, InvalidImage, Config, ImagePull, OOM, Probe, CrashLoop, Quota,
		Admission, Evicted, JobFailed, Volume, Sandbox, Unschedulable, Stalled,
	} {
		if k == other {
			return i
		}
	}
	return 100
}

// Problem is trouble that stands at the moment. Many pass by themselves.
type Problem struct {
	Kind      Kind      `json:"kind"`
	Object    string    `json:"object"` // kind/namespace/name of what was applied, the kind in lower case
	Pod       string    `json:"pod,omitempty"`
	Node      string    `json:"node,omitempty"`
	Container string    `json:"container,omitempty"`
	Reason    string    `json:"reason,omitempty"` // Kubernetes' own word, for example ImagePullBackOff
	Message   string    `json:"message"`          // what follows the container's or pod's name in a sentence
	Fix       string    `json:"fix,omitempty"`    // what to do about it, where known
	ExitCode  int32     `json:"exit_code,omitempty"`
	Restarts  int32     `json:"restarts,omitempty"`
	Known     time.Time `json:"known,omitzero"` // when Kubernetes first showed it; Seen where it does not say
	Seen      time.Time `json:"seen,omitzero"`  // when we first saw it
}

// Failure says why a rollout will not become ready. [Track] returns it wrapped
// in a fault of kind gate with the code "deploy." and the Kind.
//
//nolint:errname // what it is comes before that it is an error
type Failure struct {
	Problem
	// Logs are the last lines of the failing container, of its previous
	// instance where it was restarted.
	Logs []string `json:"logs,omitempty"`
	// Events are the last events about the object, its ReplicaSet and the pod,
	// newest last.
	Events []Event `json:"events,omitempty"`
}

// Error tells object, container, pod, cause and fix in one line.
func (f *Failure) Error() string {
	line := spaced(f.Object) + ": " + f.sentence()
	if f.Fix != "" {
		line += " (" + f.Fix + ")"
	}
	return line
}

// sentence is the message with its subject.
func (p Problem) sentence() string {
	var subject string
	switch {
	case p.Container != "":
		subject = fmt.Sprintf("container %s of pod %s ", p.Container, p.Pod)
	case p.Pod != "" && !strings.HasPrefix(p.Object, "pod/"):
		subject = fmt.Sprintf("pod %s ", p.Pod)
	}
	return oneLine(subject + p.Message)
}

// spaced turns deployment/shop/order-service into deployment order-service, as
// a person would say it.
func spaced(object string) string {
	kind, rest, _ := strings.Cut(object, "/")
	if i := strings.LastIndex(rest, "/"); i >= 0 {
		rest = rest[i+1:]
	}
	return kind + " " + rest
}

// oneLine folds all white space, for Kubernetes passes on whatever runtimes and
// webhooks say.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

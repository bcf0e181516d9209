package rollout

import (
	"fmt"
	"strings"
	"time"
)

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

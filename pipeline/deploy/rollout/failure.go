package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
)

// Problem is a current problem of a rollout. Many problems resolve themselves.
type Problem struct {
	Kind      Kind      `json:"kind"`
	Object    string    `json:"object"` // kind/namespace/name of the applied object, with the kind in lower case
	Pod       string    `json:"pod,omitempty"`
	Node      string    `json:"node,omitempty"`
	Container string    `json:"container,omitempty"`
	Reason    string    `json:"reason,omitempty"` // the reason that Kubernetes reports, for example ImagePullBackOff
	Message   string    `json:"message"`          // a sentence without its subject, which is the container, the pod or the object
	Fix       string    `json:"fix,omitempty"`    // how to fix the problem, if that is known
	ExitCode  int32     `json:"exit_code,omitempty"`
	Restarts  int32     `json:"restarts,omitempty"`
	Known     time.Time `json:"known,omitzero"` // when Kubernetes first reported it; Seen if Kubernetes records no time
	Seen      time.Time `json:"seen,omitzero"`  // when Track first saw it
}

// Failure is the reason why a rollout will not become ready. [Track] returns it wrapped in
// an error of package fault that has the kind Gate and the code "deploy." followed by the
// kind of the failure.
//
//nolint:errname // a failure is a result first and an error second
type Failure struct {
	Problem
	// Logs are the last lines that the failing container wrote. If the container was
	// restarted, they are those of its previous instance.
	Logs []string `json:"logs,omitempty"`
	// Events are the last events about the object, its ReplicaSet and the pod, newest
	// last.
	Events []Event `json:"events,omitempty"`
}

// Error returns the object, the container, the pod, the cause and the fix on one line.
func (f *Failure) Error() string {
	line := displayName(f.Object) + ": " + f.sentence()
	if f.Fix != "" {
		line += " (" + f.Fix + ")"
	}
	return line
}

// sentence returns the message with its subject.
func (p Problem) sentence() string {
	var subject string
	switch {
	case p.Container != "":
		subject = fmt.Sprintf("container %s of pod %s ", p.Container, p.Pod)
	case p.Pod != "" && !strings.HasPrefix(p.Object, "pod/"):
		subject = fmt.Sprintf("pod %s ", p.Pod)
	}
	return subject + brief.Text(p.Message)
}

// displayName returns the kind and the name of an object for people, for example
// "deployment order-service" for deployment/shop/order-service.
func displayName(object string) string {
	kind, rest, _ := strings.Cut(object, "/")
	if i := strings.LastIndex(rest, "/"); i >= 0 {
		rest = rest[i+1:]
	}
	return kind + " " + rest
}

// oneLine replaces all white space by single spaces, because messages of runtimes and
// webhooks can have several lines.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

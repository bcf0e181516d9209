package rollout

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// terminating reports whether a pod is being deleted. Until it is deleted, it counts
// against the quota.
func (s state) terminating() bool {
	return slices.ContainsFunc(s.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// notCreated determines from a message of the API server why pods are not created.
func (j judge) notCreated(s state, reason, message string, known time.Time) finding {
	t := finding{grace: j.patience.Create, Problem: Problem{Kind: Admission, Reason: reason, Known: known, Message: "cannot create pods: " + message}}
	ns := namespaceOf(s.name)
	switch {
	case strings.Contains(message, "exceeded quota"):
		t.Kind = Quota
		t.Fix = "raise the ResourceQuota of namespace " + ns + ", or lower the requests of the pods"
		if s.terminating() {
			t.grace = untilDeadline
		}
	case strings.Contains(message, "failed quota"):
		t.Kind = Quota
		t.Fix = "set the requests and limits that the ResourceQuota of namespace " + ns + " requires"
	case strings.Contains(message, "violates PodSecurity"):
		t.Fix = "set the securityContext that the Pod Security level of namespace " + ns + " requires"
	case strings.Contains(message, "error looking up service account"):
		t.Fix = "create the ServiceAccount in namespace " + ns
		if _, after, ok := strings.Cut(message, `serviceaccount "`); ok {
			name, _, _ := strings.Cut(after, `"`)
			t.Fix = "create ServiceAccount " + name + " in namespace " + ns
		}
	case strings.Contains(message, "failed calling webhook"):
		t.Fix = "correct the admission webhook, which does not answer"
	case strings.Contains(message, "admission webhook"):
		t.Fix = "satisfy the admission webhook, or change its policy"
	case !strings.Contains(message, "forbidden"):
		// The controller retries, for example if the API server is overloaded.
		t.Kind, t.grace = Stalled, untilDeadline
	}
	return t
}

// createEvents examines kinds whose controllers report that they cannot create a pod only
// with an event. The problem persists as long as no newer pod exists.
func (j judge) createEvents(s state, kind string, belongs func(*corev1.Pod) bool) []finding {
	_, name := kindName(s.name)
	events := s.eventsOf(kind, name)
	for _, e := range slices.Backward(events) {
		if e.Reason == "SuccessfulCreate" {
			return nil
		}
		if e.Reason != "FailedCreate" || !j.duringRollout(e.Last) {
			continue
		}
		for _, p := range s.pods {
			if belongs(p) && p.CreationTimestamp.After(e.Last) {
				return nil
			}
		}
		return []finding{j.notCreated(s, e.Reason, e.Message, e.First)}
	}
	return nil
}

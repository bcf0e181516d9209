package rollout

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// terminating says whether any pod is on its way out; until it is gone it
// counts against the quota.
func (s state) terminating() bool {
	return slices.ContainsFunc(s.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// notCreated tells from the API server's own words why pods are not created.
func (j judge) notCreated(s state, reason, message string, known time.Time) trouble {
	t := trouble{grace: j.patience.Create, Problem: Problem{Kind: Admission, Reason: reason, Known: known, Message: "cannot create pods: " + message}}
	ns := namespaceOf(s.name)
	switch {
	case strings.Contains(message, "exceeded quota"):
		t.Kind = Quota
		t.Fix = "raise the ResourceQuota of namespace " + ns + ", or lower what the pods request"
		if s.terminating() {
			t.grace = untilDeadline
		}
	case strings.Contains(message, "failed quota"):
		t.Kind = Quota
		t.Fix = "set the requests and limits that the ResourceQuota of namespace " + ns + " asks for"
	case strings.Contains(message, "violates PodSecurity"):
		t.Fix = "set the securityContext that the Pod Security level of namespace " + ns + " asks for"
	case strings.Contains(message, "error looking up service account"):
		t.Fix = "create the ServiceAccount in namespace " + ns
		if _, after, ok := strings.Cut(message, `serviceaccount "`); ok {
			name, _, _ := strings.Cut(after, `"`)
			t.Fix = "create ServiceAccount " + name + " in namespace " + ns
		}
	case strings.Contains(message, "failed calling webhook"):
		t.Fix = "make the admission webhook answer"
	case strings.Contains(message, "admission webhook"):
		t.Fix = "satisfy the admission webhook, or change its policy"
	case !strings.Contains(message, "forbidden"):
		// An API server that is busy or away, for example: the controller tries
		// again.
		t.Kind, t.grace = Stalled, untilDeadline
	}
	return t
}

// createEvents judges kinds whose controllers report failed creations by event
// alone: it stands while no newer pod exists.
func (j judge) createEvents(s state, kind string, mine func(*corev1.Pod) bool) []trouble {
	_, name := kindName(s.name)
	events := s.about(kind, name)
	for _, e := range slices.Backward(events) {
		if e.Reason == "SuccessfulCreate" {
			return nil
		}
		if e.Reason != "FailedCreate" || !j.fresh(e.Last) {
			continue
		}
		for _, p := range s.pods {
			if mine(p) && p.CreationTimestamp.After(e.Last) {
				return nil
			}
		}
		return []trouble{j.notCreated(s, e.Reason, e.Message, e.First)}
	}
	return nil
}

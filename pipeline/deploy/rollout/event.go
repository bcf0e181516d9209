package rollout

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Event is an event that Kubernetes reported about an object. Repetitions are merged into
// one Event.
type Event struct {
	Object    string    `json:"object"` // kind/name, for example pod/order-service-7c9-abcde
	Container string    `json:"container,omitempty"`
	Type      string    `json:"type"` // Normal or Warning
	Reason    string    `json:"reason"`
	Message   string    `json:"message"`
	Count     int32     `json:"count"` // how often it occurred
	First     time.Time `json:"first"` // when it occurred first
	Last      time.Time `json:"last"`  // when it occurred last
}

// eventOf converts an event. It supports both forms of events: the old one with timestamps
// and a count, and the new one with an event time and a series
// (https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
func eventOf(e *corev1.Event, mask func(string) string) Event {
	first, last, count := e.FirstTimestamp.Time, e.LastTimestamp.Time, e.Count
	if first.IsZero() {
		first = e.EventTime.Time
	}
	if e.Series != nil {
		last, count = e.Series.LastObservedTime.Time, e.Series.Count
	}
	if first.IsZero() {
		first = e.CreationTimestamp.Time
	}
	if last.Before(first) {
		last = first
	}
	return Event{
		Object:    strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name,
		Container: containerOf(e.InvolvedObject.FieldPath),
		Type:      e.Type,
		Reason:    e.Reason,
		Message:   mask(oneLine(e.Message)),
		Count:     max(count, 1),
		First:     first,
		Last:      last,
	}
}

// containerOf returns the name of the container in a field path, for example app in
// spec.containers{app}.
func containerOf(fieldPath string) string {
	_, rest, ok := strings.Cut(fieldPath, "{")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(rest, "}")
}

// fold merges events with the same text and returns the last n of them, newest last.
func fold(events []Event, n int) []Event {
	type key struct{ object, container, reason, message string }
	at := map[key]int{}
	var out []Event
	for _, e := range events {
		k := key{e.Object, e.Container, e.Reason, e.Message}
		i, ok := at[k]
		if !ok {
			at[k] = len(out)
			out = append(out, e)
			continue
		}
		o := &out[i]
		o.Count += e.Count
		if e.First.Before(o.First) {
			o.First = e.First
		}
		if e.Last.After(o.Last) {
			o.Last = e.Last
		}
	}
	sortEvents(out)
	return out[max(0, len(out)-n):]
}

func sortEvents(events []Event) {
	slices.SortFunc(events, func(a, b Event) int {
		return cmp.Or(a.Last.Compare(b.Last), a.First.Compare(b.First),
			cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
}

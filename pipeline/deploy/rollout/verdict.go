package rollout

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// activeFinding is a problem that persists.
type activeFinding struct {
	finding
	clock time.Time // when its grace began
}

// due returns when the problem ends the rollout. ok is false if it does so only at the
// deadline.
func (f *activeFinding) due() (at time.Time, ok bool) {
	if f.grace == untilDeadline {
		return time.Time{}, false
	}
	return f.clock.Add(f.grace), true
}

// state returns everything that is known about an object.
func (t *tracker) state(i int) state {
	u := t.objects[i]
	s := state{name: objectName(u), gvk: u.GroupVersionKind(), object: t.live[i], deleted: t.deleted[i]}
	for _, p := range t.pods[i] {
		s.pods = append(s.pods, p)
	}
	slices.SortFunc(s.pods, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	for _, rs := range t.sets[i] {
		s.sets = append(s.sets, rs)
	}
	names := map[string]bool{strings.ToLower(u.GetKind()) + "/" + u.GetName(): true}
	for _, p := range s.pods {
		names["pod/"+p.Name] = true
	}
	for _, rs := range s.sets {
		names["replicaset/"+rs.Name] = true
	}
	for _, e := range t.events[u.GetNamespace()] {
		if names[e.Object] {
			s.events = append(s.events, e)
		}
	}
	sortEvents(s.events)
	return s
}

// assess evaluates all objects in their current state.
func (t *tracker) assess() {
	seen := map[string]bool{}
	t.workloads = t.workloads[:0:0]
	for i := range t.objects {
		if t.finished[i] != nil {
			t.workloads = append(t.workloads, *t.finished[i])
			continue
		}
		s := t.state(i)
		w, findings := t.workload(s)
		if t.sourceOf(i).disabled {
			w.Done, w.Message, findings = true, "assumed to be ready, because it cannot be read", nil
		}
		w.Message = t.Mask(w.Message)
		if w.Done && t.readyAfter[i] == 0 {
			t.readyAfter[i] = t.now.Sub(t.start)
		} else if !w.Done {
			t.readyAfter[i] = 0
		}
		w.Took = t.readyAfter[i]
		if w.Done && s.object != nil && ended(s.object) {
			t.finished[i] = &w
		}
		t.workloads = append(t.workloads, w)
		for _, f := range findings {
			f.Object, f.Message = s.name, t.Mask(f.Message)
			t.activate(f, seen)
		}
	}
	maps.DeleteFunc(t.active, func(key string, _ *activeFinding) bool { return !seen[key] })
}

// activate adds a problem to the active ones, or updates it. seen contains the keys of the
// problems that were found in this evaluation.
func (t *tracker) activate(f finding, seen map[string]bool) {
	key := strings.Join([]string{f.Object, f.Pod, f.Container, string(f.Kind)}, "\x00")
	a := t.active[key]
	if a == nil {
		a = &activeFinding{clock: t.now}
		a.Seen = t.now
		t.active[key] = a
	}
	if f.Restarts != a.Restarts {
		a.Seen = t.now // it occurred again
	}
	f.Seen = a.Seen
	if f.Known.IsZero() {
		f.Known = cmp.Or(a.Known, a.Seen)
	}
	// If a container has two problems of the same kind, the one that ends the rollout
	// earlier counts.
	if seen[key] && (f.grace == untilDeadline || a.grace != untilDeadline && f.grace >= a.grace) {
		return
	}
	seen[key] = true
	a.finding = f
}

// done reports whether all objects are ready. The state of an object that has not ended
// must be up to date.
func (t *tracker) done() bool {
	for i, w := range t.workloads {
		if !w.Done {
			return false
		}
		if h := t.sourceOf(i); t.finished[i] == nil && !h.disabled && (h.err != nil || !h.listed) {
			return false
		}
	}
	// With the update strategy OnDelete, the pods must be up to date as well.
	for n, s := range t.sources {
		if h := t.health[n]; s.role == pods && !h.listed && !h.disabled && t.workloads[s.object].onDelete {
			return false
		}
	}
	return true
}

// verdict returns the problem that ends the rollout now, or the time at which the next
// problem would. No problem ends the rollout while the API server does not answer.
func (t *tracker) verdict() (cause *activeFinding, next time.Time) {
	if _, err := t.sourceOutage(); err != nil || !t.causesListed() {
		return nil, time.Time{}
	}
	for _, key := range slices.Sorted(maps.Keys(t.active)) {
		f := t.active[key]
		at, ok := f.due()
		switch {
		case !ok:
		case at.After(t.now):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		case cause == nil || f.Kind.rank() < cause.Kind.rank():
			cause = f
		}
	}
	if cause != nil && cause.Kind == Stalled && cause.Reason != "Paused" {
		// Kubernetes has stopped the rollout. Another problem of the same object is the
		// reason for that.
		for _, f := range t.active {
			if f.Object == cause.Object && f.Kind != Stalled && (cause.Kind == Stalled || f.Kind.rank() < cause.Kind.rank()) {
				specific := *f
				specific.Message += " (" + cause.Reason + ")"
				cause = &specific
			}
		}
	}
	return cause, next
}

// confirm reads the pod of a problem again before the problem ends the rollout, because a
// watch can stop without an error. It returns false if the pod no longer has the problem
// or the API server does not answer.
func (t *tracker) confirm(ctx context.Context, f *activeFinding) bool {
	if f.Pod == "" {
		return true
	}
	index := -1
	for i, s := range t.sources {
		// A bare pod is in its own source, and other pods are in a source of their
		// workload.
		if objectName(t.objects[s.object]) == f.Object && (s.role == pods || s.role == tracked && s.gvk.Kind == "Pod") {
			index = i
		}
	}
	if index < 0 {
		return true
	}
	s := t.sources[index]
	var u *unstructured.Unstructured
	err := within(ctx, 2*time.Second, func(ctx context.Context) error {
		ri, err := t.open(ctx, s.gvk, s.namespace)
		if err == nil {
			u, err = ri.Get(ctx, f.Pod, metav1.GetOptions{})
		}
		return err
	})
	c := change{source: index, item: u}
	switch {
	case apierrors.IsForbidden(err):
		return true // the user is only allowed to list and watch pods
	case apierrors.IsNotFound(err):
		for _, p := range t.pods[s.object] {
			if p.Name == f.Pod {
				delete(t.pods[s.object], p.UID)
			}
		}
		if s.role == tracked {
			t.applyObject(s, change{full: true})
		}
	case err != nil:
		if t.confirmErr == nil {
			t.confirmErrSince = time.Now()
		}
		t.confirmErr = err
		return false
	default:
		_ = t.apply(c) // it only fails for a change with an error
	}
	t.confirmErr = nil
	t.assess()
	again, _ := t.verdict()
	return again != nil && again.Kind == f.Kind && again.Object == f.Object && again.Pod == f.Pod && again.Container == f.Container
}

// deadlineExceeded returns the cause of a rollout that is not ready at the deadline: the
// active problem with the most specific cause.
func (t *tracker) deadlineExceeded() Problem {
	waited := t.now.Sub(t.start).Round(100 * time.Millisecond)
	if since, err := t.outage(); err != nil {
		p := Problem{Kind: Deadline, Reason: "APIServerAway", Known: since, Seen: since,
			Message: t.Mask(fmt.Sprintf("is in an unknown state after %s, because the API server has not answered for %s: %s", waited, t.now.Sub(since).Round(100*time.Millisecond), oneLine(err.Error()))),
			Fix:     "make the API server reachable and deploy again"}
		p.Object = objectName(t.objects[0])
		for i, w := range t.workloads {
			if !w.Done {
				p.Object = objectName(t.objects[i])
				break
			}
		}
		return p
	}
	var cause *activeFinding
	for _, key := range slices.Sorted(maps.Keys(t.active)) {
		if f := t.active[key]; cause == nil || f.Kind.rank() < cause.Kind.rank() {
			cause = f
		}
	}
	if cause != nil {
		p := cause.Problem
		p.Message += fmt.Sprintf(" (not ready after %s)", waited)
		return p
	}
	if i := slices.IndexFunc(t.workloads, func(w Workload) bool { return !w.Done }); i >= 0 {
		return t.notReady(t.workloads[i], waited)
	}
	return Problem{
		Kind: Deadline, Reason: "DeadlineExceeded", Object: objectName(t.objects[0]),
		Message: fmt.Sprintf("is in an unknown state after %s", waited),
	}
}

// notReady returns the problem of a workload that is not ready at the deadline without a
// known cause.
func (t *tracker) notReady(w Workload, waited time.Duration) Problem {
	p := Problem{
		Kind: Deadline, Reason: "DeadlineExceeded", Object: w.Object, Known: t.now, Seen: t.now,
		Message: fmt.Sprintf("is not ready after %s", waited),
		Fix:     "raise the timeout if the rollout only needs more time",
	}
	if c := w.counts(); c != "" {
		p.Message += ": " + c
	} else if w.Message != "" {
		p.Message += ": " + w.Message
	}
	for _, pod := range w.Pods {
		if !pod.Ready {
			p.Message += fmt.Sprintf("; pod %s is %s", pod.Name, strings.ToLower(cmp.Or(pod.Reason, pod.Phase)))
			break
		}
	}
	return p
}

// snapshot returns the current state.
func (t *tracker) snapshot(done bool) Snapshot {
	s := Snapshot{Done: done, Workloads: slices.Clone(t.workloads), Warnings: slices.Clone(t.warnings)}
	for _, w := range t.workloads {
		s.Warnings = append(s.Warnings, w.Warnings...)
	}
	for _, f := range t.active {
		s.Problems = append(s.Problems, f.Problem)
	}
	slices.SortFunc(s.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind.rank(), b.Kind.rank()), cmp.Compare(a.Object, b.Object),
			cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
	})
	if since, err := t.outage(); err != nil {
		s.Away = t.Mask(fmt.Sprintf("the API server has not answered since %s: %s", since.Format(time.TimeOnly), oneLine(err.Error())))
	}
	var all []Event
	for i := range t.objects {
		for _, e := range t.state(i).events {
			if e.Type == corev1.EventTypeWarning {
				all = append(all, e)
			}
		}
	}
	s.Events = fold(all, 10)
	return s
}

// observe calls the observer if the state has changed since the last snapshot.
func (t *tracker) observe(done bool) {
	s := t.snapshot(done)
	if reflect.DeepEqual(s, t.last) {
		return
	}
	t.last = s
	if t.Observe != nil {
		s.Time, s.Elapsed = t.now, t.now.Sub(t.start)
		t.Observe(s)
	}
}

func (t *tracker) result() Result {
	r := Result{Workloads: t.workloads, Warnings: t.last.Warnings, Returned: time.Now()}
	r.Duration = r.Returned.Sub(t.start)
	for _, w := range t.workloads {
		if w.AvailableAt.After(r.AvailableAt) {
			r.AvailableAt = w.AvailableAt
		}
	}
	return r
}

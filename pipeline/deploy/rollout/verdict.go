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

// standing is a trouble that has been seen and has not gone yet.
type standing struct {
	trouble
	clock time.Time // when patience with it began
}

// due is when it ends the rollout; ok is false where only the deadline does.
func (s *standing) due() (at time.Time, ok bool) {
	if s.grace == untilDeadline {
		return time.Time{}, false
	}
	return s.clock.Add(s.grace), true
}

// state gathers what is known of one object.
func (t *tracker) state(i int) state {
	u := t.objects[i]
	s := state{name: objectName(u), gvk: u.GroupVersionKind(), object: t.live[i], gone: t.gone[i]}
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

// assess judges everything anew from what is known now.
func (t *tracker) assess() {
	seen := map[string]bool{}
	t.workloads = t.workloads[:0:0]
	for i := range t.objects {
		if t.frozen[i] != nil {
			t.workloads = append(t.workloads, *t.frozen[i])
			continue
		}
		s := t.state(i)
		w, troubles := t.workload(s)
		if t.sourceOf(i).off {
			w.Done, w.Message, troubles = true, "taken as ready", nil
		}
		w.Message = t.Mask(w.Message)
		if w.Done && t.took[i] == 0 {
			t.took[i] = t.now.Sub(t.start)
		} else if !w.Done {
			t.took[i] = 0
		}
		w.Took = t.took[i]
		if w.Done && s.object != nil && ended(s.object) {
			t.frozen[i] = &w
		}
		t.workloads = append(t.workloads, w)
		for _, tr := range troubles {
			tr.Object, tr.Message = s.name, t.Mask(tr.Message)
			key := strings.Join([]string{tr.Object, tr.Pod, tr.Container, string(tr.Kind)}, "\x00")
			st := t.standing[key]
			if st == nil {
				st = &standing{clock: t.now}
				st.Seen = t.now
				t.standing[key] = st
			}
			if tr.Restarts != st.Restarts {
				st.Seen = t.now // it happened again
			}
			tr.Seen = st.Seen
			if tr.Known.IsZero() {
				tr.Known = cmp.Or(st.Known, st.Seen)
			}
			// Two of a kind in one container: the one that ends sooner counts.
			if seen[key] && (tr.grace == untilDeadline || st.grace != untilDeadline && tr.grace >= st.grace) {
				continue
			}
			seen[key] = true
			st.trouble = tr
		}
	}
	maps.DeleteFunc(t.standing, func(key string, _ *standing) bool { return !seen[key] })
}

// done says whether everything is ready. It takes present knowledge of every
// object that has not ended for good.
func (t *tracker) done() bool {
	for i, w := range t.workloads {
		if !w.Done {
			return false
		}
		if h := t.sourceOf(i); t.frozen[i] == nil && !h.off && (h.err != nil || !h.listed) {
			return false
		}
	}
	// OnDelete is judged by pods as well.
	for n, s := range t.sources {
		if s.role == pods && !t.health[n].listed && strings.Contains(t.workloads[s.of].Message, "OnDelete") {
			return false
		}
	}
	return true
}

// verdict returns the trouble that ends the rollout now, or when the next one
// would. While the API server is away, nothing does.
func (t *tracker) verdict() (worst *standing, next time.Time) {
	if _, err := t.lost(); err != nil || !t.heard() {
		return nil, time.Time{}
	}
	for _, key := range slices.Sorted(maps.Keys(t.standing)) {
		st := t.standing[key]
		at, ok := st.due()
		switch {
		case !ok:
		case at.After(t.now):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		case worst == nil || st.Kind.rank() < worst.Kind.rank():
			worst = st
		}
	}
	if worst != nil && worst.Kind == Stalled && worst.Reason != "Paused" {
		// Kubernetes gave up; why is in what stands beside it.
		for _, st := range t.standing {
			if st.Object == worst.Object && st.Kind != Stalled && (worst.Kind == Stalled || st.Kind.rank() < worst.Kind.rank()) {
				better := *st
				better.Message += " (" + worst.Reason + ")"
				worst = &better
			}
		}
	}
	return worst, next
}

// confirm reads the pod of a verdict once more: a watch may have died without
// a word. It returns false where the pod is better now or nobody answers.
func (t *tracker) confirm(ctx context.Context, st *standing) bool {
	if st.Pod == "" {
		return true
	}
	index := -1
	for i, s := range t.sources {
		// Of a bare pod, its own source; else that of the workload's pods.
		if objectName(t.objects[s.of]) == st.Object && (s.role == pods || s.role == tracked && s.gvk.Kind == "Pod") {
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
			u, err = ri.Get(ctx, st.Pod, metav1.GetOptions{})
		}
		return err
	})
	c := change{source: index, item: u}
	switch {
	case apierrors.IsForbidden(err):
		return true // list and watch are enough
	case apierrors.IsNotFound(err):
		for _, p := range t.pods[s.of] {
			if p.Name == st.Pod {
				delete(t.pods[s.of], p.UID)
			}
		}
		if s.role == tracked {
			t.applyObject(s, change{full: true})
		}
	case err != nil:
		if t.mute == nil {
			t.muteSince = time.Now()
		}
		t.mute = err
		return false
	default:
		_ = t.apply(c) // fails for errors alone
	}
	t.mute = nil
	t.assess()
	again, _ := t.verdict()
	return again != nil && again.Kind == st.Kind && again.Object == st.Object && again.Pod == st.Pod && again.Container == st.Container
}

// overdue names the cause at the deadline: the standing problem that explains
// most, of what is not ready.
func (t *tracker) overdue() Problem {
	waited := t.now.Sub(t.start).Round(100 * time.Millisecond)
	if since, err := t.away(); err != nil {
		p := Problem{Kind: Deadline, Reason: "APIServerAway", Known: since, Seen: since,
			Message: t.Mask(fmt.Sprintf("not known after %s: the API server has not answered for %s: %s", waited, t.now.Sub(since).Round(100*time.Millisecond), oneLine(err.Error()))),
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
	var best *standing
	for _, key := range slices.Sorted(maps.Keys(t.standing)) {
		if st := t.standing[key]; best == nil || st.Kind.rank() < best.Kind.rank() {
			best = st
		}
	}
	if best != nil {
		p := best.Problem
		p.Message += fmt.Sprintf(" (not ready after %s)", waited)
		return p
	}
	for _, w := range t.workloads {
		if w.Done {
			continue
		}
		p := Problem{Kind: Deadline, Reason: "DeadlineExceeded", Object: w.Object, Known: t.now, Seen: t.now,
			Message: fmt.Sprintf("not ready after %s", waited),
			Fix:     "raise the timeout if it only needs longer"}
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
	return Problem{Kind: Deadline, Reason: "DeadlineExceeded", Message: fmt.Sprintf("not known after %s", waited), Object: objectName(t.objects[0])}
}

// snapshot shows the present state.
func (t *tracker) snapshot(done bool) Snapshot {
	s := Snapshot{Done: done, Workloads: slices.Clone(t.workloads), Warnings: slices.Clone(t.warnings)}
	for _, w := range t.workloads {
		s.Warnings = append(s.Warnings, w.Warnings...)
	}
	for _, st := range t.standing {
		s.Problems = append(s.Problems, st.Problem)
	}
	slices.SortFunc(s.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Kind.rank(), b.Kind.rank()), cmp.Compare(a.Object, b.Object),
			cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
	})
	if since, err := t.away(); err != nil {
		s.Away = t.Mask(fmt.Sprintf("API server not answering since %s: %s", since.Format(time.TimeOnly), oneLine(err.Error())))
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

// observe tells the observer when anything but the time has changed.
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

package rollout

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// health is what is known of one source.
type health struct {
	heard  bool // it has told anything
	listed bool
	off    bool // forbidden, done without
	err    error
	since  time.Time // of err
}

// plan lists what has to be watched.
func (t *tracker) plan() error {
	namespaces := map[string]bool{}
	for i, u := range t.objects {
		gvk, ns := u.GroupVersionKind(), u.GetNamespace()
		t.sources = append(t.sources, source{
			role: tracked, of: i, gvk: gvk, namespace: ns, field: "metadata.name=" + u.GetName(), optional: !isWorkload(gvk),
		})
		if ns != "" {
			namespaces[ns] = true
		}
		if !isWorkload(gvk) || gvk.Kind == "Pod" {
			continue
		}
		label, err := selector(u)
		if err != nil {
			return fault.Failedf("deploy.object", "tracking the rollout of %s: %w", spaced(objectName(u)), err)
		}
		t.sources = append(t.sources, source{role: pods, of: i, gvk: corev1.SchemeGroupVersion.WithKind("Pod"), namespace: ns, label: label})
		if gvk.Kind == "Deployment" {
			t.sources = append(t.sources, source{role: replicas, of: i, gvk: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), namespace: ns, label: label})
		}
	}
	for _, ns := range slices.Sorted(maps.Keys(namespaces)) {
		t.sources = append(t.sources, source{role: events, gvk: corev1.SchemeGroupVersion.WithKind("Event"), namespace: ns, optional: true})
	}
	return nil
}

// selector returns the label selector of a workload's pods.
func selector(u *unstructured.Unstructured) (string, error) {
	raw, found, err := unstructured.NestedMap(u.Object, "spec", "selector")
	if err != nil {
		return "", fmt.Errorf("spec.selector: %w", err)
	}
	if !found {
		if u.GetKind() == "Job" {
			// The API server writes the selector and these labels.
			return "job-name=" + u.GetName(), nil
		}
		return "", errors.New("it has no spec.selector")
	}
	var s metav1.LabelSelector
	if err := decode(&unstructured.Unstructured{Object: raw}, &s); err != nil {
		return "", fmt.Errorf("spec.selector: %w", err)
	}
	sel, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil {
		return "", fmt.Errorf("spec.selector: %w", err)
	}
	return sel.String(), nil
}

// objectName is kind/namespace/name, or kind/name without a namespace.
func objectName(u *unstructured.Unstructured) string {
	parts := []string{strings.ToLower(u.GetKind())}
	if ns := u.GetNamespace(); ns != "" {
		parts = append(parts, ns)
	}
	return strings.Join(append(parts, u.GetName()), "/")
}

// apply takes in what a source has to tell. It returns an error where the
// rollout cannot be followed at all.
func (t *tracker) apply(c change) error {
	s, h := t.sources[c.source], &t.health[c.source]
	h.heard = true
	if c.err != nil {
		return t.trouble(s, h, c.err)
	}
	if h.err != nil {
		// Patience begins anew: what stood then may have passed meanwhile.
		for _, st := range t.standing {
			st.clock = time.Now()
		}
	}
	*h = health{heard: true, listed: true}
	switch s.role {
	case tracked:
		t.applyObject(s, c)
	case replicas:
		applyTo(&t.sets[s.of], c)
	case pods:
		applyTo(&t.pods[s.of], c)
	case events:
		into := t.events[s.namespace]
		if c.full || into == nil {
			into = map[types.UID]Event{}
			t.events[s.namespace] = into
		}
		for _, u := range c.items() {
			var e corev1.Event
			if c.deleted || decode(u, &e) != nil {
				continue // they expire; what they told stays true
			}
			if ev := eventOf(&e, t.Mask); t.fresh(ev.Last) {
				into[u.GetUID()] = ev
			}
		}
	}
	return nil
}

// items are the objects of a change, one or all.
func (c change) items() []*unstructured.Unstructured {
	if c.item != nil {
		return []*unstructured.Unstructured{c.item}
	}
	var out []*unstructured.Unstructured
	for i := range c.list {
		out = append(out, &c.list[i])
	}
	return out
}

func (t *tracker) applyObject(s source, c change) {
	want, i := t.objects[s.of], s.of
	var now *unstructured.Unstructured
	touched := c.full
	for _, u := range c.items() {
		if u.GetName() != want.GetName() {
			continue // a server that ignores field selectors
		}
		touched = true
		if !c.deleted {
			now = u
		}
	}
	if !touched {
		return
	}
	if now == nil && t.live[i] != nil && !ended(t.live[i]) {
		t.gone[i] = true
	}
	t.live[i] = now
}

// applyTo brings a set of objects by UID up to date.
func applyTo[T any](into *map[types.UID]*T, c change) {
	if c.full || *into == nil {
		*into = map[types.UID]*T{}
	}
	for _, u := range c.items() {
		if c.deleted {
			delete(*into, u.GetUID())
			continue
		}
		o := new(T)
		if decode(u, o) == nil {
			(*into)[u.GetUID()] = o
		}
	}
}

// trouble notes that a source failed. Only being forbidden from the first is
// more than a pause.
func (t *tracker) trouble(s source, h *health, err error) error {
	denied := apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
	absent := meta.IsNoMatchError(err) || apierrors.IsNotFound(err)
	switch {
	case denied && s.optional:
		if !h.off {
			h.off = true
			t.warn(s, err)
		}
		return nil
	case denied && !h.listed:
		return fault.Failedf("deploy.forbidden", "following the rollout: reading %s: %w", s, err).
			WithFix("allow get, list and watch of %s", s)
	case absent && s.role == tracked:
		// Its kind is not known yet, which is no word about the API server.
		h.err = nil
		return nil
	}
	if h.err == nil {
		h.since = time.Now()
	}
	h.err = err
	return nil
}

func (t *tracker) warn(s source, err error) {
	text := fmt.Sprintf("reading %s is not allowed, so causes can be missing: %s", s, err)
	if s.role == tracked {
		text = fmt.Sprintf("reading %s is not allowed, so it is taken as ready: %s", s, err)
	}
	text = t.Mask(oneLine(text))
	if !slices.Contains(t.warnings, text) {
		t.warnings = append(t.warnings, text)
	}
}

// sourceOf is the health of an object's own source.
func (t *tracker) sourceOf(i int) *health {
	for n, s := range t.sources {
		if s.role == tracked && s.of == i {
			return &t.health[n]
		}
	}
	return &health{}
}

// lost is away without what confirm found: only the sources' own troubles.
func (t *tracker) lost() (since time.Time, err error) {
	for i, h := range t.health {
		if h.err != nil && t.sources[i].role != events && (err == nil || h.since.Before(since)) {
			since, err = h.since, h.err
		}
	}
	return since, err
}

// away returns since when and why what we know may be out of date.
func (t *tracker) away() (time.Time, error) {
	since, err := t.lost()
	if t.mute != nil && (err == nil || t.muteSince.Before(since)) {
		return t.muteSince, t.mute
	}
	return since, err
}

// heard says whether everything that explains has been listed once; a verdict
// before that would not know the cause.
func (t *tracker) heard() bool {
	for i, h := range t.health {
		if t.sources[i].role != tracked && !h.listed && !h.off && h.err == nil {
			return false
		}
	}
	return true
}

// found says whether every object has been looked for, so that a snapshot has
// something to tell.
func (t *tracker) found() bool {
	for i, s := range t.sources {
		if s.role == tracked && !t.health[i].heard {
			return false
		}
	}
	return true
}

// index finds an object by its name in problems; -1 where it is none of ours.
func (t *tracker) index(object string) int {
	return slices.IndexFunc(t.objects, func(u *unstructured.Unstructured) bool { return objectName(u) == object })
}

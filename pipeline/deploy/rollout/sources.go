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

// health is the state of a source.
type health struct {
	reported bool      // whether it has sent anything
	listed   bool      // whether it has sent objects
	disabled bool      // whether it is forbidden and optional
	err      error     // its last error; nil if it works
	since    time.Time // when err occurred first
}

// addSources adds the sources for all objects.
func (t *tracker) addSources() error {
	namespaces := map[string]bool{}
	for i, u := range t.objects {
		gvk, ns := u.GroupVersionKind(), u.GetNamespace()
		t.sources = append(t.sources, source{
			role: tracked, object: i, gvk: gvk, namespace: ns, field: "metadata.name=" + u.GetName(), optional: !isWorkload(gvk),
		})
		if ns != "" {
			namespaces[ns] = true
		}
		if !isWorkload(gvk) || gvk.Kind == "Pod" {
			continue
		}
		label, err := selector(u)
		if err != nil {
			return fault.Failedf("deploy.object", "tracking the rollout of %s: %w", displayName(objectName(u)), err)
		}
		t.sources = append(t.sources, source{role: pods, object: i, gvk: corev1.SchemeGroupVersion.WithKind("Pod"), namespace: ns, label: label})
		if gvk.Kind == "Deployment" {
			t.sources = append(t.sources, source{role: replicas, object: i, gvk: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), namespace: ns, label: label})
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
			// The API server adds a selector and this label.
			return "job-name=" + u.GetName(), nil
		}
		return "", errors.New("spec.selector is missing")
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

// objectName returns kind/namespace/name, or kind/name if the object has no namespace.
func objectName(u *unstructured.Unstructured) string {
	parts := []string{strings.ToLower(u.GetKind())}
	if ns := u.GetNamespace(); ns != "" {
		parts = append(parts, ns)
	}
	return strings.Join(append(parts, u.GetName()), "/")
}

// apply applies a change that a source has sent. It returns an error if the rollout cannot
// be followed.
func (t *tracker) apply(c change) error {
	s, h := t.sources[c.source], &t.health[c.source]
	h.reported = true
	if c.err != nil {
		return t.sourceFailed(s, h, c.err)
	}
	if h.err != nil {
		// The problems may have been resolved during the outage, so their time starts
		// again.
		for _, f := range t.active {
			f.clock = time.Now()
		}
	}
	*h = health{reported: true, listed: true}
	switch s.role {
	case tracked:
		t.applyObject(s, c)
	case replicas:
		applyTo(&t.sets[s.object], c)
	case pods:
		applyTo(&t.pods[s.object], c)
	case events:
		into := t.events[s.namespace]
		if c.full || into == nil {
			into = map[types.UID]Event{}
			t.events[s.namespace] = into
		}
		for _, u := range c.items() {
			var e corev1.Event
			if c.deleted || decode(u, &e) != nil {
				continue // events expire, but remain true
			}
			if ev := eventOf(&e, t.Mask); t.duringRollout(ev.Last) {
				into[u.GetUID()] = ev
			}
		}
	}
	return nil
}

// items returns the objects of a change.
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

// applyObject applies a change of a tracked object.
func (t *tracker) applyObject(s source, c change) {
	want, i := t.objects[s.object], s.object
	var now *unstructured.Unstructured
	changed := c.full
	for _, u := range c.items() {
		if u.GetName() != want.GetName() {
			continue // the server ignores field selectors
		}
		changed = true
		if !c.deleted {
			now = u
		}
	}
	if !changed {
		return
	}
	if now == nil && t.live[i] != nil && !ended(t.live[i]) {
		t.deleted[i] = true
	}
	t.live[i] = now
}

// applyTo applies a change to a set of objects by UID.
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

// sourceFailed records the error of a source. It returns an error only if the user is not
// allowed to read the source, because all other errors can be temporary.
func (t *tracker) sourceFailed(s source, h *health, err error) error {
	denied := apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
	absent := meta.IsNoMatchError(err) || apierrors.IsNotFound(err)
	switch {
	case denied && s.optional:
		if !h.disabled {
			h.disabled = true
			t.warn(s, err)
		}
		return nil
	case denied && !h.listed:
		return fault.Failedf("deploy.forbidden", "following the rollout: reading %s: %w", s, err).
			WithFix("allow the user to get, list and watch %s", s)
	case absent && s.role == tracked:
		// The API server does not know the kind yet, but it answers.
		h.err = nil
		return nil
	}
	if h.err == nil {
		h.since = time.Now()
	}
	h.err = err
	return nil
}

// warn adds a warning about a source that the user is not allowed to read.
func (t *tracker) warn(s source, err error) {
	text := fmt.Sprintf("reading %s is not allowed, so the cause of a failure may be missing: %s", s, err)
	if s.role == tracked {
		text = fmt.Sprintf("reading %s is not allowed, so it is assumed to be ready: %s", s, err)
	}
	text = t.Mask(oneLine(text))
	if !slices.Contains(t.warnings, text) {
		t.warnings = append(t.warnings, text)
	}
}

// sourceOf returns the health of the source of a tracked object.
func (t *tracker) sourceOf(i int) *health {
	for n, s := range t.sources {
		if s.role == tracked && s.object == i {
			return &t.health[n]
		}
	}
	return &health{}
}

// sourceOutage returns since when and why a source fails. It ignores events, because they
// are not necessary.
func (t *tracker) sourceOutage() (since time.Time, err error) {
	for i, h := range t.health {
		if h.err != nil && t.sources[i].role != events && (err == nil || h.since.Before(since)) {
			since, err = h.since, h.err
		}
	}
	return since, err
}

// outage returns since when and why the known state may be outdated.
func (t *tracker) outage() (time.Time, error) {
	since, err := t.sourceOutage()
	if t.confirmErr != nil && (err == nil || t.confirmErrSince.Before(since)) {
		return t.confirmErrSince, t.confirmErr
	}
	return since, err
}

// causesListed reports whether everything that can contain the cause of a problem has been
// listed once. Before that, the reported cause could be wrong.
func (t *tracker) causesListed() bool {
	for i, h := range t.health {
		if t.sources[i].role != tracked && !h.listed && !h.disabled && h.err == nil {
			return false
		}
	}
	return true
}

// objectsRead reports whether every object has been read once, so that a snapshot has
// content.
func (t *tracker) objectsRead() bool {
	for i, s := range t.sources {
		if s.role == tracked && !t.health[i].reported {
			return false
		}
	}
	return true
}

// indexOf returns the index of the object with that name, or -1.
func (t *tracker) indexOf(object string) int {
	return slices.IndexFunc(t.objects, func(u *unstructured.Unstructured) bool { return objectName(u) == object })
}

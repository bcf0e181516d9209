package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

const (
	// answer is how long the API server may take to answer one request before
	// it counts as away.
	answer = 10 * time.Second
	// The pause between attempts while it is away doubles from the first to
	// the last.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// role is what a source's objects are to the rollout.
type role int

const (
	tracked  role = iota // the applied object itself
	replicas             // ReplicaSets of a Deployment
	pods                 // pods of a workload
	events               // events of a namespace
)

// source is one list and watch.
type source struct {
	role      role
	of        int // index of the object it belongs to; of events, nothing
	gvk       schema.GroupVersionKind
	namespace string
	label     string // selector
	field     string // selector
	// optional: where it is forbidden, tracking goes on without.
	optional bool
}

func (s source) String() string {
	kind := map[role]string{replicas: "replicasets", pods: "pods", events: "events"}[s.role]
	if s.role == tracked {
		kind = s.gvk.Kind
	}
	if s.namespace == "" {
		return kind
	}
	return kind + " in namespace " + s.namespace
}

// change is what a source has to tell.
type change struct {
	source int
	// list is the whole content when full; else item was changed or deleted.
	full    bool
	list    []unstructured.Unstructured
	item    *unstructured.Unstructured
	deleted bool
	// err says why the source does not know what is so at present; nil says
	// that it does.
	err error
}

// follow lists and watches s until ctx ends, and sends what it learns to out.
// After a failed request it lists anew rather than resume, so that whatever
// follows an error is the state of now.
func follow(ctx context.Context, resource func(context.Context) (dynamic.ResourceInterface, error), s source, index int, out chan<- change) {
	send := func(c change) bool {
		c.source = index
		select {
		case out <- c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	pause := time.Duration(0)
	rest := func() bool {
		pause = min(max(2*pause, firstPause), lastPause)
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	version := ""
	for ctx.Err() == nil {
		var ri dynamic.ResourceInterface
		err := within(ctx, answer, func(ctx context.Context) (err error) {
			if ri, err = resource(ctx); err != nil || version != "" {
				return err
			}
			list, err := ri.List(ctx, metav1.ListOptions{LabelSelector: s.label, FieldSelector: s.field})
			if err != nil {
				return err
			}
			version = list.GetResourceVersion()
			if !send(change{full: true, list: list.Items}) {
				return ctx.Err()
			}
			return nil
		})
		started := time.Now()
		if err == nil {
			err = s.watch(ctx, ri, &version, send)
			if err == nil && time.Since(started) > time.Second {
				pause = 0
				continue // API servers end every watch after a while
			}
			// client-go turns a connection that breaks into a watch that ends in
			// good order. Only a list tells whether anybody answers.
			version = ""
		}
		if err != nil {
			version = ""
			if !send(change{err: err}) {
				return
			}
		}
		if !rest() {
			return
		}
	}
}

// within runs f with a time limit that does not outlive it.
func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// watch passes on changes from version on. It returns nil when the server
// ended the watch in good order.
func (s source) watch(ctx context.Context, ri dynamic.ResourceInterface, version *string, send func(change) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The watch lives on after its answer began, so the limit for the answer
	// cannot be a deadline of its context.
	slow := time.AfterFunc(answer, func() { cancel(errors.New("no answer within " + answer.String())) })
	w, err := ri.Watch(ctx, metav1.ListOptions{
		LabelSelector: s.label, FieldSelector: s.field,
		ResourceVersion: *version, AllowWatchBookmarks: true,
	})
	if !slow.Stop() && err == nil {
		w.Stop()
		err = context.Cause(ctx)
	}
	if err != nil {
		return s.restart(err, version)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if e.Type == watch.Error {
				return s.restart(apierrors.FromObject(e.Object), version)
			}
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				return fmt.Errorf("watch of %s sent a %T", s, e.Object)
			}
			*version = u.GetResourceVersion()
			if e.Type == watch.Bookmark {
				continue
			}
			if !send(change{item: u, deleted: e.Type == watch.Deleted}) {
				return ctx.Err()
			}
		}
	}
}

// restart turns "too old a version" (410) into a plain new list: the API
// server answers, it only forgot.
func (s source) restart(err error, version *string) error {
	if apierrors.IsGone(err) || apierrors.IsResourceExpired(err) {
		*version = ""
		return nil
	}
	return err
}

// resources opens what sources read.
type resources struct {
	dynamic dynamic.Interface
	mapper  meta.RESTMapperWithContext
}

// open returns the interface of a source's kind. It may ask the API server
// what the kind is called.
func (r resources) open(ctx context.Context, gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	gvr, namespaced, ok := wellKnown(gvk)
	if !ok {
		m, err := r.mapper.RESTMappingWithContext(ctx, gvk.GroupKind(), gvk.Version)
		if err != nil {
			// Its definition may have been applied a moment ago.
			if again, ok := r.mapper.(meta.ResettableRESTMapperWithContext); ok && meta.IsNoMatchError(err) {
				again.ResetWithContext(ctx)
			}
			return nil, fmt.Errorf("finding the resource of %s: %w", gvk, err)
		}
		gvr, namespaced = m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace
	}
	if namespaced {
		return r.dynamic.Resource(gvr).Namespace(namespace), nil
	}
	return r.dynamic.Resource(gvr), nil
}

// wellKnown spares the API server the question for the kinds of most charts.
func wellKnown(gvk schema.GroupVersionKind) (gvr schema.GroupVersionResource, namespaced, ok bool) {
	names := map[string]string{
		"apps/v1/Deployment": "deployments", "apps/v1/StatefulSet": "statefulsets",
		"apps/v1/DaemonSet": "daemonsets", "apps/v1/ReplicaSet": "replicasets",
		"batch/v1/Job": "jobs",
		"/v1/Pod":      "pods", "/v1/Event": "events", "/v1/Service": "services",
		"/v1/PersistentVolumeClaim": "persistentvolumeclaims",
	}
	name, ok := names[gvk.Group+"/"+gvk.Version+"/"+gvk.Kind]
	return gvk.GroupVersion().WithResource(name), true, ok
}

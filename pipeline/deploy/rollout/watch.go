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
	// answerTimeout is how long the API server may take to answer a request.
	answerTimeout = 10 * time.Second
	// While the API server does not answer, the pause between two attempts doubles from
	// firstPause to lastPause.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// role is how the objects of a source are related to the rollout.
type role int

const (
	tracked  role = iota // the applied object itself
	replicas             // ReplicaSets of a Deployment
	pods                 // pods of a workload
	events               // events of a namespace
)

// source is a set of objects that is listed and watched.
type source struct {
	role      role
	object    int // the index of the tracked object; unused for events
	gvk       schema.GroupVersionKind
	namespace string
	label     string // the label selector
	field     string // the field selector
	optional  bool   // whether the rollout can be tracked without it, if it is forbidden
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

// change is a change of the objects of a source.
type change struct {
	source int // the index of the source
	// If full is true, list contains all objects of the source. Otherwise item was changed
	// or deleted.
	full    bool
	list    []unstructured.Unstructured
	item    *unstructured.Unstructured
	deleted bool
	// err is not nil if the source failed, so that its known objects may be outdated.
	err error
}

// follow lists and watches a source until ctx is cancelled, and sends its changes to out.
// If a request fails, it sends the error, and then lists all objects again instead of
// resuming the watch, so that the next change is up to date.
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
	wait := func() bool {
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
		err := within(ctx, answerTimeout, func(ctx context.Context) (err error) {
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
				continue // the API server ends every watch after some time
			}
			// client-go reports a lost connection as a watch that has ended normally. Only
			// a list shows whether the API server answers.
			version = ""
		}
		if err != nil {
			version = ""
			if !send(change{err: err}) {
				return
			}
		}
		if !wait() {
			return
		}
	}
}

// within runs f with a timeout.
func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// watch sends the changes since a resource version and updates that version. It returns nil
// if the API server has ended the watch without an error.
func (s source) watch(ctx context.Context, ri dynamic.ResourceInterface, version *string, send func(change) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The context of a request is also the context of its watch, so the timeout of the
	// request cannot be a deadline of that context.
	slow := time.AfterFunc(answerTimeout, func() { cancel(errors.New("the API server did not answer within " + answerTimeout.String())) })
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
				return fmt.Errorf("watching %s: the API server sent an unexpected %T", s, e.Object)
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

// restart returns nil for the error that a resource version is too old (410 Gone), and
// resets the version, so that the source is listed again. The API server answers and has
// only discarded the version
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes).
func (s source) restart(err error, version *string) error {
	if apierrors.IsGone(err) || apierrors.IsResourceExpired(err) {
		*version = ""
		return nil
	}
	return err
}

// resources makes the interfaces that sources read.
type resources struct {
	dynamic dynamic.Interface
	mapper  meta.RESTMapperWithContext
}

// open returns the interface for a kind. If the resource of the kind is not well known, it
// asks the API server for it.
func (r resources) open(ctx context.Context, gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	gvr, namespaced, ok := wellKnown(gvk)
	if !ok {
		m, err := r.mapper.RESTMappingWithContext(ctx, gvk.GroupKind(), gvk.Version)
		if err != nil {
			// The CustomResourceDefinition may have been applied a moment ago.
			if again, ok := r.mapper.(meta.ResettableRESTMapperWithContext); ok && meta.IsNoMatchError(err) {
				again.ResetWithContext(ctx)
			}
			return nil, fmt.Errorf("looking up the resource of %s: %w", gvk, err)
		}
		gvr, namespaced = m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace
	}
	if namespaced {
		return r.dynamic.Resource(gvr).Namespace(namespace), nil
	}
	return r.dynamic.Resource(gvr), nil
}

// wellKnown returns the resource of a kind that most charts contain, without a request to
// the API server.
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

package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Options are the options of [Track].
type Options struct {
	// Config is the configuration of the cluster. It is not needed if Dynamic is set. Its
	// rate limit is ignored, because it would delay the result.
	Config *rest.Config
	// Dynamic reads objects, Client reads logs, and Mapper finds the resources of kinds
	// that are not workloads. If one of them is nil, it is made from Config.
	Dynamic dynamic.Interface
	Client  kubernetes.Interface
	Mapper  meta.RESTMapper

	// Objects are the applied objects, with their namespaces set.
	Objects []*unstructured.Unstructured
	// Timeout is the deadline for all objects. If it is 0, only the deadline of the
	// context applies.
	Timeout time.Duration
	// Patience is how long each kind of problem may last.
	Patience Patience
	// Since is when the rollout began. Events and terminations of containers before that
	// time do not end the rollout. If it is zero, all of them are considered. It is
	// compared with times of the cluster, and the clock of the cluster may be up to 5 s
	// behind the local clock. A larger difference can delay a failure until the deadline,
	// but it cannot cause a wrong result.
	Since time.Time
	// LogLines is the number of lines of the failing container in [Failure.Logs]. The
	// default is 20.
	LogLines int
	// Observe is called after every change, from the goroutine that called Track, which
	// continues when Observe returns. It may be nil.
	Observe func(Snapshot)
	// Mask hides known secrets in logs, events and messages. It may be nil.
	Mask func(string) string
}

// Patience is how long each kind of problem may last before it ends the rollout, measured
// from when it was first seen. A zero field means the value of [DefaultPatience].
type Patience struct {
	// Image is how long an image may fail to be pulled. A single failed pull with a cause
	// that may be temporary is not considered. A second one is, and so are the back-off
	// of the kubelet and a definite cause, for example "not found" or "denied". The
	// default is 3 s.
	Image time.Duration
	// Config is how long a Secret, a ConfigMap or a key may be missing, or a container may
	// fail to be created. The default is 3 s.
	Config time.Duration
	// Restarts is the number of restarts of a container that count as a crash loop. The
	// default is 2.
	Restarts int32
	// Readiness is how long a readiness probe may fail after the startup probe has passed
	// and after the failureThreshold of the probe is reached. If the container has no
	// startup probe, a failing readiness probe is only a warning until the deadline. The
	// default is 30 s.
	Readiness time.Duration
	// Create is how long the API server may refuse to create pods. The default is 3 s.
	Create time.Duration
}

// DefaultPatience returns the defaults of [Patience].
func DefaultPatience() Patience {
	const short = 3 * time.Second
	return Patience{Image: short, Config: short, Restarts: 2, Readiness: 30 * time.Second, Create: short}
}

func (p Patience) withDefaults() Patience {
	d := DefaultPatience()
	p.Image = cmp.Or(p.Image, d.Image)
	p.Config = cmp.Or(p.Config, d.Config)
	p.Restarts = cmp.Or(p.Restarts, d.Restarts)
	p.Readiness = cmp.Or(p.Readiness, d.Readiness)
	p.Create = cmp.Or(p.Create, d.Create)
	return p
}

// Result is the result of a rollout. If [Track] returns an error, the result contains
// everything that is known.
type Result struct {
	Workloads []Workload    `json:"workloads"`
	Warnings  []string      `json:"warnings,omitempty"`
	Duration  time.Duration `json:"duration_ns"`
	// AvailableAt is when the last workload became available. It is a condition in the
	// cluster with a resolution of one second, and zero if there is none.
	AvailableAt time.Time `json:"available_at,omitzero"`
	// Returned is when Track returned.
	Returned time.Time `json:"returned"`
}

// Track waits until all objects are ready and returns the state of each of them.
//
// If an object will not become ready or the deadline passes, the error is a [fault.Gate]
// error that wraps a [*Failure]. If the user is not allowed to read the workloads, it is a
// [fault.Failed] error. If ctx is cancelled, it is the error of ctx. All goroutines of
// Track have ended when it returns.
func Track(ctx context.Context, o Options) (Result, error) {
	t, err := newTracker(o)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	failure, err := t.run(ctx)
	res := t.result()
	switch {
	case err != nil:
		return res, err
	case failure != nil:
		return res, fault.Gatef("deploy."+string(failure.Kind), "%w", failure)
	}
	return res, nil
}

// tracker is the state of a rollout. Only the goroutine of Track uses it, and the sources
// send their changes to that goroutine through a channel.
type tracker struct {
	Options
	judge
	resources
	httpClient *http.Client // closed at the end; nil if the caller made the clients

	start time.Time
	now   time.Time

	objects []*unstructured.Unstructured // the objects with a status
	sources []source
	health  []health // of each source
	// The following slices have an element for each object.
	live       []*unstructured.Unstructured // the current state; nil if it was not found
	deleted    []bool                       // whether it was deleted during the rollout
	finished   []*Workload                  // the result of a Job or pod that has succeeded, which is final
	readyAfter []time.Duration              // from the start until it was ready
	pods       []map[types.UID]*corev1.Pod
	sets       []map[types.UID]*appsv1.ReplicaSet
	events     map[string]map[types.UID]Event // by namespace

	// confirmErr is the last error of confirm, which can fail while the watches work.
	confirmErr      error
	confirmErrSince time.Time

	workloads []Workload
	active    map[string]*activeFinding
	warnings  []string
	last      Snapshot // the last snapshot that was observed
}

func newTracker(o Options) (*tracker, error) {
	o.LogLines = cmp.Or(o.LogLines, 20)
	if o.Mask == nil {
		o.Mask = func(s string) string { return s }
	}
	t := &tracker{
		Options: o, judge: judge{patience: o.Patience.withDefaults(), since: o.Since},
		events: map[string]map[types.UID]Event{}, active: map[string]*activeFinding{},
	}
	for _, u := range o.Objects {
		if u == nil || u.GetKind() == "" || u.GetName() == "" {
			return nil, fault.Failedf("deploy.object", "tracking the rollout: an object has no kind or no name")
		}
		if hasStatus(u) {
			t.objects = append(t.objects, u)
		}
	}
	if len(t.objects) == 0 {
		return t, nil
	}
	if err := t.connect(); err != nil {
		return nil, err
	}
	if err := t.addSources(); err != nil {
		return nil, err
	}
	n := len(t.objects)
	t.health = make([]health, len(t.sources))
	t.live, t.deleted, t.finished = make([]*unstructured.Unstructured, n), make([]bool, n), make([]*Workload, n)
	t.readyAfter = make([]time.Duration, n)
	t.pods, t.sets = make([]map[types.UID]*corev1.Pod, n), make([]map[types.UID]*appsv1.ReplicaSet, n)
	return t, nil
}

// run follows the sources until the rollout is done or has failed.
func (t *tracker) run(parent context.Context) (*Failure, error) {
	t.start = time.Now()
	t.now = t.start
	if err := parent.Err(); errors.Is(err, context.Canceled) {
		return nil, fmt.Errorf("tracking the rollout: %w", err)
	}
	if len(t.objects) == 0 {
		t.observe(true)
		return nil, nil
	}
	ctx, changes, stop := t.followAll(parent)
	defer stop()
	var deadline <-chan time.Time
	if t.Timeout > 0 {
		timer := time.NewTimer(t.Timeout)
		defer timer.Stop()
		deadline = timer.C
	}
	patience := time.NewTimer(time.Hour)
	defer patience.Stop()
	for {
		late := false
		select {
		case c := <-changes:
			if err := t.apply(c); err != nil {
				return nil, err
			}
		case <-patience.C:
		case <-deadline:
			late = true
		case <-parent.Done():
			if errors.Is(parent.Err(), context.Canceled) {
				return nil, fmt.Errorf("tracking the rollout: %w", parent.Err())
			}
			late = true
		}
		if err := t.applyPending(changes); err != nil {
			return nil, err
		}
		failure, done, next := t.evaluate(ctx, parent, late)
		if failure != nil || done {
			return failure, nil
		}
		patience.Reset(next)
	}
}

// followAll starts to follow all sources. They send their changes to the channel until
// stop is called. stop returns when all goroutines have ended.
func (t *tracker) followAll(parent context.Context) (ctx context.Context, changes chan change, stop func()) {
	// client-go logs to standard error when a request is cancelled. The logger is
	// disabled, because all relevant errors are also returned.
	ctx, cancel := context.WithCancel(klog.NewContext(parent, klog.Logger{}))
	changes = make(chan change)
	var following sync.WaitGroup
	for i, s := range t.sources {
		open := func(ctx context.Context) (dynamic.ResourceInterface, error) { return t.open(ctx, s.gvk, s.namespace) }
		following.Go(func() { follow(ctx, open, s, i, changes) })
	}
	return ctx, changes, func() {
		cancel()
		following.Wait()
	}
}

// applyPending applies the changes that the sources have already sent, so that they are
// all evaluated at once.
func (t *tracker) applyPending(changes <-chan change) error {
	for {
		select {
		case c := <-changes:
			if err := t.apply(c); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// evaluate evaluates the current state. It returns a failure that ends the rollout, or
// whether the rollout is done, or the time after which to evaluate again even if nothing
// changes. late means that the deadline has passed.
func (t *tracker) evaluate(ctx, parent context.Context, late bool) (failure *Failure, done bool, next time.Duration) {
	t.now = time.Now()
	t.assess()
	done = t.done()
	if t.objectsRead() || late {
		t.observe(done)
	}
	switch {
	case done:
		return nil, true, 0
	case late:
		return t.evidence(parent, t.deadlineExceeded()), false, 0
	}
	cause, at := t.verdict()
	if cause != nil && t.confirm(ctx, cause) {
		return t.evidence(parent, cause.Problem), false, 0
	}
	if cause != nil {
		at = time.Now().Add(10 * firstPause) // the data was outdated, or the API server did not answer
	}
	if at.IsZero() {
		return nil, false, time.Hour
	}
	return nil, false, max(time.Until(at), time.Millisecond)
}

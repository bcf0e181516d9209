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

// Options say what to track.
type Options struct {
	// Config reaches the cluster. It is not needed where Dynamic is given; its
	// own rate limit is lifted, for it would delay the verdict.
	Config *rest.Config
	// Dynamic reads objects, Client logs, Mapper names the resources of kinds
	// other than the workloads'. Each is made from Config where nil.
	Dynamic dynamic.Interface
	Client  kubernetes.Interface
	Mapper  meta.RESTMapper

	// Objects are what was applied, with their namespaces filled in.
	Objects []*unstructured.Unstructured
	// Timeout is the deadline for all; 0: none but ctx's.
	Timeout time.Duration
	// Patience is how long each kind of trouble may stand.
	Patience Patience
	// Since is when the rollout began: events and ends of containers before it
	// are not ours. Zero: all are. It is compared with the cluster's times, 5 s
	// of difference between the clocks allowed; a greater one can delay a
	// verdict until the deadline, not falsify it.
	Since time.Time
	// LogLines is how many last lines of the failing container a [Failure]
	// carries. Default 20.
	LogLines int
	// Observe is called after every change, from the goroutine of Track; the
	// rollout's judgement waits for it to return. May be nil.
	Observe func(Snapshot)
	// Mask hides known secrets in logs, events and messages. May be nil.
	Mask func(string) string
}

// Patience is how long each kind of trouble may stand before it ends the
// rollout, counted from when it was first seen. Zero fields get the default.
type Patience struct {
	// Image is for images that cannot be pulled. Default 3 s. One failed pull
	// that may have been a hiccup does not count, a second one, kubelet's back
	// off or a definite answer ("not found", "denied") does.
	Image time.Duration
	// Config is for missing Secrets, ConfigMaps and keys, and containers that
	// cannot be created. Default 3 s.
	Config time.Duration
	// Restarts is how often a container may be restarted before it counts as a
	// crash loop. Default 2.
	Restarts int32
	// Readiness is for a readiness probe that fails, at least its
	// failureThreshold times, after the startup probe has passed. Without a
	// startup probe it only warns until the deadline. Default 30 s.
	Readiness time.Duration
	// Create is for pods that the API server refuses to create. Default 3 s.
	Create time.Duration
}

// DefaultPatience returns the patience that is used where [Options] says nothing.
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

// Result is how a rollout ended. It is filled in as far as known also when
// [Track] fails.
type Result struct {
	Workloads []Workload    `json:"workloads"`
	Warnings  []string      `json:"warnings,omitempty"`
	Duration  time.Duration `json:"duration_ns"`
	// AvailableAt is when, by Kubernetes' own record (whole seconds), the last
	// workload became available; zero where it does not say. Returned is when
	// Track knew.
	AvailableAt time.Time `json:"available_at,omitzero"`
	Returned    time.Time `json:"returned"`
}

// Track waits until all objects are ready and returns what became of each.
//
// It fails with a fault of kind gate that wraps a [*Failure] when one of them
// will not become ready or the deadline passes, with a fault of kind failed
// when the workloads may not be read, and with ctx's error when ctx is
// cancelled. All its goroutines have ended when it returns.
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

// tracker holds a rollout's state. It belongs to the goroutine of Track; the
// sources speak to it through a channel.
type tracker struct {
	Options
	judge
	resources
	httpClient *http.Client // ours to close, nil otherwise

	start time.Time
	now   time.Time

	objects []*unstructured.Unstructured // those with a status
	sources []source
	health  []health
	live    []*unstructured.Unstructured // by object, nil: not found
	gone    []bool
	frozen  []*Workload // Jobs and pods that have succeeded stay so
	took    []time.Duration
	pods    []map[types.UID]*corev1.Pod
	sets    []map[types.UID]*appsv1.ReplicaSet
	events  map[string]map[types.UID]Event // by namespace

	// mute is the last error of confirm, whose source may look well; since
	// muteSince.
	mute      error
	muteSince time.Time

	workloads []Workload
	standing  map[string]*standing
	warnings  []string
	last      Snapshot
}

func newTracker(o Options) (*tracker, error) {
	o.LogLines = cmp.Or(o.LogLines, 20)
	if o.Mask == nil {
		o.Mask = func(s string) string { return s }
	}
	t := &tracker{
		Options: o, judge: judge{patience: o.Patience.withDefaults(), since: o.Since},
		events: map[string]map[types.UID]Event{}, standing: map[string]*standing{},
	}
	for _, u := range o.Objects {
		if u == nil || u.GetKind() == "" || u.GetName() == "" {
			return nil, fault.Failedf("deploy.object", "tracking the rollout: an object without kind or name")
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
	if err := t.plan(); err != nil {
		return nil, err
	}
	n := len(t.objects)
	t.health = make([]health, len(t.sources))
	t.live, t.gone, t.frozen = make([]*unstructured.Unstructured, n), make([]bool, n), make([]*Workload, n)
	t.took = make([]time.Duration, n)
	t.pods, t.sets = make([]map[types.UID]*corev1.Pod, n), make([]map[types.UID]*appsv1.ReplicaSet, n)
	return t, nil
}

// run follows the sources until there is a verdict.
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
		failure, done, next := t.judgeNow(ctx, parent, late)
		if failure != nil || done {
			return failure, nil
		}
		patience.Reset(next)
	}
}

// followAll starts to follow all sources. Their changes come through the channel
// until stop is called, which returns when all goroutines have ended.
func (t *tracker) followAll(parent context.Context) (ctx context.Context, changes chan change, stop func()) {
	// client-go writes to standard error when a request is cancelled; what
	// matters is returned as an error.
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

// applyPending takes in what else the sources have to report already, so that it
// is part of the same judgement.
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

// judgeNow judges what is known now. It returns a failure that ends the rollout,
// or that it is done, or after what time to judge again even if nothing changes.
func (t *tracker) judgeNow(ctx, parent context.Context, late bool) (failure *Failure, done bool, next time.Duration) {
	t.now = time.Now()
	t.assess()
	done = t.done()
	if t.found() || late {
		t.observe(done)
	}
	switch {
	case done:
		return nil, true, 0
	case late:
		return t.evidence(parent, t.overdue()), false, 0
	}
	worst, at := t.verdict()
	if worst != nil && t.confirm(ctx, worst) {
		return t.evidence(parent, worst.Problem), false, 0
	}
	if worst != nil {
		at = time.Now().Add(10 * firstPause) // it was out of date, or nobody answered
	}
	if at.IsZero() {
		return nil, false, time.Hour
	}
	return nil, false, max(time.Until(at), time.Millisecond)
}

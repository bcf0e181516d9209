package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
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
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
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

func (p Patience) withDefaults() Patience {
	p.Image = cmp.Or(p.Image, 3*time.Second)
	p.Config = cmp.Or(p.Config, 3*time.Second)
	p.Restarts = cmp.Or(p.Restarts, 2)
	p.Readiness = cmp.Or(p.Readiness, 30*time.Second)
	p.Create = cmp.Or(p.Create, 3*time.Second)
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

// health is what is known of one source.
type health struct {
	heard  bool // it has told anything
	listed bool
	off    bool // forbidden, done without
	err    error
	since  time.Time // of err
}

// tracker holds a rollout's state. It belongs to the goroutine of Track; the
// sources speak to it through a channel.
type tracker struct {
	Options
	judge
	resources
	httpClient *http.Client // ours to close, nil otherwise

	start    time.Time
	deadline time.Time
	now      time.Time

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

// connect makes the clients that the caller did not give.
func (t *tracker) connect() error {
	t.resources = resources{dynamic: t.Dynamic}
	if t.Mapper != nil {
		t.mapper = meta.ToRESTMapperWithContext(t.Mapper)
	}
	if t.Config == nil {
		if t.Dynamic == nil {
			return fault.Failedf("deploy.cluster", "tracking the rollout: neither a cluster configuration nor a client")
		}
		if t.mapper == nil {
			t.mapper = meta.ToRESTMapperWithContext(meta.NewDefaultRESTMapper(nil))
		}
		return nil
	}
	config := rest.CopyConfig(t.Config)
	config.QPS, config.RateLimiter = -1, nil
	config.Timeout = 0 // it would end watches
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return candid{rt} })
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
	}
	t.httpClient = client
	if t.dynamic == nil {
		if t.dynamic, err = dynamic.NewForConfigAndClient(config, client); err != nil {
			return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
		}
	}
	if t.Client == nil {
		if t.Client, err = kubernetes.NewForConfigAndClient(config, client); err != nil {
			return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
		}
	}
	if t.mapper == nil {
		d, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
		if err != nil {
			return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
		}
		t.mapper = restmapper.NewDeferredDiscoveryRESTMapperWithContext(memory.NewMemCacheClientWithContext(d))
	}
	return nil
}

// candid is a transport that reports broken connections. client-go would try
// again by itself for ten seconds, and take a watch that could not begin for
// one that ended.
type candid struct{ http.RoundTripper }

// brokenError hides the error beneath from client-go on purpose.
type brokenError struct{ host string }

func (e brokenError) Error() string { return "the connection to " + e.host + " broke off" }

// RoundTrip implements [http.RoundTripper].
func (c candid) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil && (utilnet.IsProbableEOF(err) || utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err)) {
		err = brokenError{r.URL.Host}
	}
	return resp, err
}

// WrappedRoundTripper lets idle connections be closed.
func (c candid) WrappedRoundTripper() http.RoundTripper { return c.RoundTripper }

func (t *tracker) close() {
	if t.httpClient != nil {
		utilnet.CloseIdleConnectionsFor(t.httpClient.Transport)
	}
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
	// client-go logs to standard error when a request is cancelled; what
	// matters comes back as an error.
	ctx, cancel := context.WithCancel(klog.NewContext(parent, klog.Logger{}))
	changes := make(chan change)
	ended := make(chan struct{})
	for i, s := range t.sources {
		open := func(ctx context.Context) (dynamic.ResourceInterface, error) { return t.open(ctx, s.gvk, s.namespace) }
		go func() {
			follow(ctx, open, s, i, changes)
			ended <- struct{}{}
		}()
	}
	defer func() {
		cancel()
		for range t.sources {
			<-ended
		}
	}()

	var deadline <-chan time.Time
	if t.Timeout > 0 {
		t.deadline = t.start.Add(t.Timeout)
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
		// What came meanwhile belongs to the same judgement.
		for more := true; more; {
			select {
			case c := <-changes:
				if err := t.apply(c); err != nil {
					return nil, err
				}
			default:
				more = false
			}
		}
		t.now = time.Now()
		t.assess()
		done := t.done()
		if t.found() || late {
			t.observe(done)
		}
		if done {
			return nil, nil
		}
		if late {
			return t.evidence(parent, t.overdue()), nil
		}
		worst, next := t.verdict()
		if worst != nil && t.confirm(ctx, worst) {
			return t.evidence(parent, worst.Problem), nil
		}
		if worst != nil {
			next = time.Now().Add(10 * firstPause) // out of date, or nobody answered
		}
		if !next.IsZero() {
			patience.Reset(max(time.Until(next), time.Millisecond))
		} else {
			patience.Reset(time.Hour)
		}
	}
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

// sourceOf is the health of an object's own source.
func (t *tracker) sourceOf(i int) *health {
	for n, s := range t.sources {
		if s.role == tracked && s.of == i {
			return &t.health[n]
		}
	}
	return &health{}
}

// away returns since when and why what we know may be out of date.
func (t *tracker) away() (time.Time, error) {
	since, err := t.lost()
	if t.mute != nil && (err == nil || t.muteSince.Before(since)) {
		return t.muteSince, t.mute
	}
	return since, err
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

// index finds an object by its name in problems; -1 where it is none of ours.
func (t *tracker) index(object string) int {
	return slices.IndexFunc(t.objects, func(u *unstructured.Unstructured) bool { return objectName(u) == object })
}

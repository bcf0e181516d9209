// Package cluster deploys with Helm's and Kubernetes' libraries: it holds the
// release's lock, finds out its state, applies, follows the rollout and goes
// back when it fails.
package cluster

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Tool is [deploy.Tool] for Kubernetes.
type Tool struct {
	// Transport wraps the way to the API server, for tests that watch or cut it.
	Transport func(http.RoundTripper) http.RoundTripper
}

var _ deploy.Tool = Tool{}

// deployment is the work on one cluster.
type deployment struct {
	*connection
	deploy.Options
	cluster deploy.Cluster
	release *release.Client
	result  *deploy.ClusterResult
	since   time.Time // when the rollout began
	until   time.Time // and when it must have ended
	mask    func(string) string
}

func (t Tool) open(o deploy.Options, c deploy.Cluster) (*deployment, error) {
	if c.Namespace != "" {
		o.Namespace = c.Namespace
	}
	k, err := connect(o, c, t.Transport)
	if err != nil {
		return nil, err
	}
	d := &deployment{connection: k, Options: o, cluster: c, result: &deploy.ClusterResult{Name: called(c), URL: c.URL, Action: deploy.NotReached}, mask: masker(o)}
	d.release, err = release.New(release.Options{Getter: k, Name: o.Release, Namespace: o.Namespace, MaxHistory: o.MaxHistory, Waiter: d})
	return d, err
}

func called(c deploy.Cluster) string {
	if c.Name != "" {
		return c.Name
	}
	if c.Context != "" {
		return c.Context
	}
	return "current context"
}

// masker hides the values slipway itself wrote, wherever the cluster repeats them.
func masker(o deploy.Options) func(string) string {
	var values []string
	hide := func(v string) {
		if len(v) >= 4 { // a shorter one would blank out innocent text and hides little
			values = append(values, v, base64.StdEncoding.EncodeToString([]byte(v)))
		}
	}
	for _, s := range o.Secrets {
		for _, v := range s.Data {
			hide(v)
		}
	}
	if o.PullSecret != nil {
		hide(o.PullSecret.Password())
	}
	// Of two values the one that holds the other must go first.
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
	var pairs []string
	for _, v := range values {
		pairs = append(pairs, v, "***")
	}
	return strings.NewReplacer(pairs...).Replace
}

// reach finds out that the cluster answers, before anything else is done.
func (d *deployment) reach(ctx context.Context) error {
	progress.Statusf(ctx, "reaching %s", d.result.Name)
	v, err := d.client.Discovery().ServerVersion()
	switch {
	case err == nil:
		progress.Statusf(ctx, "%s answers, Kubernetes %s", d.result.Name, v.GitVersion)
		return ctx.Err()
	case apierrors.IsUnauthorized(err):
		return fault.Failedf("deploy.unauthorized", "cluster %s: %w", d.result.Name, err).WithFix("renew the credentials in the kubeconfig")
	}
	return fault.Failedf("deploy.unreachable", "cluster %s does not answer: %w", d.result.Name, err).WithFix("check the kubeconfig's server and the network")
}

// chart loads the chart with this cluster's values.
func (d *deployment) chart() (release.Chart, error) {
	return release.Load(d.Chart, slices.Concat(d.Values, d.cluster.Values), d.Set)
}

// Deploy implements [deploy.Tool].
func (t Tool) Deploy(ctx context.Context, o deploy.Options) (deploy.Result, error) {
	start := time.Now()
	result := deploy.Result{Environment: o.Environment, Release: o.Release, Namespace: o.Namespace, Image: o.Image, URL: o.URL}
	var all []*deployment
	for _, c := range o.Clusters { // mistakes come out before the first cluster is touched
		d, err := t.open(o, c)
		if err != nil {
			return result, err
		}
		if _, err := d.chart(); err != nil {
			return result, err
		}
		all = append(all, d)
	}
	var failed error
	for i, d := range all {
		if failed = d.run(ctx); failed != nil {
			if len(all) > 1 {
				failed = fmt.Errorf("cluster %s: %w", d.result.Name, failed)
			}
			if o.RollbackAll && ctx.Err() == nil {
				failed = errors.Join(failed, takeBack(ctx, all[:i]))
			}
			break
		}
	}
	for _, d := range all {
		result.Clusters = append(result.Clusters, *d.result)
	}
	result.Seconds = time.Since(start).Seconds()
	return result, failed
}

// takeBack brings clusters that were changed back to what they ran, the last
// one first.
func takeBack(ctx context.Context, done []*deployment) error {
	var errs []error
	for _, d := range slices.Backward(done) {
		r := d.result
		switch {
		case r.Action == deploy.Untouched:
		case r.Previous == 0:
			r.Warnings = append(r.Warnings, "there is no earlier revision to go back to")
			progress.Warnf(ctx, "cluster %s keeps revision %d: it has no earlier one", r.Name, r.Revision)
		default:
			progress.Line(ctx, fmt.Sprintf("taking cluster %s back to revision %d", r.Name, r.Previous))
			tried := r.Revision
			err := d.locked(ctx, func(ctx context.Context) error {
				found, err := d.release.Find(ctx)
				if err == nil && found.Last != r.Revision {
					err = fault.Gatef("deploy.overtaken", "revision %d was made meanwhile by somebody else; it is left alone", found.Last)
				}
				if err != nil {
					return err
				}
				return d.goBack(ctx, r.Previous)
			})
			if err != nil {
				r.RollbackErr = err.Error()
				errs = append(errs, fmt.Errorf("taking cluster %s back: %w", r.Name, err))
			}
			r.Tried = tried
		}
	}
	return errors.Join(errs...)
}

// run deploys to one cluster.
func (d *deployment) run(ctx context.Context) error {
	start := time.Now()
	defer func() { d.result.Seconds = time.Since(start).Seconds() }()
	if err := d.reach(ctx); err != nil {
		return err
	}
	if err := d.ensureNamespace(ctx, d.Namespace, d.PodSecurity); err != nil {
		return d.refused(err)
	}
	return d.locked(ctx, d.bring)
}

// refused names a missing right by its code.
func (d *deployment) refused(err error) error {
	var known *fault.Error
	if errors.As(err, &known) || !apierrors.IsForbidden(err) {
		return err
	}
	return fault.Failedf("deploy.forbidden", "%w", err).WithFix("the deployer's Role lacks this; docs/deploy.md has what is needed")
}

// locked runs f under the release's lock.
func (d *deployment) locked(ctx context.Context, f func(context.Context) error) error {
	progress.Statusf(ctx, "locking the release")
	held, l, err := acquire(ctx, d.client.CoordinationV1().Leases(d.Namespace), "slipway-"+d.Release, d.Run, d.LockTimeout, func(holder string) {
		progress.Line(ctx, fmt.Sprintf("waiting: %s is deploying this release", holder))
		progress.Statusf(ctx, "waiting for %s to finish", holder)
	})
	if err != nil {
		return d.refused(err)
	}
	err = f(held)
	if errors.Is(context.Cause(held), release.ErrLockLost) {
		// What follows from it is told, but is no interrupt.
		err = fault.Failedf("deploy.lock-lost", "%w: %v", release.ErrLockLost, err).WithFix("run it again: it takes up where this one stopped")
	}
	if lockErr := l.release(ctx); lockErr != nil {
		progress.Warnf(ctx, "%v; the next run waits %s for it", lockErr, leaseDuration)
	}
	return err
}

// bring finds out what there is, and brings the cluster to what is wanted.
func (d *deployment) bring(ctx context.Context) error {
	r := d.result
	d.since, d.until = time.Now(), time.Now().Add(d.Timeout)
	secretsChanged, err := d.ensureSecrets(ctx, d.Options)
	if err != nil {
		return d.refused(err)
	}
	chart, err := d.chart()
	if err != nil {
		return err
	}
	crds, err := d.ensureCRDs(ctx, chart.CRDs())
	if err != nil {
		return d.refused(err)
	}
	if len(crds) > 0 {
		if err := d.Wait(ctx, "crds", crds); err != nil {
			return err
		}
	}
	progress.Statusf(ctx, "looking at release %s", d.Release)
	found, err := d.release.Find(ctx)
	if err != nil {
		return err
	}
	r.Before, r.Reason, r.Previous, r.Revision = found.State, found.Reason, found.Good, found.Good
	if found.State == deploy.Unfinished && found.Foreign && time.Since(found.Began) < foreignPatience {
		return fault.Gatef("deploy.locked", "another program works on this release: %s", found.Reason).
			WithFix("run it again when that is done; after %s it counts as dead", foreignPatience)
	}
	if found.State == deploy.Unfinished {
		progress.Line(ctx, fmt.Sprintf("recovering: %s, and its run is dead", found.Reason))
		if found, err = d.release.Recover(ctx, found); err != nil {
			return err
		}
	}
	rendered, err := d.release.Render(ctx, found, chart)
	if err != nil {
		return err
	}
	if err := checkImage(rendered.Objects, rendered.HookObjects, d.Image); err != nil {
		return err
	}
	if !secretsChanged && rendered.SameAs(found) && (!d.Test || found.Tested()) {
		changes, err := d.release.Changes(ctx, found, rendered)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			r.Action = deploy.Untouched
			return d.note(d.Wait(ctx, "rollout", rendered.Objects))
		}
		for _, c := range changes {
			progress.Line(ctx, fmt.Sprintf("%s differs from the release: somebody changed it by hand", c.Object))
		}
	}
	progress.Statusf(ctx, "applying %d objects", len(rendered.Objects))
	revision, err := d.release.Apply(ctx, found, rendered, release.Note{Description: d.describe(), Digest: d.Image.Digest})
	if err == nil && d.Test {
		if r.Tests, err = d.release.Test(ctx); err != nil {
			err = errors.Join(err, d.release.Fail(ctx, revision, "tests failed: "+err.Error()))
		}
	}
	if err == nil {
		r.Revision, r.Action = revision, deploy.Upgraded
		switch {
		case found.Good == 0 && r.Before != deploy.Absent, r.Before == deploy.Unfinished, r.Before == deploy.Failed:
			r.Action = deploy.Recovered
		case found.Good == 0:
			r.Action = deploy.Installed
		}
		return nil
	}
	r.Tried, r.Action = revision, deploy.Kept
	err = d.note(err)
	switch {
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), err)
	case revision == 0: // nothing was applied
		r.Action = deploy.NotReached
		return err
	case found.Good == 0:
		progress.Line(ctx, fmt.Sprintf("revision %d is the first, so it is kept for a look; the next deploy replaces it", revision))
		return err
	case d.NoRollback:
		return err
	}
	progress.Line(ctx, fmt.Sprintf("rolling back to revision %d", found.Good))
	if backErr := d.goBack(ctx, found.Good); backErr != nil {
		r.RollbackErr = backErr.Error()
		return errors.Join(err, fmt.Errorf("rolling back to revision %d: %w", found.Good, backErr))
	}
	return err
}

// goBack returns to a revision, within a budget of its own.
func (d *deployment) goBack(ctx context.Context, to int) error {
	found, err := d.release.Find(ctx)
	if err != nil {
		return err
	}
	if found, err = d.release.Recover(ctx, found); err != nil {
		return err
	}
	progress.Statusf(ctx, "rolling back to revision %d", to)
	d.since, d.until = time.Now(), time.Now().Add(d.RollbackTimeout)
	revision, err := d.release.Rollback(ctx, found, to)
	if err != nil {
		return err
	}
	d.result.Action, d.result.Revision = deploy.RolledBack, revision
	return nil
}

// foreignPatience is how long an operation may take that was begun without the
// lock, by helm itself or another tool.
const foreignPatience = 10 * time.Minute

// describe is what the history says of a revision.
func (d *deployment) describe() string {
	text := "deployed"
	if d.Version != "" {
		text += " " + d.Version
	}
	if d.Run != "" {
		text += " by " + d.Run
	}
	return text
}

// note keeps why a rollout failed in the result.
func (d *deployment) note(err error) error {
	if err == nil {
		return nil
	}
	f := &deploy.Failure{Kind: strings.TrimPrefix(fault.CodeOf(err), "deploy."), Message: d.mask(err.Error())}
	if failure, ok := errors.AsType[*rollout.Failure](err); ok {
		f = &deploy.Failure{
			Kind: string(failure.Kind), Object: failure.Object, Pod: failure.Pod, Container: failure.Container, Reason: failure.Reason,
			Message: failure.Message, Fix: failure.Fix, Logs: failure.Logs, Known: failure.Known, Seen: failure.Seen,
		}
		for _, e := range failure.Events {
			f.Events = append(f.Events, fmt.Sprintf("%s %s %s: %s (x%d)", e.Last.UTC().Format(time.TimeOnly), e.Object, e.Reason, e.Message, e.Count))
		}
	}
	f.Reported = time.Now()
	d.result.Failure = f
	return masked{err, d.mask}
}

// masked hides secrets in an error that passes on the words of others.
type masked struct {
	error
	mask func(string) string
}

func (m masked) Error() string { return m.mask(m.error.Error()) }

func (m masked) Unwrap() error { return m.error }

// Wait follows objects until they are ready; it is [release.Waiter].
func (d *deployment) Wait(ctx context.Context, phase string, objects []*unstructured.Unstructured) error {
	show := display{phase: phase, logs: d.logs}
	defer show.reading.Wait()
	result, err := rollout.Track(ctx, rollout.Options{
		Config: d.watching, Objects: objects, Timeout: max(time.Until(d.until), time.Millisecond), Since: d.since,
		Patience: rollout.Patience{Restarts: d.Restarts, Readiness: d.Readiness},
		Mask:     d.mask, Observe: func(s rollout.Snapshot) { show.tell(ctx, s) },
	})
	progress.Detail(ctx, nil)
	if phase == "rollout" {
		d.keep(result)
	}
	d.result.Warnings = append(d.result.Warnings, result.Warnings...)
	if failure, ok := errors.AsType[*rollout.Failure](err); ok {
		for _, line := range failure.Logs {
			progress.Line(ctx, "  "+failure.Container+" | "+line)
		}
	}
	return err //nolint:wrapcheck // it says what it is about
}

// logs are the last lines a container wrote before it was restarted; none where
// they cannot be had.
func (d *deployment) logs(ctx context.Context, p rollout.Problem) []string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, namespaced, _ := strings.Cut(p.Object, "/")
	namespace, _, _ := strings.Cut(namespaced, "/")
	lines := int64(5)
	text, err := d.client.CoreV1().Pods(namespace).GetLogs(p.Pod, &core.PodLogOptions{Container: p.Container, Previous: true, TailLines: &lines}).DoRaw(ctx)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(d.mask(string(text)), "\n"), "\n")
}

// Plan implements [deploy.Tool].
func (t Tool) Plan(ctx context.Context, o deploy.Options) (deploy.Plan, error) {
	plan := deploy.Plan{Environment: o.Environment, Release: o.Release, Namespace: o.Namespace, Image: o.Image}
	for _, c := range o.Clusters {
		p, err := t.plan(ctx, o, c)
		if err != nil {
			return plan, err
		}
		plan.Clusters = append(plan.Clusters, p)
	}
	return plan, nil
}

func (t Tool) plan(ctx context.Context, o deploy.Options, c deploy.Cluster) (deploy.ClusterPlan, error) {
	d, err := t.open(o, c)
	if err != nil {
		return deploy.ClusterPlan{}, err
	}
	p := deploy.ClusterPlan{Name: d.result.Name}
	if err := d.reach(ctx); err != nil {
		return p, err
	}
	namespace, err := d.client.CoreV1().Namespaces().Get(ctx, d.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		p.Changes = append(p.Changes, deploy.Change{Action: "create", Object: "namespace/" + d.Namespace})
	case apierrors.IsForbidden(err):
	case err != nil:
		return p, explain("reading namespace "+d.Namespace, err)
	case namespace.Status.Phase == core.NamespaceTerminating:
		p.Warnings = append(p.Warnings, "namespace "+d.Namespace+" is being deleted")
	}
	chart, err := d.chart()
	if err != nil {
		return p, err
	}
	found, err := d.release.Find(ctx)
	if err != nil {
		return p, err
	}
	p.State, p.Reason, p.Revision = found.State, found.Reason, found.Good
	rendered, err := d.release.Render(ctx, found, chart)
	if err != nil {
		return p, err
	}
	if err := checkImage(rendered.Objects, rendered.HookObjects, o.Image); err != nil {
		return p, err
	}
	progress.Statusf(ctx, "asking what would change")
	changes, err := d.release.Changes(ctx, found, rendered)
	if err != nil {
		return p, err
	}
	p.Changes = append(p.Changes, changes...)
	if len(p.Changes) > 0 {
		p.Hooks = rendered.Hooks
	}
	return p, nil
}

// Status implements [deploy.Tool].
func (t Tool) Status(ctx context.Context, o deploy.Options) ([]deploy.Status, error) {
	var all []deploy.Status
	for _, c := range o.Clusters {
		d, err := t.open(o, c)
		if err != nil {
			return all, err
		}
		s, err := d.status(ctx)
		all = append(all, s)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (d *deployment) status(ctx context.Context) (deploy.Status, error) {
	s := deploy.Status{Cluster: d.result.Name, Release: d.Release, Namespace: d.Namespace}
	if err := d.reach(ctx); err != nil {
		return s, err
	}
	found, err := d.release.Find(ctx)
	if err != nil {
		return s, err
	}
	s.State, s.Reason, s.Revision = found.State, found.Reason, found.Good
	if s.History, err = d.release.History(ctx); err != nil {
		return s, err
	}
	lease, err := d.client.CoordinationV1().Leases(d.Namespace).Get(ctx, "slipway-"+d.Release, metav1.GetOptions{})
	if err == nil {
		if holder := value(lease.Spec.HolderIdentity); holder != "" && !dead(holder) {
			s.Lock = shown(holder)
		}
	}
	if found.Last == 0 || found.State == deploy.Absent {
		return s, nil
	}
	objects, err := d.release.Objects(ctx, max(found.Good, found.Last))
	if err != nil {
		return s, err
	}
	for _, o := range objects {
		if i := release.Images(o); len(i) > 0 && s.Image == "" {
			s.Image = i[len(i)-1]
		}
	}
	// What is ready is known at once; what is not has a moment to say why.
	var last rollout.Snapshot
	result, err := rollout.Track(ctx, rollout.Options{
		Config: d.watching, Objects: objects, Timeout: lookTimeout, Mask: d.mask, Observe: func(now rollout.Snapshot) { last = now },
	})
	if ctx.Err() != nil {
		return s, ctx.Err() //nolint:wrapcheck // an interrupt says enough
	}
	s.Workloads = workloads(result.Workloads)
	for _, p := range last.Problems {
		s.Problems = append(s.Problems, problem(p))
	}
	if _, judged := errors.AsType[*rollout.Failure](err); err != nil && !judged {
		return s, err //nolint:wrapcheck // it says what it is about
	}
	return s, nil
}

// lookTimeout is how long a status waits for what is not ready to say why.
const lookTimeout = 3 * time.Second

// Rollback implements [deploy.Tool].
func (t Tool) Rollback(ctx context.Context, o deploy.Options, revision int) (deploy.Result, error) {
	start := time.Now()
	result := deploy.Result{Environment: o.Environment, Release: o.Release, Namespace: o.Namespace, URL: o.URL}
	var failed error
	for _, c := range o.Clusters {
		d, err := t.open(o, c)
		if err != nil {
			return result, err
		}
		if failed == nil {
			failed = d.rollback(ctx, revision)
		}
		d.result.Seconds = time.Since(start).Seconds()
		result.Clusters = append(result.Clusters, *d.result)
	}
	result.Seconds = time.Since(start).Seconds()
	return result, failed
}

func (d *deployment) rollback(ctx context.Context, to int) error {
	if err := d.reach(ctx); err != nil {
		return err
	}
	return d.locked(ctx, func(ctx context.Context) error {
		found, err := d.release.Find(ctx)
		if err != nil {
			return err
		}
		r := d.result
		r.Before, r.Reason, r.Previous = found.State, found.Reason, found.Good
		if found.State == deploy.Absent {
			return fault.Inputf("deploy.absent", "release %s is not in namespace %s: %s", d.Release, d.Namespace, found.Reason)
		}
		history, err := d.release.History(ctx)
		if err != nil {
			return err
		}
		if to == 0 {
			before := found.Last
			if found.State != deploy.Deployed {
				before = found.Last + 1
			}
			if to, err = d.release.GoodBefore(ctx, before); err != nil {
				return err
			}
			if to == 0 {
				return fault.Inputf("deploy.no-revision", "release %s has no good revision before %d", d.Release, found.Last).WithFix("see slipway history")
			}
		}
		i := slices.IndexFunc(history, func(r deploy.Revision) bool { return r.Revision == to })
		switch {
		case i < 0:
			return fault.Inputf("deploy.no-revision", "release %s has no revision %d", d.Release, to).WithFix("see slipway history")
		case !history[i].Good:
			progress.Warnf(ctx, "revision %d never passed its rollout: %s", to, history[i].Description)
		}
		return d.note(d.goBack(ctx, to))
	})
}

// keep puts how the workloads are into the result.
func (d *deployment) keep(r rollout.Result) {
	d.result.Workloads = workloads(r.Workloads)
	if !r.AvailableAt.IsZero() {
		d.result.Late = r.Returned.Sub(r.AvailableAt).Seconds()
	}
}

// workloads are those that have pods.
func workloads(all []rollout.Workload) []deploy.Workload {
	var out []deploy.Workload
	for _, w := range all {
		if len(w.Pods) == 0 && w.Desired == 0 {
			continue
		}
		kind, name, _ := strings.Cut(w.Object, "/")
		_, name, _ = strings.Cut(name, "/")
		out = append(out, deploy.Workload{Object: kind + "/" + name, Desired: w.Desired, Updated: w.Updated, Ready: w.Ready, Available: w.Available, Message: w.Message})
	}
	return out
}

// problem is a trouble in one line.
func problem(p rollout.Problem) string {
	subject := p.Object
	if p.Pod != "" {
		subject = "pod " + p.Pod
	}
	if p.Container != "" {
		subject += ", container " + p.Container
	}
	return subject + ": " + p.Message
}

// display tells how a rollout goes: all of it to a live view, what is new as
// lines.
type display struct {
	phase   string
	before  rollout.Snapshot
	logs    func(ctx context.Context, p rollout.Problem) []string
	reading sync.WaitGroup
	read    map[string]int32 // restarts of a container whose logs were shown
}

func (v *display) tell(ctx context.Context, now rollout.Snapshot) {
	ready, all := 0, int32(0) // of the new version: the old one's are no news
	for _, w := range now.Workloads {
		for _, p := range w.Pods {
			if p.Ready {
				ready++
			}
		}
		all += w.Desired
	}
	if v.phase == "rollout" {
		progress.Statusf(ctx, "rolling out: %d of %d new pods ready", ready, all)
	} else {
		progress.Statusf(ctx, "waiting for %s", v.phase)
	}
	for _, line := range now.Since(v.before) {
		progress.Line(ctx, line)
	}
	v.before = now
	for _, p := range now.Problems {
		if p.Container == "" || p.Restarts == 0 || v.read[p.Pod+"/"+p.Container] >= p.Restarts {
			continue
		}
		if v.read == nil {
			v.read = map[string]int32{}
		}
		v.read[p.Pod+"/"+p.Container] = p.Restarts
		v.reading.Go(func() { // the judgement does not wait for it
			for _, line := range v.logs(ctx, p) {
				progress.Line(ctx, "  "+p.Container+" | "+line)
			}
		})
	}
	lines := now.Lines()
	for _, e := range now.Events[max(0, len(now.Events)-3):] {
		lines = append(lines, "event "+e.Object+": "+e.Reason+": "+e.Message)
	}
	progress.Detail(ctx, lines)
}

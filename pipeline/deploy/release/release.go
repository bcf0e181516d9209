// Package release keeps Helm 3 to itself: it finds out the state of a release,
// renders, applies, goes back and repairs what dead runs left. Helm 4 would be
// a change of this package alone.
//
// Helm's own waiting sees neither pods nor reasons, so the objects it applied
// are handed to a [Waiter] instead, from inside Helm's operation: a revision
// becomes "deployed" only after its rollout passed, and a run that dies leaves
// it pending for the next to recover. Helm's patches forget what failed
// revisions changed; here every object is patched against all revisions since
// the last good one (see baseline).
package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/kube"
	helm "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// ErrLockLost is the cause of a context that ends because another may hold the
// release's lock. It stops an apply between two objects; an interrupt does not.
var ErrLockLost = errors.New("the lock was lost: no heartbeat reached the cluster in time")

// Waiter follows objects that were just applied until they are ready. Phase
// says what they are: "rollout" for the workloads, else a hook, for example
// "pre-upgrade".
type Waiter interface {
	Wait(ctx context.Context, phase string, objects []*unstructured.Unstructured) error
}

// Options says which release and how it is reached.
type Options struct {
	Getter     genericclioptions.RESTClientGetter // its requests must have a timeout: Helm gives them none
	Name       string
	Namespace  string
	MaxHistory int // revisions kept; default 10
	Waiter     Waiter
	Log        func(format string, args ...any)
}

// Client works on one release.
type Client struct {
	Options
	config *action.Configuration
	kube   *client
}

// New returns a client. It does not speak to the cluster yet.
func New(o Options) (*Client, error) {
	if o.MaxHistory == 0 {
		o.MaxHistory = 10
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	c := &Client{Options: o, config: new(action.Configuration)}
	if err := c.config.Init(o.Getter, o.Namespace, "secret", o.Log); err != nil {
		return nil, fmt.Errorf("setting Helm up: %w", err)
	}
	kubeClient, ok := c.config.KubeClient.(*kube.Client)
	if !ok {
		return nil, fmt.Errorf("setting Helm up: its client is a %T", c.config.KubeClient)
	}
	kubeClient.Namespace = o.Namespace
	c.kube = &client{Client: kubeClient, waiter: o.Waiter, namespace: o.Namespace}
	c.config.KubeClient = c.kube
	return c, nil
}

// Found is what a release was found in.
type Found struct {
	State  deploy.State
	Reason string
	Last   int // newest revision, 0 without any
	Good   int // newest revision that passed, 0 without any
	// Foreign says that the newest revision was not made by slipway, and Began
	// when its operation began.
	Foreign bool
	Began   time.Time

	last    *helm.Release
	applied []*helm.Release // revisions the cluster may hold parts of, oldest first
}

// Image is the image reference the newest good revision runs, as slipway noted
// it; empty where it is not known.
func (f Found) Image() string {
	for _, r := range f.applied {
		if r.Version == f.Good {
			return r.Labels[imageLabel]
		}
	}
	return ""
}

// Tested reports whether the newest revision's test hooks have passed.
func (f Found) Tested() bool {
	for _, h := range f.last.Hooks {
		if slices.Contains(h.Events, helm.HookTest) && h.LastRun.Phase != helm.HookPhaseSucceeded {
			return false
		}
	}
	return true
}

// imageLabel is not kept by Helm's storage as a label value longer than 63
// characters, so the digest alone is noted, without its colon.
const imageLabel = "slipway.digest"

// Find determines the release's state and its reason.
func (c *Client) Find(ctx context.Context) (Found, error) {
	if err := ctx.Err(); err != nil {
		return Found{}, err
	}
	history, err := c.config.Releases.History(c.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) || err == nil && len(history) == 0 {
		return Found{State: deploy.Absent, Reason: "it was never installed"}, nil
	}
	if err != nil {
		return Found{}, c.explain("reading the history", err)
	}
	releaseutil.SortByRevision(history)
	return judge(history), nil
}

// judge says what a history, oldest first, means.
func judge(history []*helm.Release) Found {
	last := history[len(history)-1]
	f := Found{Last: last.Version, last: last, Foreign: last.Labels[imageLabel] == "", Began: last.Info.LastDeployed.Time}
	since := 0
	for i, r := range slices.Backward(history) {
		if gone(r) { // nothing older is in the cluster
			since = min(i+1, len(history)-1)
			break
		}
		if good(r) {
			f.Good, since = r.Version, i
			break
		}
	}
	f.applied = history[since:]
	description := last.Info.Description
	switch status := last.Info.Status; {
	case status == helm.StatusUninstalled:
		f.State, f.Reason, f.Good, f.applied = deploy.Absent, fmt.Sprintf("revision %d was uninstalled", last.Version), 0, nil
	case status.IsPending(), status == helm.StatusUninstalling, status == helm.StatusUnknown:
		f.State, f.Reason = deploy.Unfinished, fmt.Sprintf("revision %d is %s since %s", last.Version, status, last.Info.LastDeployed.UTC().Format(time.RFC3339))
	case good(last):
		f.State = deploy.Deployed
	default:
		f.State, f.Reason = deploy.Failed, fmt.Sprintf("revision %d: %s", last.Version, description)
	}
	return f
}

// gone reports whether a revision was uninstalled. Installing anew marks it
// superseded.
func gone(r *helm.Release) bool {
	return r.Info.Status == helm.StatusUninstalled || r.Info.Status == helm.StatusSuperseded && r.Info.Description == "superseded by new release"
}

// good reports whether a revision passed its rollout. A status alone does not
// say: Helm marks a failed revision superseded when a rollback from it fails,
// or when a failed install is replaced.
func good(r *helm.Release) bool {
	if gone(r) || r.Info.Status != helm.StatusDeployed && r.Info.Status != helm.StatusSuperseded {
		return false
	}
	d := r.Info.Description
	for _, bad := range []string{unfinished, "Preparing upgrade", "Initial install underway"} {
		if strings.HasPrefix(d, bad) {
			return false
		}
	}
	return !strings.Contains(d, " failed: ") && !strings.HasPrefix(d, "failed ")
}

// unfinished begins the description of a revision whose run died.
const unfinished = "unfinished: "

// Rendered is a chart rendered for a release.
type Rendered struct {
	Objects     []*unstructured.Unstructured // with namespaces
	Hooks       []string                     // kind/name (events)
	HookObjects []*unstructured.Unstructured
	Notes       string

	chart  *chart.Chart
	values map[string]any
	target *helm.Release
}

// Chart is a loaded chart with its values.
type Chart struct {
	chart  *chart.Chart
	values map[string]any
}

// Load reads a chart and values. What is wrong with either is a [fault.Input]
// error.
func Load(path string, files []string, set map[string]any) (Chart, error) {
	ch, err := loader.Load(path)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "reading the chart %s: %w", path, err).WithFix("set deploy.chart in slipway.yaml to a chart's folder or package")
	}
	if ch.Metadata.Type == "library" {
		return Chart{}, fault.Inputf("deploy.chart", "%s is a library chart, which cannot be installed", path)
	}
	if err := action.CheckDependencies(ch, ch.Metadata.Dependencies); err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "the chart %s: %w", path, err).WithFix("run helm dependency build %s", path)
	}
	vals, err := (&values.Options{ValueFiles: files}).MergeValues(nil)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading values: %w", err)
	}
	// Merging writes into its first argument, which several clusters share.
	text, err := yaml.Marshal(set)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading values: %w", err)
	}
	own, err := chartutil.ReadValues(text)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading values: %w", err)
	}
	return Chart{ch, chartutil.MergeTables(own, vals)}, nil
}

// CRDs are the objects of the chart's crds folders, which Helm installs once
// and never upgrades (helm/helm#12344).
func (ch Chart) CRDs() []byte {
	var all bytes.Buffer
	for _, crd := range ch.chart.CRDObjects() {
		all.WriteString("---\n")
		all.Write(crd.File.Data)
		all.WriteString("\n")
	}
	return all.Bytes()
}

// Render renders the chart as Apply would, with a dry run on the server.
func (c *Client) Render(ctx context.Context, found Found, ch Chart) (Rendered, error) {
	c.kube.begin(ctx, nil)
	vals := chartutil.CoalesceTables(map[string]any{}, ch.values)
	var r *helm.Release
	var err error
	if found.Good > 0 && found.State != deploy.Unfinished {
		upgrade := c.upgrade("", nil)
		upgrade.DryRun, upgrade.DryRunOption = true, "server"
		r, err = upgrade.Run(c.Name, ch.chart, vals)
	} else {
		// An upgrade's dry run refuses a pending release; an install's can render
		// as an upgrade does, but for the revision's number.
		install := c.install(found, "")
		install.DryRun, install.DryRunOption, install.IsUpgrade = true, "server", found.Good > 0
		r, err = install.Run(ch.chart, vals)
	}
	if err != nil {
		return Rendered{}, c.renderError(ch, err)
	}
	infos, err := c.kube.Build(bytes.NewBufferString(r.Manifest), true)
	if err != nil {
		return Rendered{}, c.renderError(ch, err)
	}
	out := Rendered{Notes: r.Info.Notes, chart: ch.chart, values: ch.values, target: r, Objects: objects(infos)}
	for _, h := range r.Hooks {
		events := make([]string, len(h.Events))
		for i, e := range h.Events {
			events[i] = string(e)
		}
		if infos, err := c.kube.Build(strings.NewReader(h.Manifest), false); err == nil {
			out.HookObjects = append(out.HookObjects, objects(infos)...)
		} else {
			return Rendered{}, c.renderError(ch, err)
		}
		out.Hooks = append(out.Hooks, fmt.Sprintf("%s/%s (%s)", strings.ToLower(h.Kind), h.Name, strings.Join(events, ", ")))
	}
	return out, nil
}

// renderError tells bad input, which is the user's to mend, from a cluster that
// does not answer.
func (c *Client) renderError(ch Chart, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "values don't meet the specifications of the schema"):
		lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return fault.Inputf("deploy.values", "%s", strings.Join(lines, " ")).WithFix("see values.schema.json of the chart %s", ch.chart.Name())
	case strings.Contains(text, "kubeVersion"), strings.Contains(text, "execution error at"), strings.Contains(text, "template: "), strings.Contains(text, "parse error"),
		strings.Contains(text, "error calling"), strings.Contains(text, "YAML parse error"), strings.Contains(text, "error validating"),
		strings.Contains(text, "unable to build kubernetes objects"):
		return fault.Inputf("deploy.chart", "rendering the chart %s: %s", ch.chart.Name(), oneLine(text))
	case strings.Contains(text, "cannot be imported into the current release"):
		return conflict(text)
	}
	return c.explain("rendering", err)
}

func conflict(text string) error {
	return fault.Gatef("deploy.conflict", "%s", oneLine(text)).WithFix("it belongs to something else: delete it, or choose another release or namespace")
}

// Recover makes an unfinished release one that can be upgraded. It must be
// called under the release's lock: nothing else tells a dead run from a slow
// one.
func (c *Client) Recover(ctx context.Context, found Found) (Found, error) {
	if found.State != deploy.Unfinished {
		return found, nil
	}
	if err := c.Fail(ctx, found.Last, unfinished+found.Reason); err != nil {
		return found, err
	}
	return c.Find(ctx)
}

// Fail marks a revision failed, also when ctx has ended: what is stored must be
// what happened.
func (c *Client) Fail(ctx context.Context, revision int, why string) error {
	if errors.Is(context.Cause(ctx), ErrLockLost) {
		return ErrLockLost // it is another's now
	}
	r, err := c.config.Releases.Get(c.Name, revision)
	if err != nil {
		return c.explain(fmt.Sprintf("reading revision %d", revision), err)
	}
	r.SetStatus(helm.StatusFailed, why)
	if err := c.config.Releases.Update(r); err != nil {
		return c.explain(fmt.Sprintf("marking revision %d as failed", revision), err)
	}
	return nil
}

// Changes says what Apply would change, by dry runs on the server of the very
// patches it would send.
func (c *Client) Changes(ctx context.Context, found Found, r Rendered) ([]deploy.Change, error) {
	c.kube.begin(ctx, found.applied)
	target, err := c.kube.Build(bytes.NewBufferString(r.target.Manifest), false)
	if err != nil {
		return nil, c.explain("reading the rendered chart", err)
	}
	if err := own(target, c.Name, c.Namespace); err != nil {
		return nil, err
	}
	changes, err := c.kube.reconcile(target, true)
	if err != nil {
		return nil, c.explain("asking what would change", err)
	}
	out := make([]deploy.Change, 0, len(changes))
	for _, ch := range changes {
		if diff := ch.diff(); diff != "" {
			out = append(out, deploy.Change{Action: ch.action, Object: ch.object(), Diff: diff})
		}
	}
	return out, nil
}

// SameAs reports whether the newest revision is good and holds the same
// manifest and hooks.
func (r Rendered) SameAs(found Found) bool {
	if found.State != deploy.Deployed || found.last.Manifest != r.target.Manifest || len(found.last.Hooks) != len(r.target.Hooks) {
		return false
	}
	for i, h := range found.last.Hooks {
		if h.Path != r.target.Hooks[i].Path || h.Manifest != r.target.Hooks[i].Manifest {
			return false
		}
	}
	return true
}

func (c *Client) install(found Found, description string) *action.Install {
	i := action.NewInstall(c.config)
	i.ReleaseName, i.Namespace, i.Description = c.Name, c.Namespace, description
	i.SkipCRDs, i.Wait, i.Timeout = true, true, hookTimeout
	i.Replace = found.Last > 0
	return i
}

func (c *Client) upgrade(description string, labels map[string]string) *action.Upgrade {
	u := action.NewUpgrade(c.config)
	u.Namespace, u.Description, u.Labels = c.Namespace, description, labels
	u.ResetValues, u.SkipCRDs, u.Wait, u.Timeout, u.MaxHistory = true, true, true, hookTimeout, c.MaxHistory
	return u
}

// hookTimeout bounds what Helm itself waits for, which is the deletion of old
// hooks; all other waiting is the Waiter's.
const hookTimeout = 2 * time.Minute

// Note is what is kept with a revision.
type Note struct {
	Description string
	Digest      string // sha256:...
}

func (n Note) labels() map[string]string {
	if n.Digest == "" {
		return nil
	}
	return map[string]string{imageLabel: strings.TrimPrefix(n.Digest, "sha256:")[:min(63, len(n.Digest)-len("sha256:"))]}
}

// Apply installs or upgrades, and returns the revision it made, also where it
// failed; 0 is none. A cancelled context ends the waiting, never an apply
// halfway. found must not be unfinished: see [Client.Recover].
func (c *Client) Apply(ctx context.Context, found Found, r Rendered, note Note) (int, error) {
	c.kube.begin(ctx, found.applied)
	c.config.Releases.MaxHistory = c.MaxHistory
	vals := chartutil.CoalesceTables(map[string]any{}, r.values)
	var made *helm.Release
	var err error
	if found.Good == 0 {
		install := c.install(found, note.Description)
		install.Labels = note.labels()
		made, err = install.Run(r.chart, vals)
		if err == nil && found.Last > 0 {
			err = c.kube.prune(made.Manifest)
		}
	} else {
		made, err = c.upgrade(note.Description, note.labels()).Run(c.Name, r.chart, vals)
	}
	revision := 0
	if made != nil && made.Version > found.Last {
		revision = made.Version
	}
	if err != nil {
		return c.settle(ctx, revision, c.applyError(err))
	}
	return c.settle(ctx, revision, nil)
}

// settle re-reads the revision and sees to it that what is stored is what
// happened: Helm only logs it when it cannot write a status, and forgets the
// status of a rollback whose hook fails.
func (c *Client) settle(ctx context.Context, revision int, cause error) (int, error) {
	if revision == 0 {
		return 0, cause
	}
	if errors.Is(context.Cause(ctx), ErrLockLost) {
		return revision, cause // it is another's now
	}
	r, err := c.config.Releases.Get(c.Name, revision)
	switch {
	case errors.Is(err, driver.ErrReleaseNotFound):
		return 0, cause
	case err != nil:
		return revision, errors.Join(cause, c.explain(fmt.Sprintf("reading revision %d again", revision), err))
	case cause != nil && r.Info.Status != helm.StatusFailed:
		err = c.Fail(ctx, revision, "slipway run failed: "+oneLine(cause.Error()))
	case cause == nil && r.Info.Status != helm.StatusDeployed:
		r.SetStatus(helm.StatusDeployed, r.Info.Description)
		err = c.config.Releases.Update(r)
	}
	return revision, errors.Join(cause, err)
}

// Rollback goes back to a revision and returns the new revision it made.
func (c *Client) Rollback(ctx context.Context, found Found, to int) (int, error) {
	c.kube.begin(ctx, found.applied)
	rollback := action.NewRollback(c.config)
	rollback.Version, rollback.Wait, rollback.Timeout, rollback.MaxHistory = to, true, hookTimeout, c.MaxHistory
	err := rollback.Run(c.Name)
	last, lastErr := c.config.Releases.Last(c.Name)
	if lastErr != nil {
		return 0, errors.Join(c.applyErrorOrNil(err), c.explain("reading the release again", lastErr))
	}
	if last.Version <= found.Last {
		return 0, c.applyErrorOrNil(err)
	}
	return c.settle(ctx, last.Version, c.applyErrorOrNil(err))
}

func (c *Client) applyErrorOrNil(err error) error {
	if err == nil {
		return nil
	}
	return c.applyError(err)
}

// applyError gives back what the Waiter said where it was the Waiter, because
// Helm flattens errors of hooks to text.
func (c *Client) applyError(err error) error {
	if c.kube.waitErr != nil {
		return c.kube.waitErr
	}
	text := oneLine(err.Error())
	switch {
	case apierrors.IsRequestEntityTooLargeError(err), strings.Contains(text, "Too long: "), strings.Contains(text, "Request entity too large"):
		return fault.Gatef("deploy.release-too-large", "release %s does not fit into a Secret of 1 MiB: %s", c.Name, text).
			WithFix("keep large files out of the chart with .helmignore (https://github.com/helm/helm/issues/6711)")
	case strings.Contains(text, "field is immutable"):
		return fault.Gatef("deploy.immutable", "%s", text).WithFix("Kubernetes does not change this field: delete the object by hand, or give it a new name")
	case strings.Contains(text, "cannot be imported into the current release"):
		return conflict(text)
	case strings.Contains(text, "exceeded quota"):
		return fault.Gatef("deploy.quota", "%s", text).WithFix("raise the namespace's ResourceQuota or ask for less")
	case strings.Contains(text, "admission webhook"), strings.Contains(text, "violates PodSecurity"), strings.Contains(text, "denied the request"):
		return fault.Gatef("deploy.admission", "%s", text)
	}
	return c.explain("applying", err)
}

// explain says what was being done to which release, and what to do about it.
func (c *Client) explain(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := fault.Failedf("deploy.failed", "%s: release %s in namespace %s: %w", doing, c.Name, c.Namespace, flat{err})
	switch {
	case apierrors.IsForbidden(err), strings.Contains(err.Error(), "is forbidden: User"):
		e.Code = "deploy.forbidden"
		return e.WithFix("the deployer's Role lacks this; docs/deploy.md has what is needed")
	case apierrors.IsUnauthorized(err):
		e.Code = "deploy.unauthorized"
		return e.WithFix("renew the credentials in the kubeconfig")
	case unreachable(err):
		e.Code = "deploy.unreachable"
		return e.WithFix("check the kubeconfig's server and the network")
	}
	return e
}

// flat puts an error on one line; Helm lists several one below the other.
type flat struct{ error }

func (f flat) Error() string { return oneLine(f.error.Error()) }

func (f flat) Unwrap() error { return f.error }

func unreachable(err error) bool {
	text := err.Error()
	for _, s := range []string{"connection refused", "no such host", "i/o timeout", "Kubernetes cluster unreachable", "connection reset", "no route to host", "Client.Timeout"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// History lists the revisions, newest first.
func (c *Client) History(ctx context.Context) ([]deploy.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	history, err := c.config.Releases.History(c.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain("reading the history", err)
	}
	releaseutil.Reverse(history, releaseutil.SortByRevision)
	out := make([]deploy.Revision, 0, len(history))
	for _, r := range history {
		out = append(out, deploy.Revision{
			Revision: r.Version, Status: string(r.Info.Status), Good: good(r), Updated: r.Info.LastDeployed.Time.UTC(),
			Chart: r.Chart.Metadata.Name + "-" + r.Chart.Metadata.Version, Image: r.Labels[imageLabel], Description: r.Info.Description,
		})
	}
	return out, nil
}

// GoodBefore is the revision to go back to from another: the newest good one
// before it that holds something else. From a rollback to revision N it is one
// before N. 0 is none.
func (c *Client) GoodBefore(ctx context.Context, revision int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	history, err := c.config.Releases.History(c.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, c.explain("reading the history", err)
	}
	releaseutil.Reverse(history, releaseutil.SortByRevision)
	return before(history, revision), nil
}

// before does what GoodBefore says, on a history with the newest first.
func before(history []*helm.Release, revision int) int {
	manifest := ""
	for _, r := range history {
		if r.Version == revision {
			manifest = r.Manifest
			var origin int
			if _, err := fmt.Sscanf(r.Info.Description, "Rollback to %d", &origin); err == nil {
				revision = origin
			}
		}
	}
	for _, r := range history {
		switch {
		case r.Version >= revision:
		case gone(r):
			return 0
		case good(r) && (manifest == "" || r.Manifest != manifest):
			return r.Version
		}
	}
	return 0
}

// Objects are those of a revision, with namespaces.
func (c *Client) Objects(ctx context.Context, revision int) ([]*unstructured.Unstructured, error) {
	c.kube.begin(ctx, nil)
	r, err := c.config.Releases.Get(c.Name, revision)
	if err != nil {
		return nil, c.explain(fmt.Sprintf("reading revision %d", revision), err)
	}
	infos, err := c.kube.Build(bytes.NewBufferString(r.Manifest), false)
	if err != nil {
		return nil, c.explain(fmt.Sprintf("reading the manifest of revision %d", revision), err)
	}
	return objects(infos), nil
}

// Test runs the chart's test hooks and returns their names.
func (c *Client) Test(ctx context.Context) ([]string, error) {
	c.kube.begin(ctx, nil)
	c.kube.phase = "test"
	tests := action.NewReleaseTesting(c.config)
	tests.Namespace, tests.Timeout = c.Namespace, hookTimeout
	r, err := tests.Run(c.Name)
	var names []string
	if r != nil {
		for _, h := range r.Hooks {
			if slices.Contains(h.Events, helm.HookTest) {
				names = append(names, h.Name)
			}
		}
	}
	if err != nil {
		return names, c.applyError(err)
	}
	return names, nil
}

// Parse reads objects from YAML documents.
func (c *Client) Parse(ctx context.Context, text io.Reader) ([]*unstructured.Unstructured, error) {
	c.kube.begin(ctx, nil)
	infos, err := c.kube.Build(text, false)
	if err != nil {
		return nil, c.explain("reading objects", err)
	}
	return objects(infos), nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

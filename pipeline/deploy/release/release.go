// Package release is the only package that imports Helm 3. It determines the state of
// a release, renders and applies charts, rolls back, and recovers releases that a
// killed run left unfinished. A move to Helm 4 would change this package only.
//
// Helm itself waits without examining pods, so it cannot report why a rollout fails.
// Therefore the package passes the applied objects to a [Waiter] while the operation
// of Helm is still in progress. A revision gets the status "deployed" only after its
// rollout has succeeded, and if the run is killed, the revision remains pending and
// the next run recovers it.
//
// Helm computes patches against a single revision, so that changes of failed revisions
// can remain in the cluster. This package computes them against all revisions since
// the last good one (see baseline).
//
// The package promises no compatibility to programs other than slipway.
package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube"
	helm "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// ErrLockLost is the cause of a context that is cancelled because another run may hold
// the lock of the release. It stops an apply between two objects, in contrast to an
// interrupt, which does not.
var ErrLockLost = errors.New("the lock was lost: no heartbeat reached the cluster in time")

// Waiter waits for objects that were applied.
type Waiter interface {
	// Wait waits until the objects are ready or it is certain that they will not be.
	// The phase is "rollout" for the objects of the chart, "hook" for a hook, and
	// "test" for a test hook.
	Wait(ctx context.Context, phase string, objects []*unstructured.Unstructured) error
}

// Options are the options of a [Client].
type Options struct {
	Getter     genericclioptions.RESTClientGetter // its requests must have a timeout, because Helm sets none
	Name       string                             // the name of the release
	Namespace  string                             // the namespace of the release
	MaxHistory int                                // revisions to keep; default: that of [config.DefaultEnvironment]
	Waiter     Waiter                             // waits for applied objects; if nil, nothing waits
	Mask       func(string) string                // hides secrets in errors; optional
	Log        func(format string, args ...any)   // receives the debug messages of Helm; optional
}

// Client reads and changes one release.
type Client struct {
	Options
	config *action.Configuration
	kube   *client
}

// New returns a client. It does not connect to the cluster.
func New(o Options) (*Client, error) {
	o.MaxHistory = cmp.Or(o.MaxHistory, config.DefaultEnvironment().History)
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Mask == nil {
		o.Mask = func(s string) string { return s }
	}
	c := &Client{Options: o, config: new(action.Configuration)}
	if err := c.config.Init(o.Getter, o.Namespace, "secret", o.Log); err != nil {
		return nil, fmt.Errorf("initializing Helm: %w", err)
	}
	kubeClient, ok := c.config.KubeClient.(*kube.Client)
	if !ok {
		return nil, fmt.Errorf("initializing Helm: its client has the unexpected type %T", c.config.KubeClient)
	}
	kubeClient.Namespace = o.Namespace
	c.kube = &client{Client: kubeClient, waiter: o.Waiter}
	c.config.KubeClient = c.kube
	return c, nil
}

// Recover marks the newest revision of an unfinished release as failed, so that the
// release can be upgraded. It returns the new state. The caller must hold the lock of
// the release, because without it a killed run cannot be distinguished from a slow
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

// Fail marks a revision as failed, with why as its description. It does so even if ctx
// is cancelled, so that the stored status is correct, unless the lock is lost: then it
// returns [ErrLockLost].
func (c *Client) Fail(ctx context.Context, revision int, why string) error {
	if errors.Is(context.Cause(ctx), ErrLockLost) {
		return ErrLockLost
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

// install returns an installation of the release. Helm replaces a release that has
// only failed revisions.
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

// hookTimeout limits how long Helm itself waits, which is only for the deletion of
// earlier hooks. The Waiter waits for everything else.
const hookTimeout = 2 * time.Minute

// Note is stored with a revision in the history of the release.
type Note struct {
	Description string
	Digest      string // the digest of the image, as sha256:...
}

// labels returns the labels of the revision that is made from what was rendered.
func (n Note) labels(rendered *helm.Release) map[string]string {
	if n.Digest == "" {
		return nil
	}
	return map[string]string{
		imageLabel:    labelValue(strings.TrimPrefix(n.Digest, "sha256:")),
		verifiedLabel: contentOf(rendered),
	}
}

// Apply installs or upgrades the release to exactly what Render has rendered, and returns
// the revision that it made, even if the rollout failed. The revision is 0 if none was made. If ctx is cancelled, Apply
// stops waiting, but it does not stop between two objects. The state must not be
// unfinished; see [Client.Recover].
func (c *Client) Apply(ctx context.Context, found Found, r Rendered, note Note) (int, error) {
	c.kube.begin(ctx, found.applied)
	c.kube.checked = r.target
	c.config.Releases.MaxHistory = c.MaxHistory
	vals := chartutil.CoalesceTables(map[string]any{}, r.values)
	frozen, err := r.frozen()
	if err != nil {
		return 0, c.explain("preparing the chart", err)
	}
	labels := note.labels(r.target)
	var made *helm.Release
	if found.Good == 0 {
		install := c.install(found, note.Description)
		install.Labels, install.PostRenderer = labels, sameManifest{r.target.Manifest}
		made, err = install.Run(frozen, vals)
		if err == nil && found.Last > 0 {
			err = c.kube.prune(made.Manifest)
		}
	} else {
		upgrade := c.upgrade(note.Description, labels)
		upgrade.PostRenderer = sameManifest{r.target.Manifest}
		made, err = upgrade.Run(c.Name, frozen, vals)
	}
	revision := 0
	if made != nil && made.Version > found.Last {
		revision = made.Version
	}
	return c.correctStatus(ctx, revision, c.applyError(err))
}

// correctStatus reads a revision again and corrects its stored status. If Helm cannot
// write a status, it only logs that, and if a hook of a rollback fails, it does not
// write the status at all. cause is why the operation failed, or nil; it is part of
// the returned error.
func (c *Client) correctStatus(ctx context.Context, revision int, cause error) (int, error) {
	if revision == 0 {
		return 0, cause
	}
	if errors.Is(context.Cause(ctx), ErrLockLost) {
		return revision, cause // another run may work on the release
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

// Rollback rolls back to a revision and returns the new revision that it made. The
// new revision is 0 if none was made.
func (c *Client) Rollback(ctx context.Context, found Found, to int) (int, error) {
	c.kube.begin(ctx, found.applied)
	rollback := action.NewRollback(c.config)
	rollback.Version, rollback.Wait, rollback.Timeout, rollback.MaxHistory = to, true, hookTimeout, c.MaxHistory
	err := rollback.Run(c.Name)
	last, lastErr := c.config.Releases.Last(c.Name)
	if lastErr != nil {
		return 0, errors.Join(c.applyError(err), c.explain("reading the release again", lastErr))
	}
	if last.Version <= found.Last {
		return 0, c.applyError(err)
	}
	return c.correctStatus(ctx, last.Version, c.applyError(err))
}

// Test runs the test hooks of the chart and returns their names.
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
	return names, c.applyError(err)
}

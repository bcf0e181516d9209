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
	MaxHistory int // revisions to keep; default: that of [config.DefaultEnvironment]
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
	o.MaxHistory = cmp.Or(o.MaxHistory, config.DefaultEnvironment().History)
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
	c.kube = &client{Client: kubeClient, waiter: o.Waiter}
	c.config.KubeClient = c.kube
	return c, nil
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

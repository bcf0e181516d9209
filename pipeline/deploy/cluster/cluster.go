// Package cluster deploys with the libraries of Helm and Kubernetes. It holds the
// lock of the release, determines the state of the release, applies the chart,
// follows the rollout and rolls back if the rollout fails.
//
// The package promises no compatibility to programs other than slipway.
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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Tool is [deploy.Tool] for Kubernetes.
type Tool struct {
	// Transport wraps the transport to the API server, for tests that observe or
	// cut the connection.
	Transport func(http.RoundTripper) http.RoundTripper
}

var _ deploy.Tool = Tool{}

// deployment is the work on one cluster.
type deployment struct {
	*connection
	deploy.Options
	cluster config.Cluster
	image   deploy.Image // what is to run; empty if the work is about what runs already
	release *release.Client
	result  *deploy.ClusterResult
	since   time.Time // when the rollout began
	until   time.Time // when it must have ended
	mask    func(string) string
}

func (t Tool) open(o deploy.Options, c config.Cluster, image deploy.Image) (*deployment, error) {
	if c.Namespace != "" {
		o.Namespace = c.Namespace
	}
	k, err := connect(o, c, t.Transport)
	if err != nil {
		return nil, err
	}
	d := &deployment{
		connection: k, Options: o, cluster: c, image: image, mask: masker(o),
		result: &deploy.ClusterResult{Name: nameOf(c), URL: c.URL, Action: deploy.NotReached},
	}
	d.release, err = release.New(release.Options{Getter: k, Name: o.Release, Namespace: o.Namespace, MaxHistory: o.Settings.History, Waiter: d})
	return d, err
}

// nameOf is what reports call a cluster.
func nameOf(c config.Cluster) string { return cmp.Or(c.Name, c.Context, "current context") }

// masker returns a function that hides the values of the Secrets that slipway
// writes, wherever the cluster repeats them.
func masker(o deploy.Options) func(string) string {
	var values []string
	hide := func(v string) {
		if len(v) >= 4 { // hiding a shorter value would blank out innocent text
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
	// If one value contains another, the longer one must be replaced first.
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
	var pairs []string
	for _, v := range values {
		pairs = append(pairs, v, "***")
	}
	return strings.NewReplacer(pairs...).Replace
}

// reach checks that the cluster answers, before anything else is done.
func (d *deployment) reach(ctx context.Context) error {
	progress.Statusf(ctx, "connecting to %s", d.result.Name)
	v, err := d.client.Discovery().ServerVersion()
	switch {
	case err == nil:
		progress.Statusf(ctx, "%s answers, Kubernetes %s", d.result.Name, v.GitVersion)
		return ctx.Err()
	case apierrors.IsUnauthorized(err):
		return fault.Failedf("deploy.unauthorized", "cluster %s: %w", d.result.Name, err).WithFix("renew the credentials in the kubeconfig")
	}
	return fault.Failedf("deploy.unreachable", "cluster %s does not answer: %w", d.result.Name, err).WithFix("check the server in the kubeconfig and the network")
}

// chart loads the chart with the values for this cluster.
func (d *deployment) chart() (release.Chart, error) {
	return release.Load(d.Chart, slices.Concat(d.Settings.Values, d.cluster.Values), d.Options.Values(d.image))
}

// Deploy implements [deploy.Tool].
func (t Tool) Deploy(ctx context.Context, o deploy.Options, image sign.VerifiedImage) (deploy.Result, error) {
	start := time.Now()
	result := deploy.Result{Environment: o.Environment, Release: o.Release, Namespace: o.Namespace, URL: o.Settings.URL}
	if image.IsZero() {
		return result, fault.Failedf("deploy.unverified", "deploying to %s: no image was verified", o.Environment)
	}
	result.Image = deploy.ImageOf(image.Reference())
	var all []*deployment
	for _, c := range o.Settings.Clusters { // find mistakes before the first cluster is changed
		d, err := t.open(o, c, result.Image)
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
			if o.Settings.RollbackAll && ctx.Err() == nil {
				failed = errors.Join(failed, rollBackAll(ctx, all[:i]))
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

// rollBackAll rolls back the clusters that this run has changed, the last one
// first.
func rollBackAll(ctx context.Context, done []*deployment) error {
	var errs []error
	for _, d := range slices.Backward(done) {
		r := d.result
		switch {
		case r.Action == deploy.Untouched:
		case r.Previous == 0:
			r.Warnings = append(r.Warnings, "there is no earlier revision to roll back to")
			progress.Warnf(ctx, "cluster %s keeps revision %d: there is no earlier one", r.Name, r.Revision)
		default:
			progress.Line(ctx, fmt.Sprintf("rolling cluster %s back to revision %d", r.Name, r.Previous))
			tried := r.Revision
			err := d.locked(ctx, func(ctx context.Context) error {
				found, err := d.release.Find(ctx)
				if err == nil && found.Last != r.Revision {
					err = fault.Gatef("deploy.overtaken", "another run made revision %d in the meantime, so it stays as it is", found.Last)
				}
				if err != nil {
					return err
				}
				return d.rollBackTo(ctx, found, r.Previous)
			})
			if err != nil {
				r.RollbackErr = err.Error()
				errs = append(errs, fmt.Errorf("rolling back cluster %s: %w", r.Name, err))
			}
			r.Tried = tried
		}
	}
	return errors.Join(errs...)
}

// refused gives an error that is about a missing permission its code.
func (d *deployment) refused(err error) error {
	var known *fault.Error
	if errors.As(err, &known) || !apierrors.IsForbidden(err) {
		return err
	}
	return fault.Failedf("deploy.forbidden", "%w", err).WithFix("grant this to the deployer's Role; docs/deploy.md lists what it needs")
}

// locked runs f while holding the lock of the release.
func (d *deployment) locked(ctx context.Context, f func(context.Context) error) error {
	progress.Statusf(ctx, "locking the release")
	leases := d.client.CoordinationV1().Leases(d.Namespace)
	held, l, err := acquire(ctx, leases, leaseName(d.Release), d.Run, time.Duration(d.Settings.LockTimeout), func(holder string) {
		progress.Line(ctx, fmt.Sprintf("waiting: %s is deploying this release", holder))
		progress.Statusf(ctx, "waiting for %s to finish", holder)
	})
	if err != nil {
		return d.refused(err)
	}
	err = f(held)
	if errors.Is(context.Cause(held), release.ErrLockLost) {
		// What f returned follows from the lost lock. It is reported, but as text,
		// because it must not count as an interrupt.
		err = fault.Failedf("deploy.lock-lost", "%w: %v", release.ErrLockLost, err).WithFix("run the same command again: it continues from here")
	}
	if lockErr := l.release(ctx); lockErr != nil {
		progress.Warnf(ctx, "%v; the next run waits %s for it", lockErr, leaseDuration)
	}
	return err
}

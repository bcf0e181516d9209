// Package cluster implements deployments with the libraries of Helm and Kubernetes. A
// deployment acquires the lock of the release, determines the state of the release,
// applies the chart, follows the rollout, and rolls back if the rollout fails.
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
	// Transport wraps the transport to the API server. It is for tests that observe
	// or interrupt the connection, and may be nil.
	Transport func(http.RoundTripper) http.RoundTripper
}

var _ deploy.Tool = Tool{}

// deployment is the work on one cluster.
type deployment struct {
	*connection
	deploy.Options
	cluster config.Cluster
	image   deploy.Image // the image to run; empty unless a plan or a deployment selects one
	// imageValues are the values of the chart that receive the image, for messages.
	imageValues string
	release     *release.Client
	result      *deploy.ClusterResult
	since       time.Time // when the rollout began
	until       time.Time // the deadline of the rollout
	// abandons is whether the revision before this deployment is abandoned: this is a
	// rollback from it, or no revision of the release was ever good.
	abandons bool
	warned   []string            // the warnings of the last rollout in result
	mask     func(string) string // see masker
}

// open prepares the work on a cluster. It does not connect to the cluster.
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
	d.release, err = release.New(release.Options{Getter: k, Name: o.Release, Namespace: o.Namespace, MaxHistory: o.Settings.History, Waiter: d, Mask: d.mask})
	return d, err
}

// nameOf returns the name of a cluster in reports.
func nameOf(c config.Cluster) string { return cmp.Or(c.Name, c.Context, "current context") }

// masker returns a function that hides the values of the Secrets that slipway writes,
// in texts that come from the cluster, for example logs.
func masker(o deploy.Options) func(string) string {
	var values []string
	hide := func(v string) {
		if len(v) >= 4 { // a shorter value is likely to be part of an unrelated text
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

// checkReachable checks that the API server answers.
func (d *deployment) checkReachable(ctx context.Context) error {
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

// chart loads the chart and the values for this cluster. It determines which values of
// the chart select the image, unless the configuration does.
func (d *deployment) chart() (release.Chart, error) {
	chart, err := release.Load(d.Chart, slices.Concat(d.Settings.Values, d.cluster.Values), d.Settings.Set)
	if err != nil {
		return chart, err
	}
	o := d.Options
	if o.ImageValues, err = deploy.FindImageValues(d.ImageValues, chart.Values()); err != nil {
		return chart, err
	}
	d.imageValues = deploy.ImageValueNames(o.ImageValues)
	return chart.With(o.Values(d.image))
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
	var err error
	if o.Chart, err = release.Fetch(ctx, o.Registries, o.Chart); err != nil {
		return result, err
	}
	for _, c := range o.Settings.Clusters { // report mistakes before the first cluster is changed
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
			if d.result.Failure == nil && ctx.Err() == nil {
				failed = d.recordFailure(failed) // nothing was applied
			}
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

// rollBackAll rolls back the clusters that this run has changed, in reverse order.
func rollBackAll(ctx context.Context, done []*deployment) error {
	var errs []error
	for _, d := range slices.Backward(done) {
		r := d.result
		switch {
		case r.Action == deploy.Untouched:
		case r.Previous == 0:
			r.Warnings = append(r.Warnings, "there is no earlier revision to roll back to")
			progress.Warnf(ctx, "cluster %s keeps revision %d, because there is no earlier revision", r.Name, r.Revision)
		default:
			progress.Line(ctx, fmt.Sprintf("rolling cluster %s back to revision %d", r.Name, r.Previous))
			tried := r.Revision
			err := d.locked(ctx, func(ctx context.Context) error {
				found, err := d.release.Find(ctx)
				if err == nil && found.Last != r.Revision {
					err = fault.Gatef("deploy.overtaken", "another run made revision %d in the meantime, so the cluster is not rolled back", found.Last)
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

// explainForbidden adds a code and a fix to an error about a missing permission. Other
// errors are returned unchanged.
func explainForbidden(err error) error {
	var known *fault.Error
	if errors.As(err, &known) || !apierrors.IsForbidden(err) {
		return err
	}
	return fault.Failedf("deploy.forbidden", "%w", err).WithFix("grant this to the Role of the deployer; docs/deploy.md lists the required permissions")
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
		return explainForbidden(err)
	}
	err = f(held)
	if errors.Is(context.Cause(held), release.ErrLockLost) {
		// The error of f is a consequence of the lost lock. It is included as text
		// only, because it must not count as an interrupt.
		err = fault.Failedf("deploy.lock-lost", "%w: %v", release.ErrLockLost, err).WithFix("run the same command again; it continues from the state of the cluster")
	}
	if lockErr := l.release(ctx); lockErr != nil {
		progress.Warnf(ctx, "%v; the next run must wait %s until the lock expires", lockErr, leaseDuration)
	}
	return err
}

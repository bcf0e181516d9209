package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Rollback implements [deploy.Tool].
func (t Tool) Rollback(ctx context.Context, o deploy.Options, revision int) (deploy.Result, error) {
	start := time.Now()
	result := deploy.Result{Environment: o.Environment, Release: o.Release, Namespace: o.Namespace, URL: o.Settings.URL}
	var failed error
	for _, c := range o.Settings.Clusters {
		d, err := t.open(o, c, deploy.Image{})
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

// rollback rolls one cluster back to a revision. Revision 0 stands for the newest good
// revision before the current one.
func (d *deployment) rollback(ctx context.Context, to int) error {
	if err := d.checkReachable(ctx); err != nil {
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
			return fault.Inputf("deploy.absent", "release %s does not exist in namespace %s: %s", d.Release, d.Namespace, found.Reason)
		}
		if to == 0 {
			before := found.Last
			if found.State != deploy.Deployed {
				before = found.Last + 1
			}
			if to = found.GoodBefore(before); to == 0 {
				return fault.Inputf("deploy.no-revision", "release %s has no good revision before %d", d.Release, found.Last).WithFix("run slipway history to list the revisions")
			}
		}
		history := found.History()
		i := slices.IndexFunc(history, func(r deploy.Revision) bool { return r.Revision == to })
		switch {
		case i < 0:
			return fault.Inputf("deploy.no-revision", "release %s has no revision %d", d.Release, to).WithFix("run slipway history to list the revisions")
		case !history[i].Good:
			progress.Warnf(ctx, "the rollout of revision %d never succeeded: %s", to, history[i].Description)
		}
		return d.recordFailure(d.rollBackTo(ctx, found, to))
	})
}

// rollBackTo rolls back to a revision within the rollback timeout of the environment.
// The caller must hold the lock of the release.
func (d *deployment) rollBackTo(ctx context.Context, found release.Found, to int) error {
	if err := d.checkRevision(ctx, found, to); err != nil {
		return err
	}
	found, err := d.release.Recover(ctx, found)
	if err != nil {
		return err
	}
	progress.Statusf(ctx, "rolling back to revision %d", to)
	d.abandons = true
	d.since, d.until = time.Now(), time.Now().Add(time.Duration(d.Settings.RollbackTimeout))
	revision, err := d.release.Rollback(ctx, found, to)
	if err != nil {
		return err
	}
	d.result.Action, d.result.Revision = deploy.RolledBack, revision
	return nil
}

// checkRevision checks that only verified images run after a rollback to a revision. A
// revision that slipway has made has a record of it. Of any other revision, for example
// one that was made by helm, the images are verified now.
func (d *deployment) checkRevision(ctx context.Context, found release.Found, to int) error {
	if found.Verified(to) {
		return nil
	}
	progress.Statusf(ctx, "verifying the images of revision %d", to)
	objects, hooks, err := d.release.ObjectsOf(ctx, found, to)
	if err != nil {
		return err
	}
	why := errors.New("none of its workloads runs an image by digest")
	tried := map[string]bool{}
	for _, o := range objects {
		for _, p := range release.Positions(o) {
			ref, err := name.NewDigest(p.Image)
			if err != nil || p.Runs == release.Maybe || tried[ref.Name()] {
				continue
			}
			tried[ref.Name()] = true
			if d.VerifyApp == nil {
				why = errors.New("this program cannot verify images")
				continue
			}
			if why = d.VerifyApp(ctx, ref); why != nil {
				continue
			}
			if _, why = d.imageCheck(deploy.ImageOf(ref)).run(ctx, objects, hooks); why == nil {
				return nil
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fix := "deploy an image that satisfies the policy"
	for _, r := range found.History() {
		if r.Good && r.Verified && r.Revision != found.Last {
			fix = fmt.Sprintf("roll back to revision %d, which was verified, or deploy an image that satisfies the policy", r.Revision)
			break
		}
	}
	return fault.Gatef("deploy.unverified-revision", "the images of revision %d were not verified when it was made, and are not verified now: %w", to, why).WithFix("%s", fix)
}

package cluster

import (
	"context"
	"slices"
	"time"

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

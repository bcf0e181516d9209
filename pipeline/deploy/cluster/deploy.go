package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// run deploys to one cluster.
func (d *deployment) run(ctx context.Context) error {
	start := time.Now()
	defer func() { d.result.Seconds = time.Since(start).Seconds() }()
	if err := d.checkReachable(ctx); err != nil {
		return err
	}
	level := d.Settings.PodSecurity
	if level == "none" {
		level = ""
	}
	if err := d.ensureNamespace(ctx, d.Namespace, level); err != nil {
		return explainForbidden(err)
	}
	return d.locked(ctx, d.reconcile)
}

// foreignTimeout is how long slipway waits for an operation that another program, for
// example helm, began without the lock of slipway. After that time the operation is
// assumed to have been killed.
const foreignTimeout = 10 * time.Minute

// reconcile determines the state of the release and deploys what is missing. The
// caller must hold the lock of the release.
func (d *deployment) reconcile(ctx context.Context) error {
	r := d.result
	d.since, d.until = time.Now(), time.Now().Add(time.Duration(d.Settings.Timeout))
	chart, err := d.chart()
	if err != nil {
		return err
	}
	if err := d.checkFirst(ctx, chart); err != nil {
		return err
	}
	secretsChanged, err := d.ensureSecrets(ctx, d.Options)
	if err != nil {
		return explainForbidden(err)
	}
	sealedChanged, err := d.ensureSealed(ctx)
	if err != nil {
		return explainForbidden(err)
	}
	secretsChanged = secretsChanged || sealedChanged
	if err := d.ensureCRDs(ctx, chart); err != nil {
		return explainForbidden(err)
	}
	found, err := d.determine(ctx)
	if err != nil {
		return err
	}
	d.abandons = found.Good == 0
	rendered, err := d.release.Render(ctx, found, chart)
	if err != nil {
		return err
	}
	if r.Positions, err = d.imageCheck(d.image).run(ctx, rendered.Objects, d.hooks(rendered)); err != nil {
		return err
	}
	if !secretsChanged && rendered.SameAs(found) && (!d.Settings.Test || found.Tested()) {
		unchanged, err := d.unchanged(ctx, found, rendered)
		if err != nil {
			return err
		}
		if unchanged {
			r.Action = deploy.Untouched
			return d.recordFailure(d.Wait(ctx, phaseRollout, rendered.Objects))
		}
	}
	revision, err := d.apply(ctx, found, rendered)
	if err == nil {
		r.Revision, r.Action = revision, actionOn(found, r.Before)
		return nil
	}
	r.Tried, r.Action = revision, deploy.Kept
	return d.afterFailure(ctx, found, revision, d.recordFailure(err))
}

// checkFirst checks the images of the chart before Secrets and CustomResourceDefinitions
// are written, so that a chart that is refused leaves nothing behind. reconcile checks what
// is applied again, because templates can read what is written in between.
func (d *deployment) checkFirst(ctx context.Context, chart release.Chart) error {
	crds, err := d.chartCRDs(ctx, chart)
	if err != nil || len(crds) == 0 && len(d.Secrets) == 0 && len(d.Sealed) == 0 && d.PullSecret == nil {
		return err
	}
	if _, err := d.planCRDs(ctx, chart); err != nil {
		return err
	}
	found, err := d.release.Find(ctx)
	if err != nil {
		return err
	}
	rendered, err := d.release.Render(ctx, found, chart)
	if err != nil {
		return ctx.Err() // a template can require a Secret that is not there yet
	}
	_, err = d.imageCheck(d.image).run(ctx, rendered.Objects, d.hooks(rendered))
	return err
}

// determine returns the state of the release. It recovers a release that a killed run
// left unfinished.
func (d *deployment) determine(ctx context.Context) (release.Found, error) {
	progress.Statusf(ctx, "reading release %s", d.Release)
	found, err := d.release.Find(ctx)
	if err != nil {
		return found, err
	}
	r := d.result
	r.Before, r.Reason, r.Previous, r.Revision = found.State, found.Reason, found.Good, found.Good
	if found.State != deploy.Unfinished {
		return found, nil
	}
	if found.Foreign && time.Since(found.Began) < foreignTimeout {
		return found, fault.Gatef("deploy.locked", "another program is working on this release: %s", found.Reason).
			WithFix("run this again when the other program has finished; after %s slipway assumes that it was killed", foreignTimeout)
	}
	progress.Line(ctx, fmt.Sprintf("recovering: %s, and the run that made it was killed", found.Reason))
	return d.release.Recover(ctx, found)
}

// unchanged reports whether the objects in the cluster still match the newest
// revision. It lists the objects that were changed by hand.
func (d *deployment) unchanged(ctx context.Context, found release.Found, rendered release.Rendered) (bool, error) {
	changes, err := d.release.Changes(ctx, found, rendered)
	if err != nil {
		return false, err
	}
	for _, c := range changes {
		progress.Line(ctx, fmt.Sprintf("%s differs from the release, because it was changed by hand", c.Object))
	}
	return len(changes) == 0, nil
}

// apply applies the chart, follows the rollout, and runs the tests of the chart if the
// environment requires them. It returns the revision that it made, even if the rollout
// failed.
func (d *deployment) apply(ctx context.Context, found release.Found, rendered release.Rendered) (int, error) {
	progress.Statusf(ctx, "applying %d objects", len(rendered.Objects))
	revision, err := d.release.Apply(ctx, found, rendered, release.Note{Description: d.describe(), Digest: d.image.Digest})
	if err != nil || !d.Settings.Test {
		return revision, err
	}
	if d.result.Tests, err = d.release.Test(ctx); err != nil {
		err = errors.Join(err, d.release.Fail(ctx, revision, "tests failed: "+err.Error()))
	}
	return revision, err
}

// actionOn returns what a successful deployment did to a release in that state.
func actionOn(found release.Found, before deploy.State) deploy.Action {
	switch {
	case found.Good == 0 && before != deploy.Absent, before == deploy.Unfinished, before == deploy.Failed:
		return deploy.Recovered
	case found.Good == 0:
		return deploy.Installed
	}
	return deploy.Upgraded
}

// afterFailure rolls back to the newest good revision, unless no revision is
// good, the run was interrupted, or the environment disables rollbacks. err is why
// the revision failed; it is part of the returned error.
func (d *deployment) afterFailure(ctx context.Context, found release.Found, revision int, err error) error {
	r := d.result
	switch {
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), err)
	case revision == 0: // nothing was applied
		r.Action = deploy.NotReached
		return err
	case found.Good == 0:
		progress.Line(ctx, fmt.Sprintf("revision %d is the first, so it is kept for inspection; the next deployment replaces it", revision))
		return err
	case d.Settings.Rollback != nil && !*d.Settings.Rollback:
		return err
	}
	progress.Line(ctx, fmt.Sprintf("rolling back to revision %d", found.Good))
	now, rollbackErr := d.release.Find(ctx)
	if rollbackErr == nil {
		rollbackErr = d.rollBackTo(ctx, now, found.Good)
	}
	if rollbackErr != nil {
		r.RollbackErr = rollbackErr.Error()
		return errors.Join(err, fmt.Errorf("rolling back to revision %d: %w", found.Good, rollbackErr))
	}
	return err
}

// describe returns the description of the new revision for the history of the release.
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

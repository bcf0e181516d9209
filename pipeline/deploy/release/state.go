package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	helm "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
)

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

	history []*helm.Release // oldest first
	last    *helm.Release
	applied []*helm.Release // revisions the cluster may hold parts of, oldest first
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
	f := Found{Last: last.Version, history: history, last: last, Foreign: last.Labels[imageLabel] == "", Began: last.Info.LastDeployed.Time}
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

// History lists the revisions, newest first.
func (f Found) History() []deploy.Revision {
	out := make([]deploy.Revision, 0, len(f.history))
	for _, r := range slices.Backward(f.history) {
		out = append(out, deploy.Revision{
			Revision: r.Version, Status: string(r.Info.Status), Good: good(r), Updated: r.Info.LastDeployed.Time.UTC(),
			Chart: r.Chart.Metadata.Name + "-" + r.Chart.Metadata.Version, Image: r.Labels[imageLabel], Description: r.Info.Description,
		})
	}
	return out
}

// GoodBefore is the revision to go back to from another: the newest good one
// before it that holds something else. From a rollback to revision N it is one
// before N. 0 is none.
func (f Found) GoodBefore(revision int) int { return before(f.history, revision) }

// before does what GoodBefore says, on a history with the oldest first.
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
	for _, r := range slices.Backward(history) {
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

// Objects are those of the newest revision, with namespaces.
func (c *Client) Objects(ctx context.Context, found Found) ([]*unstructured.Unstructured, error) {
	c.kube.begin(ctx, nil)
	infos, err := c.kube.Build(strings.NewReader(found.last.Manifest), false)
	if err != nil {
		return nil, c.explain(fmt.Sprintf("reading the manifest of revision %d", found.Last), err)
	}
	return objects(infos), nil
}

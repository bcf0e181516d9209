package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
)

// Found is the state in which a release was found.
type Found struct {
	State   deploy.State
	Reason  string    // why the release is in this state; empty if it is deployed
	Last    int       // the newest revision; 0 if there is none
	Good    int       // the newest revision whose rollout succeeded; 0 if there is none
	Foreign bool      // whether the newest revision was made by a program other than slipway
	Began   time.Time // when the operation that made the newest revision began

	history []*helm.Release // oldest first
	last    *helm.Release
	applied []*helm.Release // the revisions whose objects may be in the cluster, oldest first
}

// Tested reports whether all test hooks of the newest revision have passed.
func (f Found) Tested() bool {
	for _, h := range f.last.Hooks {
		if slices.Contains(h.Events, helm.HookTest) && h.LastRun.Phase != helm.HookPhaseSucceeded {
			return false
		}
	}
	return true
}

// imageLabel is the label of a revision that holds the digest of its image. Values of
// labels have at most 63 characters, so the prefix "sha256:" and the last character
// are omitted.
const imageLabel = "slipway.digest"

// verifiedLabel is the label of a revision whose images were verified. It holds a hash of
// what the revision applies, because Helm copies the labels of a revision to the next one,
// also to those that helm makes by itself.
const verifiedLabel = "slipway.verified"

// labelValue returns the beginning of a hash that fits into a label.
func labelValue(hash string) string { return hash[:min(63, len(hash))] }

// contentOf returns a hash of everything that a revision applies, as the value of a label.
func contentOf(r *helm.Release) string {
	h := sha256.New()
	part := func(text string) { fmt.Fprintf(h, "%d:%s", len(text), text) }
	part(r.Manifest)
	hooks := make([]string, 0, len(r.Hooks))
	for _, hook := range r.Hooks {
		hooks = append(hooks, fmt.Sprintf("%q %q %q %d %q %q %q", hook.Path, hook.Name, hook.Kind, hook.Weight, hook.Events, hook.DeletePolicies, hook.Manifest))
	}
	slices.Sort(hooks)
	for _, hook := range hooks {
		part(hook)
	}
	return labelValue(hex.EncodeToString(h.Sum(nil)))
}

// Verified reports whether slipway has recorded that the images of a revision were
// verified, and what it applies has not changed since.
func (f Found) Verified(revision int) bool {
	return slices.ContainsFunc(f.history, func(r *helm.Release) bool { return r.Version == revision && verified(r) })
}

func verified(r *helm.Release) bool {
	return r.Labels[verifiedLabel] != "" && r.Labels[verifiedLabel] == contentOf(r)
}

// Find determines the state of the release from its history.
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
	found := stateOf(history)
	found.Reason = brief.Text(c.Mask(found.Reason)) // it can contain an error of the API server
	return found, nil
}

// stateOf determines the state of a release from its history, which has the oldest
// revision first.
func stateOf(history []*helm.Release) Found {
	last := history[len(history)-1]
	f := Found{Last: last.Version, history: history, last: last, Foreign: last.Labels[imageLabel] == "", Began: last.Info.LastDeployed.Time}
	since := 0
	for i, r := range slices.Backward(history) {
		if uninstalled(r) { // no object of an older revision is in the cluster
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
		f.State, f.Reason = deploy.Unfinished, fmt.Sprintf("revision %d has been %s since %s", last.Version, status, last.Info.LastDeployed.UTC().Format(time.RFC3339))
	case good(last):
		f.State = deploy.Deployed
	default:
		f.State, f.Reason = deploy.Failed, fmt.Sprintf("revision %d: %s", last.Version, description)
	}
	return f
}

// uninstalled reports whether a revision was uninstalled. If the release is installed
// again, Helm marks the uninstalled revision as superseded.
func uninstalled(r *helm.Release) bool {
	return r.Info.Status == helm.StatusUninstalled || r.Info.Status == helm.StatusSuperseded && r.Info.Description == "superseded by new release"
}

// good reports whether the rollout of a revision succeeded. The status alone does not
// answer that: if a rollback fails or a failed installation is replaced, Helm marks the
// failed revision as superseded.
func good(r *helm.Release) bool {
	if uninstalled(r) || r.Info.Status != helm.StatusDeployed && r.Info.Status != helm.StatusSuperseded {
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

// unfinished is the beginning of the description of a revision whose run was killed.
const unfinished = "unfinished: "

// History returns the revisions, newest first.
func (f Found) History() []deploy.Revision {
	out := make([]deploy.Revision, 0, len(f.history))
	for _, r := range slices.Backward(f.history) {
		out = append(out, deploy.Revision{
			Revision: r.Version, Status: string(r.Info.Status), Good: good(r), Verified: verified(r), Updated: r.Info.LastDeployed.Time.UTC(),
			Chart: r.Chart.Metadata.Name + "-" + r.Chart.Metadata.Version, Image: r.Labels[imageLabel], Description: r.Info.Description,
		})
	}
	return out
}

// GoodBefore returns the revision to roll back to from another one: the newest good
// revision before it with a different manifest. If the other revision is itself a
// rollback to revision N, it must be before N. GoodBefore returns 0 if no revision
// qualifies.
func (f Found) GoodBefore(revision int) int { return goodBefore(f.history, revision) }

// goodBefore implements GoodBefore for a history that has the oldest revision first.
func goodBefore(history []*helm.Release, revision int) int {
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
		case uninstalled(r):
			return 0
		case good(r) && (manifest == "" || r.Manifest != manifest):
			return r.Version
		}
	}
	return 0
}

// Objects returns the objects of the newest revision with their namespaces set.
func (c *Client) Objects(ctx context.Context, found Found) ([]*unstructured.Unstructured, error) {
	all, _, err := c.ObjectsOf(ctx, found, found.Last)
	return all, err
}

// ObjectsOf returns the objects of a revision and those of its hooks that a rollback runs,
// with their namespaces set.
func (c *Client) ObjectsOf(ctx context.Context, found Found, revision int) (applied, hooks []*unstructured.Unstructured, err error) {
	c.kube.begin(ctx, nil)
	i := slices.IndexFunc(found.history, func(r *helm.Release) bool { return r.Version == revision })
	if i < 0 {
		return nil, nil, fmt.Errorf("release %s has no revision %d", c.Name, revision)
	}
	r := found.history[i]
	infos, err := c.kube.Build(strings.NewReader(r.Manifest), false)
	if err != nil {
		return nil, nil, c.explain(fmt.Sprintf("reading the manifest of revision %d", revision), err)
	}
	applied = objects(infos)
	for _, h := range r.Hooks {
		if onlyTest(h) {
			continue
		}
		if infos, err = c.kube.Build(strings.NewReader(h.Manifest), false); err != nil {
			return nil, nil, c.explain(fmt.Sprintf("reading the hooks of revision %d", revision), err)
		}
		hooks = append(hooks, objects(infos)...)
	}
	return applied, hooks, nil
}

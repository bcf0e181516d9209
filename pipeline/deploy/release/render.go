package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	helm "helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Rendered is a chart that was rendered for a release.
type Rendered struct {
	Objects     []*unstructured.Unstructured // the objects of the chart, with their namespaces set
	Hooks       []string                     // the hooks, as kind/name (events)
	HookObjects []*unstructured.Unstructured // the objects of the hooks that Apply runs
	TestObjects []*unstructured.Unstructured // the objects of the hooks that only Test runs

	chart  *chart.Chart
	values map[string]any
	target *helm.Release
}

// Render renders the chart with a dry run on the server. Apply applies exactly that.
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
		// The dry run of an upgrade refuses a pending release. The dry run of an
		// installation can render as an upgrade, except for the revision number.
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
	out := Rendered{chart: ch.chart, values: ch.values, target: r, Objects: objects(infos)}
	for _, h := range r.Hooks {
		events := make([]string, len(h.Events))
		for i, e := range h.Events {
			events[i] = string(e)
		}
		infos, err := c.kube.Build(strings.NewReader(h.Manifest), false)
		if err != nil {
			return Rendered{}, c.renderError(ch, err)
		}
		if onlyTest(h) {
			out.TestObjects = append(out.TestObjects, objects(infos)...)
		} else {
			out.HookObjects = append(out.HookObjects, objects(infos)...)
		}
		out.Hooks = append(out.Hooks, fmt.Sprintf("%s/%s (%s)", strings.ToLower(h.Kind), h.Name, strings.Join(events, ", ")))
	}
	return out, nil
}

// onlyTest reports whether a hook runs only if the tests of the chart are run.
func onlyTest(h *helm.Hook) bool {
	return len(h.Events) > 0 && !slices.ContainsFunc(h.Events, func(e helm.HookEvent) bool { return e != helm.HookTest })
}

// renderError classifies an error of a dry run. A mistake in the chart or its values
// becomes a [fault.Input] error, and a failure of the cluster a [fault.Failed] error.
func (c *Client) renderError(ch Chart, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "values don't meet the specifications of the schema"):
		return fault.Inputf("deploy.values", "%w", c.brief(err)).WithFix("see values.schema.json of the chart %s", ch.chart.Name())
	case strings.Contains(text, "ensure CRDs are installed first"):
		return fault.Inputf("deploy.chart", "rendering the chart %s: %w", ch.chart.Name(), c.brief(err)).
			WithFix("install the CustomResourceDefinition of this kind first; if it is in the templates of the chart, move it to the folder crds, which is applied before the templates")
	case strings.Contains(text, "kubeVersion"), strings.Contains(text, "execution error at"), strings.Contains(text, "template: "), strings.Contains(text, "parse error"),
		strings.Contains(text, "error calling"), strings.Contains(text, "YAML parse error"), strings.Contains(text, "error validating"),
		strings.Contains(text, "unable to build kubernetes objects"):
		return fault.Inputf("deploy.chart", "rendering the chart %s: %w", ch.chart.Name(), c.brief(err))
	case strings.Contains(text, "cannot be imported into the current release"):
		return c.conflict(err)
	}
	return c.explain("rendering the chart", err)
}

// conflict returns the error for an object that exists and is not part of the release.
func (c *Client) conflict(err error) error {
	return fault.Gatef("deploy.conflict", "%w", c.brief(err)).
		WithFix("the object does not belong to this release: delete it, or choose another release or namespace")
}

// Changes returns what Apply would change. It sends the patches of Apply to the API
// server as dry runs.
func (c *Client) Changes(ctx context.Context, found Found, r Rendered) ([]deploy.Change, error) {
	c.kube.begin(ctx, found.applied)
	target, err := c.kube.Build(bytes.NewBufferString(r.target.Manifest), false)
	if err != nil {
		return nil, c.explain("reading the rendered chart", err)
	}
	if err := markOwned(target, c.Name, c.Namespace); err != nil {
		return nil, err
	}
	changes, err := c.kube.reconcile(target, true)
	if err != nil {
		return nil, c.explain("determining what would change", err)
	}
	out := make([]deploy.Change, 0, len(changes))
	for _, ch := range changes {
		if diff := ch.diff(); diff != "" {
			out = append(out, deploy.Change{Action: ch.action, Object: ch.object(), Diff: diff})
		}
	}
	return out, nil
}

// SameAs reports whether the newest revision is deployed and has the same manifest
// and hooks.
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

// Parse reads objects from YAML documents. Namespaced objects get the namespace of the
// release unless they have one.
func (c *Client) Parse(ctx context.Context, text io.Reader) ([]*unstructured.Unstructured, error) {
	c.kube.begin(ctx, nil)
	infos, err := c.kube.Build(text, false)
	if err != nil {
		return nil, c.explain("reading objects", err)
	}
	return objects(infos), nil
}

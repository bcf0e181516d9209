package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	helm "helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Rendered is a chart rendered for a release.
type Rendered struct {
	Objects     []*unstructured.Unstructured // with namespaces
	Hooks       []string                     // kind/name (events)
	HookObjects []*unstructured.Unstructured

	chart  *chart.Chart
	values map[string]any
	target *helm.Release
}

// Chart is a loaded chart with its values.
type Chart struct {
	chart  *chart.Chart
	values map[string]any
}

// Load reads a chart and values. What is wrong with either is a [fault.Input]
// error.
func Load(path string, files []string, set map[string]any) (Chart, error) {
	ch, err := loader.Load(path)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "reading the chart %s: %w", path, err).WithFix("set deploy.chart in slipway.yaml to a chart's folder or package")
	}
	if ch.Metadata.Type == "library" {
		return Chart{}, fault.Inputf("deploy.chart", "%s is a library chart, which cannot be installed", path)
	}
	if err := action.CheckDependencies(ch, ch.Metadata.Dependencies); err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "the chart %s: %w", path, err).WithFix("run helm dependency build %s", path)
	}
	vals, err := (&values.Options{ValueFiles: files}).MergeValues(nil)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading values: %w", err)
	}
	// Merging writes into its first argument, which several clusters share.
	text, err := yaml.Marshal(set)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading values: %w", err)
	}
	own, err := chartutil.ReadValues(text)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading values: %w", err)
	}
	return Chart{ch, chartutil.MergeTables(own, vals)}, nil
}

// CRDs are the objects of the chart's crds folders, which Helm installs once
// and never upgrades (helm/helm#12344).
func (ch Chart) CRDs() []byte {
	var all bytes.Buffer
	for _, crd := range ch.chart.CRDObjects() {
		all.WriteString("---\n")
		all.Write(crd.File.Data)
		all.WriteString("\n")
	}
	return all.Bytes()
}

// Render renders the chart as Apply would, with a dry run on the server.
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
		// An upgrade's dry run refuses a pending release; an install's can render
		// as an upgrade does, but for the revision's number.
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
		if infos, err := c.kube.Build(strings.NewReader(h.Manifest), false); err == nil {
			out.HookObjects = append(out.HookObjects, objects(infos)...)
		} else {
			return Rendered{}, c.renderError(ch, err)
		}
		out.Hooks = append(out.Hooks, fmt.Sprintf("%s/%s (%s)", strings.ToLower(h.Kind), h.Name, strings.Join(events, ", ")))
	}
	return out, nil
}

// renderError tells bad input, which is the user's to mend, from a cluster that
// does not answer.
func (c *Client) renderError(ch Chart, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "values don't meet the specifications of the schema"):
		lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return fault.Inputf("deploy.values", "%s", strings.Join(lines, " ")).WithFix("see values.schema.json of the chart %s", ch.chart.Name())
	case strings.Contains(text, "kubeVersion"), strings.Contains(text, "execution error at"), strings.Contains(text, "template: "), strings.Contains(text, "parse error"),
		strings.Contains(text, "error calling"), strings.Contains(text, "YAML parse error"), strings.Contains(text, "error validating"),
		strings.Contains(text, "unable to build kubernetes objects"):
		return fault.Inputf("deploy.chart", "rendering the chart %s: %s", ch.chart.Name(), oneLine(text))
	case strings.Contains(text, "cannot be imported into the current release"):
		return conflict(text)
	}
	return c.explain("rendering", err)
}

func conflict(text string) error {
	return fault.Gatef("deploy.conflict", "%s", oneLine(text)).WithFix("it belongs to something else: delete it, or choose another release or namespace")
}

// Changes says what Apply would change, by dry runs on the server of the very
// patches it would send.
func (c *Client) Changes(ctx context.Context, found Found, r Rendered) ([]deploy.Change, error) {
	c.kube.begin(ctx, found.applied)
	target, err := c.kube.Build(bytes.NewBufferString(r.target.Manifest), false)
	if err != nil {
		return nil, c.explain("reading the rendered chart", err)
	}
	if err := own(target, c.Name, c.Namespace); err != nil {
		return nil, err
	}
	changes, err := c.kube.reconcile(target, true)
	if err != nil {
		return nil, c.explain("asking what would change", err)
	}
	out := make([]deploy.Change, 0, len(changes))
	for _, ch := range changes {
		if diff := ch.diff(); diff != "" {
			out = append(out, deploy.Change{Action: ch.action, Object: ch.object(), Diff: diff})
		}
	}
	return out, nil
}

// SameAs reports whether the newest revision is good and holds the same
// manifest and hooks.
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

// Parse reads objects from YAML documents.
func (c *Client) Parse(ctx context.Context, text io.Reader) ([]*unstructured.Unstructured, error) {
	c.kube.begin(ctx, nil)
	infos, err := c.kube.Build(text, false)
	if err != nil {
		return nil, c.explain("reading objects", err)
	}
	return objects(infos), nil
}

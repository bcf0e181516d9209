package release

import (
	"bytes"
	"maps"
	"regexp"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Chart is a loaded chart with the values to render it with.
type Chart struct {
	chart  *chart.Chart
	values map[string]any
}

// Load reads a chart from a folder or a package, and values from files. set overrides
// the files as another values file would. All errors are [fault.Input] errors.
func Load(path string, files []string, set map[string]any) (Chart, error) {
	ch, err := loader.Load(path)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "reading the chart %s: %w", path, err).WithFix("set deploy.chart in slipway.yaml to the folder or the package of a chart")
	}
	if ch.Metadata.Type == "library" {
		return Chart{}, fault.Inputf("deploy.chart", "%s is a library chart, which cannot be installed", path)
	}
	if err := action.CheckDependencies(ch, ch.Metadata.Dependencies); err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "the chart %s: %w", path, err).WithFix("run helm dependency build %s", path)
	}
	vals, err := (&values.Options{ValueFiles: files}).MergeValues(nil)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading the values files: %w", err)
	}
	return Chart{ch, vals}.With(set)
}

// With returns the chart with more values, which override those that it has.
func (ch Chart) With(set map[string]any) (Chart, error) {
	// The values go through YAML, so that they have the types of a values file.
	text, err := yaml.Marshal(set)
	if err != nil {
		return ch, fault.Inputf("deploy.values", "reading the values of the environment: %w", err)
	}
	overrides, err := chartutil.ReadValues(text)
	if err != nil {
		return ch, fault.Inputf("deploy.values", "reading the values of the environment: %w", err)
	}
	return Chart{ch.chart, merge(ch.values, overrides)}, nil
}

// merge returns the values of over on top of those of base, as Helm merges two values
// files. A value of null remains, because it removes a default of the chart later.
func merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		below, isMap := out[k].(map[string]any)
		if m, ok := v.(map[string]any); ok && isMap {
			v = merge(below, m)
		}
		out[k] = v
	}
	return out
}

// Values returns what the chart reveals about the values that it is rendered with.
func (ch Chart) Values() deploy.ChartValues {
	return deploy.ChartValues{
		Chart: ch.chart.Name(), Defaults: ch.chart.Values, Given: ch.values,
		Uses: func(value string) bool {
			pattern := regexp.MustCompile(`\.Values\.` + regexp.QuoteMeta(value) + `($|[^\w.])`)
			for _, t := range ch.chart.Templates {
				if pattern.Match(t.Data) {
					return true
				}
			}
			return false
		},
	}
}

// CRDs returns the YAML documents in the crds folders of the chart and of the
// dependencies that the values enable. Helm installs these objects once and never
// upgrades them (helm/helm#12344).
func (ch Chart) CRDs() ([]byte, error) {
	// Helm removes the disabled dependencies too, before it reads the folders.
	if err := chartutil.ProcessDependenciesWithMerge(ch.chart, ch.values); err != nil {
		return nil, fault.Inputf("deploy.chart", "reading the dependencies of the chart %s: %w", ch.chart.Name(), err)
	}
	var all bytes.Buffer
	for _, crd := range ch.chart.CRDObjects() {
		all.WriteString("---\n")
		all.Write(crd.File.Data)
		all.WriteString("\n")
	}
	return all.Bytes(), nil
}

package release

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/charts"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Chart is a loaded chart with the values to render it with.
type Chart struct {
	chart  *chart.Chart
	values map[string]any
}

// Load reads a chart, and values from files. set overrides the files as another values
// file would. All errors are [fault.Input] errors.
func Load(from deploy.Chart, files []string, set map[string]any) (Chart, error) {
	ch, err := load(from)
	if err != nil {
		return Chart{}, err
	}
	if ch.Metadata.Type == "library" {
		return Chart{}, fault.Inputf("deploy.chart", "%s is a library chart, which cannot be installed", from.Name())
	}
	if err := action.CheckDependencies(ch, ch.Metadata.Dependencies); err != nil {
		return Chart{}, fault.Inputf("deploy.chart", "the chart %s: %w", from.Name(), err).WithFix("run helm dependency build %s", from.Name())
	}
	base, err := Chart{ch, nil}.With(from.Values)
	if err != nil {
		return Chart{}, err
	}
	vals, err := (&values.Options{ValueFiles: files}).MergeValues(nil)
	if err != nil {
		return Chart{}, fault.Inputf("deploy.values", "reading the values files: %w", err)
	}
	return Chart{ch, deploy.MergeValues(base.values, vals)}.With(set)
}

func load(from deploy.Chart) (*chart.Chart, error) {
	if from.Service != "" {
		return serviceChart(from.Service)
	}
	var ch *chart.Chart
	var err error
	if from.Path != "" {
		ch, err = loader.Load(from.Path)
	} else {
		ch, err = loader.LoadArchive(bytes.NewReader(from.Package))
	}
	if err != nil {
		return nil, fault.Inputf("deploy.chart", "reading the chart %s: %w", from.Name(), err).WithFix("set deploy.chart in slipway.yaml to the folder or the package of a chart")
	}
	if from.Path != "" {
		if err := addLocal(ch, from.Path, nil); err != nil {
			return nil, fault.Inputf("deploy.chart", "the chart %s: %w", from.Path, err)
		}
	}
	return ch, nil
}

// serviceChart returns slipway's own chart under the name of an app. slipway chart eject writes
// the same chart.
func serviceChart(app string) (*chart.Chart, error) {
	files, err := charts.Service()
	if err != nil {
		return nil, err
	}
	var all []*loader.BufferedFile
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		all = append(all, &loader.BufferedFile{Name: path, Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading slipway's own chart: %w", err)
	}
	ch, err := loader.LoadFiles(all)
	if err != nil {
		return nil, fmt.Errorf("reading slipway's own chart: %w", err)
	}
	ch.Metadata.Name = app
	return ch, nil
}

// missing returns the dependencies that are not in the folder charts of a chart.
func missing(ch *chart.Chart) []*chart.Dependency {
	var all []*chart.Dependency
	for _, d := range ch.Metadata.Dependencies {
		if !slices.ContainsFunc(ch.Dependencies(), func(have *chart.Chart) bool { return have.Name() == d.Name }) {
			all = append(all, d)
		}
	}
	return all
}

// addLocal adds the dependencies that are folders, as helm dependency build does. above are
// the folders of the charts that depend on this one.
func addLocal(ch *chart.Chart, path string, above []string) error {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return err // the dependencies of a package are in it
	}
	above = append(slices.Clone(above), filepath.Clean(path))
	for _, d := range missing(ch) {
		folder, ok := deploy.LocalFolder(path, d.Repository)
		if !ok {
			continue
		}
		if !slices.Contains(deploy.Dependencies(path), folder) { // which has been checked
			return fmt.Errorf("charts/%[1]s is not the dependency %[1]s: remove the folder, or the dependency", d.Name)
		}
		if slices.Contains(above, folder) {
			return fmt.Errorf("the dependency %s depends on the chart itself", d.Name)
		}
		dependency, err := loader.Load(folder)
		if err != nil {
			return fmt.Errorf("reading the dependency %s: %w", d.Name, err)
		}
		if dependency.Name() != d.Name {
			return fmt.Errorf("the dependency %s in %s is named %s", d.Name, folder, dependency.Name())
		}
		if err := satisfies(d.Version, dependency.Metadata.Version); err != nil {
			return fmt.Errorf("the dependency %s: %w", d.Name, err)
		}
		if err := addLocal(dependency, folder, above); err != nil {
			return fmt.Errorf("the dependency %s: %w", d.Name, err)
		}
		ch.AddDependency(dependency)
	}
	return nil
}

// satisfies checks a version against the constraint in Chart.yaml.
func satisfies(constraint, version string) error {
	c, err := semver.NewConstraint(cmp.Or(constraint, "*"))
	if err != nil {
		return fmt.Errorf("%q is not a range of versions: %w", constraint, err)
	}
	v, err := semver.NewVersion(version)
	if err != nil {
		return fmt.Errorf("%q is not a version: %w", version, err)
	}
	if ok, reasons := c.Validate(v); !ok {
		return errors.Join(reasons...)
	}
	return nil
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
	return Chart{ch.chart, deploy.MergeValues(ch.values, overrides)}, nil
}

// Values returns what the chart reveals about the values that it is rendered with.
func (ch Chart) Values() deploy.ChartValues {
	return deploy.ChartValues{
		Chart: ch.chart.Name(), Defaults: ch.chart.Values, Given: ch.values, Annotations: ch.chart.Metadata.Annotations,
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

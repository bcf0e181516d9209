package deploy

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Chart is where the chart of a deployment comes from. Exactly one of Path, Remote and
// Service is set.
type Chart struct {
	Path    string // the absolute path of a folder or a packaged chart
	Remote  string // oci://... or https://..., with a version or a digest
	Service string // the name of the app, which slipway's own chart deploys

	Keyring string         // a file with public keys, one of which must have signed Remote; may be empty
	Package []byte         // Remote after it was downloaded and verified
	Values  map[string]any // values that come before those of the values files
}

// Name returns the chart as messages name it.
func (c Chart) Name() string {
	switch {
	case c.Path != "":
		return c.Path
	case c.Service != "":
		return "slipway's chart for services"
	}
	return c.Remote
}

// LocalDependencies returns the folders of the dependencies of a chart, and of their
// dependencies, that Chart.yaml gives as file:// and that are not in the folder charts of the
// chart (https://helm.sh/docs/topics/charts/#chart-dependencies). A package, or a chart that
// cannot be read, has none.
func LocalDependencies(path string) []string {
	var all []string
	next := []string{path}
	for len(next) > 0 {
		found := Dependencies(next[0])
		next = next[1:]
		for _, folder := range found {
			if !slices.Contains(all, folder) {
				all, next = append(all, folder), append(next, folder)
			}
		}
	}
	return all
}

// Dependencies returns those of [LocalDependencies] that the chart itself names.
func Dependencies(path string) []string {
	raw, err := os.ReadFile(filepath.Join(path, "Chart.yaml"))
	if err != nil {
		return nil
	}
	var chart struct {
		Dependencies []struct {
			Name       string `yaml:"name"`
			Repository string `yaml:"repository"`
		} `yaml:"dependencies"`
	}
	if yaml.Unmarshal(raw, &chart) != nil {
		return nil // loading the chart reports the mistake
	}
	var folders []string
	for _, d := range chart.Dependencies {
		if _, err := os.Stat(filepath.Join(path, "charts", d.Name, "Chart.yaml")); err == nil {
			continue
		}
		if folder, ok := LocalFolder(path, d.Repository); ok {
			folders = append(folders, folder)
		}
	}
	return folders
}

// LocalFolder returns the folder of a dependency of the chart in path whose repository is
// given as file://.
func LocalFolder(path, repository string) (string, bool) {
	folder, ok := strings.CutPrefix(repository, "file://")
	if !ok {
		return "", false
	}
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(path, folder)
	}
	return filepath.Clean(folder), true
}

// MergeValues returns the values of over on top of those of base, as Helm merges two values
// files. A value of null remains, because it removes a default of the chart later.
func MergeValues(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		below, isMap := out[k].(map[string]any)
		if m, ok := v.(map[string]any); ok && isMap {
			v = MergeValues(below, m)
		}
		out[k] = v
	}
	return out
}

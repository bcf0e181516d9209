package ship

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// findChart returns the chart: deploy.chart or, if that is not set, the folder chart or
// charts/NAME, or slipway's own chart.
func findChart(root string, c config.Config) (deploy.Chart, error) {
	given := c.Deploy.Chart
	keyring := c.Deploy.ChartKeyring
	if keyring != "" {
		keyring = config.Resolve(root, keyring)
	}
	if strings.Contains(given, "://") {
		return deploy.Chart{Remote: given, Keyring: keyring}, serviceUnused(c)
	}
	if keyring != "" {
		return deploy.Chart{}, fault.Inputf("deploy.chart-provenance", "deploy.chartKeyring applies only to charts from a registry or a Helm repository").
			WithFix("remove it, or set deploy.chart to oci://... or https://...")
	}
	if given != "" {
		path := config.Resolve(root, given)
		if _, err := os.Stat(path); err != nil {
			return deploy.Chart{}, fault.Inputf("deploy.chart", "deploy.chart %s: %w", given, withoutPath(err))
		}
		return deploy.Chart{Path: path}, serviceUnused(c)
	}
	name, err := appName(root, c)
	if err != nil {
		return deploy.Chart{}, err
	}
	for _, place := range []string{"chart", filepath.Join("charts", name)} {
		if exists(filepath.Join(root, place, "Chart.yaml")) {
			return deploy.Chart{Path: filepath.Join(root, place)}, serviceUnused(c)
		}
	}
	return deploy.Chart{Service: name}, nil
}

// serviceUnused returns an error if deploy.service is set, which only slipway's own chart
// uses.
func serviceUnused(c config.Config) error {
	if reflect.DeepEqual(c.Deploy.Service, config.Default().Deploy.Service) {
		return nil
	}
	return fault.Inputf("deploy.service", "deploy.service describes the app to slipway's own chart, but this repository has a chart").
		WithFix("set the values of the chart instead, with values or set of the environment")
}

// checkFolders returns an error if a chart, or a dependency in another folder, contains a
// symbolic link that leads out of it and out of the repository: a template could show the
// file, for example one with credentials. For the same reason dependencies must be in the
// repository.
func checkFolders(ctx context.Context, chart deploy.Chart) error {
	if chart.Path == "" {
		return nil
	}
	top := ""
	if repository, err := source.OpenRepository(ctx, filepath.Dir(chart.Path)); err == nil && repository != nil {
		top = repository.Top
	}
	for i, folder := range append([]string{chart.Path}, deploy.LocalDependencies(chart.Path)...) {
		within := top
		if within == "" {
			within = folder
		}
		if i > 0 && top != "" {
			if target, err := filepath.EvalSymlinks(folder); err == nil {
				if rel, err := filepath.Rel(top, target); err != nil || !filepath.IsLocal(rel) {
					return fault.Inputf("deploy.chart", "the chart %s depends on %s, which is outside the repository", chart.Path, folder).WithFix("copy the dependency into the repository")
				}
			}
		}
		file, err := source.Escape(ctx, within, folder)
		if err != nil {
			return err
		}
		if file != "" {
			return fault.Inputf("deploy.chart", "a symbolic link in the chart %s leads to %s, which is outside the repository", folder, file).WithFix("copy the file into the chart")
		}
	}
	return nil
}

// describe adds the values that describe the app to slipway's own chart.
func (p *run) describe(ctx context.Context, chart deploy.Chart) (deploy.Chart, error) {
	if chart.Service == "" {
		return chart, nil
	}
	var ports []int
	if p.Config.Deploy.Service.Port == nil {
		var err error
		if ports, err = p.exposed(ctx); err != nil {
			return chart, err
		}
	}
	chart.Values = ServiceValues(p.Config.Deploy.Service, ports)
	progress.Statusf(ctx, "the repository has no chart, so slipway's own is used")
	return chart, nil
}

// ServiceValues returns the values that describe an app to slipway's own chart. ports are
// those that its image exposes, and are used unless the settings contain a port.
func ServiceValues(s config.Service, ports []int) map[string]any {
	name := "http"
	if s.GRPC {
		name = "grpc"
	}
	named := map[string]any{"http": nil} // removes the port of the chart's defaults
	if s.Port != nil {
		ports = nil
		if *s.Port != 0 {
			ports = []int{*s.Port}
		}
	}
	ports = slices.DeleteFunc(slices.Clone(ports), func(port int) bool { return port == s.Metrics && s.Port == nil })
	for i, port := range slices.Sorted(slices.Values(ports)) {
		if i == 0 {
			named[name] = port
		} else {
			named["port-"+strconv.Itoa(port)] = port
		}
	}
	if s.Metrics != 0 {
		named["metrics"] = s.Metrics
	}
	values := map[string]any{"kind": s.Kind, "ports": named}
	if s.GRPC || s.Health != "" {
		values["health"] = map[string]any{"path": s.Health, "grpc": s.GRPC}
	}
	if len(ports) > 0 {
		values["mainPort"] = name
	}
	if s.Schedule != "" {
		values["cronJob"] = map[string]any{"schedule": s.Schedule}
	}
	return deploy.MergeValues(values, s.Values)
}

// exposed returns the TCP ports that the image exposes.
func (p *run) exposed(ctx context.Context) ([]int, error) {
	if !p.given() {
		return p.ports(), nil
	}
	remote, err := p.openGiven(ctx)
	if err != nil {
		return nil, err
	}
	file, err := remote.Platforms[0].Image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the ports of %s: %w", remote.Reference, err)
	}
	var ports []int
	for exposed := range file.Config.ExposedPorts {
		number, protocol, _ := strings.Cut(exposed, "/")
		if port, err := strconv.Atoi(number); err == nil && (protocol == "" || protocol == "tcp") {
			ports = append(ports, port)
		}
	}
	return slices.Sorted(slices.Values(ports)), nil
}

// EjectedChart is slipway's own chart as it is to be written into a repository.
type EjectedChart struct {
	Path   string         `json:"path"`           // the folder
	Name   string         `json:"name"`           // the name of the chart, which is that of the app
	Values map[string]any `json:"values"`         // the defaults of its values that differ
	Next   []string       `json:"next,omitempty"` // what to change in slipway.yaml
}

// EjectChart determines where slipway's own chart is to be written, relative to the folder of
// slipway.yaml, and with which values. Errors are [fault.Input] errors.
func EjectChart(ctx context.Context, root string, c config.Config, to string) (EjectedChart, error) {
	chart, err := findChart(root, c)
	if err != nil && fault.CodeOf(err) != "deploy.service" {
		return EjectedChart{}, err
	}
	if chart.Service == "" {
		return EjectedChart{}, fault.Inputf("chart.exists", "this repository has a chart: %s", chart.Name()).WithFix("change that one")
	}
	e := EjectedChart{Name: chart.Service, Path: filepath.Join(root, "charts", chart.Service)}
	if to != "" {
		e.Path = config.Resolve(root, to)
		e.Next = append(e.Next, "set deploy.chart: "+to+" in slipway.yaml")
	}
	var ports []int
	if c.Deploy.Service.Port == nil {
		p := &run{Options: Options{Root: root, Config: c}}
		if p.source, err = p.OpenSource(ctx, true); err != nil {
			return e, err
		}
		ports = p.findPorts(ctx)
	}
	e.Values = ServiceValues(c.Deploy.Service, ports)
	if serviceUnused(c) != nil {
		e.Next = append(e.Next, "remove deploy.service from slipway.yaml; its settings are in the values.yaml of the chart now")
	}
	return e, nil
}

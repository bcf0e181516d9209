// Package charts tests the charts of this repository: their values, the rendered
// objects, and whether a cluster would accept them.
package charts

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files and the table in README.md instead of comparing them")

const (
	orders      = "order-service"
	service     = "service"
	admission   = "admission"
	releaseName = "orders"
	namespace   = "shop"
	// kubeVersion is the version of Kubernetes for which the charts are rendered
	// and whose API they are validated against.
	kubeVersion = "v1.34.2"
)

func TestMain(m *testing.M) {
	flag.Parse()
	log.SetOutput(io.Discard) // helm lint logs notes on values that it does not require
	os.Exit(run(m))
}

// scratch is a temporary directory that the tests share.
var scratch string

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "charts-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

// folder returns the folder of a chart.
func folder(chart string) string { return filepath.Join("..", chart) }

// valueSet is a values file of a chart. Its name is the name of the file without the suffix.
type valueSet struct {
	chart, name string
	values      chartutil.Values
}

func (s valueSet) render(t *testing.T) *release.Release {
	t.Helper()
	r, err := install(t.Context(), loadChart(t, s.chart), s.values, kubeVersion)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// allSets returns the values files of all charts, with the chart in their names.
func allSets(t *testing.T) []valueSet {
	t.Helper()
	var all []valueSet
	for _, chart := range []string{orders, service, admission} {
		for _, set := range valueSets(t, chart) {
			set.name = chart + "/" + set.name
			all = append(all, set)
		}
	}
	return all
}

// valueSets returns all values files of a chart.
func valueSets(t *testing.T, chart string) []valueSet {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder(chart), "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found no values files in ci: %v", err)
	}
	var sets []valueSet
	for _, file := range files {
		sets = append(sets, valueSet{chart, strings.TrimSuffix(filepath.Base(file), "-values.yaml"), readValues(t, file)})
	}
	if chart != orders {
		return sets
	}
	for _, environment := range []string{"dev", "prod", "simulated"} {
		v := readValues(t, filepath.Join(folder(chart), "values-"+environment+".yaml"))
		v["image"] = map[string]any{"repository": "registry.example.com/shop/order-service", "tag": "v1.4.0"}
		sets = append(sets, valueSet{chart, environment, v})
	}
	return sets
}

func readValues(t *testing.T, file string) chartutil.Values {
	t.Helper()
	values, err := chartutil.ReadValuesFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// parseValues returns the values in raw, merged into the minimal values of order-service.
func parseValues(t *testing.T, raw string) chartutil.Values {
	t.Helper()
	return parseFor(t, orders, raw)
}

// parseFor returns the values in raw, merged into the minimal values of a chart.
func parseFor(t *testing.T, chart, raw string) chartutil.Values {
	t.Helper()
	values, err := chartutil.ReadValues([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return chartutil.MergeTables(values, readValues(t, filepath.Join(folder(chart), "ci", "minimal-values.yaml")))
}

// loadChart loads a chart with the library chart, which order-service finds in another
// folder.
func loadChart(t *testing.T, name string) *chart.Chart {
	t.Helper()
	c, err := loader.Load(folder(name))
	if err != nil {
		t.Fatal(err)
	}
	if name == orders {
		library, err := loader.Load(library)
		if err != nil {
			t.Fatal(err)
		}
		c.AddDependency(library)
	}
	return c
}

// library is the folder of the library chart.
var library = filepath.Join(folder(service), "charts", "workload")

// install renders c like helm install, but without a cluster.
func install(ctx context.Context, c *chart.Chart, values chartutil.Values, kube string) (*release.Release, error) {
	version, err := chartutil.ParseKubeVersion(kube)
	if err != nil {
		return nil, err
	}
	i := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	i.ReleaseName, i.Namespace = releaseName, namespace
	i.ClientOnly, i.DryRun, i.KubeVersion = true, true, version
	return i.RunWithContext(ctx, c, values)
}

// render renders the chart order-service.
func render(t *testing.T, values chartutil.Values) *release.Release {
	t.Helper()
	return valueSet{chart: orders, values: values}.render(t)
}

// manifest returns all manifests of a release, with the hooks at the end.
func manifest(r *release.Release) string {
	var b strings.Builder
	b.WriteString(strings.TrimPrefix(r.Manifest, "\n"))
	for _, hook := range r.Hooks {
		fmt.Fprintf(&b, "---\n# Source: %s\n%s\n", hook.Path, strings.TrimSpace(hook.Manifest))
	}
	return b.String()
}

// object is a rendered object. Only the fields that all kinds have are decoded.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	raw []byte
}

// objects returns all objects of a release.
func objects(t *testing.T, r *release.Release) []object {
	t.Helper()
	var all []object
	for doc := range strings.SplitSeq("\n"+manifest(r), "\n---\n") {
		o := object{raw: []byte(doc)}
		if err := yaml.Unmarshal(o.raw, &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if o.Kind != "" {
			all = append(all, o)
		}
	}
	return all
}

// only returns the single object of a kind, decoded into a T, or nil if there is
// none. Fields that T does not have are errors.
func only[T any](t *testing.T, r *release.Release, kind string) *T {
	t.Helper()
	var found *T
	for _, o := range objects(t, r) {
		if o.Kind != kind {
			continue
		}
		if found != nil {
			t.Fatalf("more than one %s", kind)
		}
		found = new(T)
		if err := yaml.UnmarshalStrict(o.raw, found); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	return found
}

func deployment(t *testing.T, r *release.Release) *appsv1.Deployment {
	t.Helper()
	d := only[appsv1.Deployment](t, r, "Deployment")
	if d == nil {
		t.Fatal("no Deployment")
	}
	return d
}

// golden compares got with a golden file, or writes the file with -update.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of date, go test -update writes it again (-file +rendered):\n%s", file, diff)
	}
}

// toJSON returns v as JSON, to compare and print values.
func toJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

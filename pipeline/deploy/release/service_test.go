package release

import (
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/starter"
)

// renderFor renders a chart with an image, as a deployment does.
func renderFor(t *testing.T, from deploy.Chart) []*unstructured.Unstructured {
	t.Helper()
	ch, err := Load(from, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := deploy.Options{Version: "v1.2.3"}
	if o.ImageValues, err = deploy.FindImageValues(config.ImageValues{}, ch.Values()); err != nil {
		t.Fatal(err)
	}
	if ch, err = ch.With(o.Values(deploy.Image{Repository: "ghcr.io/acme/orders", Digest: "sha256:" + strings.Repeat("a", 64)})); err != nil {
		t.Fatal(err)
	}
	return render(t, ch)
}

// TestEjectedChartIsTheSame renders slipway's own chart for an app, and the one that is written
// into the repository of the app.
func TestEjectedChartIsTheSame(t *testing.T) {
	for name, tt := range map[string]struct {
		service config.Service
		ports   []int
	}{
		"no settings": {config.Service{Kind: "Deployment"}, []int{8080, 9090}},
		"worker":      {config.Service{Kind: "Deployment"}, nil},
		"http":        {config.Service{Kind: "Deployment", Port: new(3000), Health: "/healthz", Metrics: 9090}, nil},
		"grpc":        {config.Service{Kind: "Deployment", Port: new(9000), GRPC: true}, nil},
		"cron":        {config.Service{Kind: "CronJob", Schedule: "0 3 * * *", Values: map[string]any{"cronJob": map[string]any{"runOnDeploy": true}}}, nil},
		"data": {config.Service{Kind: "StatefulSet", Values: map[string]any{
			"statefulSet": map[string]any{"volumes": []any{map[string]any{"name": "data", "mountPath": "/data", "size": "1Gi"}}},
			"probes":      map[string]any{"liveness": nil}, "env": map[string]any{"A": "b"},
		}}, []int{8080}},
	} {
		t.Run(name, func(t *testing.T) {
			values := ship.ServiceValues(tt.service, tt.ports)
			want := renderFor(t, deploy.Chart{Service: "orders", Values: values})
			dir := filepath.Join(t.TempDir(), "charts", "orders")
			if err := starter.Eject(dir, "orders", values); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, renderFor(t, deploy.Chart{Path: dir})); diff != "" {
				t.Errorf("(-slipway's own +written):\n%s", diff)
			}
			if err := starter.Eject(dir, "orders", values); err == nil {
				t.Error("the chart was overwritten")
			}
		})
	}
}

// TestDependenciesInOtherFolders covers charts whose dependencies are given as file://.
func TestDependenciesInOtherFolders(t *testing.T) {
	library := map[string]string{"Chart.yaml": "apiVersion: v2\nname: lib\nversion: 1.2.3\ntype: library\n", "templates/_lib.tpl": "{{ define \"name\" }}from-lib{{ end }}"}
	for name, tt := range map[string]struct {
		dependency, want string
		files            map[string]string
	}{
		"found":           {"{name: lib, version: ^1.2.0, repository: file://../lib}", "", nil},
		"another version": {"{name: lib, version: 2.x, repository: file://../lib}", "is less than", nil},
		"another name":    {"{name: other, version: 1.2.3, repository: file://../lib}", "is named lib", nil},
		"no such folder":  {"{name: lib, version: 1.2.3, repository: file://../nowhere}", "no such file", nil},
		"itself":          {"{name: app, version: 0.1.0, repository: file://../app}", "depends on the chart itself", nil},
		"not a range":     {"{name: lib, version: one, repository: file://../lib}", "is not a range of versions", nil},
		"shadowed":        {"{name: lib, version: 1.2.3, repository: file://../lib}", "charts/lib is not the dependency lib", map[string]string{"app/charts/lib/Chart.yaml": "apiVersion: v2\nname: other\nversion: 1.0.0\n"}},
		"remote":          {"{name: lib, version: 1.2.3, repository: https://charts.example.com}", "found in Chart.yaml, but missing in charts/ directory", nil},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{
				"app/Chart.yaml":       "apiVersion: v2\nname: app\nversion: 0.1.0\ndependencies: [" + tt.dependency + "]\n",
				"app/templates/a.yaml": "kind: ConfigMap\nmetadata: {name: {{ include \"name\" . }}}\n",
			}
			maps.Copy(files, tt.files)
			for name, content := range library {
				files["lib/"+name] = content
			}
			dir := filepath.Join(testkit.Tree(t, files), "app")
			ch, err := Load(deploy.Chart{Path: dir}, nil, nil)
			if tt.want != "" {
				wantChartError(t, err, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if objects := render(t, ch); len(objects) != 1 || objects[0].GetName() != "from-lib" {
				t.Errorf("got %v", objects)
			}
		})
	}
}

// wantChartError checks that err is about the chart, and its text.
func wantChartError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != "deploy.chart" || fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want an error about the chart with %q", err, want)
	}
}

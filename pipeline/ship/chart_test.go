package ship

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestServiceValues(t *testing.T) {
	type values = map[string]any
	for name, tt := range map[string]struct {
		service config.Service
		ports   []int
		want    values
	}{
		"no settings": {config.Service{Kind: "Deployment"}, []int{9090, 8080}, values{
			"kind": "Deployment", "ports": values{"http": 8080, "port-9090": 9090}, "mainPort": "http",
		}},
		"no port":      {config.Service{Kind: "Deployment"}, nil, values{"kind": "Deployment", "ports": values{"http": nil}}},
		"port is zero": {config.Service{Kind: "Deployment", Port: new(0)}, []int{8080}, values{"kind": "Deployment", "ports": values{"http": nil}}},
		"health and metrics": {config.Service{Kind: "Deployment", Health: "/healthz", Metrics: 9090}, []int{8080, 9090}, values{
			"kind": "Deployment", "ports": values{"http": 8080, "metrics": 9090}, "mainPort": "http", "health": values{"path": "/healthz", "grpc": false},
		}},
		"grpc": {config.Service{Kind: "Deployment", Port: new(9000), GRPC: true}, nil, values{
			"kind": "Deployment", "ports": values{"http": nil, "grpc": 9000}, "mainPort": "grpc", "health": values{"path": "", "grpc": true},
		}},
		"cron with values": {config.Service{Kind: "CronJob", Schedule: "0 3 * * *", Port: new(0), Values: values{"cronJob": values{"suspend": true}}}, nil, values{
			"kind": "CronJob", "ports": values{"http": nil}, "cronJob": values{"schedule": "0 3 * * *", "suspend": true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ServiceValues(tt.service, tt.ports)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFindChart(t *testing.T) {
	files := map[string]string{"go.mod": "module example.com/orders\n", "charts/orders/Chart.yaml": "", "deploy/Chart.yaml": ""}
	without := map[string]string{"go.mod": "module example.com/orders\n"}
	for name, tt := range map[string]struct {
		files map[string]string
		text  string // of slipway.yaml, below deploy
		want  deploy.Chart
		code  string
	}{
		"beside the app":    {files, "", deploy.Chart{Path: "charts/orders"}, ""},
		"given":             {files, "chart: deploy", deploy.Chart{Path: "deploy"}, ""},
		"slipway's own":     {without, "", deploy.Chart{Service: "orders"}, ""},
		"registry":          {files, "chart: oci://ghcr.io/acme/orders:1.2.3", deploy.Chart{Remote: "oci://ghcr.io/acme/orders:1.2.3"}, ""},
		"keyring":           {files, "chart: https://charts.example.com/orders:1\n  chartKeyring: keys.gpg", deploy.Chart{Remote: "https://charts.example.com/orders:1", Keyring: "keys.gpg"}, ""},
		"unused keyring":    {files, "chartKeyring: keys.gpg", deploy.Chart{}, "deploy.chart-provenance"},
		"does not exist":    {files, "chart: nowhere", deploy.Chart{}, "deploy.chart"},
		"service is no use": {files, "service: {health: /healthz}", deploy.Chart{}, "deploy.service"},
	} {
		t.Run(name, func(t *testing.T) {
			root := testkit.Tree(t, tt.files)
			c, err := config.Parse("slipway.yaml", []byte("deploy:\n  "+tt.text+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := findChart(root, c)
			if tt.code != "" {
				if fault.CodeOf(err) != tt.code || fault.ExitCode(err) != fault.ExitInput {
					t.Errorf("%v, want %s", err, tt.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got.Path, got.Keyring = strings.TrimPrefix(got.Path, root+"/"), strings.TrimPrefix(got.Keyring, root+"/")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDependenciesStayInTheRepository covers charts whose dependencies, or symbolic links in
// them, are outside the repository.
func TestDependenciesStayInTheRepository(t *testing.T) {
	const head = "apiVersion: v2\nname: app\nversion: 0.1.0\n"
	elsewhere := testkit.Tree(t, map[string]string{"Chart.yaml": head})
	dir := testkit.Repository(t, map[string]string{
		"inside/Chart.yaml":  head + "dependencies: [{name: lib, repository: file://../lib}]\n",
		"outside/Chart.yaml": head + "dependencies: [{name: lib, repository: 'file://" + elsewhere + "'}]\n",
		"lib/Chart.yaml":     head,
	})
	if err := checkFolders(t.Context(), deploy.Chart{Path: dir + "/inside"}); err != nil {
		t.Error(err)
	}
	err := checkFolders(t.Context(), deploy.Chart{Path: dir + "/outside"})
	testkit.WantInput(t, err, "deploy.chart")
	if !strings.Contains(err.Error(), "outside the repository") {
		t.Error(err)
	}
}

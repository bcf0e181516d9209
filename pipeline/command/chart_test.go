package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// serving is the source of a program that answers HTTP requests on port 8080 until SIGTERM.
const serving = `package main

import (
	"context"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {})
	server := &http.Server{Addr: ":8080", Handler: mux}
	go func() { <-ctx.Done(); server.Close() }()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		os.Exit(1)
	}
}
`

// waiting is the source of a program that runs until SIGTERM and listens on no port.
const waiting = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
}
`

// TestDeployServicesWithoutAChart deploys services that have no chart and nothing but an
// environment in slipway.yaml, writes the chart into the repository, and deploys again.
func TestDeployServicesWithoutAChart(t *testing.T) {
	c := testcluster.Need(t)
	for _, tt := range []struct {
		name, source, service string
		probe                 string
		port                  int32 // of the Service; 0 if there is none
	}{
		{"health path", serving, "  service: {health: /healthz}\n", "http /healthz", 80},
		{"http", serving, "", "tcp", 80},
		{"worker", waiting, "", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			namespace := c.Name(t)
			d := deployments{program: newProgram(t, testkit.Repository(t, map[string]string{
				"go.mod": "module example.com/acme/hello\n\ngo 1.26\n", "main.go": tt.source, ".gitignore": "*.key\n*.pub\n.slipway\n",
				"slipway.yaml": "app: {platforms: [linux/amd64]}\nverify: {keys: [release.pub], attestations: []}\ndeploy:\n" + tt.service + "  environments:\n    test: {namespace: " + namespace + "}\n",
			})), cluster: c, namespace: namespace}
			d.env = append(d.env, "KUBECONFIG="+c.Kubeconfig)
			generateKeys(t, d.program, "release", "")
			image := d.publish(t, "")
			d.sign(t, image, "release")
			d.plan(t, image, exitChanges, "create deployment/hello")
			d.wantOutput(t, fault.ExitOK, "deploy --env test --image "+image, "installed, revision 1")
			d.checkService(t, tt.probe, tt.port)

			d.wantOutput(t, fault.ExitOK, "chart eject", "wrote charts/hello")
			if tt.service != "" {
				d.wantOutput(t, fault.ExitInput, "plan --env test --image "+image, "deploy.service describes the app to slipway's own chart")
				testkit.Write(t, d.dir, map[string]string{"slipway.yaml": strings.Replace(d.read(t, "slipway.yaml"), tt.service, "", 1)})
			}
			d.plan(t, image, fault.ExitOK, "nothing would change")
			if r := d.report(t, "deploy", "--env", "test", "--image", image); r.Deploy.Clusters[0].Action != deploy.Untouched {
				t.Errorf("deployed with the chart in the repository: %+v", r.Deploy)
			}
			d.wantOutput(t, fault.ExitInput, "chart eject", "this repository has a chart")
		})
	}
}

func (d deployments) read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(d.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// checkService compares the probes of the Deployment and the port of the Service with what
// is wanted.
func (d deployments) checkService(t *testing.T, probe string, port int32) {
	t.Helper()
	workload, err := d.cluster.Client.AppsV1().Deployments(d.namespace).Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	if r := workload.Spec.Template.Spec.Containers[0].ReadinessProbe; r != nil && r.HTTPGet != nil {
		got = "http " + r.HTTPGet.Path
	} else if r != nil && r.TCPSocket != nil {
		got = "tcp"
	}
	if got != probe {
		t.Errorf("the readiness probe is %q, want %q", got, probe)
	}
	services, err := d.cluster.Client.CoreV1().Services(d.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := int32(0)
	for _, s := range services.Items {
		for _, p := range s.Spec.Ports {
			if p.Name == "http" {
				have = p.Port
			}
		}
	}
	if have != port {
		t.Errorf("the port of the Service is %d, want %d", have, port)
	}
}

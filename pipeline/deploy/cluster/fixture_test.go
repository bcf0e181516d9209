package cluster_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"
	apps "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
)

var images testcluster.Apps

// testRelease is a release of the test chart in a namespace that only one test uses.
type testRelease struct {
	*testcluster.Cluster
	image name.Digest
	o     deploy.Options
	base  map[string]any // values for the chart in every deployment
}

func newTestRelease(t *testing.T) *testRelease {
	t.Helper()
	c := testcluster.Need(t)
	p := &testRelease{Cluster: c, image: images.Image(t, c, "1")}
	p.o = deploy.Options{
		Environment: "test", Settings: config.DefaultEnvironment(), Release: "app", Namespace: c.Name(t),
		Chart: deploy.Chart{Path: filepath.Join("testdata", "chart")}, Kubeconfig: c.Kubeconfig, Run: "test",
		ImageValues: config.Default().Deploy.ImageValues,
	}
	s := &p.o.Settings
	s.Clusters = []config.Cluster{{Name: "one"}}
	s.Images = []config.AllowedImage{{Image: c.Registry + "/elsewhere"}} // the second container of tests of failures
	s.Timeout, s.RollbackTimeout, s.LockTimeout = config.Duration(time.Minute), config.Duration(time.Minute), config.Duration(time.Minute)
	s.Readiness = config.Duration(3 * time.Second)
	return p
}

// with returns the options with values for the chart.
func (p *testRelease) with(set map[string]any) deploy.Options {
	o := p.o
	if o.Settings.Set = maps.Clone(p.base); o.Settings.Set == nil {
		o.Settings.Set = map[string]any{}
	}
	maps.Copy(o.Settings.Set, set)
	return o
}

// deploy deploys the chart with values.
func (p *testRelease) deploy(t *testing.T, set map[string]any) (deploy.ClusterResult, error) {
	t.Helper()
	return p.run(t, p.with(set))
}

// run deploys to the only cluster of the options.
func (p *testRelease) run(t *testing.T, o deploy.Options) (deploy.ClusterResult, error) {
	t.Helper()
	r, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
	if len(r.Clusters) != 1 {
		t.Fatalf("the result has %d clusters, want 1: %v", len(r.Clusters), err)
	}
	return r.Clusters[0], err
}

// mustDeploy deploys the chart with values and checks what was done to the release.
func (p *testRelease) mustDeploy(t *testing.T, want deploy.Action, set map[string]any) deploy.ClusterResult {
	t.Helper()
	r, err := p.deploy(t, set)
	if err != nil {
		t.Fatal(err)
	}
	if r.Action != want {
		t.Fatalf("the action is %q, want %q: %+v", r.Action, want, r)
	}
	return r
}

// deployment returns the Deployment of the release.
func (p *testRelease) deployment(t *testing.T) *apps.Deployment {
	t.Helper()
	d, err := p.Client.AppsV1().Deployments(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// env returns the environment variables of the first container.
func env(d *apps.Deployment) map[string]string {
	m := map[string]string{}
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		m[e.Name] = e.Value
	}
	return m
}

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		os.Exit(victim())
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"))
}

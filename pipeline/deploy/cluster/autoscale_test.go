package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// TestAutoscaling lets the HorizontalPodAutoscaler add and remove pods of two releases, one on
// CPU with the real metrics-server and one on http_requests_per_second, with the behavior of
// the chart's defaults, and asks the real recommender of the VerticalPodAutoscaler for a
// recommendation. It takes about twelve minutes, most of which is the window for scaling down.
func TestAutoscaling(t *testing.T) {
	if os.Getenv(soakVariable) == "" {
		t.Skipf("%s is not set; it is set by make soak", soakVariable)
	}
	cpu := newService(t, scaled(map[string]any{"cpu": 70, "memory": nil, "requestsPerSecond": nil}))
	requests := newService(t, scaled(map[string]any{"cpu": nil, "memory": nil, "requestsPerSecond": 20}))
	installMetrics(t, cpu)
	installRecommender(t, cpu)
	cpu.mustDeploy(t, deploy.Installed, map[string]any{"verticalAutoscaling": map[string]any{"enabled": true, "updateMode": "Off"}})
	requests.mustDeploy(t, deploy.Installed, nil)

	r := &scaling{start: time.Now(), curves: map[string][]int32{}}
	r.follow(t, "CPU", cpu)
	r.follow(t, "http_requests_per_second", requests)
	// Two pods at 200m each are loaded with 400m, which is twice their request.
	r.load(t, cpu, "/burn", 40, 100*time.Second, "CPU")
	r.load(t, requests, "/count", 90, 100*time.Second, "http_requests_per_second")
	r.await(t, "CPU", 2)
	r.await(t, "http_requests_per_second", 2)
	recommendation := awaitRecommendation(t, cpu)
	r.stop()
	if dir := os.Getenv(reportVariable); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "autoscaling.md"), []byte(r.report(recommendation)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(r.report(recommendation))
}

// scaled returns the values of a release with an autoscaler.
func scaled(targets map[string]any) map[string]any {
	return map[string]any{
		"ports": map[string]any{"http": 8080, "metrics": 8080}, "probes": probes, "drainSeconds": 0, "minReadySeconds": 0,
		"resources":   map[string]any{"requests": map[string]any{"cpu": "100m", "memory": "32Mi"}, "limits": map[string]any{"cpu": nil, "memory": "128Mi"}},
		"autoscaling": map[string]any{"enabled": true, "minReplicas": 2, "maxReplicas": 6, "targets": targets},
	}
}

// installMetrics installs metrics-server with its published chart, and the adapter for
// http_requests_per_second.
func installMetrics(t *testing.T, p *testRelease) {
	t.Helper()
	server := p.Addon(t, "sigs.k8s.io/metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server")
	p.InstallChart(t, filepath.Join(server.Dir, "charts", "metrics-server"), p.Name(t), map[string]any{
		"image": map[string]any{"repository": server.Image.Context().Name(), "tag": "any@" + server.Image.DigestStr()},
		"args":  []any{"--kubelet-insecure-tls"}, // the kubelet's certificate is not for its address
	})
	adapter := p.Addon(t, "sigs.k8s.io/custom-metrics-apiserver", "github.com/slipway-ci/slipway/devcluster/addons/requests")
	p.applyFile(t, "../../../devcluster/addons/requests/requests.yaml", "IMAGE", adapter.Image.Name())
}

// installRecommender installs the recommender of the VerticalPodAutoscaler.
func installRecommender(t *testing.T, p *testRelease) {
	t.Helper()
	recommender := p.Addon(t, "k8s.io/autoscaler/vertical-pod-autoscaler", "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender")
	deployDir := filepath.Join(recommender.Dir, "deploy")
	p.applyFile(t, filepath.Join(deployDir, "vpa-v1-crd-gen.yaml"))
	p.applyFile(t, filepath.Join(deployDir, "vpa-rbac.yaml"))
	p.applyFile(t, filepath.Join("testdata", "recommender.yaml"), "IMAGE", recommender.Image.Name())
}

// applyFile applies the objects of a file, with texts replaced, and deletes them when the test
// ends.
func (p *testRelease) applyFile(t *testing.T, file string, replaced ...string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw = []byte(strings.NewReplacer(replaced...).Replace(string(raw)))
	client, err := dynamic.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); err != nil {
			return
		}
		if object.Object == nil {
			continue
		}
		gvk := object.GroupVersionKind()
		plural := strings.ToLower(gvk.Kind) + "s"
		resource := client.Resource(schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: plural})
		var at dynamic.ResourceInterface = resource
		if object.GetNamespace() != "" {
			at = resource.Namespace(object.GetNamespace())
		}
		if _, err := at.Apply(t.Context(), object.GetName(), object, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			t.Fatalf("applying %s %s: %v", gvk.Kind, object.GetName(), err)
		}
		t.Cleanup(func() { _ = at.Delete(context.WithoutCancel(t.Context()), object.GetName(), metav1.DeleteOptions{}) })
	}
}

// scaling holds the numbers of pods over time.
type scaling struct {
	start   time.Time
	cancels []context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	curves map[string][]int32 // the number of pods every ten seconds
	notes  []string
}

// follow records the number of pods of a release.
func (r *scaling) follow(t *testing.T, name string, p *testRelease) {
	ctx, cancel := context.WithCancel(t.Context())
	r.cancels = append(r.cancels, cancel)
	r.running.Go(func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			d, err := p.Client.AppsV1().Deployments(p.o.Namespace).Get(ctx, "app", metav1.GetOptions{})
			if err != nil {
				continue
			}
			r.mu.Lock()
			r.curves[name] = append(r.curves[name], d.Status.Replicas)
			r.mu.Unlock()
		}
	})
}

func (r *scaling) stop() {
	for _, cancel := range r.cancels {
		cancel()
	}
	r.running.Wait()
}

// last returns the newest number of pods.
func (r *scaling) last(name string) int32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.curves[name]); n > 0 {
		return r.curves[name][n-1]
	}
	return 0
}

func (r *scaling) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf("after %.0f s: ", time.Since(r.start).Seconds())+fmt.Sprintf(format, args...))
}

// load sends requests for some time, and checks that there are more than two pods at its end.
func (r *scaling) load(t *testing.T, p *testRelease, path string, rate int, d time.Duration, name string) {
	t.Helper()
	service, err := p.Client.CoreV1().Services(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.note("%s: %d requests per second begin", name, rate)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var all sync.WaitGroup
	for ctx.Err() == nil {
		all.Go(func() {
			if resp, err := client.Get("http://" + service.Spec.ClusterIP + path); err == nil {
				resp.Body.Close()
			}
		})
		<-tick.C
	}
	all.Wait()
	r.note("%s: the load ends, with %d pods", name, r.last(name))
	if r.last(name) <= 2 {
		t.Errorf("%s: there are %d pods under load", name, r.last(name))
	}
}

// await waits until a release has a number of pods again.
func (r *scaling) await(t *testing.T, name string, want int32) {
	t.Helper()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for until := time.Now().Add(12 * time.Minute); r.last(name) != want; <-tick.C {
		if time.Now().After(until) {
			t.Fatalf("%s: there are still %d pods", name, r.last(name))
		}
	}
	r.note("%s: %d pods again", name, want)
}

// awaitRecommendation waits for a recommendation of the VerticalPodAutoscaler.
func awaitRecommendation(t *testing.T, p *testRelease) string {
	t.Helper()
	client, err := dynamic.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	vpas := client.Resource(schema.GroupVersionResource{Group: "autoscaling.k8s.io", Version: "v1", Resource: "verticalpodautoscalers"})
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for until := time.Now().Add(5 * time.Minute); time.Now().Before(until); <-tick.C {
		vpa, err := vpas.Namespace(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all, _, _ := unstructured.NestedSlice(vpa.Object, "status", "recommendation", "containerRecommendations")
		if len(all) > 0 {
			text, err := json.Marshal(all[0])
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
	}
	t.Fatal("there is no recommendation")
	return ""
}

// report returns the recording as Markdown with a plot.
func (r *scaling) report(recommendation string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	b.WriteString("# Autoscaling\n\nWritten by `TestAutoscaling` of `make soak`: the numbers of pods of two releases of `charts/service`, whose\nautoscalers have 2 to 6 pods and the default behavior of the chart.\n")
	for _, name := range []string{"CPU", "http_requests_per_second"} {
		fmt.Fprintf(&b, "\n```mermaid\nxychart-beta\n  title \"pods, scaled on %s\"\n  x-axis \"seconds\" 0 --> %d\n  y-axis \"pods\" 0 --> 6\n  line %s\n```\n",
			name, 10*(len(r.curves[name])-1), strings.ReplaceAll(fmt.Sprint(r.curves[name]), " ", ", "))
	}
	b.WriteString("\n")
	for _, note := range r.notes {
		b.WriteString("- " + note + "\n")
	}
	fmt.Fprintf(&b, "\nThe recommendation of the VerticalPodAutoscaler for the first release:\n\n```json\n%s\n```\n", recommendation)
	return b.String()
}

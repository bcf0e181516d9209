package cluster_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// reportVariable is the folder that measurements are written to; make soak
// sets it.
const reportVariable = "SLIPWAY_TEST_REPORT"

// helmVersion is the one slipway is built with.
const helmVersion = "v3.22.0"

// helmTimeout is what helm is given in place of its 5 minutes, so that the
// comparison ends some day.
const helmTimeout = time.Minute

// TestAgainstHelm makes every failure once with slipway and once with helm
// upgrade --install --wait --atomic, and writes down when each said what.
func TestAgainstHelm(t *testing.T) {
	report := os.Getenv(reportVariable)
	if report == "" {
		t.Skipf("not measuring: %s is not set; make soak sets it", reportVariable)
	}
	program := filepath.Join(t.TempDir(), "helm")
	install := exec.CommandContext(t.Context(), "go", "install", "helm.sh/helm/v3/cmd/helm@"+helmVersion)
	install.Env = append(os.Environ(), "GOBIN="+filepath.Dir(program))
	install.Dir = t.TempDir()
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("building helm: %v\n%s", err, out)
	}
	var rows []row
	for _, tt := range failures() {
		t.Run(tt.name, func(t *testing.T) {
			r := row{name: tt.name, kind: "deploy." + tt.kind}
			r.bySlipway(t, tt)
			r.byHelm(t, tt, program)
			rows = append(rows, r)
			t.Logf("%+v", r)
		})
	}
	write(t, filepath.Join(report, "failures.md"), rows)
}

// TestReturnsAtOnce has a watch of its own see when each version is available,
// and compares that with when Deploy returns.
func TestReturnsAtOnce(t *testing.T) {
	report := os.Getenv(reportVariable)
	if report == "" {
		t.Skipf("not measuring: %s is not set; make soak sets it", reportVariable)
	}
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	seen := p.available(t)
	var b strings.Builder
	b.WriteString("Seconds from the Deployment being available, as another watch saw it, to the return of the\ndeployment, in ten upgrades:")
	for i := range 10 {
		p.must(t, deploy.Upgraded, map[string]any{"env": map[string]any{"ROUND": strconv.Itoa(i)}})
		returned := time.Now()
		at, ok := seen()
		if !ok {
			t.Fatal("the watch ended")
		}
		fmt.Fprintf(&b, " %.2f", returned.Sub(at).Seconds())
	}
	b.WriteString("\n")
	t.Log(b.String())
	if err := os.WriteFile(filepath.Join(report, "returns.md"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// available returns a function that says when the newest version became
// available.
func (p *place) available(t *testing.T) func() (time.Time, bool) {
	t.Helper()
	current := p.deployment(t)
	w, err := p.Client.AppsV1().Deployments(p.o.Namespace).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=app", ResourceVersion: current.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	type sight struct {
		generation int64
		at         time.Time
	}
	sights := make(chan sight, 100)
	go func() {
		defer close(sights)
		done := current.Generation
		for e := range w.ResultChan() {
			d, ok := e.Object.(*apps.Deployment)
			s := apps.DeploymentStatus{}
			if ok {
				s = d.Status
			}
			if ok && d.Generation > done && s.ObservedGeneration == d.Generation && s.UpdatedReplicas == 1 && s.AvailableReplicas == 1 && s.Replicas == 1 {
				done = d.Generation
				sights <- sight{d.Generation, time.Now()}
			}
		}
	}()
	return func() (time.Time, bool) {
		s, ok := <-sights
		return s.at, ok
	}
}

// row is one failure, in seconds from the start of the deployment.
type row struct {
	name, kind            string
	known, said, restored float64 // Kubernetes showed it, slipway's verdict, the old version back
	helm                  float64 // helm's end
	words                 string  // helm's last ones
}

func (r *row) bySlipway(t *testing.T, tt failureCase) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	if tt.prepare != nil {
		tt.prepare(t, p)
	}
	p.o.Settings.Timeout = config.Duration(cmp.Or(tt.timeout, helmTimeout))
	start := time.Now()
	result, err := p.run(t, p.with(tt.set(p)))
	r.restored = time.Since(start).Seconds()
	f := result.Failure
	if err == nil || f == nil || fault.CodeOf(err) != r.kind {
		t.Errorf("%+v %v", result, err)
		return
	}
	r.known, r.said = f.Known.Sub(start).Seconds(), f.Reported.Sub(start).Seconds()
}

func (r *row) byHelm(t *testing.T, tt failureCase, program string) {
	p := newPlace(t)
	// Helm makes namespaces without labels; what is compared is the rest.
	label := core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.o.Namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
	if _, err := p.Client.CoreV1().Namespaces().Create(t.Context(), &label, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	helm := func(set map[string]any, more ...string) (string, error) {
		values := filepath.Join(t.TempDir(), "values.json")
		text, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(values, text, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append([]string{
			"upgrade", "--install", "app", p.o.Chart, "--create-namespace", "--namespace", p.o.Namespace, "--kubeconfig", p.o.Kubeconfig, "--values", values, "--wait",
		}, more...)...)
		var out bytes.Buffer
		cmd.Stderr = &out
		err = cmd.Run()
		return out.String(), err
	}
	if out, err := helm(p.with(nil).Values(deploy.ImageOf(p.image))); err != nil {
		t.Fatalf("helm install: %v\n%s", err, out)
	}
	if tt.prepare != nil {
		tt.prepare(t, p)
	}
	start := time.Now()
	out, err := helm(p.with(tt.set(p)).Values(deploy.ImageOf(p.image)), "--atomic", "--timeout", helmTimeout.String())
	r.helm = time.Since(start).Seconds()
	if err == nil {
		r.words = "(nothing: it reports success)"
	} else if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		t.Errorf("helm: %v", err)
	}
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "Error: "); ok {
			r.words = strings.TrimSpace(rest)
		}
	}
}

func write(t *testing.T, file string, rows []row) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `Each failure is made as an upgrade of a running release on devcluster, once with slipway and
once with helm %s (upgrade --install --wait --atomic, with a timeout of %s in place of its
5 minutes, which would only make it wait longer). Seconds from the start; "known" is when
Kubernetes first showed it, in whole seconds, "said" is slipway's verdict with the cause,
"restored" when the old version was back. A failing readiness probe may stand for 3 s here, by
default for 30 s. No node for a pod is a warning at once and fails at the timeout, here 8 s; the
deadline is 4 s.

| failure | code | known | said | after it was known | restored | helm ends | helm says |
|---|---|---|---|---|---|---|---|
`, helmVersion, helmTimeout)
	for _, r := range rows {
		words := strings.NewReplacer("|", "\\|", "\n", " ").Replace(r.words)
		if len(words) > 160 {
			words = words[:160] + "..."
		}
		fmt.Fprintf(&b, "| %s | `%s` | %.1f | %.1f | %.1f | %.1f | %.1f | %s |\n", r.name, r.kind, r.known, r.said, r.said-r.known, r.restored, r.helm, words)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

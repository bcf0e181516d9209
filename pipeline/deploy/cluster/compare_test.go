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

// reportVariable names the folder that the measurements are written to. It is set by
// make soak.
const reportVariable = "SLIPWAY_TEST_REPORT"

// helmVersion is the version of Helm that slipway is built with.
const helmVersion = "v3.22.0"

// helmTimeout is the timeout of helm, which is 5 minutes by default. A shorter one keeps
// the comparison short.
const helmTimeout = time.Minute

// TestAgainstHelm causes every failure once with slipway and once with helm upgrade
// --install --wait --atomic, and writes when each of them reported what.
func TestAgainstHelm(t *testing.T) {
	report := os.Getenv(reportVariable)
	if report == "" {
		t.Skipf("nothing is measured, because %s is not set; it is set by make soak", reportVariable)
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
			r.measureSlipway(t, tt)
			r.measureHelm(t, tt, program)
			rows = append(rows, r)
			t.Logf("%+v", r)
		})
	}
	writeTable(t, filepath.Join(report, "failures.md"), rows)
}

// TestReturnsAtOnce watches the Deployment separately and compares when each version
// becomes available with when Deploy returns.
func TestReturnsAtOnce(t *testing.T) {
	report := os.Getenv(reportVariable)
	if report == "" {
		t.Skipf("nothing is measured, because %s is not set; it is set by make soak", reportVariable)
	}
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	available := p.watchAvailable(t)
	var b strings.Builder
	b.WriteString("Seconds from the moment at which the Deployment was available, according to a separate watch, to\nthe end of the deployment, in ten upgrades:")
	for i := range 10 {
		p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"ROUND": strconv.Itoa(i)}})
		returned := time.Now()
		at, ok := available()
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

// watchAvailable watches the Deployment. It returns a function that waits until the next
// version is available and returns when that was.
func (p *testRelease) watchAvailable(t *testing.T) func() (time.Time, bool) {
	t.Helper()
	current := p.deployment(t)
	w, err := p.Client.AppsV1().Deployments(p.o.Namespace).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=app", ResourceVersion: current.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	times := make(chan time.Time, 100)
	go func() {
		defer close(times)
		done := current.Generation
		for e := range w.ResultChan() {
			d, ok := e.Object.(*apps.Deployment)
			s := apps.DeploymentStatus{}
			if ok {
				s = d.Status
			}
			if ok && d.Generation > done && s.ObservedGeneration == d.Generation && s.UpdatedReplicas == 1 && s.AvailableReplicas == 1 && s.Replicas == 1 {
				done = d.Generation
				times <- time.Now()
			}
		}
	}()
	return func() (time.Time, bool) {
		at, ok := <-times
		return at, ok
	}
}

// row is one failure. Times are in seconds from the start of the deployment.
type row struct {
	name, kind string
	known      float64 // when Kubernetes first reported the failure
	reported   float64 // when slipway reported it
	restored   float64 // when slipway had restored the old version
	helmEnd    float64 // when helm ended
	helmError  string  // the error of helm
}

func (r *row) measureSlipway(t *testing.T, tt failureCase) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
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
	r.known, r.reported = f.Known.Sub(start).Seconds(), f.Reported.Sub(start).Seconds()
}

func (r *row) measureHelm(t *testing.T, tt failureCase, program string) {
	p := newTestRelease(t)
	// Helm creates namespaces without labels, so the namespace is created here to make
	// the comparison fair.
	namespace := core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.o.Namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
	if _, err := p.Client.CoreV1().Namespaces().Create(t.Context(), &namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if out, err := p.helmUpgrade(t, program, p.helmValues(nil)); err != nil {
		t.Fatalf("helm install: %v\n%s", err, out)
	}
	if tt.prepare != nil {
		tt.prepare(t, p)
	}
	start := time.Now()
	out, err := p.helmUpgrade(t, program, p.helmValues(tt.set(p)), "--atomic", "--timeout", helmTimeout.String())
	r.helmEnd = time.Since(start).Seconds()
	if err == nil {
		r.helmError = "(none; helm reports success)"
	} else if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		t.Errorf("helm: %v", err)
	}
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "Error: "); ok {
			r.helmError = strings.TrimSpace(rest)
		}
	}
}

// helmValues returns the values with which helm deploys the same as slipway.
func (p *testRelease) helmValues(set map[string]any) map[string]any {
	o := p.with(set)
	o.ImageValues = config.ImageValues{Repository: "image.repository", Digest: "image.digest"}
	return o.Values(deploy.ImageOf(p.image))
}

// helmUpgrade runs helm upgrade --install --wait and returns what it writes to standard
// error.
func (p *testRelease) helmUpgrade(t *testing.T, program string, set map[string]any, flags ...string) (string, error) {
	t.Helper()
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
		"upgrade", "--install", "app", p.o.Chart.Path, "--create-namespace", "--namespace", p.o.Namespace, "--kubeconfig", p.o.Kubeconfig, "--values", values, "--wait",
	}, flags...)...)
	var out bytes.Buffer
	cmd.Stderr = &out
	err = cmd.Run()
	return out.String(), err
}

func writeTable(t *testing.T, file string, rows []row) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `Each failure is caused by an upgrade of a running release on devcluster, once with slipway and once
with helm %s (upgrade --install --wait --atomic, with a timeout of %s instead of the default of
5 minutes, with which helm would only wait longer). All times are in seconds from the start of the
upgrade. "Known" is when Kubernetes first reported the failure, with a resolution of one second.
"Reported" is when slipway reported the failure with its cause, and "restored" is when slipway had
restored the old version. The readiness probe may fail for 3 s here, and for 30 s by default. A pod
that cannot be scheduled is reported as a warning at once and fails the rollout at the timeout, which
is 8 s here. The timeout of the failure "deadline" is 4 s.

| failure | code | known | reported | reported after known | restored | helm ends | error of helm |
|---|---|---|---|---|---|---|---|
`, helmVersion, helmTimeout)
	for _, r := range rows {
		text := strings.NewReplacer("|", "\\|", "\n", " ").Replace(r.helmError)
		if len(text) > 160 {
			text = text[:160] + "..."
		}
		fmt.Fprintf(&b, "| %s | `%s` | %.1f | %.1f | %.1f | %.1f | %.1f | %s |\n", r.name, r.kind, r.known, r.reported, r.reported-r.known, r.restored, r.helmEnd, text)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

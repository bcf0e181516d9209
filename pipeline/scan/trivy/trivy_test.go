package trivy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
)

func TestCalledVulnerableFunctionFailsTheGate(t *testing.T) {
	o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "called"))}))))
	var err error
	if o.Root, err = filepath.Abs("testdata"); err != nil {
		t.Fatal(err)
	}
	o.Module = filepath.Join(o.Root, "called")
	o.Reach = reach(t, "called")
	o.Now = time.Date(2026, 8, 31, 12, 0, 0, 0, time.UTC)
	var seen events
	r, err := scanner.Scan(progress.With(t.Context(), &seen, "scan"), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288 (HIGH) in golang.org/x/net v0.20.0, called, fixed in 0.23.0", "go get golang.org/x/net@v0.")
	f := find(r, "CVE-2023-45288")
	if f == nil {
		t.Fatalf("findings %+v do not include CVE-2023-45288", r.Findings)
	}
	if f.Reachability != scan.Called || len(f.Trace) < 2 || f.Trace[0] != "example.com/called.serve" && f.Trace[0] != "example.com/called.main" {
		t.Errorf("reachability %q, trace %q", f.Reachability, f.Trace)
	}
	if !f.Fails || f.ImagePath != "server" || f.Path != "called/go.mod" || f.Line != 5 || f.PURL != "pkg:golang/golang.org/x/net@v0.20.0" {
		t.Errorf("finding %+v", f)
	}
	if !slices.Contains(f.Aliases, "GO-2024-2687") {
		t.Errorf("aliases %v", f.Aliases)
	}
	if html := find(r, "CVE-2024-45338"); html == nil || html.Reachability != scan.NotCalled || html.Trace != nil {
		t.Errorf("x/net/html is not imported, but the finding is %+v", html)
	}
	if !r.Database.Bundled || r.Database.Advisories < 30 || r.Database.AgeSeconds != int64(10.5*24*3600) {
		t.Errorf("database %+v", r.Database)
	}
	if r.Scanner != (scan.Tool{Name: "trivy", Version: "0.74.0"}) {
		t.Errorf("scanner %+v", r.Scanner)
	}
	if !strings.Contains(strings.Join(seen.warnings(), "\n"), "bundled advisories (as of 2026-08-21), which are not a full vulnerability database") {
		t.Errorf("warnings %q", seen.warnings())
	}
}

func TestUpgradedModulePasses(t *testing.T) {
	o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "fixed"))}))))
	o.Reach = reach(t, "fixed")
	r, err := scanner.Scan(t.Context(), o)
	if err != nil || !r.Passed || len(r.Findings) != 0 {
		t.Fatalf("%v: %+v", err, r.Findings)
	}
}

func TestVulnerableModuleThatIsNotCalled(t *testing.T) {
	o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "imported"))}))))
	o.Reach = reach(t, "imported")
	r, err := scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288", "not called")
	if f := find(r, "CVE-2023-45288"); f == nil || f.Reachability != scan.NotCalled {
		t.Errorf("finding %+v", f)
	}
	o.Settings.FailOn.ReachableOnly = true
	r, err = scanner.Scan(t.Context(), o)
	if err != nil || !r.Passed {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(r.Ignored, func(i scan.Ignored) bool { return i.ID == "CVE-2023-45288" && i.By == scan.ByNotCalled }) {
		t.Errorf("ignored %+v", r.Ignored)
	}
	// Findings with an unknown reachability fail the gate.
	o.Reach = nil
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288")
	o.Reach = reach(t, "imported")
	o.Reach.Database = "http://127.0.0.1:1"
	r, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288")
	if f := find(r, "CVE-2023-45288"); f.Reachability != scan.Unknown || len(r.Warnings) != 2 || !strings.Contains(r.Warnings[1], "called: the Go vulnerability database http://127.0.0.1:1 is unreachable") {
		t.Errorf("%+v, warnings %q", f, r.Warnings)
	}
}

func TestPackedImageHasTheResultOfThePlainImage(t *testing.T) {
	plain := target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "called"))})))
	packed := plain
	packed.Digest = "sha256:" + strings.Repeat("ab", 32)
	a, errA := scanner.Scan(t.Context(), options(t, plain))
	b, errB := scanner.Scan(t.Context(), options(t, packed))
	if errA == nil || errB == nil || errA.Error() != errB.Error() {
		t.Errorf("%v\n%v", errA, errB)
	}
	if a.Targets[0].Digest == b.Targets[0].Digest || b.Targets[0].Digest != packed.Digest {
		t.Errorf("targets %v, %v", a.Targets, b.Targets)
	}
	x, _ := json.Marshal(a.Findings)
	y, _ := json.Marshal(b.Findings)
	if !bytes.Equal(x, y) {
		t.Errorf("%s\n%s", x, y)
	}
}

func TestPlatformsAreMergedIntoOneFinding(t *testing.T) {
	amd := target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "called"))})))
	arm := amd
	arm.Platform = "linux/arm64"
	r, err := scanner.Scan(t.Context(), options(t, amd, arm))
	wantFault(t, err, fault.Gate, "scan.findings")
	n := 0
	for _, f := range r.Findings {
		if f.ID == "CVE-2023-45288" {
			n++
			if !slices.Equal(f.Platforms, []string{"linux/amd64", "linux/arm64"}) {
				t.Errorf("platforms %v", f.Platforms)
			}
		}
	}
	if n != 1 || len(r.Targets) != 2 {
		t.Errorf("%d findings, targets %v", n, r.Targets)
	}
}

// key has the form of an AWS access key, but is not a real one.
const key = "AKIA" + "QYLPMN5HFIQR7XYA"

func TestSecretsAreFoundAndNeverPrinted(t *testing.T) {
	img := imageOf(t, archive(t, map[string]string{"etc/app.conf": "aws_access_key_id = " + key + "\n"}))
	o := options(t, target(t, img))
	o.Source = filepath.Join(o.Root, "app")
	for _, dir := range []string{"app/internal", "app/.git", "app/node_modules/x", "app/hidden"} {
		testkit.Write(t, o.Root, map[string]string{dir + "/aws.go": "package x\n\nconst id = \"" + key + "\"\n"})
	}
	o.Hidden = func(rel string) bool { return rel == "hidden" }
	var seen events
	r, err := scanner.Scan(progress.With(t.Context(), &seen, "scan"), o)
	wantFault(t, err, fault.Gate, "scan.findings", "aws-access-key-id (CRITICAL) in", "revoke the secret")
	var places []string
	for _, f := range r.Findings {
		places = append(places, fmt.Sprint(f.Kind, " ", f.ID, " ", f.Place()))
	}
	slices.Sort(places)
	if want := []string{"secret aws-access-key-id /etc/app.conf", "secret aws-access-key-id app/internal/aws.go:3"}; !slices.Equal(places, want) {
		t.Errorf("found %q, want %q", places, want)
	}
	reports, _ := scan.Formats()
	for _, f := range reports {
		var b bytes.Buffer
		if err := scan.Write(&b, r, f); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), key) || b.Len() == 0 {
			t.Errorf("the %s report is empty or contains the secret:\n%s", f, &b)
		}
	}
	if text := fmt.Sprint(seen.all, err); strings.Contains(text, key) {
		t.Errorf("the progress or the error contains the secret: %s", text)
	}

	off := false
	o.Settings.Secrets = &off
	if r, err = scanner.Scan(t.Context(), o); err != nil || len(r.Findings) != 0 {
		t.Errorf("with the search for secrets off: %v %v", err, r.Findings)
	}
}

// chart writes a Helm chart with one template.
func chart(t *testing.T, root, name, template string) {
	t.Helper()
	testkit.Write(t, filepath.Join(root, name), map[string]string{
		"Chart.yaml":               "apiVersion: v2\nname: " + filepath.Base(name) + "\nversion: 0.1.0\n",
		"values.yaml":              "privileged: true\n",
		"templates/deployment.yml": template,
	})
}

func TestChartsAreChecked(t *testing.T) {
	o := options(t)
	chart(t, o.Root, "charts/orders", `apiVersion: apps/v1
kind: Deployment
metadata:
  name: orders
spec:
  selector:
    matchLabels: {app: orders}
  template:
    metadata:
      labels: {app: orders}
    spec:
      containers:
        - name: server
          image: ghcr.io/acme/orders
          securityContext:
            privileged: {{ .Values.privileged }}
`)
	o.Settings.Charts = []string{"charts/orders"}
	r, err := scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "(HIGH) in charts/orders/templates/deployment.yml", "correct the chart")
	privileged := slices.IndexFunc(r.Findings, func(f scan.Finding) bool { return strings.Contains(f.Title, "privileged") })
	if privileged < 0 {
		t.Fatalf("findings %+v", r.Findings)
	}
	f := r.Findings[privileged]
	if f.Kind != scan.Misconfiguration || f.Path != "charts/orders/templates/deployment.yml" || f.Line < 13 || !f.Fails {
		t.Errorf("finding %+v", f)
	}

	o.Settings.Charts = []string{"charts/missing"}
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.chart", "charts/missing is not a Helm chart")
}

// TestChartThatCannotBeRendered checks that the error contains the cause. Trivy itself only
// logs it.
func TestChartThatCannotBeRendered(t *testing.T) {
	o := options(t)
	const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	for _, tt := range []struct{ name, template, want string }{
		{"missing value", "{{ .Values.missing.value }}", "templates/deployment.yml:1:"},
		{"required value", configMap + "data: {a: {{ required \"set image.digest\" .Values.digest }}}", "set image.digest"},
		{"fail", "{{ fail \"the values\\nare wrong\" }}", "the values are wrong"},
		{"unclosed action", configMap + "{{ if .Values.x }}", "unexpected EOF"},
		{"unknown function", "{{ nothing }}", `function "nothing" not defined`},
		{"invalid yaml", configMap + "data:\n\ta: b\n", "templates/deployment.yml"},
		{"no objects", "{{ if .Values.enabled }}" + configMap + "{{ end }}", "gives no objects"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := "charts/" + strings.ReplaceAll(tt.name, " ", "-")
			chart(t, o.Root, name, tt.template)
			o := o
			o.Settings.Charts = []string{name}
			_, err := scanner.Scan(t.Context(), o)
			wantFault(t, err, fault.Input, "scan.chart", "chart "+name, tt.want, "helm template "+name)
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
	t.Run("dependency", func(t *testing.T) {
		testkit.Write(t, filepath.Join(o.Root, "charts/parent"), map[string]string{
			"Chart.yaml":               "apiVersion: v2\nname: parent\nversion: 0.1.0\ndependencies: [{name: redis, version: 1.0.0, repository: https://charts.example.com}]\n",
			"templates/deployment.yml": configMap,
		})
		o := o
		o.Settings.Charts = []string{"charts/parent"}
		_, err := scanner.Scan(t.Context(), o)
		wantFault(t, err, fault.Input, "scan.chart", "chart charts/parent", "redis")
	})
	t.Run("nothing to check", func(t *testing.T) {
		chart(t, o.Root, "charts/plain", "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: x}\n")
		o := o
		o.Settings.Charts = []string{"charts/plain"}
		if r, err := scanner.Scan(t.Context(), o); err != nil || !r.Passed {
			t.Errorf("%v %+v", err, r.Findings)
		}
	})
}

func TestIgnoreFileWithExpiry(t *testing.T) {
	img := target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "imported"))})))
	o := options(t, img)
	write := func(text string) { testkit.Write(t, o.Root, map[string]string{".trivyignore": text}) }
	write("# reason\nCVE-2023-45288 exp:2025-08-01\nGO-2024-3333\nCVE-1999-0001\n")
	r, err := scanner.Scan(t.Context(), o)
	if err != nil || !r.Passed || len(r.Ignored) != 2 || r.Ignored[0].By == "" {
		t.Fatalf("%v %+v", err, r.Ignored)
	}
	write("CVE-2023-45288 exp:2025-07-01\nCVE-2024-45338\n")
	r, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288")
	if !slices.ContainsFunc(r.Warnings, func(w string) bool {
		return strings.Contains(w, ".trivyignore:1: the entry for CVE-2023-45288 expired on 2025-07-01")
	}) {
		t.Errorf("warnings %q", r.Warnings)
	}
	o.Settings.IgnoreFile = "missing"
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.ignore-file", "missing")
}

func TestScanStopsWhenCancelled(t *testing.T) {
	o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "called"))}))))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := scanner.Scan(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	o.Timeout = time.Nanosecond
	_, err := scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Failed, "scan.timeout")
}

func BenchmarkScan(b *testing.B) {
	t := &testing.T{}
	img := imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "called"))}))
	settings := config.Default().Scan
	settings.Databases = []string{scan.Bundled}
	for b.Loop() {
		s := trivy.New(cache.Dir(filepath.Join(shared, "cache")))
		o := scan.Options{Targets: []scan.Target{{Name: "x", Image: img}}, Root: b.TempDir(), Settings: settings, Cache: cache.Dir(filepath.Join(shared, "cache")), Now: now}
		if _, err := s.Scan(b.Context(), o); err == nil {
			b.Fatal("the scan passed, want findings")
		}
	}
}

func TestUnsupportedDistributionGivesAWarning(t *testing.T) {
	img := imageOf(t, archive(t, map[string]string{"etc/os-release": "ID=debian\nVERSION_ID=8\n", "etc/debian_version": "8.11\n", "var/lib/dpkg/status": "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"}))
	r, err := scanner.Scan(t.Context(), options(t, target(t, img)))
	if err != nil || r.Targets[0].OS != "debian 8.11" || !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "debian 8.11 no longer receives security updates") }) {
		t.Errorf("%v %q %v", err, r.Warnings, r.Targets)
	}
}

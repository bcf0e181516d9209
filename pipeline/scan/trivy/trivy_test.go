package trivy_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// shared is a folder for what several tests use: built fixtures and the cache
// with the bundled database. Trivy keeps one temporary folder per process in it.
var (
	shared  string
	scanner *trivy.Scanner
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if shared, err = os.MkdirTemp("", "slipway-scan-test-"); err != nil {
		panic(err)
	}
	scanner = trivy.New(cache.Dir(filepath.Join(shared, "cache")))
	code := m.Run()
	if left, _ := filepath.Glob(filepath.Join(shared, "cache", "trivy", "tmp", "*")); len(left) > 0 {
		fmt.Println("left behind:", left)
		code = 1
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "trivy-*")); len(left) > 0 {
		fmt.Println("left behind:", left)
		code = 1
	}
	if err := os.RemoveAll(shared); err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

var (
	now   = time.Date(2025, 7, 10, 12, 0, 0, 0, time.UTC)
	built sync.Map // fixture -> *sync.Once result
)

// fixture builds the module in testdata/name and returns its binary.
func fixture(t *testing.T, name string) []byte {
	t.Helper()
	build, _ := built.LoadOrStore(name, sync.OnceValues(func() ([]byte, error) {
		out := filepath.Join(shared, "fixture-"+name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, ".")
		cmd.Dir = filepath.Join("testdata", name)
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=0", "GOEXPERIMENT=")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building fixture %s: %w\n%s", name, err, text)
		}
		return os.ReadFile(out)
	}))
	data, err := build.(func() ([]byte, error))()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// archive is a layer with files, in order of their names.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func imageOf(t *testing.T, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config.Labels = map[string]string{"b": "2", "a": "1", "c": "3"}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func target(t *testing.T, img v1.Image) scan.Target {
	t.Helper()
	return scan.Target{Name: "registry.example.com/acme/orders:v1.2.3", Platform: "linux/amd64", Image: img, Digest: digestOf(t, img), Time: time.Date(2025, 7, 1, 10, 0, 0, 0, time.UTC)}
}

// options scan img with the bundled advisories and the default settings.
func options(t *testing.T, targets ...scan.Target) scan.Options {
	t.Helper()
	settings := config.Default().Scan
	settings.Databases = []string{scan.Bundled}
	return scan.Options{
		Targets: targets, Root: t.TempDir(), Settings: settings, Cache: cache.Dir(filepath.Join(shared, "cache")), Now: now,
	}
}

var goTool = sync.OnceValues(func() (*toolchain.Go, error) { return toolchain.Find(context.Background(), ".", "") })

func reach(t *testing.T, name string) *scan.Reach {
	t.Helper()
	tool, err := goTool()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return &scan.Reach{Dir: dir, Main: ".", Go: tool, Env: []string{"GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0"}}
}

// events collects what a scan says.
type events struct {
	mu  sync.Mutex
	all []progress.Event
}

func (e *events) Emit(ev progress.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) warnings() (list []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Kind == progress.Warned {
			list = append(list, ev.Text)
		}
	}
	return list
}

func find(r scan.Result, id string) *scan.Finding {
	for i := range r.Findings {
		if r.Findings[i].ID == id {
			return &r.Findings[i]
		}
	}
	return nil
}

// fault of kind and code, whose text holds parts.
func wantFault(t *testing.T, err error, kind fault.Kind, code string, parts ...string) {
	t.Helper()
	var e *fault.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want a fault %s", err, code)
	}
	if e.Kind != kind || e.Code != code {
		t.Errorf("fault %s %s, want %s %s: %v", e.Kind, e.Code, kind, code, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has several lines", err)
	}
}

func TestVulnerableFunctionThatIsCalledFailsTheGate(t *testing.T) {
	o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "called"))}))))
	var err error
	if o.Root, err = filepath.Abs("testdata"); err != nil {
		t.Fatal(err)
	}
	o.Module = filepath.Join(o.Root, "called")
	o.Reach = reach(t, "called")
	o.Now = time.Date(2026, 8, 31, 12, 0, 0, 0, time.UTC)
	var said events
	r, err := scanner.Scan(progress.With(t.Context(), &said, "scan"), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288 (HIGH) in golang.org/x/net v0.20.0, called, fixed in 0.23.0", "go get golang.org/x/net@v0.")
	f := find(r, "CVE-2023-45288")
	if f == nil {
		t.Fatalf("CVE-2023-45288 is not among %+v", r.Findings)
	}
	if f.Reachability != scan.Called || len(f.Trace) < 2 || f.Trace[0] != "example.com/called.serve" && f.Trace[0] != "example.com/called.main" {
		t.Errorf("reachability %q by %q", f.Reachability, f.Trace)
	}
	if !f.Fails || f.ImagePath != "server" || f.Path != "called/go.mod" || f.Line != 5 || f.PURL != "pkg:golang/golang.org/x/net@v0.20.0" {
		t.Errorf("finding %+v", f)
	}
	if !slices.Contains(f.Aliases, "GO-2024-2687") {
		t.Errorf("aliases %v", f.Aliases)
	}
	if html := find(r, "CVE-2024-45338"); html == nil || html.Reachability != scan.NotCalled || html.Trace != nil {
		t.Errorf("x/net/html is not imported: %+v", html)
	}
	if !r.Database.Bundled || r.Database.Advisories < 30 || r.Database.AgeSeconds != int64(10.5*24*3600) {
		t.Errorf("database %+v", r.Database)
	}
	if r.Scanner != (scan.Tool{Name: "trivy", Version: "0.74.0"}) {
		t.Errorf("scanner %+v", r.Scanner)
	}
	if !strings.Contains(strings.Join(said.warnings(), "\n"), "bundled advisories (facts of 2026-08-21): not a full vulnerability database") {
		t.Errorf("warnings %q", said.warnings())
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
	// What is unknown fails.
	o.Reach = nil
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288")
	o.Reach = reach(t, "imported")
	o.Reach.Database = "http://127.0.0.1:1"
	r, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2023-45288")
	if f := find(r, "CVE-2023-45288"); f.Reachability != scan.Unknown || len(r.Warnings) != 2 || !strings.Contains(r.Warnings[1], "unknown: the Go vulnerability database http://127.0.0.1:1 cannot be reached") {
		t.Errorf("%+v, warnings %q", f, r.Warnings)
	}
}

func TestPackedImageHasTheVerdictOfThePlainOne(t *testing.T) {
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

func TestSeveralPlatformsAreOneFinding(t *testing.T) {
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

// key has the form of an AWS access key and is none.
const key = "AKIA" + "QYLPMN5HFIQR7XYA"

func TestSecretsAreFoundAndNeverShown(t *testing.T) {
	img := imageOf(t, archive(t, map[string]string{"etc/app.conf": "aws_access_key_id = " + key + "\n"}))
	o := options(t, target(t, img))
	o.Source = filepath.Join(o.Root, "app")
	for _, dir := range []string{"app/internal", "app/.git", "app/node_modules/x", "app/hidden"} {
		if err := os.MkdirAll(filepath.Join(o.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(o.Root, dir, "aws.go"), []byte("package x\n\nconst id = \""+key+"\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o.Hidden = func(rel string) bool { return rel == "hidden" }
	var said events
	r, err := scanner.Scan(progress.With(t.Context(), &said, "scan"), o)
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
			t.Errorf("%s shows the secret, or nothing:\n%s", f, &b)
		}
	}
	if text := fmt.Sprint(said.all, err); strings.Contains(text, key) {
		t.Errorf("the secret is in %s", text)
	}

	off := false
	o.Settings.Secrets = &off
	if r, err = scanner.Scan(t.Context(), o); err != nil || len(r.Findings) != 0 {
		t.Errorf("switched off: %v %v", err, r.Findings)
	}
}

func chart(t *testing.T, root, name, spec string) {
	t.Helper()
	for file, text := range map[string]string{
		"Chart.yaml":               "apiVersion: v2\nname: " + filepath.Base(name) + "\nversion: 0.1.0\n",
		"values.yaml":              "privileged: true\n",
		"templates/deployment.yml": spec,
	} {
		path := filepath.Join(root, name, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
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

	chart(t, o.Root, "charts/broken", "{{ .Values.none.such }}{{ fail \"no\" }}")
	o.Settings.Charts = []string{"charts/broken"}
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.chart", "charts/broken")
	o.Settings.Charts = []string{"charts/none"}
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.chart", "charts/none is not a Helm chart")
}

func TestIgnoreFileWithExpiry(t *testing.T) {
	img := target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "imported"))})))
	o := options(t, img)
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(o.Root, ".trivyignore"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# why\nCVE-2023-45288 exp:2025-08-01\nGO-2024-3333\nCVE-1999-0001\n")
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
	o.Settings.IgnoreFile = "none"
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.ignore-file", "none")
}

func TestCancelledScanStopsAtOnce(t *testing.T) {
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
			b.Fatal("passed")
		}
	}
}

func TestDistributionWithoutSupportIsWarnedOf(t *testing.T) {
	img := imageOf(t, archive(t, map[string]string{"etc/os-release": "ID=debian\nVERSION_ID=8\n", "etc/debian_version": "8.11\n", "var/lib/dpkg/status": "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"}))
	r, err := scanner.Scan(t.Context(), options(t, target(t, img)))
	if err != nil || r.Targets[0].OS != "debian 8.11" || !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "debian 8.11 gets no more security updates") }) {
		t.Errorf("%v %q %v", err, r.Warnings, r.Targets)
	}
}

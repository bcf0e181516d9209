package trivy_test

import (
	"archive/tar"
	"bytes"
	"context"
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

// shared is a folder that all tests use for built fixtures and for the cache with
// the bundled database. Trivy's temporary folder is also in it, because there is
// one per process.
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
	for _, pattern := range []string{filepath.Join(shared, "cache", "trivy", "tmp", "*"), filepath.Join(os.TempDir(), "trivy-*")} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			fmt.Println("the tests did not remove these temporary files:", files)
			code = 1
		}
	}
	if err := os.RemoveAll(shared); err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

var (
	now   = time.Date(2025, 7, 10, 12, 0, 0, 0, time.UTC)
	built sync.Map // by name of the fixture: func() ([]byte, error)
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

// archive returns a tar archive with the files, sorted by name.
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

// imageOf returns an image with the archives as its layers.
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

// target returns a target with a name, a digest and a time for img.
func target(t *testing.T, img v1.Image) scan.Target {
	t.Helper()
	return scan.Target{Name: "registry.example.com/acme/orders:v1.2.3", Platform: "linux/amd64", Image: img, Digest: digestOf(t, img), Time: time.Date(2025, 7, 1, 10, 0, 0, 0, time.UTC)}
}

// options returns options for a scan with the bundled advisories and the default
// settings.
func options(t *testing.T, targets ...scan.Target) scan.Options {
	t.Helper()
	settings := config.Default().Scan
	settings.Databases = []string{scan.Bundled}
	return scan.Options{
		Targets: targets, Root: t.TempDir(), Settings: settings, Cache: cache.Dir(filepath.Join(shared, "cache")), Now: now,
	}
}

var goTool = sync.OnceValues(func() (*toolchain.Go, error) { return toolchain.Find(context.Background(), ".", "") })

// reach returns the options for the call analysis of a fixture.
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

// events collects progress events.
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

// find returns the finding with an identifier, or nil.
func find(r scan.Result, id string) *scan.Finding {
	for i := range r.Findings {
		if r.Findings[i].ID == id {
			return &r.Findings[i]
		}
	}
	return nil
}

// wantFault checks that err is a fault of the kind and code, on one line and with
// the parts in its text.
func wantFault(t *testing.T, err error, kind fault.Kind, code string, parts ...string) {
	t.Helper()
	var e *fault.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want the error %s", err, code)
	}
	if e.Kind != kind || e.Code != code {
		t.Errorf("got %s error %s, want %s error %s: %v", e.Kind, e.Code, kind, code, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not contain %q", err, p)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
}

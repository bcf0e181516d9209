// Package testcluster is the real cluster that the tests of deployments run on.
// scripts/with-cluster starts one, with a registry its node pulls from, and
// names both in the environment.
package testcluster

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Variables that name the cluster.
const (
	KubeconfigVariable = "SLIPWAY_TEST_KUBECONFIG"
	RegistryVariable   = "SLIPWAY_TEST_REGISTRY"
)

// Cluster is a cluster for tests.
type Cluster struct {
	Kubeconfig string
	Registry   string // host:port, for the node and for the test
	Config     *rest.Config
	Client     *kubernetes.Clientset
}

// Need returns the cluster, or skips the test and says what is missing.
func Need(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{Kubeconfig: os.Getenv(KubeconfigVariable), Registry: os.Getenv(RegistryVariable)}
	if c.Kubeconfig == "" || c.Registry == "" {
		tb.Skipf("no cluster: %s and %s are not set; run scripts/with-cluster go test ./pipeline/deploy/...", KubeconfigVariable, RegistryVariable)
	}
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		tb.Fatal(err)
	}
	c.Config.QPS = -1
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		tb.Fatal(err)
	}
	return c
}

// Namespace makes a namespace for one test, deleted at its end.
func (c *Cluster) Namespace(tb testing.TB) string {
	tb.Helper()
	n := c.Name(tb)
	_, err := c.Client.CoreV1().Namespaces().Create(tb.Context(), &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// Name is a name for a namespace that somebody else makes; it is deleted at the
// test's end.
func (c *Cluster) Name(tb testing.TB) string {
	tb.Helper()
	n := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimPrefix(tb.Name(), "Test"))), "-")
	n = strings.Trim(n[:min(len(n), 40)], "-") + fmt.Sprintf("-%x", time.Now().UnixNano()&0xffffff)
	tb.Cleanup(func() {
		policy := metav1.DeletePropagationBackground
		zero := int64(0)
		err := c.Client.CoreV1().Namespaces().Delete(context.WithoutCancel(tb.Context()), n, metav1.DeleteOptions{PropagationPolicy: &policy, GracePeriodSeconds: &zero})
		if err != nil && !apierrors.IsNotFound(err) {
			tb.Logf("deleting namespace %s: %v", n, err)
		}
	})
	return n
}

// app is a program, built once.
type app struct {
	once   sync.Once
	binary []byte
	err    error
}

// Apps builds and pushes the test image. Make one for a package's tests.
type Apps struct {
	// Source is the program's folder. Default: testdata/app of this package.
	Source string
	app    app
}

// Image pushes the test image and returns its reference by digest. Images of
// different versions differ in their digest.
func (a *Apps) Image(tb testing.TB, c *Cluster, version string) name.Digest {
	tb.Helper()
	a.app.once.Do(func() { a.app.binary, a.app.err = build(tb.Context(), a.Source) })
	if a.app.err != nil {
		tb.Fatal(a.app.err)
	}
	ref, err := push(tb.Context(), c.Registry+"/testapp", a.app.binary, version)
	if err != nil {
		tb.Fatal(err)
	}
	return ref
}

func build(ctx context.Context, source string) ([]byte, error) {
	if source == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
		if err != nil {
			return nil, fmt.Errorf("finding the module: %w", err)
		}
		source = filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "pipeline", "deploy", "testcluster", "testdata", "app")
	}
	dir, err := os.MkdirTemp("", "testapp")
	if err != nil {
		return nil, fmt.Errorf("building the test image: %w", err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "app"), ".")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the test image: %w\n%s", err, text)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "app"))
	if err != nil {
		return nil, fmt.Errorf("building the test image: %w", err)
	}
	return binary, nil
}

func push(ctx context.Context, repository string, binary []byte, version string) (name.Digest, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(binary))}); err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	if _, err := w.Write(binary); err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	if err := w.Close(); err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Entrypoint: []string{"/app"}, User: "65534:65534", Env: []string{"VERSION=" + version}}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	repo, err := name.NewRepository(repository, name.Insecure)
	if err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	digest, err := image.Digest()
	if err != nil {
		return name.Digest{}, fmt.Errorf("making the test image: %w", err)
	}
	ref := repo.Digest(digest.String())
	if err := remote.Write(ref, image, remote.WithContext(ctx)); err != nil {
		return name.Digest{}, fmt.Errorf("pushing the test image: %w", err)
	}
	return ref, nil
}

// Package testcluster gives tests access to a real cluster. The script
// scripts/with-cluster starts a cluster and a registry that its node pulls from, and
// passes both to the tests in environment variables.
//
// The package promises no compatibility to programs other than slipway.
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

// The environment variables that scripts/with-cluster sets.
const (
	KubeconfigVariable = "SLIPWAY_TEST_KUBECONFIG" // the path of the kubeconfig
	RegistryVariable   = "SLIPWAY_TEST_REGISTRY"   // the host and port of the registry
)

// Cluster is a cluster for tests.
type Cluster struct {
	Kubeconfig string
	Registry   string // host:port, for the node and for the test
	Config     *rest.Config
	Client     *kubernetes.Clientset
}

// Need returns the cluster. If there is none, it skips the test.
func Need(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{Kubeconfig: os.Getenv(KubeconfigVariable), Registry: os.Getenv(RegistryVariable)}
	if c.Kubeconfig == "" || c.Registry == "" {
		tb.Skipf("there is no cluster, because %s or %s is not set; run scripts/with-cluster go test ./pipeline/deploy/...", KubeconfigVariable, RegistryVariable)
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

// Namespace creates a namespace for a test and returns its name. The namespace is
// deleted when the test ends.
func (c *Cluster) Namespace(tb testing.TB) string {
	tb.Helper()
	n := c.Name(tb)
	_, err := c.Client.CoreV1().Namespaces().Create(tb.Context(), &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// Name returns a name for a namespace that the test creates. The namespace is deleted
// when the test ends.
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

// Apps builds the test program and pushes images of it. The program is built once for each
// value of this type.
type Apps struct {
	// Source is the folder of the program. Default: testdata/app of this package.
	Source string

	once   sync.Once
	binary []byte
	err    error
}

// Image pushes an image of the test program and returns its reference by digest. Images of
// different versions have different digests.
func (a *Apps) Image(tb testing.TB, c *Cluster, version string) name.Digest {
	tb.Helper()
	a.once.Do(func() { a.binary, a.err = build(tb.Context(), a.Source) })
	if a.err != nil {
		tb.Fatalf("building the test program: %v", a.err)
	}
	image, err := assemble(a.binary, version)
	if err != nil {
		tb.Fatalf("assembling the test image: %v", err)
	}
	ref, err := push(tb.Context(), image, c.Registry+"/testapp")
	if err != nil {
		tb.Fatalf("pushing the test image: %v", err)
	}
	return ref
}

// build compiles the test program.
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
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "app"), ".")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, text)
	}
	return os.ReadFile(filepath.Join(dir, "app"))
}

// assemble returns an image that contains the test program and nothing else.
func assemble(binary []byte, version string) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(binary))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(binary); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Entrypoint: []string{"/app"}, User: "65534:65534", Env: []string{"VERSION=" + version}}
	return mutate.ConfigFile(image, file)
}

// push pushes an image to a repository without TLS.
func push(ctx context.Context, image v1.Image, repository string) (name.Digest, error) {
	repo, err := name.NewRepository(repository, name.Insecure)
	if err != nil {
		return name.Digest{}, err
	}
	digest, err := image.Digest()
	if err != nil {
		return name.Digest{}, err
	}
	ref := repo.Digest(digest.String())
	return ref, remote.Write(ref, image, remote.WithContext(ctx))
}

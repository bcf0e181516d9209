package command

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// maxMemory is how much memory the program may use, in bytes, whatever a registry sends.
const maxMemory = 500 << 20

// hostileRegistry is a fake, because no real registry sends what it sends.
type hostileRegistry struct {
	manifests map[string]string // by tag or digest
	blobs     map[string]func(io.Writer)
	endless   func(*http.Request) bool // which requests get a response without an end
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (h *hostileRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.endless != nil && h.endless(r) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		endless(w)
		return
	}
	_, id, _ := strings.Cut(r.URL.Path, "/manifests/")
	if text, ok := h.manifests[id]; ok {
		kind := "application/vnd.oci.image.manifest.v1+json"
		if strings.Contains(text, `"manifests"`) {
			kind = "application/vnd.oci.image.index.v1+json"
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Docker-Content-Digest", digestOf(text))
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, text)
		}
		return
	}
	_, id, _ = strings.Cut(r.URL.Path, "/blobs/")
	switch write, ok := h.blobs[id]; {
	case ok:
		write(w)
	case r.URL.Path == "/v2/":
		w.WriteHeader(http.StatusOK)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// endless writes until the client closes the connection.
func endless(w io.Writer) {
	block := bytes.Repeat([]byte(" "), 1<<20)
	for range 1 << 14 { // 16 GiB, so that a program that reads everything is found and not killed
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// bomb writes a gzip stream that unpacks to much more.
func bomb(w io.Writer) {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return
	}
	endless(z)
}

func manifest(config string, size int64, layers ...string) string {
	return fmt.Sprintf(`{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": %q, "size": %d}, "layers": [%s]}`, config, size, strings.Join(layers, ", "))
}

// TestHostileRegistries reads images from registries that send more than any memory can
// hold. Each command ends with an error and stays within its memory.
func TestHostileRegistries(t *testing.T) {
	testkit.Slow(t, "reads gigabytes")
	const tib = 1 << 40
	zeros := "sha256:" + strings.Repeat("0", 64)
	config := `{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["` + zeros + `"]}}`
	layer := func(mediaType string, size int64) string {
		return fmt.Sprintf(`{"mediaType": %q, "digest": %q, "size": %d}`, mediaType, zeros, size)
	}
	small := manifest(digestOf(config), int64(len(config)))
	blobs := map[string]func(io.Writer){zeros: endless, digestOf(config): func(w io.Writer) { _, _ = io.WriteString(w, config) }}
	bombs := map[string]func(io.Writer){zeros: bomb, digestOf(config): blobs[digestOf(config)]}
	signed := func(size int64, n int) map[string]string {
		var layers []string
		for range n {
			layers = append(layers, layer("application/vnd.dev.cosign.simplesigning.v1+json", size))
		}
		return map[string]string{"v1": small, digestOf(small): small, strings.Replace(digestOf(small), ":", "-", 1) + ".sig": manifest(digestOf(config), int64(len(config)), layers...)}
	}
	many := `{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [` + strings.Repeat(fmt.Sprintf(`{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": %q, "size": %d, "platform": {"os": "linux", "architecture": "amd64"}}, `, digestOf(small), len(small)), 20_000) +
		fmt.Sprintf(`{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": %q, "size": %d}]}`, digestOf(small), len(small))
	path := func(part string) func(*http.Request) bool {
		return func(r *http.Request) bool { return strings.Contains(r.URL.Path, part) }
	}
	scan, verify := []string{"scan", "--db-repository", "bundled"}, []string{"verify", "--key", "release.pub"}
	for _, tt := range []struct {
		name     string
		registry hostileRegistry
		args     []string
	}{
		{"configuration of 1 TiB", hostileRegistry{manifests: map[string]string{"v1": manifest(zeros, tib)}, blobs: blobs}, scan},
		{"configuration of 1 TiB in an index", hostileRegistry{manifests: map[string]string{
			"v1":                           fmt.Sprintf(`{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": %q, "size": 10, "platform": {"os": "linux", "architecture": "amd64"}}]}`, digestOf(manifest(zeros, tib))),
			digestOf(manifest(zeros, tib)): manifest(zeros, tib),
		}, blobs: blobs}, scan},
		{"configuration with another content", hostileRegistry{manifests: map[string]string{"v1": manifest(zeros, 1000)}, blobs: blobs}, scan},
		{"endless manifest", hostileRegistry{endless: path("/manifests/")}, scan},
		{"endless manifest, verify", hostileRegistry{endless: path("/manifests/")}, verify},
		{"endless answer to the first request", hostileRegistry{endless: path("/v2/")}, scan},
		{"index with 20000 images", hostileRegistry{manifests: map[string]string{"v1": many, digestOf(many): many, digestOf(small): small}, blobs: blobs}, scan},
		{"index with 20000 images, verify", hostileRegistry{manifests: map[string]string{"v1": many, digestOf(many): many, digestOf(small): small}, blobs: blobs}, verify},
		{"endless layer", hostileRegistry{manifests: map[string]string{"v1": manifest(digestOf(config), int64(len(config)), layer("application/vnd.oci.image.layer.v1.tar", tib))}, blobs: blobs}, scan},
		{"layer that unpacks to more", hostileRegistry{manifests: map[string]string{"v1": manifest(digestOf(config), int64(len(config)), layer("application/vnd.oci.image.layer.v1.tar+gzip", tib))}, blobs: bombs}, scan},
		{"signature of 1 TiB", hostileRegistry{manifests: signed(tib, 1), blobs: blobs}, verify},
		{"1000 signatures of 100 MB", hostileRegistry{manifests: signed(100<<20, 1000), blobs: blobs}, verify},
		{"endless tag of the signatures", hostileRegistry{manifests: map[string]string{"v1": small, digestOf(small): small}, blobs: blobs, endless: path(".sig")}, verify},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(&tt.registry)
			t.Cleanup(server.Close)
			p := newProgram(t, testkit.Repository(t, helloApp()))
			generateKeys(t, p, "release", "")
			cmd := p.command(t, append(tt.args, "--image", strings.TrimPrefix(server.URL, "http://")+"/acme/hello:v1")...)
			out, err := cmd.CombinedOutput()
			t.Cleanup(server.CloseClientConnections)
			failed, ok := err.(*exec.ExitError) //nolint:errorlint // of this command
			if !ok || failed.ExitCode() != fault.ExitFailed || strings.Contains(string(out), "panic") {
				t.Errorf("the command ends with %v\n%s", err, out)
			}
			used := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
			t.Logf("%d MB: %s", used>>20, strings.TrimSpace(string(out)[max(0, len(out)-300):]))
			if used > maxMemory {
				t.Errorf("the program used %d MB, want at most %d", used>>20, maxMemory>>20)
			}
		})
	}
}

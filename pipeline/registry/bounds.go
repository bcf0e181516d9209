package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Limits for what a registry can make this program keep in memory. Layers are not limited
// here, because they are never in memory as a whole.
const (
	// maxResponse is the limit for every response that is not a blob: manifests, lists of
	// tags and referrers, tokens and errors. Registries accept manifests of at least 4 MiB
	// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests).
	maxResponse = 16 << 20
	// maxConfig is the limit for the configuration of an image.
	maxConfig = 16 << 20
	// maxLayers is the limit for the layers of an image. Container runtimes accept 127.
	maxLayers = 1000
)

// ErrTooLarge is the cause of errors about content of a registry that is larger than any
// image needs.
var ErrTooLarge = errors.New("it is larger than any image needs")

// bounded is a transport that limits the size of every response that is not a blob.
type bounded struct{ base http.RoundTripper }

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.base.RoundTrip(req)
	if err != nil || isBlob(req) && resp.StatusCode < 400 {
		return resp, err
	}
	if resp.ContentLength > maxResponse {
		return nil, errors.Join(fmt.Errorf("reading a response of %d bytes: %w", resp.ContentLength, ErrTooLarge), resp.Body.Close())
	}
	resp.Body = &boundedBody{resp.Body, maxResponse}
	return resp, nil
}

// isBlob reports whether a request, or the one that was redirected to it, is for a blob.
func isBlob(req *http.Request) bool {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	const part = "/blobs/"
	i := strings.LastIndex(req.URL.Path, part)
	if i < 0 {
		return false
	}
	id := req.URL.Path[i+len(part):]
	return strings.HasPrefix(id, "uploads/") || strings.Contains(id, ":") && !strings.Contains(id, "/")
}

// boundedBody is a body that returns an error instead of more than left bytes.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		return int(b.left), fmt.Errorf("reading a response of more than %d bytes: %w", int64(maxResponse), ErrTooLarge)
	}
	b.left -= int64(n)
	return n, err
}

// checkSizes returns an error if a manifest claims a configuration or a number of layers
// that no image has. The library reads a configuration into memory.
func checkSizes(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	switch {
	case m.Config.Size < 0 || m.Config.Size > maxConfig:
		return fmt.Errorf("the configuration of the image has %d bytes: %w", m.Config.Size, ErrTooLarge)
	case len(m.Layers) > maxLayers:
		return fmt.Errorf("the image has %d layers: %w", len(m.Layers), ErrTooLarge)
	}
	return nil
}

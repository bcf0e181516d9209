package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Artifact reads the layers of an artifact that is no image, for example a Helm chart: those
// that have one of the media types, by media type. It returns the digest of the manifest.
// Layers of more than limit bytes are an error.
func (c *Client) Artifact(ctx context.Context, reference string, mediaTypes []string, limit int64) (name.Digest, map[string][]byte, error) {
	ref, err := c.Reference(reference)
	if err != nil {
		return name.Digest{}, nil, err
	}
	var digest name.Digest
	layers := map[string][]byte{}
	err = Again(ctx, c.opts.Backoff, connectionLost, func() error {
		desc, err := remote.Get(ref, c.Options(ctx)...)
		if err != nil {
			return err
		}
		digest = ref.Context().Digest(desc.Digest.String())
		img, err := desc.Image()
		if err != nil {
			return err
		}
		if err := checkSizes(img); err != nil {
			return err
		}
		all, err := img.Layers()
		if err != nil {
			return err
		}
		for _, layer := range all {
			mediaType, err := layer.MediaType()
			if err != nil {
				return err
			}
			if !slices.Contains(mediaTypes, string(mediaType)) {
				continue
			}
			content, err := layer.Compressed()
			if err != nil {
				return err
			}
			data, err := readAll(content, limit)
			if err != nil {
				return err
			}
			layers[string(mediaType)] = data
		}
		return nil
	})
	if err != nil {
		return digest, nil, c.explain(ctx, "reading", ref, err)
	}
	return digest, layers, nil
}

// readAll reads at most limit bytes, and closes the reader.
func readAll(r io.ReadCloser, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	err = errors.Join(err, r.Close())
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes: %w", limit, ErrTooLarge)
	}
	return data, err
}

// Insecure reports whether a host, with its port, may be accessed over plain HTTP: it is in
// registry.insecure or on this machine.
func (c *Client) Insecure(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback() || slices.Contains(c.opts.Settings.Insecure, host)
}

// Download reads a file of at most limit bytes over HTTP, with the certificate authorities
// and limits of the client. The bool is false if there is no such file.
func (c *Client) Download(ctx context.Context, url string, limit int64) ([]byte, bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, fault.Inputf("registry.url", "%s is not a URL: %w", url, err)
	}
	client := &http.Client{Transport: &retrying{base: c.transport(), backoff: c.opts.Backoff}, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= 10 || via[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
			return fmt.Errorf("the server redirects to %s", next.URL.Redacted())
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		return nil, false, fault.Failedf("registry.download", "downloading %s: %w", req.URL.Redacted(), err)
	}
	defer resp.Body.Close()
	data, err := readAll(resp.Body, limit)
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, false, nil
	case resp.StatusCode != http.StatusOK:
		return nil, false, fault.Failedf("registry.download", "downloading %s: the server answered %s", req.URL.Redacted(), resp.Status)
	case err != nil:
		return nil, false, fault.Failedf("registry.download", "downloading %s: %w", req.URL.Redacted(), err)
	}
	return data, true, nil
}

package registry

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Remote is an image in a registry.
type Remote struct {
	Reference name.Digest
	Platforms []RemotePlatform
}

// RemotePlatform is one platform's image of a [Remote].
type RemotePlatform struct {
	Platform  v1.Platform
	Reference name.Digest
	Image     v1.Image // read when it is used, for as long as the context of Open lasts
}

// Open finds an image. A tag is resolved once: what the result names is fixed
// by digest. Manifests that are for no platform, such as the attestations that
// BuildKit puts into an index, are left out. Mirrors are not asked: they may be
// behind.
func (c *Client) Open(ctx context.Context, reference string) (Remote, error) {
	ref, err := c.Reference(reference)
	if err != nil {
		return Remote{}, err
	}
	// What is read later is tried again by the transport.
	opts := c.options(ctx, c.opts.Settings.Downloads, &retrying{base: c.transport(), backoff: c.opts.Backoff})
	var desc *remote.Descriptor
	err = Again(ctx, c.opts.Backoff, brokenOff, func() (err error) {
		desc, err = remote.Get(ref, opts...)
		return err
	})
	if err != nil {
		return Remote{}, explain(ctx, "reading", ref, err)
	}
	r := Remote{Reference: ref.Context().Digest(desc.Digest.String())}
	if !desc.MediaType.IsIndex() {
		img, err := desc.Image()
		if err != nil {
			return Remote{}, explain(ctx, "reading", ref, err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			return Remote{}, explain(ctx, "reading", ref, err)
		}
		var p v1.Platform
		if at := cf.Platform(); at != nil {
			p = *at
		}
		r.Platforms = []RemotePlatform{{p, r.Reference, img}}
		return r, nil
	}
	idx, err := desc.ImageIndex()
	if err != nil {
		return Remote{}, explain(ctx, "reading", ref, err)
	}
	manifest, err := idx.IndexManifest()
	if err != nil {
		return Remote{}, fault.Failedf("registry.malformed", "reading %s: %w", r.Reference, err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" || !m.MediaType.IsImage() {
			continue
		}
		img, err := idx.Image(m.Digest)
		if err != nil {
			return Remote{}, explain(ctx, fmt.Sprintf("reading the image for %s of", m.Platform), ref, err)
		}
		r.Platforms = append(r.Platforms, RemotePlatform{*m.Platform, ref.Context().Digest(m.Digest.String()), img})
	}
	if len(r.Platforms) == 0 {
		return Remote{}, fault.Inputf("registry.no-image", "%s is an index without images", r.Reference)
	}
	return r, nil
}

// Options are the library's options for calls that slipway's own do not cover:
// with the client's credentials, certificate authorities and patience. Nothing
// is tried again: that is for the caller, by [Again], and not for both.
func (c *Client) Options(ctx context.Context) []remote.Option {
	return c.options(ctx, c.opts.Settings.Uploads, c.transport())
}

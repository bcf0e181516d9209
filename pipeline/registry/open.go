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
	Reference name.Digest      // of the index, or of the single image
	Platforms []RemotePlatform // one entry for a single image
}

// RemotePlatform is the image for one platform of a [Remote].
type RemotePlatform struct {
	Platform  v1.Platform
	Reference name.Digest
	Image     v1.Image // read lazily, with the context that was given to Open
}

// maxManifests is the limit for the manifests in an index. There are about 50 platforms, and
// each can have several manifests that are no images.
const maxManifests = 500

// Open finds an image. It resolves a tag once, so all references in the result
// have a digest. It skips manifests that are for no platform, for example the
// attestations that BuildKit adds to an index. It does not use mirrors, because
// a mirror may have an older image under the same tag.
//
// Open returns a [fault.Input] error if the reference is malformed or the index
// has no image.
func (c *Client) Open(ctx context.Context, reference string) (Remote, error) {
	ref, err := c.Reference(reference)
	if err != nil {
		return Remote{}, err
	}
	// The images are read after Open returns, so the transport itself retries.
	opts := c.options(ctx, c.opts.Settings.Downloads, &retrying{base: c.transport(), backoff: c.opts.Backoff})
	var desc *remote.Descriptor
	err = Again(ctx, c.opts.Backoff, connectionLost, func() (err error) {
		desc, err = remote.Get(ref, opts...)
		return err
	})
	if err != nil {
		return Remote{}, c.explain(ctx, "reading", ref, err)
	}
	r := Remote{Reference: ref.Context().Digest(desc.Digest.String())}
	if !desc.MediaType.IsIndex() {
		img, err := desc.Image()
		if err == nil {
			err = checkSizes(img)
		}
		if err != nil {
			return Remote{}, c.explain(ctx, "reading", ref, err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			return Remote{}, c.explain(ctx, "reading", ref, err)
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
		return Remote{}, c.explain(ctx, "reading", ref, err)
	}
	manifest, err := idx.IndexManifest()
	if err != nil {
		return Remote{}, fault.Failedf("registry.malformed", "reading %s: %w", r.Reference, err)
	}
	if len(manifest.Manifests) > maxManifests {
		return Remote{}, fault.Failedf("registry.malformed", "reading %s: the index has more than %d manifests", r.Reference, maxManifests)
	}
	for _, m := range manifest.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" || !m.MediaType.IsImage() {
			continue
		}
		img, err := idx.Image(m.Digest)
		if err == nil {
			err = checkSizes(img)
		}
		if err != nil {
			return Remote{}, c.explain(ctx, fmt.Sprintf("reading the image for %s of", m.Platform), ref, err)
		}
		r.Platforms = append(r.Platforms, RemotePlatform{*m.Platform, ref.Context().Digest(m.Digest.String()), img})
	}
	if len(r.Platforms) == 0 {
		return Remote{}, fault.Inputf("registry.no-image", "%s is an index that contains no image", r.Reference)
	}
	return r, nil
}

// Options returns options with which a caller can use the go-containerregistry
// library directly: they carry the client's credentials, certificate authorities
// and limits on stalled transfers. They do not retry, so that a caller who
// retries with [Again] does not multiply the attempts.
func (c *Client) Options(ctx context.Context) []remote.Option {
	return c.options(ctx, c.opts.Settings.Uploads, c.transport())
}

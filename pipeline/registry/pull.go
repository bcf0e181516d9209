package registry

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// expandBase returns the reference that a short name of a base image stands for,
// and other names unchanged. The references are tags. For a reproducible build
// the base must be given by digest; the image stage warns and shows the digest.
func expandBase(base string) string {
	switch base {
	case "alpine":
		return "docker.io/library/alpine:3.22"
	case "distroless":
		return "gcr.io/distroless/static-debian12:nonroot"
	}
	return base
}

// Base finds the base image for a platform. It tries the mirrors of the registry
// before the registry itself. "alpine" and "distroless" are short names.
//
// Base returns a [fault.Input] error if the reference or a mirror is malformed,
// or if the base has no image for the platform.
func (c *Client) Base(ctx context.Context, base string, p v1.Platform) (image.Base, error) {
	full := expandBase(base)
	ref, err := c.Reference(full)
	if err != nil {
		return image.Base{}, err
	}
	progress.Statusf(ctx, "resolving base image %s", full)
	candidates, err := c.candidates(ref)
	if err != nil {
		return image.Base{}, err
	}
	var errs []error
	for _, candidate := range candidates {
		b, err := c.get(ctx, candidate, p)
		if err == nil {
			b.Name = full
			return b, nil
		}
		var input *fault.Error
		// Credentials that cannot be read concern one registry only.
		if ctx.Err() != nil || errors.As(err, &input) && input.Kind == fault.Input && input.Code != dockerConfig {
			return image.Base{}, c.explain(ctx, "pulling base image", candidate, err)
		}
		errs = append(errs, c.explain(ctx, "pulling base image", candidate, err))
	}
	return image.Base{}, errs[len(errs)-1] // the registry itself comes last
}

func (c *Client) get(ctx context.Context, ref name.Reference, p v1.Platform) (image.Base, error) {
	var desc *remote.Descriptor
	// The transport retries a request that gets no response. A manifest that is
	// cut off while it is read is fetched again here.
	err := Again(ctx, c.opts.Backoff, connectionLost, func() (err error) {
		desc, err = remote.Get(ref, c.pullOptions(ctx, p)...)
		return err
	})
	if err != nil {
		return image.Base{}, err
	}
	if desc.MediaType.IsIndex() {
		idx, err := desc.ImageIndex()
		if err != nil {
			return image.Base{}, err
		}
		manifest, err := idx.IndexManifest()
		if err != nil {
			return image.Base{}, err
		}
		var available []string
		for _, m := range manifest.Manifests {
			if m.Platform != nil && m.Platform.OS != "unknown" {
				available = append(available, m.Platform.String())
			}
			if m.Platform != nil && m.Platform.Satisfies(p) {
				var img v1.Image
				err := Again(ctx, c.opts.Backoff, connectionLost, func() (err error) {
					if img, err = idx.Image(m.Digest); err == nil {
						err = checkSizes(img)
					}
					return err
				})
				return image.Base{Image: img, Digest: desc.Digest}, err
			}
		}
		return image.Base{}, fault.Inputf("image.base-platform", "base image %s has no image for %s", ref.Name(), p).
			WithFix("choose another base image, or one of its platforms: %s", strings.Join(available, ", "))
	}
	img, err := desc.Image()
	if err == nil {
		err = checkSizes(img)
	}
	return image.Base{Image: img, Digest: desc.Digest}, err
}

// AnyHost is the key in [config.Registry.Mirrors] for every registry that has no
// entry.
const AnyHost = "*"

// candidates returns the references from which an image can be pulled: on each
// mirror, and on the registry itself last.
func (c *Client) candidates(ref name.Reference) ([]name.Reference, error) {
	host := ref.Context().RegistryStr()
	mirrors := c.opts.Settings.Mirrors[host]
	if host == name.DefaultRegistry {
		mirrors = slices.Concat(mirrors, c.opts.Settings.Mirrors["docker.io"])
	}
	if len(mirrors) == 0 {
		mirrors = c.opts.Settings.Mirrors[AnyHost]
	}
	all := make([]name.Reference, 0, len(mirrors)+1)
	for _, m := range mirrors {
		sep := ":"
		if _, ok := ref.(name.Digest); ok {
			sep = "@"
		}
		r, err := c.Reference(strings.TrimSuffix(m, "/") + "/" + ref.Context().RepositoryStr() + sep + ref.Identifier())
		if err != nil {
			return nil, fault.Inputf("registry.mirror", "mirror %q of %s cannot be used: %w", m, host, err).
				WithFix("a mirror is a host, or a host and a path, for example mirror.example.com/hub")
		}
		all = append(all, r)
	}
	return append(all, ref), nil
}

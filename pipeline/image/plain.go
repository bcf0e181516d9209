package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/slipway-ci/slipway/pipeline/build"
)

// Plain is one platform's image as a scanner should see it.
type Plain struct {
	Platform v1.Platform
	Image    v1.Image
	Base     v1.Hash // digest of the base; zero on scratch
}

// Unpacked makes an image for every binary with nothing but the base and the
// program: what a scanner looks into. Nothing is compressed or written, so it
// costs little, and as the binaries are given as the linker left them, a packed
// image gets the verdict of the plain one: a scanner finds nothing in a packed
// Go binary (https://github.com/aquasecurity/trivy/discussions/973).
func Unpacked(ctx context.Context, o Options) ([]Plain, error) {
	m := maker{Options: o, kind: mediaTypes(o.Settings.Format)}
	var all []Plain
	for _, b := range o.Binaries {
		made, err := partial.UncompressedToLayer(&program{maker: &m, binary: b})
		if err != nil {
			return nil, fmt.Errorf("reading the program for %s: %w", b.Platform, err)
		}
		var base Base
		if m.Settings.Base != "scratch" {
			if base, err = m.Bases.Base(ctx, m.Settings.Base, b.Platform); err != nil {
				return nil, err
			}
		}
		img, err := m.assemble(b.Platform, base, []*layer{{Layer: made, name: "program", mediaType: types.OCIUncompressedLayer}})
		if err != nil {
			return nil, fmt.Errorf("assembling the image for %s: %w", b.Platform, err)
		}
		all = append(all, Plain{b.Platform, img, base.Digest})
	}
	return all, nil
}

// program is the layer of a binary, made whenever it is read.
type program struct {
	*maker
	binary build.Binary
}

func (p *program) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }

func (p *program) DiffID() (v1.Hash, error) {
	h := sha256.New()
	if err := p.writeProgram(h, p.binary); err != nil {
		return v1.Hash{}, err
	}
	return v1.NewHash(fmt.Sprintf("sha256:%x", h.Sum(nil)))
}

func (p *program) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(p.writeProgram(w, p.binary)) }()
	return r, nil
}

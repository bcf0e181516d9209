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

// Plain is the image of one platform for a scanner.
type Plain struct {
	Platform v1.Platform
	Image    v1.Image
	Base     v1.Hash // digest of the base; zero for scratch
}

// Unpacked assembles an image for every binary, with the layers of the base and
// the program only, for a scanner. Nothing is compressed or written.
//
// The binaries of o must be those that the linker wrote, because a scanner finds
// nothing in a Go binary that is packed
// (https://github.com/aquasecurity/trivy/discussions/973).
func Unpacked(ctx context.Context, o Options) ([]Plain, error) {
	a := assembler{Options: o, kind: mediaTypes(o.Settings.Format)}
	var all []Plain
	for _, b := range o.Binaries {
		program, err := partial.UncompressedToLayer(&programLayer{assembler: &a, binary: b})
		if err != nil {
			return nil, fmt.Errorf("reading the program for %s: %w", b.Platform, err)
		}
		var base Base
		if a.Settings.Base != "scratch" {
			if base, err = a.Bases.Base(ctx, a.Settings.Base, b.Platform); err != nil {
				return nil, err
			}
		}
		img, err := a.assemble(b.Platform, base, []*layer{{Layer: program, name: "program", mediaType: types.OCIUncompressedLayer}})
		if err != nil {
			return nil, fmt.Errorf("assembling the image for %s: %w", b.Platform, err)
		}
		all = append(all, Plain{b.Platform, img, base.Digest})
	}
	return all, nil
}

// programLayer is the uncompressed layer of a binary. The archive is written every
// time it is read.
type programLayer struct {
	*assembler
	binary build.Binary
}

func (p *programLayer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }

func (p *programLayer) DiffID() (v1.Hash, error) {
	h := sha256.New()
	if err := p.writeProgram(h, p.binary); err != nil {
		return v1.Hash{}, err
	}
	return v1.NewHash(fmt.Sprintf("sha256:%x", h.Sum(nil)))
}

func (p *programLayer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(p.writeProgram(w, p.binary)) }()
	return r, nil
}

package trivy

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// maxPath is the maximal length of a path in an image: PATH_MAX of Linux.
const maxPath = 4096

// maxLayers is the maximal number of layers of an image. Container runtimes do not
// accept more than 127.
const maxLayers = 500

// guarded is an image that Trivy reads. The image may be malicious, so guarded
// limits its size and its number of files, and verifies the digest of every layer
// while Trivy reads it.
type guarded struct {
	v1.Image
	ctx      context.Context
	target   scan.Target
	maxBytes int64
	maxFiles int64
	bytes    atomic.Int64
	files    atomic.Int64

	mu  sync.Mutex
	err error // the first violation
}

func (g *guarded) Name() string { return g.target.Name }

func (g *guarded) ID() (string, error) {
	h, err := g.ConfigName()
	return h.String(), err
}

func (g *guarded) RepoTags() []string { return nil }

// RepoDigests returns the reference of the image that is shipped, if the name of
// the target is an image reference.
func (g *guarded) RepoDigests() []string {
	if d := shippedReference(g.target); d != "" {
		return []string{d}
	}
	return nil
}

// shippedReference returns repository@digest, or "" if the name of the target is
// not an image reference.
func shippedReference(t scan.Target) string {
	ref, err := name.ParseReference(t.Name)
	if err != nil || t.Digest == "" {
		return ""
	}
	d, err := name.NewDigest(ref.Context().Name() + "@" + t.Digest)
	if err != nil {
		return ""
	}
	return d.Name()
}

func (g *guarded) hostile(format string, args ...any) error {
	return g.fail(fault.Failedf("scan.image-hostile", "image %s cannot be scanned: "+format, append([]any{g.target.Name}, args...)...))
}

func (g *guarded) corrupt(format string, args ...any) error {
	return g.fail(fault.Failedf("scan.image-corrupt", "image %s is damaged: "+format, append([]any{g.target.Name}, args...)...))
}

// fail records the first violation and returns err.
func (g *guarded) fail(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	return err
}

func (g *guarded) violation() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// validate checks the manifest and the configuration before a layer is read.
func (g *guarded) validate() error {
	config, err := g.ConfigFile()
	if err != nil {
		return g.corrupt("reading its configuration: %w", err)
	}
	if config == nil {
		return g.corrupt("it has no configuration")
	}
	manifest, err := g.Manifest()
	if err != nil {
		return g.corrupt("reading its manifest: %w", err)
	}
	if len(manifest.Layers) > maxLayers {
		return g.hostile("it has %d layers, more than the limit of %d", len(manifest.Layers), maxLayers)
	}
	if inManifest, inConfig := len(manifest.Layers), len(config.RootFS.DiffIDs); inManifest != inConfig {
		return g.corrupt("its manifest has %d layers and its configuration has %d", inManifest, inConfig)
	}
	return nil
}

func (g *guarded) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	l, err := g.Image.LayerByDiffID(h)
	if err != nil {
		return nil, err
	}
	return &layer{Layer: l, g: g, want: h}, nil
}

// layer is a guarded layer. Trivy reads a field UncompressedLayer by reflection and
// would bypass the guard, so layer must not have such a field.
type layer struct {
	v1.Layer
	g    *guarded
	want v1.Hash
}

func (l *layer) Uncompressed() (io.ReadCloser, error) {
	rc, err := l.Layer.Uncompressed()
	if err != nil {
		return nil, l.g.corrupt("opening layer %s: %w", l.want, err)
	}
	pr, pw := io.Pipe()
	c := &checkedReader{l: l, rc: rc, sum: sha256.New(), pw: pw, counted: make(chan struct{})}
	go c.count(pr)
	return c, nil
}

// errAborted is the error that count reads if Trivy closes a layer before its end.
var errAborted = errors.New("aborted")

// checkedReader reads a layer, enforces the limits and computes the digest.
type checkedReader struct {
	l       *layer
	rc      io.ReadCloser
	sum     hash.Hash
	pw      *io.PipeWriter
	counted chan struct{} // closed when count has returned
	ended   bool
}

func (c *checkedReader) Read(p []byte) (int, error) {
	g := c.l.g
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.rc.Read(p)
	if n > 0 {
		if g.bytes.Add(int64(n)) > g.maxBytes {
			return 0, g.hostile("it unpacks to more than %d bytes", g.maxBytes)
		}
		c.sum.Write(p[:n])
		if _, werr := c.pw.Write(p[:n]); werr != nil {
			return 0, werr
		}
	}
	switch {
	case err == io.EOF && !c.ended:
		c.ended = true
		_ = c.pw.Close() // always returns nil
		if got := hex.EncodeToString(c.sum.Sum(nil)); c.l.want.Algorithm != "sha256" || got != c.l.want.Hex {
			return 0, g.corrupt("digest mismatch: layer %s has the digest sha256:%s", c.l.want, got)
		}
	case err != nil && err != io.EOF:
		return 0, g.corrupt("reading layer %s: %w", c.l.want, err)
	}
	return n, err
}

func (c *checkedReader) Close() error {
	_ = c.pw.CloseWithError(errAborted) // always returns nil; has no effect after the end of the layer
	<-c.counted
	return c.rc.Close()
}

// count reads the archive of the layer at the same time as Trivy and counts its
// files. If it finds a violation, the next Read returns that as its error.
func (c *checkedReader) count(pr *io.PipeReader) {
	defer close(c.counted)
	g := c.l.g
	abort := func(err error) { _ = pr.CloseWithError(err) } // always returns nil
	tr := tar.NewReader(pr)
	for {
		hdr, err := tr.Next()
		if err != nil {
			if err != io.EOF && !errors.Is(err, errAborted) {
				_ = g.corrupt("layer %s is not a tar archive: %w", c.l.want, err)
			}
			_, _ = io.Copy(io.Discard, pr) // until the writer is closed
			return
		}
		if g.files.Add(1) > g.maxFiles {
			abort(g.hostile("it has more than %d files", g.maxFiles))
			return
		}
		if len(hdr.Name) > maxPath {
			abort(g.hostile("it has a path of %d bytes", len(hdr.Name)))
			return
		}
		if hdr.Size > g.maxBytes {
			abort(g.hostile("the size of its file %.100q is %d bytes according to the archive", hdr.Name, hdr.Size))
			return
		}
	}
}

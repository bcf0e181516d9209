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

// maxPath is the longest path an image may have: what Linux can open.
const maxPath = 4096

// maxLayers is how many layers an image may have; container runtimes stop at 127.
const maxLayers = 500

// guarded is an image as Trivy takes it, bounded: whoever made it may have meant
// to harm. Every layer is counted and checked against its digest while Trivy
// reads it.
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

// RepoDigests names the image that is shipped, where the target's name is one a
// registry could have.
func (g *guarded) RepoDigests() []string {
	if d := shipped(g.target); d != "" {
		return []string{d}
	}
	return nil
}

// shipped is repository@digest, or "".
func shipped(t scan.Target) string {
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

// sane checks what must agree before a layer is read.
func (g *guarded) sane() error {
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
		return g.hostile("it has %d layers, and %d are the most", len(manifest.Layers), maxLayers)
	}
	if have, want := len(manifest.Layers), len(config.RootFS.DiffIDs); have != want {
		return g.corrupt("its manifest has %d layers and its configuration %d", have, want)
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

// layer is a pointer type with no field UncompressedLayer: Trivy looks.
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
	c := &checked{l: l, rc: rc, sum: sha256.New(), pw: pw, counted: make(chan struct{})}
	go c.count(pr)
	return c, nil
}

// errAborted tells the counting that Trivy gave up on a layer.
var errAborted = errors.New("aborted")

// checked passes a layer on while it counts bytes and files and sums it up.
type checked struct {
	l       *layer
	rc      io.ReadCloser
	sum     hash.Hash
	pw      *io.PipeWriter
	counted chan struct{} // closed when the counting has ended
	ended   bool
}

func (c *checked) Read(p []byte) (int, error) {
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
		_ = c.pw.Close() // cannot fail
		if got := hex.EncodeToString(c.sum.Sum(nil)); c.l.want.Algorithm != "sha256" || got != c.l.want.Hex {
			return 0, g.corrupt("layer %s holds something else, of digest sha256:%s", c.l.want, got)
		}
	case err != nil && err != io.EOF:
		return 0, g.corrupt("reading layer %s: %w", c.l.want, err)
	}
	return n, err
}

func (c *checked) Close() error {
	_ = c.pw.CloseWithError(errAborted) // cannot fail; after the end it changes nothing
	<-c.counted
	return c.rc.Close()
}

// count reads the layer's archive beside Trivy. What it refuses, the next Read
// returns.
func (c *checked) count(pr *io.PipeReader) {
	defer close(c.counted)
	g := c.l.g
	refuse := func(err error) { _ = pr.CloseWithError(err) } // cannot fail
	tr := tar.NewReader(pr)
	for {
		hdr, err := tr.Next()
		if err != nil {
			if err != io.EOF && !errors.Is(err, errAborted) {
				_ = g.corrupt("layer %s is not a tar archive: %w", c.l.want, err)
			}
			_, _ = io.Copy(io.Discard, pr) // ends when the writer does
			return
		}
		if g.files.Add(1) > g.maxFiles {
			refuse(g.hostile("it has more than %d files", g.maxFiles))
			return
		}
		if len(hdr.Name) > maxPath {
			refuse(g.hostile("it has a path of %d bytes", len(hdr.Name)))
			return
		}
		if hdr.Size > g.maxBytes {
			refuse(g.hostile("its file %.100q claims %d bytes", hdr.Name, hdr.Size))
			return
		}
	}
}

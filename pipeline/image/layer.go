package image

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/pgzip"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// encoding names how layers are compressed. It is part of every cache key:
// raise the number when a library's output changes.
//
// gzip's level 5 costs half the time of 6 and one percent of size. Both
// encoders cut the stream by size, never by the number of cores, so the bytes
// are the same on every machine.
const (
	encoding  = "1"
	gzipLevel = 5
	gzipBlock = 1 << 20
	gzipAhead = 8 // blocks in flight; does not change the output
)

// record is what a cached layer is known by.
type record struct {
	Digest v1.Hash `json:"digest"`
	DiffID v1.Hash `json:"diff_id"`
	Size   int64   `json:"size"`
}

// layer is a layer whose compressed bytes are a file of the cache.
type layer struct {
	v1.Layer
	name      string
	mediaType types.MediaType
	record    record
	reused    bool
}

// blob is the part of a [v1.Layer] that go-containerregistry cannot derive.
type blob struct {
	record
	path      string
	mediaType types.MediaType
}

func (b blob) Digest() (v1.Hash, error)            { return b.record.Digest, nil }
func (b blob) DiffID() (v1.Hash, error)            { return b.record.DiffID, nil }
func (b blob) Size() (int64, error)                { return b.record.Size, nil }
func (b blob) MediaType() (types.MediaType, error) { return b.mediaType, nil }

// Compressed reads the blob. One that was damaged on disk is removed when its
// end shows it, so that the next run makes it again.
func (b blob) Compressed() (io.ReadCloser, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, err
	}
	return &checked{file: f, hash: sha256.New(), want: b.record.Digest.Hex}, nil
}

// checked is a file whose content is known by its digest.
type checked struct {
	file *os.File // not embedded: io.Copy would find its WriteTo and pass Read by
	hash hash.Hash
	want string
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	c.hash.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(c.hash.Sum(nil)) != c.want {
		return n, errors.Join(fault.Failedf("cache.damaged", "cached layer sha256:%s was damaged and is removed", c.want).WithFix("run again"), os.Remove(c.file.Name()))
	}
	return n, err
}

func (c *checked) Close() error { return c.file.Close() }

// entry is a file of a layer.
type entry struct {
	path    string // absolute in the image
	mode    int64
	size    int64
	content io.Reader
}

// writeTar writes entries with the folders above them. Modes, owners and times
// are given, never read from a file: a umask or a clone's time must not change
// a digest.
func writeTar(w io.Writer, when time.Time, entries []entry) error {
	tw := tar.NewWriter(w)
	made := map[string]bool{"": true}
	var folders func(dir string) error
	folders = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		parent, _ := path.Split(dir)
		if err := folders(strings.TrimSuffix(parent, "/")); err != nil {
			return err
		}
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: when, Format: tar.FormatPAX})
	}
	for _, e := range entries {
		name := strings.TrimPrefix(e.path, "/")
		parent, _ := path.Split(name)
		if err := folders(strings.TrimSuffix(parent, "/")); err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: e.mode, Size: e.size, ModTime: when, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := io.Copy(tw, e.content); err != nil {
			return err
		}
	}
	return tw.Close()
}

// epoch is the time of the layers that do not come from a commit. They are the
// same for all apps, so a registry and a node keep them once.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// fixedLayers makes the layers below the program.
func (m *maker) fixedLayers(ctx context.Context) ([]*layer, error) {
	zones, err := zoneEntries(m.ZoneInfo)
	if err != nil {
		return nil, err
	}
	sets := []struct {
		name    string
		entries []entry
	}{{"certificates", certificates()}, {"zones", zones}}
	if m.Settings.Base == "scratch" {
		sets = append(sets, struct {
			name    string
			entries []entry
		}{"accounts", accounts(m.Settings.User)})
	}
	var layers []*layer
	for _, set := range sets {
		var text bytes.Buffer
		if err := writeTar(&text, epoch(), set.entries); err != nil {
			return nil, fmt.Errorf("making the layer of %s: %w", set.name, err)
		}
		sum := sha256.Sum256(text.Bytes())
		l, err := m.layer(ctx, set.name, "tar\x00"+hex.EncodeToString(sum[:]), func(w io.Writer) error {
			_, err := w.Write(text.Bytes())
			return err
		})
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

func file(path string, content []byte) entry {
	return entry{path: path, mode: 0o644, size: int64(len(content)), content: bytes.NewReader(content)}
}

// certificates are the roots of Mozilla's programme as the Go project carries
// them, pinned by go.sum.
func certificates() []entry {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a bytes.Buffer does not fail
	}
	return []entry{file("/etc/ssl/certs/ca-certificates.crt", b.Bytes())}
}

// accounts name the users of a scratch image, for programs that look theirs up.
func accounts(user string) []entry {
	uid, gid, ok := strings.Cut(user, ":")
	if !ok {
		gid = "65534"
	}
	//nolint:gosec // nobody's password is in it: x means none
	passwd := "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"
	group := "root:x:0:\nnobody:x:65534:\n"
	if uid != "0" && uid != "65534" {
		passwd += "app:x:" + uid + ":" + gid + ":app:/:/sbin/nologin\n"
	}
	if gid != "0" && gid != "65534" {
		group += "app:x:" + gid + ":\n"
	}
	return []entry{file("/etc/group", []byte(group)), file("/etc/passwd", []byte(passwd))}
}

// maxZones bounds what is read from a toolchain's zone data; the real one has
// 600 files and 400 kB.
const maxZones = 16 << 20

// zoneEntries unpacks the time zone database of a Go toolchain.
func zoneEntries(archive string) ([]entry, error) {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return nil, fault.Inputf("image.zones", "reading the zone data of the Go toolchain: %w", err).
			WithFix("some distributions leave lib/time/zoneinfo.zip out; use a toolchain from go.dev or set app.toolchain")
	}
	defer r.Close()
	var entries []entry
	total := 0
	for _, f := range r.File {
		if f.FileInfo().IsDir() {
			continue
		}
		if !filepath.IsLocal(f.Name) {
			return nil, fault.Inputf("image.zones", "%s: %q leaves the archive", archive, f.Name)
		}
		rc, err := f.Open()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", archive, err)
		}
		data, err := io.ReadAll(io.LimitReader(rc, maxZones))
		if err := errors.Join(err, rc.Close()); err != nil {
			return nil, fmt.Errorf("reading %s: %w", archive, err)
		}
		if total += len(data); total > maxZones {
			return nil, fault.Inputf("image.zones", "%s unpacks to more than %d bytes", archive, maxZones)
		}
		entries = append(entries, file("/usr/share/zoneinfo/"+f.Name, data))
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	return entries, nil
}

func (m *maker) programLayer(ctx context.Context, b build.Binary) (*layer, error) {
	key := strings.Join([]string{"program", b.SHA256, m.Settings.Entrypoint, m.Source.Time.Format(time.RFC3339)}, "\x00")
	return m.layer(ctx, "program", key, func(w io.Writer) error {
		progress.Statusf(ctx, "packing %s", b.Platform)
		return m.writeProgram(w, b)
	})
}

func (m *maker) writeProgram(w io.Writer, b build.Binary) error {
	f, err := os.Open(b.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeTar(w, m.Source.Time, []entry{{path: m.Settings.Entrypoint, mode: 0o755, size: b.Size, content: f}})
}

// layer returns the layer of a key from the cache, or makes it.
func (m *maker) layer(ctx context.Context, name, key string, write func(io.Writer) error) (*layer, error) {
	sum := sha256.Sum256([]byte(strings.Join([]string{encoding, m.Settings.Compression, key}, "\x00")))
	slot := hex.EncodeToString(sum[:]) + ".json"
	l := &layer{name: name, mediaType: m.kind.gzip, reused: true}
	if m.Settings.Compression == "zstd" {
		l.mediaType = m.kind.zstd
	}
	if !m.Cache.Load(&l.record, "layers", slot) || !m.intact(l.record) {
		l.reused = false
		var err error
		if l.record, err = m.pack(ctx, write); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("making the layer of %s: %w", name, err)
		}
		if err := m.Cache.Store(l.record, "layers", slot); err != nil {
			return nil, err
		}
	}
	var err error
	l.Layer, err = partial.CompressedToLayer(blob{l.record, m.blobPath(l.record), l.mediaType})
	if err != nil {
		return nil, fmt.Errorf("reading the layer of %s: %w", name, err)
	}
	return l, nil
}

func (m *maker) blobPath(r record) string {
	return m.Cache.Path("blobs", r.Digest.Algorithm, r.Digest.Hex)
}

// intact checks that the blob is there in full; its content is checked by
// whoever reads it, by digest.
func (m *maker) intact(r record) bool {
	path := m.blobPath(r)
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != r.Size {
		return false
	}
	cache.Touch(path)
	return true
}

// pack compresses a tar stream into a blob of the cache.
func (m *maker) pack(ctx context.Context, write func(io.Writer) error) (r record, err error) {
	tmp, err := os.CreateTemp(m.RunDir, "blob-")
	if err != nil {
		return record{}, err
	}
	defer func() {
		if err != nil {
			_, _ = tmp.Close(), os.Remove(tmp.Name()) // the run's folder goes in any case
		}
	}()
	packed, plain := &counter{hash: sha256.New()}, sha256.New()
	out := io.MultiWriter(tmp, packed)
	zw, err := m.encoder(out)
	if err != nil {
		return record{}, err
	}
	if err := write(&guard{ctx, io.MultiWriter(plain, zw)}); err != nil {
		if closeErr := zw.Close(); closeErr != nil {
			err = closeErr // the cause: the encoder writes behind our back
		}
		return record{}, err
	}
	if err := zw.Close(); err != nil {
		return record{}, err
	}
	r = record{Digest: sum(packed.hash), DiffID: sum(plain), Size: packed.n}
	if err := tmp.Chmod(0o644); err != nil {
		return record{}, err
	}
	if err := tmp.Close(); err != nil {
		return record{}, err
	}
	if _, err := m.Cache.Make("blobs", r.Digest.Algorithm); err != nil {
		return record{}, err
	}
	return r, os.Rename(tmp.Name(), m.blobPath(r))
}

func (m *maker) encoder(w io.Writer) (io.WriteCloser, error) {
	if m.Settings.Compression == "zstd" {
		return newFrames(w)
	}
	zw, err := pgzip.NewWriterLevel(w, gzipLevel)
	if err != nil {
		return nil, err
	}
	return zw, zw.SetConcurrency(gzipBlock, gzipAhead)
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

// guard stops a long write when the run ends.
type guard struct {
	ctx context.Context
	w   io.Writer
}

func (g *guard) Write(p []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	return g.w.Write(p)
}

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

// The parameters of compression. Both encoders split the stream into blocks of a
// fixed size that does not depend on the number of cores, so that the bytes are
// the same on every machine.
const (
	// encoding is part of every cache key. Increment it if an update of a library
	// changes the compressed bytes.
	encoding = "1"
	// gzipLevel 5 needs half the time of level 6 and gives layers that are one
	// percent larger.
	gzipLevel = 5
	gzipBlock = 1 << 20 // bytes in a block
	gzipAhead = 8       // blocks compressed at the same time; the output does not depend on it
)

// record identifies a layer in the cache.
type record struct {
	Digest v1.Hash `json:"digest"`
	DiffID v1.Hash `json:"diff_id"`
	Size   int64   `json:"size"`
}

// layer is a layer whose compressed bytes are a file in the cache.
type layer struct {
	v1.Layer
	name      string // for people: certificates, zones, accounts or program
	mediaType types.MediaType
	record    record
	reused    bool // an earlier run created it
}

// blob implements the methods of [v1.Layer] that go-containerregistry cannot
// derive.
type blob struct {
	record
	path      string
	mediaType types.MediaType
}

func (b blob) Digest() (v1.Hash, error)            { return b.record.Digest, nil }
func (b blob) DiffID() (v1.Hash, error)            { return b.record.DiffID, nil }
func (b blob) Size() (int64, error)                { return b.record.Size, nil }
func (b blob) MediaType() (types.MediaType, error) { return b.mediaType, nil }

// Compressed returns a reader for the blob. If the digest does not match at the
// end of the file, the reader removes the file, so that the next run creates it
// again, and returns a [fault.Failed] error.
func (b blob) Compressed() (io.ReadCloser, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, err
	}
	return &verifiedFile{file: f, hash: sha256.New(), want: b.record.Digest.Hex}, nil
}

// verifiedFile is a file whose digest is checked while it is read.
type verifiedFile struct {
	file *os.File // not embedded, because io.Copy would use its WriteTo and bypass Read
	hash hash.Hash
	want string
}

func (c *verifiedFile) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	c.hash.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(c.hash.Sum(nil)) != c.want {
		return n, errors.Join(fault.Failedf("cache.damaged", "digest mismatch: the cached layer sha256:%s was damaged and has been removed", c.want).WithFix("retry; slipway creates the layer again"), os.Remove(c.file.Name()))
	}
	return n, err
}

func (c *verifiedFile) Close() error { return c.file.Close() }

// entry is a file in a layer.
type entry struct {
	path    string // absolute in the image
	mode    int64
	size    int64
	content io.Reader
}

// writeTar writes a tar archive with the entries and their parent folders. Modes,
// owners and times are fixed and not read from files, because the umask and the
// time of a checkout must not change the digest.
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

// epoch returns the time of the files in layers that do not depend on the commit.
// These layers are the same for all apps, so a registry and a node store them
// once.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// fixedLayers creates the layers below the program: certificates, zones and, for a
// scratch image, accounts.
func (a *assembler) fixedLayers(ctx context.Context) ([]*layer, error) {
	zones, err := zoneEntries(a.ZoneInfo)
	if err != nil {
		return nil, err
	}
	sets := []struct {
		name    string
		entries []entry
	}{{"certificates", certificates()}, {"zones", zones}}
	if a.Settings.Base == "scratch" {
		sets = append(sets, struct {
			name    string
			entries []entry
		}{"accounts", accounts(a.Settings.User)})
	}
	var layers []*layer
	for _, set := range sets {
		var text bytes.Buffer
		if err := writeTar(&text, epoch(), set.entries); err != nil {
			return nil, fmt.Errorf("archiving the layer %s: %w", set.name, err)
		}
		sum := sha256.Sum256(text.Bytes())
		l, err := a.layer(ctx, set.name, "tar\x00"+hex.EncodeToString(sum[:]), func(w io.Writer) error {
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

// file returns an entry for a file that everybody can read.
func file(path string, content []byte) entry {
	return entry{path: path, mode: 0o644, size: int64(len(content)), content: bytes.NewReader(content)}
}

// certificates returns the root certificates of Mozilla's CA program, from a
// module of the Go project that go.sum pins.
func certificates() []entry {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // writing to a bytes.Buffer does not fail
	}
	return []entry{file("/etc/ssl/certs/ca-certificates.crt", b.Bytes())}
}

// accounts returns /etc/passwd and /etc/group of a scratch image, for programs that
// look up their user.
func accounts(user string) []entry {
	uid, gid, ok := strings.Cut(user, ":")
	if !ok {
		gid = "65534"
	}
	//nolint:gosec // it contains no password: x means that there is none
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

// maxZones is the limit in bytes for the unpacked zone data of a toolchain, which
// normally has 400 kB in 600 files.
const maxZones = 16 << 20

// zoneEntries reads the time zone database of a Go toolchain.
func zoneEntries(archive string) ([]entry, error) {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return nil, fault.Inputf("image.zones", "reading the zone data of the Go toolchain: %w", err).
			WithFix("some distributions omit lib/time/zoneinfo.zip; use a toolchain from go.dev or set app.toolchain")
	}
	defer r.Close()
	var entries []entry
	total := 0
	for _, f := range r.File {
		if f.FileInfo().IsDir() {
			continue
		}
		if !filepath.IsLocal(f.Name) {
			return nil, fault.Inputf("image.zones", "reading %s: the path %q points outside the archive", archive, f.Name)
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
			return nil, fault.Inputf("image.zones", "reading %s: it unpacks to more than %d bytes", archive, maxZones)
		}
		entries = append(entries, file("/usr/share/zoneinfo/"+f.Name, data))
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	return entries, nil
}

// programLayer returns the layer with the program, from the cache if possible.
func (a *assembler) programLayer(ctx context.Context, b build.Binary) (*layer, error) {
	key := strings.Join([]string{"program", b.SHA256, a.Settings.Entrypoint, a.Source.Time.Format(time.RFC3339)}, "\x00")
	return a.layer(ctx, "program", key, func(w io.Writer) error {
		progress.Statusf(ctx, "packing %s", b.Platform)
		return a.writeProgram(w, b)
	})
}

// writeProgram writes a tar archive with the program.
func (a *assembler) writeProgram(w io.Writer, b build.Binary) error {
	f, err := os.Open(b.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeTar(w, a.Source.Time, []entry{{path: a.Settings.Entrypoint, mode: 0o755, size: b.Size, content: f}})
}

// layer returns the layer for a key from the cache, or creates it from the tar
// archive that write writes.
func (a *assembler) layer(ctx context.Context, name, key string, write func(io.Writer) error) (*layer, error) {
	sum := sha256.Sum256([]byte(strings.Join([]string{encoding, a.Settings.Compression, key}, "\x00")))
	slot := hex.EncodeToString(sum[:]) + ".json"
	l := &layer{name: name, mediaType: a.kind.gzip, reused: true}
	if a.Settings.Compression == "zstd" {
		l.mediaType = a.kind.zstd
	}
	if !a.Cache.Load(&l.record, "layers", slot) || !a.intact(l.record) {
		l.reused = false
		var err error
		if l.record, err = a.pack(ctx, write); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("creating the layer %s: %w", name, err)
		}
		if err := a.Cache.Store(l.record, "layers", slot); err != nil {
			return nil, err
		}
	}
	var err error
	l.Layer, err = partial.CompressedToLayer(blob{l.record, a.blobPath(l.record), l.mediaType})
	if err != nil {
		return nil, fmt.Errorf("reading the layer %s: %w", name, err)
	}
	return l, nil
}

func (a *assembler) blobPath(r record) string {
	return a.Cache.Path("blobs", r.Digest.Algorithm, r.Digest.Hex)
}

// intact reports whether the blob exists with the right size, and marks it as
// used. Its content is verified when it is read.
func (a *assembler) intact(r record) bool {
	path := a.blobPath(r)
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != r.Size {
		return false
	}
	cache.Touch(path)
	return true
}

// pack compresses a tar archive into a blob in the cache.
func (a *assembler) pack(ctx context.Context, write func(io.Writer) error) (r record, err error) {
	tmp, err := os.CreateTemp(a.RunDir, "blob-")
	if err != nil {
		return record{}, err
	}
	defer func() {
		if err != nil {
			_, _ = tmp.Close(), os.Remove(tmp.Name()) // the run's folder is removed in any case
		}
	}()
	packed, plain := &counter{hash: sha256.New()}, sha256.New()
	out := io.MultiWriter(tmp, packed)
	zw, err := a.encoder(out)
	if err != nil {
		return record{}, err
	}
	if err := write(&cancelWriter{ctx, io.MultiWriter(plain, zw)}); err != nil {
		if closeErr := zw.Close(); closeErr != nil {
			err = closeErr // the encoder writes concurrently, so Close returns the cause
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
	if _, err := a.Cache.Make("blobs", r.Digest.Algorithm); err != nil {
		return record{}, err
	}
	return r, os.Rename(tmp.Name(), a.blobPath(r))
}

// encoder returns a compressing writer for the configured compression.
func (a *assembler) encoder(w io.Writer) (io.WriteCloser, error) {
	if a.Settings.Compression == "zstd" {
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

// counter hashes and counts the bytes that are written to it.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

// cancelWriter fails when its context ends, to stop a long write.
type cancelWriter struct {
	ctx context.Context
	w   io.Writer
}

func (g *cancelWriter) Write(p []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	return g.w.Write(p)
}

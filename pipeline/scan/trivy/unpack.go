package trivy

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

func foreign(source, format string, args ...any) error {
	return fault.Failedf("scan.database-foreign", "%s is not a Trivy vulnerability database: %w", source, fmt.Errorf(format, args...)).
		WithFix("name one such as mirror.gcr.io/aquasec/trivy-db:2 under scan.databases")
}

func corrupt(source, format string, args ...any) error {
	return fault.Failedf("scan.database-corrupt", "the vulnerability database from %s is damaged: %w", source, fmt.Errorf(format, args...)).
		WithFix("fetch it again, or from another of scan.databases")
}

// install puts a database into the cache: whole, checked, and by one rename.
func (d databases) install(ctx context.Context, source, digest string, fill func(dir string) error) (have installed, err error) {
	run, err := d.cache.Run()
	if err != nil {
		return installed{}, err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	tmp := filepath.Join(run.Dir, "db")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return installed{}, fmt.Errorf("making a folder for the vulnerability database: %w", err)
	}
	if err := fill(tmp); err != nil {
		return installed{}, err
	}
	progress.Statusf(ctx, "checking the vulnerability database")
	meta, err := check(ctx, source, tmp)
	if err != nil {
		return installed{}, err
	}
	fi, err := os.Stat(filepath.Join(tmp, databaseFile))
	if err != nil {
		return installed{}, fmt.Errorf("checking the vulnerability database: %w", err)
	}
	previous, _ := d.load(source)
	have = installed{
		Source: source, Digest: digest, Dir: strings.ReplaceAll(digest, ":", "-"), Size: fi.Size(),
		FetchedAt: d.now, UpdatedAt: meta.UpdatedAt, NextUpdate: meta.NextUpdate,
	}
	have.path = d.cache.Path(d.names(source, have.Dir)...)
	parent, err := d.cache.Make(d.names(source)...)
	if err != nil {
		return installed{}, err
	}
	if err := os.RemoveAll(have.path); err != nil { // a damaged one of the same digest
		return installed{}, fmt.Errorf("replacing the vulnerability database: %w", err)
	}
	if err := os.Rename(tmp, have.path); err != nil {
		return installed{}, fmt.Errorf("installing the vulnerability database: %w", err)
	}
	if err := d.cache.Store(have, d.names(source, stateFile)...); err != nil {
		return installed{}, err
	}
	// The one before may be in use by another run; those before it are not.
	entries, err := os.ReadDir(parent)
	if err != nil {
		return have, nil
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != have.Dir && e.Name() != previous.Dir {
			_ = os.RemoveAll(filepath.Join(parent, e.Name())) // the next fetch tries again
		}
	}
	return have, nil
}

// unpack writes the database of an artifact into dir.
func unpack(ctx context.Context, source string, img v1.Image, dir string) error {
	manifest, err := img.Manifest()
	if err != nil {
		return foreign(source, "its manifest cannot be read: %w", err)
	}
	var types []string
	for _, l := range manifest.Layers {
		types = append(types, string(l.MediaType))
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != LayerType {
		return foreign(source, "it has the layers [%s], not one of type %s", strings.Join(types, " "), LayerType)
	}
	want := manifest.Layers[0]
	if want.Size > maxDatabase {
		return corrupt(source, "its layer claims %d bytes", want.Size)
	}
	layer, err := img.LayerByDigest(want.Digest)
	if err != nil {
		return corrupt(source, "finding its layer: %w", err)
	}
	rc, err := layer.Compressed()
	if err != nil {
		return fmt.Errorf("fetching the vulnerability database: %w", err)
	}
	defer rc.Close()
	sum := sha256.New()
	counted := &meter{ctx: ctx, r: io.TeeReader(io.LimitReader(rc, want.Size+1), sum), total: want.Size}
	if err := untar(source, counted, dir); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	// gzip may stop before the end; the digest is of everything.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return corrupt(source, "reading it: %w", err)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); counted.done != want.Size || got != want.Digest.String() {
		return corrupt(source, "its layer has %d bytes and digest %s where its manifest says %d and %s", counted.done, got, want.Size, want.Digest)
	}
	return nil
}

// meter counts what is read, shows it, and stops when the run does.
type meter struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	shown       time.Time
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.done += int64(n)
	if now := time.Now(); now.Sub(m.shown) > 100*time.Millisecond || err == io.EOF {
		m.shown = now
		progress.Count(m.ctx, m.done, m.total, progress.Bytes)
	}
	return n, err
}

func untar(source string, r io.Reader, dir string) error {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return corrupt(source, "it is not gzip: %w", err)
	}
	tr := tar.NewReader(zr)
	seen := map[string]bool{}
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return corrupt(source, "reading its archive: %w", err)
		}
		name, limit := metadataFile, int64(maxMetadata)
		switch hdr.Name {
		case databaseFile:
			name, limit = databaseFile, maxDatabase
		case metadataFile:
		default:
			return corrupt(source, "its archive holds %q, not only %s and %s", hdr.Name, databaseFile, metadataFile)
		}
		if hdr.Typeflag != tar.TypeReg || seen[hdr.Name] {
			return corrupt(source, "its archive holds %s twice, or not as a file", hdr.Name)
		}
		if hdr.Size > limit {
			return corrupt(source, "its %s claims %d bytes", hdr.Name, hdr.Size)
		}
		seen[hdr.Name] = true
		if err := writeFile(filepath.Join(dir, name), tr); err != nil {
			if _, local := errors.AsType[*fs.PathError](err); local {
				return fmt.Errorf("writing the vulnerability database: %w", err)
			}
			return corrupt(source, "unpacking %s: %w", hdr.Name, err)
		}
	}
	if len(seen) != 2 {
		return corrupt(source, "its archive does not hold both %s and %s", databaseFile, metadataFile)
	}
	return nil
}

func writeFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r) // the archive's reader ends at the claimed size
	return errors.Join(err, f.Close())
}

// check reads a database from end to end, so that a damaged one is refused here
// and not by a crash in the middle of a scan.
func check(ctx context.Context, source, dir string) (metadata.Metadata, error) {
	data, err := os.ReadFile(filepath.Join(dir, metadataFile))
	if err != nil {
		return metadata.Metadata{}, corrupt(source, "reading its metadata: %w", err)
	}
	var meta metadata.Metadata
	if err := json.Unmarshal(data, &meta); err != nil {
		return meta, corrupt(source, "reading its metadata: %w", err)
	}
	if meta.Version != trivydb.SchemaVersion {
		return meta, fault.Failedf("scan.database-schema", "the vulnerability database from %s has schema %d, and this slipway reads schema %d", source, meta.Version, trivydb.SchemaVersion).
			WithFix("name a database of schema %d under scan.databases", trivydb.SchemaVersion)
	}
	if meta.UpdatedAt.IsZero() {
		return meta, corrupt(source, "its metadata does not say of when it is")
	}
	if err := walk(ctx, filepath.Join(dir, databaseFile)); err != nil {
		if ctx.Err() != nil {
			return meta, ctx.Err()
		}
		return meta, corrupt(source, "%w", err)
	}
	return meta, nil
}

// walk visits every entry of a BoltDB. Damaged pages show as panics and as
// memory faults of the mapped file.
func walk(ctx context.Context, path string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, maxWalk)
	defer cancel()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a page cannot be read: %v", p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if err != nil {
		return fmt.Errorf("opening %s: %w", databaseFile, err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		var have []string
		entries := 0
		var visit func(b *bolt.Bucket, depth int) error
		visit = func(b *bolt.Bucket, depth int) error {
			if depth > 8 {
				return errors.New("its buckets are nested without end")
			}
			return b.ForEach(func(k, v []byte) error {
				if entries++; entries%1024 == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if v == nil {
					if inner := b.Bucket(k); inner != nil {
						return visit(inner, depth+1)
					}
				} else if len(v) > 0 {
					_ = v[len(v)-1] // touches the page
				}
				return nil
			})
		}
		err := tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			have = append(have, string(name))
			return visit(b, 0)
		})
		if err != nil {
			return err
		}
		for _, want := range []string{"vulnerability", "data-source"} {
			if !slices.Contains(have, want) {
				return fmt.Errorf("it has no bucket %q", want)
			}
		}
		return nil
	})
}

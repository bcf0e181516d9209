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

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// foreign returns an error for an artifact that is not a vulnerability database.
func foreign(source, format string, args ...any) error {
	return fault.Failedf("scan.database-foreign", "%s is not a Trivy vulnerability database: %w", source, fmt.Errorf(format, args...)).
		WithFix("set scan.databases to a Trivy database, for example mirror.gcr.io/aquasec/trivy-db:2")
}

// corrupt returns an error for a damaged vulnerability database.
func corrupt(source, format string, args ...any) error {
	return fault.Failedf("scan.database-corrupt", "the vulnerability database from %s is damaged: %w", source, fmt.Errorf(format, args...)).
		WithFix("retry, or use another source in scan.databases")
}

// install adds a database to the cache. It calls fill to write the files to a
// temporary folder, checks them, and renames the folder, so the cache never has an
// incomplete database.
func (d databases) install(ctx context.Context, source, digest string, fill func(dir string) error) (have installed, err error) {
	run, err := d.cache.Run()
	if err != nil {
		return installed{}, err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	tmp := filepath.Join(run.Dir, "db")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return installed{}, fmt.Errorf("creating a folder for the vulnerability database: %w", err)
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
	sum, err := cache.HashFile(filepath.Join(tmp, databaseFile))
	if err != nil {
		return installed{}, fmt.Errorf("checking the vulnerability database: %w", err)
	}
	previous, _ := d.load(source)
	have = installed{
		Source: source, Digest: digest, Dir: strings.ReplaceAll(digest, ":", "-"), Size: fi.Size(), SHA256: sum, File: cache.Identify(fi),
		FetchedAt: d.now, UpdatedAt: meta.UpdatedAt, NextUpdate: meta.NextUpdate,
	}
	have.path = d.cache.Path(d.key(source, have.Dir)...)
	parent, err := d.cache.Make(d.key(source)...)
	if err != nil {
		return installed{}, err
	}
	if err := os.RemoveAll(have.path); err != nil { // a damaged database with the same digest
		return installed{}, fmt.Errorf("replacing the vulnerability database: %w", err)
	}
	if err := os.Rename(tmp, have.path); err != nil {
		return installed{}, fmt.Errorf("installing the vulnerability database: %w", err)
	}
	if err := d.cache.Store(have, d.key(source, stateFile)...); err != nil {
		return installed{}, err
	}
	// Another run may still use the previous database. Remove only older ones.
	entries, err := os.ReadDir(parent)
	if err != nil {
		return have, nil
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != have.Dir && e.Name() != previous.Dir {
			_ = os.RemoveAll(filepath.Join(parent, e.Name())) // the next fetch retries
		}
	}
	return have, nil
}

// unpack writes the database in an artifact to dir, and verifies its digest.
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
		return corrupt(source, "the size of its layer is %d bytes according to its manifest", want.Size)
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
	counted := &progressReader{ctx: ctx, r: io.TeeReader(io.LimitReader(rc, want.Size+1), sum), total: want.Size}
	if err := untar(source, counted, dir); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	// gzip may not read to the end of the layer, but the digest covers all of it.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return corrupt(source, "reading it: %w", err)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); counted.done != want.Size || got != want.Digest.String() {
		return corrupt(source, "digest mismatch: its layer has %d bytes and digest %s, want %d bytes and %s", counted.done, got, want.Size, want.Digest)
	}
	return nil
}

// progressReader reports how much has been read, and returns an error if ctx has
// ended.
type progressReader struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	reported    time.Time
}

func (r *progressReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	r.done += int64(n)
	if now := time.Now(); now.Sub(r.reported) > 100*time.Millisecond || err == io.EOF {
		r.reported = now
		progress.Count(r.ctx, r.done, r.total, progress.Bytes)
	}
	return n, err
}

// untar unpacks the two files of a database. It rejects archives with any other
// file.
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
			return corrupt(source, "its archive contains %q, want only %s and %s", hdr.Name, databaseFile, metadataFile)
		}
		if hdr.Typeflag != tar.TypeReg || seen[hdr.Name] {
			return corrupt(source, "its archive contains %s twice, or not as a regular file", hdr.Name)
		}
		if hdr.Size > limit {
			return corrupt(source, "the size of %s is %d bytes according to its archive", hdr.Name, hdr.Size)
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
		return corrupt(source, "its archive does not contain both %s and %s", databaseFile, metadataFile)
	}
	return nil
}

func writeFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r) // the tar reader stops at the size in the header
	return errors.Join(err, f.Close())
}

// check reads all of a database and returns its metadata. It reports a damaged
// database, which would crash a scan.
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
		return meta, fault.Failedf("scan.database-schema", "the vulnerability database from %s has schema %d, and this version of slipway reads schema %d", source, meta.Version, trivydb.SchemaVersion).
			WithFix("set scan.databases to a database of schema %d", trivydb.SchemaVersion)
	}
	if meta.UpdatedAt.IsZero() {
		return meta, corrupt(source, "its metadata has no date")
	}
	if err := walk(ctx, filepath.Join(dir, databaseFile)); err != nil {
		if ctx.Err() != nil {
			return meta, ctx.Err()
		}
		return meta, corrupt(source, "%w", err)
	}
	return meta, nil
}

// walk reads every entry of a bbolt database. A damaged page causes a panic or a
// memory fault of the mapped file, which walk returns as an error.
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
				return errors.New("its buckets are nested too deeply")
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

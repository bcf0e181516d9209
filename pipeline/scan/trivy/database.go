package trivy

import (
	"archive/tar"
	"cmp"
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
	"github.com/google/go-containerregistry/pkg/v1/layout"
	bolt "go.etcd.io/bbolt"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

const (
	// LayerType is the media type of a database's one layer.
	LayerType = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

	databaseFile = "trivy.db"
	metadataFile = "metadata.json"
	stateFile    = "current.json"
	layoutPrefix = "oci:"

	maxDatabase = 4 << 30
	maxMetadata = 1 << 20
	// maxWalk bounds the reading of a fetched database from end to end.
	maxWalk = time.Minute
	// stale is how many times its allowed age a cached database may have when
	// no newer one can be fetched.
	stale = 7
	// old is when a database's own age is worth a warning.
	old = 7 * 24 * time.Hour
)

// databases finds the vulnerability database of one scan.
type databases struct {
	sources  []string
	root     string
	cache    cache.Dir
	registry image.Bases
	offline  bool
	maxAge   time.Duration
	now      time.Time
}

// installed is the state of one source in the cache, kept in its current.json.
type installed struct {
	Source     string    `json:"source"`
	Digest     string    `json:"digest"` // of the artifact's manifest
	Dir        string    `json:"dir"`    // the folder with the database, beside current.json
	Size       int64     `json:"size"`   // of the database, to notice damage
	FetchedAt  time.Time `json:"fetchedAt"`
	UpdatedAt  time.Time `json:"updatedAt"`
	NextUpdate time.Time `json:"nextUpdate,omitzero"`
	Advisories int       `json:"advisories,omitzero"`

	path string
}

func (d databases) names(source string, more ...string) []string {
	sum := sha256.Sum256([]byte(d.absolute(source)))
	return append([]string{"trivy", "db", hex.EncodeToString(sum[:8])}, more...)
}

// absolute makes a source that is a folder the same one wherever slipway runs.
func (d databases) absolute(source string) string {
	dir, ok := strings.CutPrefix(source, layoutPrefix)
	if ok && !filepath.IsAbs(dir) {
		dir = filepath.Join(d.root, dir)
	}
	if ok {
		return layoutPrefix + dir
	}
	return source
}

// find returns the first database that can be had: a cached one that is new
// enough, one that is fetched, or else a cached one that is a little too old.
// The bundled advisories take part only where they are named.
func (d databases) find(ctx context.Context, r *scan.Result) (installed, error) {
	if len(d.sources) == 0 {
		return installed{}, fault.Inputf("scan.no-database", "no vulnerability database is configured").
			WithFix("name one under scan.databases, for example mirror.gcr.io/aquasec/trivy-db:2")
	}
	var errs []error
	for i, source := range d.sources {
		if source == scan.Bundled {
			if have, ok := d.newest(d.sources[:i]); ok && d.age(have) <= stale*d.maxAge && len(errs) > 0 {
				r.Warn(ctx, "no newer vulnerability database could be fetched (%v); using the one fetched from %s %s ago", errors.Join(errs...), have.Source, scan.Age(d.age(have)))
				return have, nil
			}
			return d.bundled(ctx)
		}
		have, err := d.one(ctx, source)
		if err == nil {
			return have, nil
		}
		if ctx.Err() != nil {
			return installed{}, ctx.Err()
		}
		errs = append(errs, err)
	}
	return d.fallback(ctx, r, errs)
}

func (d databases) age(have installed) time.Duration { return d.now.Sub(have.FetchedAt) }

// fallback decides when no source gave a database.
func (d databases) fallback(ctx context.Context, r *scan.Result, errs []error) (installed, error) {
	have, ok := d.newest(d.sources)
	var lines []string
	for i, err := range errs {
		lines = append(lines, fmt.Sprintf("%s: %v", d.sources[i], oneLine(err)))
	}
	switch {
	case ok && d.age(have) <= stale*d.maxAge:
		r.Warn(ctx, "no newer vulnerability database could be fetched (%s); using the one fetched from %s %s ago", strings.Join(lines, "; "), have.Source, scan.Age(d.age(have)))
		return have, nil
	case ok:
		return installed{}, fault.Failedf("scan.database-old", "no vulnerability database could be fetched, and the cached one is %s old: %w", scan.Age(d.age(have)), joined(lines, errs)).
			WithFix("reach one of scan.databases, or scan --offline with the one of %s", have.UpdatedAt.Format(time.DateOnly))
	case d.offline:
		return installed{}, fault.Failedf("scan.no-database", "there is no vulnerability database in the cache, and offline none is fetched").
			WithFix("run once without --offline, or name an OCI layout: scan.databases: [oci:DIR]")
	}
	// One source with a precise complaint, such as a damaged artifact, keeps its code.
	if len(errs) == 1 {
		if e, ok := errors.AsType[*fault.Error](errs[0]); ok && strings.HasPrefix(e.Code, "scan.") {
			return installed{}, errs[0]
		}
	}
	return installed{}, fault.Failedf("scan.no-database", "no vulnerability database could be fetched: %w", joined(lines, errs)).
		WithFix("name a reachable one with --db-repository or scan.databases: a repository, or oci:DIR for an OCI layout")
}

// joined is one line that wraps several errors.
func joined(lines []string, errs []error) error { return &several{strings.Join(lines, "; "), errs} }

type several struct {
	text string
	errs []error
}

func (s *several) Error() string   { return s.text }
func (s *several) Unwrap() []error { return s.errs }

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// newest is the cached database fetched last.
func (d databases) newest(sources []string) (best installed, ok bool) {
	for _, source := range sources {
		if have, found := d.load(source); found && (!ok || have.FetchedAt.After(best.FetchedAt)) {
			best, ok = have, true
		}
	}
	return best, ok
}

// load reads a source's entry in the cache; one that is damaged is none.
func (d databases) load(source string) (installed, bool) {
	var have installed
	if !d.cache.Load(&have, d.names(source, stateFile)...) || have.Dir != filepath.Base(have.Dir) {
		return installed{}, false
	}
	have.path = d.cache.Path(d.names(source, have.Dir)...)
	fi, err := os.Stat(filepath.Join(have.path, databaseFile))
	if err != nil || fi.Size() != have.Size {
		return installed{}, false
	}
	return have, true
}

// one gives the database of one source, from the cache where that is right.
func (d databases) one(ctx context.Context, source string) (installed, error) {
	local := strings.HasPrefix(source, layoutPrefix)
	fresh := func() (installed, bool) {
		have, ok := d.load(source)
		fixed := strings.Contains(source, "@sha256:") // what a digest names never changes
		return have, ok && !local && (d.offline || fixed || d.age(have) < d.maxAge)
	}
	if have, ok := fresh(); ok {
		return have, nil
	}
	if d.offline && !local {
		return installed{}, fault.Failedf("scan.no-database", "it is not in the cache, and offline nothing is fetched")
	}
	unlock, err := d.cache.Lock(ctx, d.names(source, "lock")...)
	if err != nil {
		return installed{}, err
	}
	defer unlock()
	if have, ok := fresh(); ok { // another run fetched it while this one waited
		return have, nil
	}
	img, err := d.pull(ctx, source)
	if err != nil {
		return installed{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return installed{}, foreign(source, "its manifest cannot be read: %w", err)
	}
	if have, ok := d.load(source); ok && have.Digest == digest.String() {
		have.FetchedAt = d.now
		return have, d.cache.Store(have, d.names(source, stateFile)...)
	}
	return d.install(ctx, source, digest.String(), func(dir string) error { return unpack(ctx, source, img, dir) })
}

func (d databases) pull(ctx context.Context, source string) (v1.Image, error) {
	if dir, ok := strings.CutPrefix(d.absolute(source), layoutPrefix); ok {
		return fromLayout(source, dir)
	}
	if d.registry == nil {
		return nil, fault.Failedf("scan.no-database", "nothing here can pull from a registry")
	}
	progress.Statusf(ctx, "fetching vulnerability database %s", source)
	// The registry speaks of bases; what is fetched here is something else.
	quiet := progress.With(ctx, silence{}, "")
	base, err := d.registry.Base(quiet, source, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return nil, fmt.Errorf("fetching the vulnerability database: %w", err)
	}
	return base.Image, nil
}

type silence struct{}

func (silence) Emit(progress.Event) {}

func fromLayout(source, dir string) (v1.Image, error) {
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fault.Inputf("scan.database-layout", "%s is not an OCI layout: %w", source, err).
			WithFix("make one with: oras copy --to-oci-layout ghcr.io/aquasecurity/trivy-db:2 DIR:2")
	}
	manifest, err := idx.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		return nil, fault.Inputf("scan.database-layout", "the OCI layout %s does not hold exactly one artifact", source)
	}
	if !manifest.Manifests[0].MediaType.IsImage() {
		return nil, foreign(source, "it holds a %s", manifest.Manifests[0].MediaType)
	}
	img, err := idx.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return nil, corrupt(source, "reading its manifest: %w", err)
	}
	return img, nil
}

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

// describe turns the state of a database into the result's account of it.
func (d databases) describe(ctx context.Context, have installed, r *scan.Result) {
	age := max(d.now.Sub(have.UpdatedAt), 0)
	r.Database = scan.Database{
		Source: have.Source, Digest: have.Digest, UpdatedAt: have.UpdatedAt.UTC(), NextUpdate: have.NextUpdate.UTC(),
		FetchedAt: have.FetchedAt.UTC(), AgeSeconds: int64(age / time.Second), Bundled: have.Source == scan.Bundled, Advisories: have.Advisories,
	}
	switch {
	case r.Database.Bundled:
		r.Database.FetchedAt = time.Time{}
		r.Warn(ctx, "scanning with slipway's %d bundled advisories (facts of %s): not a full vulnerability database; set scan.databases for a real gate",
			have.Advisories, have.UpdatedAt.Format(time.DateOnly))
	case d.offline:
		r.Warn(ctx, "offline: the vulnerability database is of %s, %s old", have.UpdatedAt.Format(time.DateOnly), scan.Age(age))
	case age > old:
		r.Warn(ctx, "the vulnerability database is of %s, %s old", have.UpdatedAt.Format(time.DateOnly), scan.Age(age))
	}
}

func (d databases) withDefaults() databases {
	d.maxAge = cmp.Or(d.maxAge, 24*time.Hour)
	d.now = cmp.Or(d.now, time.Now())
	return d
}

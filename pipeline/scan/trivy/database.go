package trivy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

const (
	// LayerType is the media type of the only layer of a database artifact.
	LayerType = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

	databaseFile = "trivy.db"
	metadataFile = "metadata.json"
	stateFile    = "current.json"
	layoutPrefix = "oci:"

	maxDatabase = 4 << 30
	maxMetadata = 1 << 20
	// maxWalk limits the time for reading every entry of a fetched database.
	maxWalk = time.Minute
	// staleFactor multiplies the maximal age of a cached database if no newer one
	// can be fetched.
	staleFactor = 7
	// warnAge is the age of the data from which on a scan warns.
	warnAge = 7 * 24 * time.Hour
)

// databases finds the vulnerability database for one scan.
type databases struct {
	sources  []string
	root     string
	cache    cache.Dir
	registry image.Bases
	offline  bool
	maxAge   time.Duration
	now      time.Time
}

// installed is the database of one source in the cache. It is stored in the file
// current.json of the source.
type installed struct {
	Source string `json:"source"`
	Digest string `json:"digest"` // of the artifact's manifest
	Dir    string `json:"dir"`    // name of the folder with the database, next to current.json
	Size   int64  `json:"size"`   // of the database, to detect damage
	// SHA256 is the hash of the database, in hexadecimal. It is compared if the file is not
	// the one with the identity File.
	SHA256     string         `json:"sha256"`
	File       cache.Identity `json:"file"`
	FetchedAt  time.Time      `json:"fetchedAt"`
	UpdatedAt  time.Time      `json:"updatedAt"`
	NextUpdate time.Time      `json:"nextUpdate,omitzero"`
	Advisories int            `json:"advisories,omitzero"`

	path string
}

// key returns the cache key of a file of a source.
func (d databases) key(source string, more ...string) []string {
	sum := sha256.Sum256([]byte(d.absolute(source)))
	return append([]string{"trivy", "db", hex.EncodeToString(sum[:8])}, more...)
}

// absolute makes the folder in a source absolute, if the source is an OCI layout.
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

// find returns the first database that is available: a cached one that is new
// enough, one that it fetches, or a cached one that is older than allowed. It uses
// the bundled advisories only if they are one of the sources.
func (d databases) find(ctx context.Context, r *scan.Result) (installed, error) {
	if len(d.sources) == 0 {
		return installed{}, fault.Inputf("scan.no-database", "no vulnerability database is configured").
			WithFix("set scan.databases, for example to [mirror.gcr.io/aquasec/trivy-db:2]")
	}
	var errs []error
	for i, source := range d.sources {
		if source == scan.Bundled {
			if have, ok := d.newest(d.sources[:i]); ok && d.age(have) <= staleFactor*d.maxAge && len(errs) > 0 {
				r.Warn(ctx, "no newer vulnerability database could be fetched (%v); using the one fetched from %s %s ago", errors.Join(errs...), have.Source, scan.Age(d.age(have)))
				return have, nil
			}
			return d.bundled(ctx)
		}
		have, err := d.get(ctx, source)
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

// fallback returns a cached database that is older than allowed, or an error, if
// no source has a database.
func (d databases) fallback(ctx context.Context, r *scan.Result, errs []error) (installed, error) {
	have, ok := d.newest(d.sources)
	var lines []string
	for i, err := range errs {
		lines = append(lines, fmt.Sprintf("%s: %v", d.sources[i], oneLine(err)))
	}
	switch {
	case ok && d.age(have) <= staleFactor*d.maxAge:
		r.Warn(ctx, "no newer vulnerability database could be fetched (%s); using the one fetched from %s %s ago", strings.Join(lines, "; "), have.Source, scan.Age(d.age(have)))
		return have, nil
	case ok:
		return installed{}, fault.Failedf("scan.database-old", "no vulnerability database could be fetched, and the cached one is %s old: %w", scan.Age(d.age(have)), joinErrors(lines, errs)).
			WithFix("make one of scan.databases reachable, or use the cached database of %s with --offline", have.UpdatedAt.Format(time.DateOnly))
	case d.offline:
		return installed{}, fault.Failedf("scan.no-database", "the cache has no vulnerability database, and offline mode does not fetch one").
			WithFix("run once without --offline, or use an OCI layout: scan.databases: [oci:DIR]")
	}
	// The only source keeps its specific code, for example that of a damaged artifact.
	if len(errs) == 1 {
		if e, ok := errors.AsType[*fault.Error](errs[0]); ok && strings.HasPrefix(e.Code, "scan.") {
			return installed{}, errs[0]
		}
	}
	return installed{}, fault.Failedf("scan.no-database", "no vulnerability database could be fetched: %w", joinErrors(lines, errs)).
		WithFix("set --db-repository or scan.databases to a reachable one: a repository, or oci:DIR for an OCI layout")
}

// joinErrors returns an error that wraps errs and whose text is lines on one line.
func joinErrors(lines []string, errs []error) error {
	return &joinedError{strings.Join(lines, "; "), errs}
}

type joinedError struct {
	text string
	errs []error
}

func (e *joinedError) Error() string { return e.text }

func (e *joinedError) Unwrap() []error { return e.errs }

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// newest returns the cached database that was fetched last.
func (d databases) newest(sources []string) (best installed, ok bool) {
	for _, source := range sources {
		if have, found := d.load(source); found && (!ok || have.FetchedAt.After(best.FetchedAt)) {
			best, ok = have, true
		}
	}
	return best, ok
}

// load returns the cached database of a source. It returns false if the cache has
// no database of the source, or one that is damaged or was changed.
func (d databases) load(source string) (installed, bool) {
	var have installed
	if !d.cache.Load(&have, d.key(source, stateFile)...) || have.Dir != filepath.Base(have.Dir) {
		return installed{}, false
	}
	have.path = d.cache.Path(d.key(source, have.Dir)...)
	fi, err := os.Stat(filepath.Join(have.path, databaseFile))
	if err != nil || fi.Size() != have.Size || !have.isIn(fi) {
		return installed{}, false
	}
	return have, true
}

// isIn reports whether the file of a database has the content that was installed.
func (have installed) isIn(fi fs.FileInfo) bool {
	if have.File != (cache.Identity{}) && have.File == cache.Identify(fi) {
		return true
	}
	sum, err := cache.HashFile(filepath.Join(have.path, databaseFile))
	return err == nil && sum == have.SHA256
}

// get returns the database of one source. It fetches the database unless the
// cached one is new enough.
func (d databases) get(ctx context.Context, source string) (installed, error) {
	local := strings.HasPrefix(source, layoutPrefix)
	fresh := func() (installed, bool) {
		have, ok := d.load(source)
		immutable := strings.Contains(source, "@sha256:")
		return have, ok && !local && (d.offline || immutable || d.age(have) < d.maxAge)
	}
	if have, ok := fresh(); ok {
		return have, nil
	}
	if d.offline && !local {
		return installed{}, fault.Failedf("scan.no-database", "it is not in the cache, and offline mode does not fetch it")
	}
	unlock, err := d.cache.Lock(ctx, d.key(source, "lock")...)
	if err != nil {
		return installed{}, err
	}
	defer unlock()
	if have, ok := fresh(); ok { // another run fetched it while this one waited for the lock
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
		return have, d.cache.Store(have, d.key(source, stateFile)...)
	}
	return d.install(ctx, source, digest.String(), func(dir string) error { return unpack(ctx, source, img, dir) })
}

func (d databases) pull(ctx context.Context, source string) (v1.Image, error) {
	if dir, ok := strings.CutPrefix(d.absolute(source), layoutPrefix); ok {
		return fromLayout(source, dir)
	}
	if d.registry == nil {
		return nil, fault.Failedf("scan.no-database", "this run cannot pull from a registry")
	}
	progress.Statusf(ctx, "fetching vulnerability database %s", source)
	// Base would report that it pulls a base image.
	quiet := progress.With(ctx, discard{}, "")
	base, err := d.registry.Base(quiet, source, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return nil, fmt.Errorf("fetching the vulnerability database: %w", err)
	}
	return base.Image, nil
}

// discard ignores progress events.
type discard struct{}

func (discard) Emit(progress.Event) {}

func fromLayout(source, dir string) (v1.Image, error) {
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fault.Inputf("scan.database-layout", "%s is not an OCI layout: %w", source, err).
			WithFix("create one with: oras copy --to-oci-layout ghcr.io/aquasecurity/trivy-db:2 DIR:2")
	}
	manifest, err := idx.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		return nil, fault.Inputf("scan.database-layout", "the OCI layout %s does not contain exactly one artifact", source)
	}
	if !manifest.Manifests[0].MediaType.IsImage() {
		return nil, foreign(source, "it contains a %s", manifest.Manifests[0].MediaType)
	}
	img, err := idx.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return nil, corrupt(source, "reading its manifest: %w", err)
	}
	return img, nil
}

// describe records the database in the result, and warns if it is incomplete or
// old.
func (d databases) describe(ctx context.Context, have installed, r *scan.Result) {
	age := max(d.now.Sub(have.UpdatedAt), 0)
	r.Database = scan.Database{
		Source: have.Source, Digest: have.Digest, UpdatedAt: have.UpdatedAt.UTC(), NextUpdate: have.NextUpdate.UTC(),
		FetchedAt: have.FetchedAt.UTC(), AgeSeconds: int64(age / time.Second), Bundled: have.Source == scan.Bundled, Advisories: have.Advisories,
	}
	switch {
	case r.Database.Bundled:
		r.Database.FetchedAt = time.Time{}
		r.Warn(ctx, "scanning with slipway's %d bundled advisories (as of %s), which are not a full vulnerability database; set scan.databases to use one",
			have.Advisories, have.UpdatedAt.Format(time.DateOnly))
	case d.offline:
		r.Warn(ctx, "offline mode: the vulnerability database was updated on %s and is %s old", have.UpdatedAt.Format(time.DateOnly), scan.Age(age))
	case age > warnAge:
		r.Warn(ctx, "the vulnerability database was updated on %s and is %s old", have.UpdatedAt.Format(time.DateOnly), scan.Age(age))
	}
}

func (d databases) withDefaults() databases {
	d.maxAge = cmp.Or(d.maxAge, 24*time.Hour)
	d.now = cmp.Or(d.now, time.Now())
	return d
}

package trivy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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

func (s *several) Error() string { return s.text }

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

// Package trivy scans with Trivy's library.
//
// Trivy itself reaches for no network here: the database is put in place by
// this package, and what else Trivy could fetch (its Java index, its bundle of
// checks, VEX repositories, its newest version) is switched off. So Java
// archives are not looked into, and charts are judged by the checks that are
// compiled in.
package trivy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	tcache "github.com/aquasecurity/trivy/pkg/cache"
	"github.com/aquasecurity/trivy/pkg/clock"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	"github.com/aquasecurity/trivy/pkg/fanal/artifact"
	artimage "github.com/aquasecurity/trivy/pkg/fanal/artifact/image"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	tscan "github.com/aquasecurity/trivy/pkg/scan"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/local"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"
	xos "github.com/aquasecurity/trivy/pkg/x/os"
	"github.com/gofrs/flock"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// Scanner scans with Trivy's library, which keeps its database, its log and its
// temporary folder in globals of the process: a program has one Scanner, and it
// does one thing at a time.
type Scanner struct {
	cache cache.Dir
	busy  chan struct{}
	blobs atomic.Pointer[tcache.MemoryCache] // what was found in layers, so that an SBOM needs no second look
}

var _ scan.Scanner = (*Scanner)(nil)

// New returns a scanner that keeps its databases and unfinished work in dir.
func New(dir cache.Dir) *Scanner {
	s := &Scanner{cache: dir, busy: make(chan struct{}, 1)}
	s.blobs.Store(tcache.NewMemoryCache())
	return s
}

// Version is the version of Trivy in this program, as go.mod requires it.
const Version = "0.74.0"

// Scan implements [scan.Scanner].
func (s *Scanner) Scan(ctx context.Context, o scan.Options) (r scan.Result, err error) {
	o.Now = cmp.Or(o.Now, time.Now())
	o.Cache = cmp.Or(o.Cache, s.cache)
	o.Timeout = cmp.Or(o.Timeout, scan.DefaultTimeout)
	r = scan.Result{
		Time: o.Now.UTC(), Targets: []scan.Subject{}, Findings: []scan.Finding{}, Ignored: []scan.Ignored{},
		Scanner: scan.Tool{Name: "trivy", Version: Version},
	}
	// What the user wrote is read first: it fails at once, not after a download.
	rules, err := scan.LoadRules(o.Root, o.Settings.IgnoreFile)
	if err != nil {
		return r, err
	}
	documents, err := LoadVEX(o.Root, o.Settings.VEX)
	if err != nil {
		return r, err
	}
	if err := checkCharts(o); err != nil {
		return r, err
	}
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	d := databases{
		sources: o.Settings.Databases, root: o.Root, cache: o.Cache, registry: o.Registry,
		offline: o.Settings.Offline, maxAge: time.Duration(o.Settings.MaxAge), now: o.Now,
	}.withDefaults()
	database, err := d.find(ctx, &r)
	if err != nil {
		return r, timely(outer, ctx, o.Timeout, err)
	}
	d.describe(ctx, database, &r)

	found, err := s.look(ctx, o, database, documents, &r)
	if err != nil {
		return r, timely(outer, ctx, o.Timeout, err)
	}
	r.Findings, r.Ignored = found.findings, found.ignored
	scan.Locate(r.Findings, o.Root, cmp.Or(o.Module, o.Source))
	for i := range r.Ignored {
		one := []scan.Finding{r.Ignored[i].Finding}
		scan.Locate(one, o.Root, cmp.Or(o.Module, o.Source))
		r.Ignored[i].Finding = one[0]
	}
	return r, scan.Judge(ctx, o, rules, &r)
}

// timely says that the time limit was the cause where it was.
func timely(outer, inner context.Context, limit time.Duration, err error) error {
	if outer.Err() != nil {
		return outer.Err()
	}
	if inner.Err() != nil {
		return fault.Failedf("scan.timeout", "the scan was not done within %s: %w", limit, err)
	}
	return err
}

// look searches images, source and charts side by side, and analyses the calls
// where there is a Go vulnerability.
func (s *Scanner) look(ctx context.Context, o scan.Options, database installed, documents []Document, r *scan.Result) (*findings, error) {
	release, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()

	found := &findings{}
	subjects := make([]scan.Subject, len(o.Targets))
	var answers answers
	g, together := errgroup.WithContext(ctx)
	g.Go(caught(func() error {
		if err := s.images(together, o, database, documents, found, subjects, r); err != nil {
			return err
		}
		// The analysis takes seconds, and most scans have nothing to ask it.
		if o.Reach != nil && on(o.Settings.Reachability) && found.aboutGo() {
			answers = reach(together, o, database)
		}
		return nil
	}))
	if on(o.Settings.Secrets) && o.Source != "" {
		g.Go(caught(func() error {
			secrets, err := searchSource(together, o)
			found.add(secrets...)
			return err
		}))
	}
	if len(o.Settings.Charts) > 0 {
		g.Go(caught(func() error {
			misconfigurations, err := searchCharts(together, o)
			found.add(misconfigurations...)
			return err
		}))
	}
	err = g.Wait()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	r.Targets = subjects
	answers.apply(ctx, o, found, r)
	return found, nil
}

func on(b *bool) bool { return b == nil || *b }

// caught turns a panic of third-party code into an error.
func caught(f func() error) func() error {
	return func() (err error) {
		// Reading a mapped file that is damaged is a fault; here it is a panic.
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if p := recover(); p != nil {
				err = fault.Failedf("scan.crashed", "the scanner broke down: %v", p).
					WithFix("report it with the image; run with -v for where: %s", frame())
			}
		}()
		return f()
	}
}

// frame is the first one outside the runtime below a panic.
func frame() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime") {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

// images scans the targets against the database.
func (s *Scanner) images(ctx context.Context, o scan.Options, database installed, documents []Document, found *findings, subjects []scan.Subject, r *scan.Result) (err error) {
	if err := trivydb.Init(database.path, trivydb.WithBoltOptions(&bolt.Options{ReadOnly: true, Timeout: 5 * time.Second})); err != nil {
		return corrupt(database.Source, "opening it: %w", err)
	}
	defer func() {
		if closeErr := trivydb.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("closing the vulnerability database: %w", closeErr)
		}
	}()
	var warn sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, t := range o.Targets {
		g.Go(caught(func() error {
			progress.Statusf(ctx, "scanning %s", strings.TrimSpace(t.Name+" "+t.Platform))
			scanners := types.Scanners{types.VulnerabilityScanner}
			if on(o.Settings.Secrets) {
				scanners = append(scanners, types.SecretScanner)
			}
			report, err := s.inspect(ctx, t, scanners, cmp.Or(o.MaxBytes, scan.DefaultMaxBytes), cmp.Or(o.MaxFiles, scan.DefaultMaxFiles))
			if err != nil {
				return err
			}
			subjects[i] = scan.Subject{Name: t.Name, Platform: t.Platform, Digest: t.Digest}
			if system := report.Metadata.OS; system != nil {
				subjects[i].OS = strings.TrimSpace(string(system.Family) + " " + system.Name)
				if system.Eosl {
					warn.Lock()
					r.Warn(ctx, "%s gets no more security updates: not every vulnerability in %s is known", subjects[i].OS, t.Name)
					warn.Unlock()
				}
			}
			ignored, err := applyVEX(ctx, documents, &report, t)
			if err != nil {
				return err
			}
			more := fromReport(report, t)
			found.mu.Lock()
			defer found.mu.Unlock()
			found.findings = append(found.findings, more...)
			found.ignored = append(found.ignored, ignored...)
			return nil
		}))
	}
	return g.Wait()
}

// inspect lets Trivy look into one image.
func (s *Scanner) inspect(ctx context.Context, t scan.Target, scanners types.Scanners, maxBytes int64, maxFiles int) (types.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if t.Image == nil {
		return types.Report{}, fault.Inputf("scan.no-image", "there is no image to scan for %s", t.Name)
	}
	g := &guarded{Image: t.Image, ctx: ctx, target: t, maxBytes: maxBytes, maxFiles: int64(maxFiles)}
	if err := g.sane(); err != nil {
		return types.Report{}, err
	}
	blobs := s.blobs.Load()
	art, err := artimage.NewArtifact(g, blobs, option(scanners))
	if err != nil {
		return types.Report{}, fmt.Errorf("preparing to scan %s: %w", t.Name, err)
	}
	backend := local.NewService(applier.NewApplier(blobs), ospkg.NewScanner(), langpkg.NewScanner(), vulnerability.NewClient(trivydb.Config{}))
	report, err := tscan.NewService(backend, art).ScanArtifact(clock.With(ctx, t.Time), types.ScanOptions{
		PkgTypes: types.PkgTypes, PkgRelationships: ftypes.Relationships, Scanners: scanners,
		VulnSeveritySources: []dbtypes.SourceID{"auto"},
	})
	// What the guard saw is the cause of whatever Trivy made of it.
	if violation := g.violation(); violation != nil {
		s.blobs.Store(tcache.NewMemoryCache())
		return types.Report{}, violation
	}
	if err != nil {
		if ctx.Err() != nil {
			return types.Report{}, ctx.Err()
		}
		return types.Report{}, fault.Failedf("scan.failed", "scanning %s: %w", t.Name, err)
	}
	return report, nil
}

// option says how Trivy analyses an image.
func option(scanners types.Scanners) artifact.Option {
	off := slices.Concat(analyzer.TypeLockfiles, analyzer.TypeConfigFiles, []analyzer.Type{
		// They need the network or an index that is not there, or are Trivy's own default to leave out.
		analyzer.TypeJar, analyzer.TypeExecutable, analyzer.TypeApkCommand, analyzer.TypeRpmArchive, analyzer.TypeLicenseFile, analyzer.TypeHistoryDockerfile,
		analyzer.TypePythonPkgEgg, // unpacks a file of a zip into memory, whatever its size
	})
	if !scanners.Enabled(types.SecretScanner) {
		off = append(off, analyzer.TypeSecret, analyzer.TypeImageConfigSecret)
	}
	return artifact.Option{
		DisabledAnalyzers: off, Parallel: min(runtime.GOMAXPROCS(0), 5), NoProgress: true, Offline: true, DetectionPriority: ftypes.PriorityPrecise,
	}
}

// take waits for its turn and prepares the process for Trivy: its log goes to
// the progress, its temporary files into the cache.
func (s *Scanner) take(ctx context.Context) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	clean, err := s.workplace()
	if err != nil {
		<-s.busy
		return nil, err
	}
	restore := redirect(ctx)
	return func() {
		restore()
		clean()
		<-s.busy
	}, nil
}

// redirect sends Trivy's log, which is the process's, to the progress.
func redirect(ctx context.Context) (restore func()) {
	// Replacing slog's default also redirects package log, and putting it back
	// does not undo that.
	before, out, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(slog.New(&handler{line: func(text string) { progress.Line(ctx, text) }}))
	return func() {
		slog.SetDefault(before)
		log.SetOutput(out)
		log.SetFlags(flags)
	}
}

// handler passes warnings on as output lines.
type handler struct{ line func(text string) }

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (h *handler) Handle(_ context.Context, rec slog.Record) error {
	text := rec.Message
	rec.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	h.line("trivy: " + text)
	return nil
}

func (h *handler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h *handler) WithGroup(string) slog.Handler { return h }

// workplace gives Trivy a temporary folder in the cache and removes those of
// runs that died. Trivy chooses its folder once for the life of a process, so
// it is the same at every call, made anew each time.
func (s *Scanner) workplace() (clean func(), err error) {
	parent, err := s.cache.Make("trivy", "tmp")
	if err != nil {
		return nil, err
	}
	dir, err := tempDir(parent)
	if err != nil {
		return nil, err
	}
	parent = filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("making a folder for the scan: %w", err)
	}
	sweep(parent, dir)
	lock := flock.New(dir + ".lock")
	if ok, err := lock.TryLock(); err != nil || !ok {
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, errors.New("it is in use")))
	}
	clean = func() {
		_ = os.RemoveAll(dir) // the next run tries again
		_ = os.Remove(dir + ".lock")
		_ = lock.Unlock()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		clean()
		return nil, fmt.Errorf("making a folder for the scan: %w", err)
	}
	return clean, nil
}

// tempDir asks Trivy for its temporary folder; the first time in a process, it
// makes it where TMPDIR says.
func tempDir(parent string) (string, error) {
	before, had := os.LookupEnv("TMPDIR")
	if err := os.Setenv("TMPDIR", parent); err != nil {
		return "", fmt.Errorf("making a folder for the scan: %w", err)
	}
	dir := xos.TempDir()
	var err error
	if had {
		err = os.Setenv("TMPDIR", before)
	} else {
		err = os.Unsetenv("TMPDIR")
	}
	if err != nil {
		return "", fmt.Errorf("making a folder for the scan: %w", err)
	}
	if !strings.HasPrefix(filepath.Base(dir), "trivy-") {
		return "", fault.Inputf("cache.unusable", "making a folder for the scan in %s failed", parent).
			WithFix("set SLIPWAY_CACHE to a folder that can be written")
	}
	return dir, nil
}

// sweep removes the temporary folders of dead runs: those whose lock is free.
func sweep(parent, own string) {
	dirs, err := filepath.Glob(filepath.Join(parent, "trivy-*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		dir = strings.TrimSuffix(dir, ".lock")
		fi, err := os.Stat(dir)
		if dir == own || err == nil && time.Since(fi.ModTime()) < time.Minute {
			continue // it is this run's, or one that is about to lock it
		}
		l := flock.New(dir + ".lock")
		if ok, err := l.TryLock(); err != nil || !ok {
			continue
		}
		_ = os.RemoveAll(dir) // a later run tries again
		_ = os.Remove(dir + ".lock")
		_ = l.Unlock()
	}
}

// Package trivy scans images and source with Trivy's library
// (https://github.com/aquasecurity/trivy), and analyses which vulnerable functions
// are called with govulncheck's library.
//
// Trivy itself does not use the network: this package fetches the vulnerability
// database, and everything else that Trivy can download is switched off (its Java
// index, its bundle of checks, VEX repositories, and the check for a new version).
// Java archives are therefore not scanned, and charts are checked with the checks
// that are compiled into Trivy.
//
// The package promises no compatibility to programs other than slipway.
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

// Scanner implements [scan.Scanner]. Trivy's library keeps its database, its log
// and its temporary folder in global variables, so a process must have only one
// Scanner. Its methods can be called concurrently, but run one after the other.
type Scanner struct {
	cache cache.Dir
	busy  chan struct{}
	blobs atomic.Pointer[tcache.MemoryCache] // results per layer, which SBOM reuses after a scan
}

var _ scan.Scanner = (*Scanner)(nil)

// New returns a scanner that stores databases and temporary files in dir.
func New(dir cache.Dir) *Scanner {
	s := &Scanner{cache: dir, busy: make(chan struct{}, 1)}
	s.blobs.Store(tcache.NewMemoryCache())
	return s
}

// Version is the version of Trivy's library that go.mod requires.
const Version = "0.74.0"

// Scan implements [scan.Scanner]. It returns a [fault.Input] error if the ignore
// file, a VEX document or a chart is invalid, and a [fault.Failed] error with the
// code scan.timeout after o.Timeout.
func (s *Scanner) Scan(ctx context.Context, o scan.Options) (r scan.Result, err error) {
	o.Now = cmp.Or(o.Now, time.Now())
	o.Cache = cmp.Or(o.Cache, s.cache)
	o.Timeout = cmp.Or(o.Timeout, scan.DefaultTimeout)
	r = scan.Result{
		Time: o.Now.UTC(), Targets: []scan.Subject{}, Findings: []scan.Finding{}, Ignored: []scan.Ignored{},
		Scanner: scan.Tool{Name: "trivy", Version: Version},
	}
	// Read the user's files first, so that a mistake in them is reported before a
	// download.
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
		return r, contextError(outer, ctx, o.Timeout, err)
	}
	d.describe(ctx, database, &r)

	found, err := s.search(ctx, o, database, documents, &r)
	if err != nil {
		return r, contextError(outer, ctx, o.Timeout, err)
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

// contextError returns the error of the outer context if that has ended, an error
// about the time limit if the inner one has ended, and err otherwise.
func contextError(outer, inner context.Context, limit time.Duration, err error) error {
	if outer.Err() != nil {
		return outer.Err()
	}
	if inner.Err() != nil {
		return fault.Failedf("scan.timeout", "the scan did not finish within %s: %w", limit, err)
	}
	return err
}

// search searches images, source and charts concurrently. If an image has a Go
// vulnerability, it analyses which functions are called.
func (s *Scanner) search(ctx context.Context, o scan.Options, database installed, documents []Document, r *scan.Result) (*findings, error) {
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()

	found := &findings{}
	subjects := make([]scan.Subject, len(o.Targets))
	var calls analysis
	g, gctx := errgroup.WithContext(ctx)
	g.Go(recovering(func() error {
		if err := s.images(gctx, o, database, documents, found, subjects, r); err != nil {
			return err
		}
		// The analysis takes seconds, and most scans do not need it.
		if o.Reach != nil && enabled(o.Settings.Reachability) && found.hasGo() {
			calls = reach(gctx, o, database)
		}
		return nil
	}))
	if enabled(o.Settings.Secrets) && o.Source != "" {
		g.Go(recovering(func() error {
			secrets, err := searchSource(gctx, o)
			found.add(secrets...)
			return err
		}))
	}
	if len(o.Settings.Charts) > 0 {
		g.Go(recovering(func() error {
			misconfigurations, err := searchCharts(gctx, o)
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
	calls.apply(ctx, o, found, r)
	return found, nil
}

// enabled returns the value of a setting that is true by default.
func enabled(b *bool) bool { return b == nil || *b }

// recovering wraps f so that a panic of third-party code becomes an error.
func recovering(f func() error) func() error {
	return func() (err error) {
		// Reading a damaged memory-mapped file is a memory fault. Turn it into a panic.
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if p := recover(); p != nil {
				err = fault.Failedf("scan.crashed", "the scanner panicked: %v", p).
					WithFix("report a bug with the image and the output of -v; the panic was in %s", frame())
			}
		}()
		return f()
	}
}

// frame returns the function and line that panicked.
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
		g.Go(recovering(func() error {
			progress.Statusf(ctx, "scanning %s", strings.TrimSpace(t.Name+" "+t.Platform))
			scanners := types.Scanners{types.VulnerabilityScanner}
			if enabled(o.Settings.Secrets) {
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
					r.Warn(ctx, "%s no longer receives security updates, so not all vulnerabilities of %s are known", subjects[i].OS, t.Name)
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

// inspect returns Trivy's report for one image.
func (s *Scanner) inspect(ctx context.Context, t scan.Target, scanners types.Scanners, maxBytes int64, maxFiles int) (types.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if t.Image == nil {
		return types.Report{}, fault.Inputf("scan.no-image", "scanning %s: the target has no image", t.Name)
	}
	g := &guarded{Image: t.Image, ctx: ctx, target: t, maxBytes: maxBytes, maxFiles: int64(maxFiles)}
	if err := g.validate(); err != nil {
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
	// A violation is the cause of the error that Trivy returns, and Trivy may also
	// ignore it.
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

// option returns the options for Trivy's analysis of an image.
func option(scanners types.Scanners) artifact.Option {
	off := slices.Concat(analyzer.TypeLockfiles, analyzer.TypeConfigFiles, []analyzer.Type{
		// These need the network or Trivy's Java index, or are off by default in Trivy.
		analyzer.TypeJar, analyzer.TypeExecutable, analyzer.TypeApkCommand, analyzer.TypeRpmArchive, analyzer.TypeLicenseFile, analyzer.TypeHistoryDockerfile,
		analyzer.TypePythonPkgEgg, // unpacks a file of a zip archive into memory without a limit
	})
	if !scanners.Enabled(types.SecretScanner) {
		off = append(off, analyzer.TypeSecret, analyzer.TypeImageConfigSecret)
	}
	return artifact.Option{
		DisabledAnalyzers: off, Parallel: min(runtime.GOMAXPROCS(0), 5), NoProgress: true, Offline: true, DetectionPriority: ftypes.PriorityPrecise,
	}
}

// acquire waits until no other call uses Trivy, and prepares the process: Trivy's
// log becomes progress, and its temporary files are in the cache. The caller must
// call release.
func (s *Scanner) acquire(ctx context.Context) (release func(), err error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	clean, err := s.makeTempDir()
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

// redirect reports the log of the process, which Trivy uses, as progress.
func redirect(ctx context.Context) (restore func()) {
	// slog.SetDefault also redirects package log, and a second call does not undo
	// that.
	before, out, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(slog.New(&handler{line: func(text string) { progress.Line(ctx, text) }}))
	return func() {
		slog.SetDefault(before)
		log.SetOutput(out)
		log.SetFlags(flags)
	}
}

// handler is a [slog.Handler] that reports warnings and errors as output lines.
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

// makeTempDir creates Trivy's temporary folder in the cache and removes the
// folders of killed runs. Trivy chooses the name of the folder once per process,
// so every call creates the same folder, and clean removes it.
func (s *Scanner) makeTempDir() (clean func(), err error) {
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
		return nil, fmt.Errorf("creating a temporary folder for the scan: %w", err)
	}
	sweep(parent, dir)
	lock := flock.New(dir + ".lock")
	if ok, err := lock.TryLock(); err != nil || !ok {
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, errors.New("it is in use")))
	}
	clean = func() {
		_ = os.RemoveAll(dir) // the next run retries
		_ = os.Remove(dir + ".lock")
		_ = lock.Unlock()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		clean()
		return nil, fmt.Errorf("creating a temporary folder for the scan: %w", err)
	}
	return clean, nil
}

// tempDir returns Trivy's temporary folder. The first call in a process makes
// Trivy choose a folder in parent.
func tempDir(parent string) (string, error) {
	before, had := os.LookupEnv("TMPDIR")
	if err := os.Setenv("TMPDIR", parent); err != nil {
		return "", fmt.Errorf("creating a temporary folder for the scan: %w", err)
	}
	dir := xos.TempDir()
	var err error
	if had {
		err = os.Setenv("TMPDIR", before)
	} else {
		err = os.Unsetenv("TMPDIR")
	}
	if err != nil {
		return "", fmt.Errorf("creating a temporary folder for the scan: %w", err)
	}
	if !strings.HasPrefix(filepath.Base(dir), "trivy-") {
		return "", fault.Inputf("cache.unusable", "creating a temporary folder for the scan in %s failed", parent).
			WithFix("set SLIPWAY_CACHE to a writable folder")
	}
	return dir, nil
}

// sweep removes the temporary folders of killed runs, which are those whose lock is
// free.
func sweep(parent, own string) {
	dirs, err := filepath.Glob(filepath.Join(parent, "trivy-*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		dir = strings.TrimSuffix(dir, ".lock")
		fi, err := os.Stat(dir)
		if dir == own || err == nil && time.Since(fi.ModTime()) < time.Minute {
			continue // of this run, or of a run that is about to lock it
		}
		l := flock.New(dir + ".lock")
		if ok, err := l.TryLock(); err != nil || !ok {
			continue
		}
		_ = os.RemoveAll(dir) // a later run retries
		_ = os.Remove(dir + ".lock")
		_ = l.Unlock()
	}
}

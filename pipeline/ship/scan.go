package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// checkScanner returns an error if the program does not include the scanner.
func (p *run) checkScanner() error {
	if p.Scanner == nil {
		version, _, _ := strings.Cut(p.Program, " ")
		return scan.Absent(version)
	}
	return nil
}

// plainImages are the images with the binaries before UPX.
type plainImages struct {
	targets []scan.Target
	given   []any // identifies the content of the targets
}

// unpacked returns the images with the binaries before UPX. The scan and the SBOM use
// them because the modules of a binary that is packed with UPX cannot be read.
func (p *run) unpacked(ctx context.Context) (plainImages, error) {
	client, err := p.registry()
	if err != nil {
		return plainImages{}, err
	}
	images, err := image.Unpacked(ctx, image.Options{
		Source: p.source, Binaries: p.report.Build.Binaries, Settings: p.imageSettings(), Bases: client,
	})
	if err != nil {
		return plainImages{}, err
	}
	all := plainImages{given: []any{p.Program, p.Config.Image.Entrypoint}}
	for i, t := range images {
		all.targets = append(all.targets, scan.Target{Name: p.source.Name, Platform: t.Platform.String(), Image: t.Image, Time: p.source.Time})
		all.given = append(all.given, t.Platform, p.report.Build.Binaries[i].SHA256, t.Base)
	}
	return all, nil
}

// scan scans the binaries before UPX together with their base image, the source and the
// charts. If the run builds nothing, it scans the given image. It does not need the
// built image, so the step image can run at the same time.
func (p *run) scan(ctx context.Context) (graph.Outcome, error) {
	o, given, err := p.scanOptions(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	key, err := p.scanKey(o, given)
	if err != nil {
		return graph.Outcome{}, err
	}
	var v verdict[scan.Result]
	if key != "" && p.loadVerdict(&v, key) && allExist(v.Result.Reports) && fresh(v.Result, p.Config.Scan) {
		p.report.Scan = &v.Result
		return graph.Outcome{Kind: progress.Unchanged, Summary: summarizeScan(v.Result) + " " + v.age()}, nil
	}
	if o.Registry, err = p.registry(); err != nil {
		return graph.Outcome{}, err
	}
	r, err := p.Scanner.Scan(ctx, o)
	if rel, err := filepath.Rel(p.source.Top, p.Root); err == nil && o.Source != "" {
		r.Rebase(filepath.ToSlash(rel))
	}
	if len(r.Targets) > 0 { // the scan was completed
		p.report.Scan = &r
		var writeErr error
		if r.Reports, writeErr = p.writeScan(r); writeErr != nil {
			err = errors.Join(err, writeErr)
		}
	}
	for _, f := range r.Findings {
		if f.Fails {
			progress.Line(ctx, f.Short())
			progress.Emit(ctx, progress.Event{Kind: progress.Output, Text: f.Short(), File: f.Path, Row: f.Line})
		}
	}
	if err != nil {
		return graph.Outcome{}, err
	}
	if key != "" {
		p.storeVerdict(ctx, verdict[scan.Result]{time.Now(), r}, key)
	}
	return graph.Outcome{Kind: progress.Passed, Summary: summarizeScan(r)}, nil
}

// scanOptions returns the options of the scan, and the values that identify what is
// scanned.
func (p *run) scanOptions(ctx context.Context) (o scan.Options, given []any, err error) {
	o = scan.Options{Root: p.Root, Settings: p.Config.Scan, Cache: p.Cache}
	if !p.includes(Build) {
		for _, f := range p.subject.remote.Platforms {
			o.Targets = append(o.Targets, scan.Target{Name: p.Reference, Platform: f.Platform.String(), Image: f.Image, Digest: f.Reference.DigestStr()})
		}
		o.Settings.Charts = nil // they belong to the source
		return o, nil, nil
	}
	for _, chart := range o.Settings.Charts {
		if path := p.resolve(chart); exists(path) { // the scan reports a chart that does not exist
			if err := checkFolders(ctx, deploy.Chart{Path: path}); err != nil {
				return o, nil, err
			}
		}
	}
	images, err := p.unpacked(ctx)
	if err != nil {
		return o, nil, err
	}
	o.Targets = images.targets
	o.Source, o.Hidden = p.source.Dir, p.hidden
	if p.tracked, err = p.trackedFiles(ctx); err != nil {
		return o, nil, err
	}
	if on := p.Config.Scan.Reachability; on == nil || *on {
		o.Reach = &scan.Reach{
			Dir: p.source.Dir, Main: p.source.Main, Tags: p.Config.App.Tags, Env: toolchain.Environ(p.Config.App.Env), Go: p.toolchain,
		}
	}
	return o, images.given, nil
}

// scanKey returns a key for everything that the result of a scan depends on, except the
// database. It includes the date, because an entry of the ignore file can expire. The
// key is empty if the result must not be reused, because not every input can be
// identified.
func (p *run) scanKey(o scan.Options, given []any) (string, error) {
	if o.Source == "" || len(o.Settings.Charts) > 0 || o.Settings.Offline ||
		slices.ContainsFunc(o.Settings.Databases, func(d string) bool { return strings.HasPrefix(d, "oci:") }) {
		return "", nil
	}
	given = append(given, time.Now().UTC().Format(time.DateOnly))
	files := slices.Concat([]string{o.Settings.IgnoreFile}, o.Settings.VEX)
	if o.Settings.IgnoreFile == "" {
		files = append(files, scan.DefaultIgnoreFiles()...)
	}
	for _, name := range files {
		if sum, err := cache.HashFile(p.resolve(name)); err == nil { // the scan itself reports a file that cannot be read
			given = append(given, name, sum)
		}
	}
	for _, file := range p.source.Excluded { // they are no part of the fingerprint
		if p.committed(file) {
			if sum, err := cache.HashFile(file); err == nil {
				given = append(given, file, sum)
			}
		}
	}
	return p.verdictKey("scan", o.Settings, given)
}

// fresh reports whether a new scan would use the same database. A database is reused
// until it reaches its maximum age. The bundled one changes only with slipway itself.
func fresh(r scan.Result, s config.Scan) bool {
	onlyBundled := !slices.ContainsFunc(s.Databases, func(d string) bool { return d != scan.Bundled })
	return r.Database.Bundled && onlyBundled || time.Since(r.Database.FetchedAt) < time.Duration(s.MaxAge)
}

func summarizeScan(r scan.Result) string {
	s := "no findings"
	if r.Counts.Total > 0 {
		s = fmt.Sprintf("%d findings, none fails", r.Counts.Total)
	}
	if r.Counts.Ignored > 0 {
		s += fmt.Sprintf(", %d ignored", r.Counts.Ignored)
	}
	if r.Database.Bundled {
		s += ", bundled advisories only"
	}
	return s
}

// writeScan writes the result of a scan in all formats and returns the paths of the
// reports.
func (p *run) writeScan(r scan.Result) ([]string, error) {
	var paths []string
	for _, report := range []struct {
		format scan.Format
		name   string
	}{
		{scan.JSON, "scan.json"},
		{scan.Table, "scan.txt"},
		{scan.SARIF, "scan.sarif"},
		{scan.JUnit, "scan-junit.xml"},
		{scan.GitLab, "gl-container-scanning-report.json"},
	} {
		path := filepath.Join(p.Reports, report.name)
		var text bytes.Buffer
		if err := scan.Write(&text, r, report.format); err != nil {
			return paths, fmt.Errorf("writing %s: %w", path, err)
		}
		if err := writeReport(path, text.Bytes()); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func writeReport(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fault.Inputf("output.unwritable", "making a folder for reports: %w", err)
	}
	if err := renameio.WriteFile(path, text, 0o644); err != nil {
		return fault.Inputf("output.unwritable", "writing %s: %w", path, err)
	}
	return nil
}

// hidden reports whether the scan must ignore a file: one that is excluded from the
// source and not committed, or the configured private key if it is encrypted, because its
// owner put it there on purpose. A file that is committed can be read by everyone who can
// read the repository, whether or not it is part of the image.
func (p *run) hidden(rel string) bool {
	path := filepath.Join(p.source.Dir, filepath.FromSlash(rel))
	if p.Config.Sign.Key != "" && path == p.resolve(p.Config.Sign.Key) {
		return sign.Encrypted(path)
	}
	_, excluded := slices.BinarySearch(p.source.Excluded, path)
	return excluded && !p.committed(path)
}

// committed reports whether git tracks an excluded file of the app.
func (p *run) committed(file string) bool {
	_, ok := p.tracked[file]
	return ok
}

// trackedFiles returns the files of the app that git tracks. It returns none if nothing
// is excluded from the source, or if there is no git repository.
func (p *run) trackedFiles(ctx context.Context) (map[string]bool, error) {
	if len(p.source.Excluded) == 0 {
		return nil, nil
	}
	repository, err := source.OpenRepository(ctx, p.source.Dir)
	if err != nil || repository == nil {
		return nil, err
	}
	return repository.Tracked(ctx, p.source.Dir)
}

package ship

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// SBOM is a bill of materials of one platform's image.
type SBOM struct {
	Platform string      `json:"platform"`
	Format   scan.Format `json:"format"`
	Path     string      `json:"path"`
	SHA256   string      `json:"sha256"` // hex
}

// checkScanner finds out before any work is done that the program cannot scan.
func (p *run) checkScanner() error {
	if p.Scanner == nil && (slices.Contains(p.Stages, Scan) || slices.Contains(p.Stages, SBOMs)) {
		return fault.Inputf("scan.no-scanner", "this slipway was built without the scanner").
			WithFix("use the slipway program; slipway-core and slipway-signer are without it")
	}
	return nil
}

// plain are the images of the plain binaries, which the scanner sees, with what
// identifies them.
type plain struct {
	targets []scan.Target
	given   []any
}

func (p *run) unpacked(ctx context.Context) (plain, error) {
	client, err := p.client(p.Config.Image.Repository)
	if err != nil {
		return plain{}, err
	}
	p.atEnd(client.Close) // the layers of a base are read later
	images, err := image.Unpacked(ctx, image.Options{
		Source: p.source, Binaries: p.report.Build.Binaries, Settings: p.Config.Image, Bases: client,
	})
	if err != nil {
		return plain{}, err
	}
	all := plain{given: []any{p.Program, p.Config.Image.Entrypoint}}
	for i, t := range images {
		all.targets = append(all.targets, scan.Target{Name: p.source.Name, Platform: t.Platform.String(), Image: t.Image, Time: p.source.Time})
		all.given = append(all.given, t.Platform, p.report.Build.Binaries[i].SHA256, t.Base)
	}
	return all, nil
}

// scan judges the plain binaries on their base, the source and the charts; or
// an image in a registry, as it is. It needs no image of its own, so packing
// goes on beside it.
func (p *run) scan(ctx context.Context) (outcome, error) {
	o := scan.Options{Root: p.Root, Settings: p.Config.Scan, Cache: p.Cache}
	var given []any
	if p.Reference != "" && p.report.Build == nil {
		for _, f := range p.remote.Platforms {
			o.Targets = append(o.Targets, scan.Target{Name: p.Reference, Platform: f.Platform.String(), Image: f.Image, Digest: f.Reference.DigestStr()})
		}
		o.Settings.Charts = nil // they belong to the source
	} else {
		images, err := p.unpacked(ctx)
		if err != nil {
			return outcome{}, err
		}
		o.Targets, given = images.targets, images.given
		o.Source, o.Hidden = p.source.Dir, p.hidden
		if on := p.Config.Scan.Reachability; on == nil || *on {
			o.Reach = &scan.Reach{Dir: p.source.Dir, Main: p.source.Main, Tags: p.Config.App.Tags, Env: environ(p.Config.App.Env), Go: p.toolchain}
		}
	}
	key, err := p.scanKey(o, given)
	if err != nil {
		return outcome{}, err
	}
	var v verdict[scan.Result]
	if key != "" && p.recall(&v, key) && allExist(v.Result.Reports) && fresh(v.Result, p.Config.Scan) {
		p.report.Scan = &v.Result
		return outcome{progress.Unchanged, summarizeScan(v.Result) + " " + v.age()}, nil
	}
	client, err := p.client("")
	if err != nil {
		return outcome{}, err
	}
	defer client.Close()
	o.Registry = client
	r, err := p.Scanner.Scan(ctx, o)
	if len(r.Targets) > 0 { // it came to a verdict
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
		return outcome{}, err
	}
	if key != "" {
		p.remember(ctx, verdict[scan.Result]{time.Now(), r}, key)
	}
	return outcome{progress.Passed, summarizeScan(r)}, nil
}

// scanKey identifies what the scan of a build depends on but for the database;
// the day is in it because entries of the ignore file end with one. It is empty
// where not all of that can be told.
func (p *run) scanKey(o scan.Options, given []any) (string, error) {
	if o.Source == "" || len(o.Settings.Charts) > 0 || o.Settings.Offline ||
		slices.ContainsFunc(o.Settings.Databases, func(d string) bool { return strings.HasPrefix(d, "oci:") }) {
		return "", nil
	}
	given = append(given, time.Now().UTC().Format(time.DateOnly))
	for _, name := range slices.Concat([]string{".trivyignore", ".trivyignore.yaml", o.Settings.IgnoreFile}, o.Settings.VEX) {
		text, err := os.ReadFile(p.beside(name))
		if name != "" && err == nil { // the scan reports one that cannot be read
			sum := sha256.Sum256(text)
			given = append(given, name, hex.EncodeToString(sum[:]))
		}
	}
	return p.verdictKey("scan", o.Settings, given)
}

// fresh tells whether a scan now would use the same database: one is kept for
// its maximal age, and that inside slipway changes with slipway.
func fresh(r scan.Result, s config.Scan) bool {
	return r.Database.Bundled || time.Since(r.Database.FetchedAt) < time.Duration(s.MaxAge)
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

// writeScan writes the reports of a scan, one for each reader.
func (p *run) writeScan(r scan.Result) ([]string, error) {
	var paths []string
	for _, report := range []struct {
		format scan.Format
		name   string
	}{
		{scan.JSON, "scan.json"}, {scan.Table, "scan.txt"}, {scan.SARIF, "scan.sarif"}, {scan.JUnit, "scan-junit.xml"},
		{scan.GitLab, "gl-container-scanning-report.json"},
	} {
		path := filepath.Join(p.Reports, report.name)
		if err := writeReport(path, func(w *bytes.Buffer) error { return scan.Write(w, r, report.format) }); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func writeReport(path string, write func(*bytes.Buffer) error) error {
	var text bytes.Buffer
	if err := write(&text); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fault.Inputf("output.unwritable", "making a folder for reports: %w", err)
	}
	if err := renameio.WriteFile(path, text.Bytes(), 0o644); err != nil {
		return fault.Inputf("output.unwritable", "writing %s: %w", path, err)
	}
	return nil
}

// hidden tells the files that are no part of the source. The private key that
// signs, which has a password, is where its owner put it.
func (p *run) hidden(rel string) bool {
	path := filepath.Join(p.source.Dir, filepath.FromSlash(rel))
	return path == p.beside(p.Config.Sign.Key) || slices.Contains(p.source.Excluded, path)
}

// sbom lists what is in every platform's image, in both formats. It names the
// image by the digest that is shipped and looks into the plain binary, of which
// a packed one shows nothing.
func (p *run) sbom(ctx context.Context) (outcome, error) {
	images, err := p.unpacked(ctx)
	if err != nil {
		return outcome{}, err
	}
	summary := fmt.Sprintf("SPDX and CycloneDX of %d images", len(images.targets))
	for i := range images.targets {
		images.targets[i].Digest = p.report.Image.Platforms[i].Digest
		images.given = append(images.given, images.targets[i].Digest)
	}
	key, err := p.verdictKey("sbom", nil, images.given)
	if err != nil {
		return outcome{}, err
	}
	var v verdict[[]SBOM]
	if p.recall(&v, key) && !slices.ContainsFunc(v.Result, func(b SBOM) bool { return !b.intact() }) {
		p.report.SBOMs = v.Result
		return outcome{progress.Unchanged, summary}, nil
	}
	for _, t := range images.targets {
		for _, form := range []struct {
			format    scan.Format
			extension string
		}{{scan.SPDX, "spdx.json"}, {scan.CycloneDX, "cdx.json"}} {
			text, err := p.Scanner.SBOM(ctx, t, form.format)
			if err != nil {
				return outcome{}, err
			}
			file := filepath.Join(p.Reports, "sbom-"+strings.ReplaceAll(t.Platform, "/", "-")+"."+form.extension)
			if err := writeReport(file, func(w *bytes.Buffer) error { w.Write(text); return nil }); err != nil {
				return outcome{}, err
			}
			sum := sha256.Sum256(text)
			p.report.SBOMs = append(p.report.SBOMs, SBOM{t.Platform, form.format, file, hex.EncodeToString(sum[:])})
		}
	}
	p.remember(ctx, verdict[[]SBOM]{time.Now(), p.report.SBOMs}, key)
	return outcome{progress.Passed, summary}, nil
}

// intact tells whether the document is still as it was written.
func (b SBOM) intact() bool {
	text, err := os.ReadFile(b.Path)
	sum := sha256.Sum256(text)
	return err == nil && hex.EncodeToString(sum[:]) == b.SHA256
}

package ship

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// buildType is the URI of the definition of the parameters in a provenance
// (https://slsa.dev/spec/v1.0/provenance).
const buildType = "https://github.com/slipway-ci/slipway/blob/main/docs/supply-chain.md#provenance-v1"

// localBuilder is the builder ID outside the supported CI systems.
const localBuilder = "https://github.com/slipway-ci/slipway/blob/main/docs/supply-chain.md#a-builder-without-a-name"

// attest attests the configured facts about the image: its SBOM, its provenance and the
// result of the scan.
func (p *run) attest(ctx context.Context) (graph.Outcome, error) {
	if len(p.Config.Sign.Attestations) == 0 {
		return graph.Outcome{Kind: progress.Skipped, Summary: "sign.attestations is empty"}, nil
	}
	signer, err := p.signer()
	if err != nil {
		return graph.Outcome{}, err
	}
	subjects, err := p.subjects(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	client, err := p.registry()
	if err != nil {
		return graph.Outcome{}, err
	}
	var statements []sign.Statement
	var kinds []string
	for _, kind := range p.Config.Sign.Attestations {
		var made []sign.Statement
		switch kind {
		case sign.TypeSBOM:
			made, err = p.attestSBOMs(subjects)
		case sign.TypeProvenance:
			made, err = p.attestProvenance(ctx, subjects)
		case sign.TypeScan:
			made, err = p.attestScan(subjects)
		}
		if err != nil {
			return graph.Outcome{}, err
		}
		statements = append(statements, made...)
		if len(made) > 0 {
			kinds = append(kinds, kind)
		}
	}
	r, err := p.Signer.Attest(ctx, sign.AttestOptions{Statements: statements, Signer: signer, Formats: p.Config.Sign.Formats, Remote: client.Options(ctx), Backoff: p.Backoff})
	if err != nil {
		return graph.Outcome{}, err
	}
	p.report.Attest = &r
	return graph.Outcome{
		Kind:    changed(r.Unchanged),
		Summary: fmt.Sprintf("%s of %d manifests", strings.Join(kinds, ", "), len(subjects)),
	}, nil
}

// attestSBOMs returns the statements with the SBOMs in SPDX: one for the manifest of
// each platform and one, which combines them, for the index.
func (p *run) attestSBOMs(subjects []sign.Subject) ([]sign.Statement, error) {
	var statements []sign.Statement
	var all [][]byte
	for _, b := range p.report.SBOMs {
		if b.Format != scan.SPDX {
			continue
		}
		text, err := os.ReadFile(b.Path)
		if err != nil {
			return nil, fmt.Errorf("reading the SBOM: %w", err)
		}
		all = append(all, text)
		for _, s := range subjects {
			if s.Platform == b.Platform {
				statements = append(statements, sign.Statement{PredicateType: sign.PredicateSPDX, Predicate: text, For: []sign.Subject{s}})
			}
		}
	}
	if index := subjects[0]; index.Platform == "" {
		text, err := scan.CombineSPDX(p.source.Name, index.Digest.DigestStr(), all)
		if err != nil {
			return nil, err
		}
		statements = append(statements, sign.Statement{PredicateType: sign.PredicateSPDX, Predicate: text, For: subjects[:1]})
	}
	return statements, nil
}

// attestProvenance returns the statement with the provenance. Except for the builder,
// it contains nothing that is specific to the run, so another run of the same builder
// on the same commit returns the same statement.
func (p *run) attestProvenance(ctx context.Context, subjects []sign.Subject) ([]sign.Statement, error) {
	builder := ci.Detect(nil).Builder()
	if builder == "" {
		builder = localBuilder
	}
	s := p.source
	o := sign.ProvenanceOptions{
		BuildType: buildType, Builder: builder, Source: p.sourceURI(), Revision: s.Revision,
		External: map[string]any{
			// The settings that change the bytes of the image.
			"config":  map[string]any{"app": p.Config.App, "image": p.Config.Image},
			"version": s.Version, "main": s.Main, "dirty": s.Dirty,
		},
		Internal: map[string]any{"epoch": s.Time.Unix()},
		Materials: []sign.Material{
			{URI: "pkg:golang/toolchain@" + strings.TrimPrefix(p.report.Build.Toolchain, "go"), Name: "go"},
		},
	}
	if base := p.report.Image.BaseDigest; base != "" {
		algorithm, hex, _ := strings.Cut(base, ":")
		o.Materials = append(o.Materials, sign.Material{URI: "docker://" + p.report.Image.BaseName, Name: "base", Digest: map[string]string{algorithm: hex}})
	}
	uncommitted, err := p.uncommitted(ctx)
	if err != nil {
		return nil, err
	}
	if len(uncommitted) > 0 {
		o.External["uncommitted"] = uncommitted
	}
	if len(p.report.Allowed) > 0 {
		o.External[sign.AllowedParameter] = p.report.Allowed
	}
	predicate, err := sign.Provenance(o)
	if err != nil {
		return nil, err
	}
	return []sign.Statement{{PredicateType: sign.PredicateProvenance, Predicate: predicate, For: subjects}}, nil
}

// uncommitted returns up to ten files of the repository that are compiled although git does
// not track them. Git status does not show those that are ignored, such as generated code.
func (p *run) uncommitted(ctx context.Context) ([]string, error) {
	repository, err := source.OpenRepository(ctx, p.source.Dir)
	if err != nil || repository == nil {
		return nil, err
	}
	platforms, err := config.ParsePlatforms(p.Config.App.Platforms)
	if err != nil {
		return nil, err
	}
	cgo := "CGO_ENABLED=0"
	if p.Config.App.CGO {
		cgo = "CGO_ENABLED=1"
	}
	files := make([][]string, len(platforms))
	g, gctx := errgroup.WithContext(ctx)
	for i, platform := range platforms {
		g.Go(func() (err error) {
			env := append([]string{"GOOS=" + platform.OS, "GOARCH=" + platform.Architecture, cgo}, toolchain.Environ(p.Config.App.Env)...)
			files[i], err = p.source.Files(gctx, source.Options{Tags: p.Config.App.Tags, Env: env})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return repository.NotCommitted(ctx, slices.Concat(files...)...)
}

// sourceURI returns the URI of the source's repository, or "" if it is unknown.
func (p *run) sourceURI() string {
	uri := image.SourceURL(p.Config.Image.Source, p.source.Module)
	if uri == "" {
		return ""
	}
	return "git+" + uri
}

// attestScan returns the statement with the result of the scan. There is none if the scan
// failed without a result, which was allowed.
func (p *run) attestScan(subjects []sign.Subject) ([]sign.Statement, error) {
	r := p.report.Scan
	if r == nil {
		return nil, nil
	}
	verdict := sign.ScanPassed
	if !r.Passed {
		verdict = sign.ScanFailed
	}
	report, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the result of the scan: %w", err)
	}
	c := r.Counts
	predicate, err := sign.ScanPredicate(sign.ScanOptions{
		Scanner: "pkg:golang/github.com/aquasecurity/trivy", Version: r.Scanner.Version,
		Database: r.Database.Source, DatabaseID: r.Database.Digest, Updated: r.Database.UpdatedAt,
		Finished: r.Time, Verdict: verdict, Gate: p.scanGate(), Report: report,
		Counts: map[string]int{"critical": c.Critical, "high": c.High, "medium": c.Medium, "low": c.Low, "unknown": c.Unknown},
	})
	if err != nil {
		return nil, err
	}
	return []sign.Statement{{PredicateType: sign.PredicateScan, Predicate: predicate, For: subjects}}, nil
}

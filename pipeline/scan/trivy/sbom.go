package trivy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/aquasecurity/trivy/pkg/clock"
	"github.com/aquasecurity/trivy/pkg/fanal/image/name"
	"github.com/aquasecurity/trivy/pkg/sbom/cyclonedx"
	"github.com/aquasecurity/trivy/pkg/sbom/spdx"
	"github.com/aquasecurity/trivy/pkg/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/uuid"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx23 "github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// SBOM implements [scan.Scanner].
func (s *Scanner) SBOM(ctx context.Context, t scan.Target, f scan.Format) (data []byte, err error) {
	if f != scan.SPDX && f != scan.CycloneDX {
		return nil, fault.Inputf("sbom.format", "%q is not the format of an SBOM", f).WithFix("there are %s and %s", scan.SPDX, scan.CycloneDX)
	}
	release, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	progress.Statusf(ctx, "listing what is in %s", t.Name)
	err = caught(func() error {
		// Looked at as a scan looks, so that what a scan saw is not read again.
		report, err := s.inspect(ctx, t, types.Scanners{types.SBOMScanner, types.SecretScanner}, scan.DefaultMaxBytes, scan.DefaultMaxFiles)
		if err != nil {
			return err
		}
		data, err = describe(ctx, report, t, f)
		return err
	})()
	return data, err
}

// describe encodes a report as an SBOM of the image that is shipped. Everything
// random in it is replaced by what follows from the content.
func describe(ctx context.Context, report types.Report, t scan.Target, f scan.Format) ([]byte, error) {
	own, err := t.Image.Digest()
	if err != nil {
		return nil, fmt.Errorf("describing %s: %w", t.Name, err)
	}
	digest := cmp.Or(t.Digest, own.String())
	if digest != own.String() {
		// These describe the plain image, which is not the one that is shipped.
		report.Metadata.ImageID, report.Metadata.DiffIDs, report.Metadata.Size = "", nil, 0
	}
	if len(report.Metadata.RepoDigests) == 0 {
		if d := shipped(scan.Target{Name: t.Name, Digest: digest}); d != "" {
			report.Metadata.RepoDigests = []string{d}
		}
	}
	report.Metadata.Reference = name.Reference{}
	for i := range report.Results {
		report.Results[i].Vulnerabilities = nil
	}
	at := t.Time
	if at.IsZero() {
		at = time.Unix(0, 0)
	}
	ctx = clock.With(ctx, at.UTC())
	if f == scan.CycloneDX {
		return encodeCycloneDX(ctx, report, digest)
	}
	return encodeSPDX(ctx, report, digest)
}

func encodeCycloneDX(ctx context.Context, report types.Report, digest string) ([]byte, error) {
	m := cyclonedx.NewMarshaler(Version)
	bom, err := m.MarshalReport(ctx, report)
	if err != nil {
		return nil, fmt.Errorf("making the CycloneDX SBOM of %s: %w", report.ArtifactName, err)
	}
	if root := bom.Metadata.Component; root != nil {
		root.Version = digest
		if h, err := v1.NewHash(digest); err == nil {
			root.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: h.Hex}}
		}
	}
	settle(bom)
	bom.SerialNumber = ""
	data, err := json.Marshal(bom)
	if err != nil {
		return nil, fmt.Errorf("making the CycloneDX SBOM of %s: %w", report.ArtifactName, err)
	}
	bom.SerialNumber = "urn:uuid:" + named(data)
	var out bytes.Buffer
	e := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := e.Encode(bom); err != nil {
		return nil, fmt.Errorf("making the CycloneDX SBOM of %s: %w", report.ArtifactName, err)
	}
	return out.Bytes(), nil
}

// rounds is how far around a component its name looks for what tells it from
// others of the same content.
const rounds = 4

// settle replaces the random references of components without a package URL of
// their own, and puts everything in an order that depends on no random number.
// A module that two programs hold is there twice with the same content: what
// tells the two apart is what they belong to.
func settle(bom *cdx.BOM) {
	all := []*cdx.Component{}
	if bom.Metadata.Component != nil {
		all = append(all, bom.Metadata.Component)
	}
	if bom.Components != nil {
		for i := range *bom.Components {
			all = append(all, &(*bom.Components)[i])
		}
	}
	names := map[string]string{}
	for _, c := range all {
		plain := *c
		if random(c.BOMRef) {
			plain.BOMRef = ""
		}
		data, err := json.Marshal(plain)
		if err != nil {
			continue // a component is plain data
		}
		names[c.BOMRef] = named(data)
	}
	below, above := map[string][]string{}, map[string][]string{}
	if bom.Dependencies != nil {
		for _, d := range *bom.Dependencies {
			if d.Dependencies == nil {
				continue
			}
			for _, ref := range *d.Dependencies {
				below[d.Ref] = append(below[d.Ref], ref)
				above[ref] = append(above[ref], d.Ref)
			}
		}
	}
	for range rounds {
		next := make(map[string]string, len(names))
		for ref, own := range names {
			next[ref] = named(fmt.Appendf(nil, "%s %q %q", own, renamed(below[ref], names), renamed(above[ref], names)))
		}
		names = next
	}
	taken := map[string]int{}
	for _, c := range all {
		id := names[c.BOMRef]
		if !random(c.BOMRef) {
			names[c.BOMRef] = c.BOMRef
			continue
		}
		if taken[id]++; taken[id] > 1 {
			id = named(fmt.Appendf(nil, "%s %d", id, taken[id]))
		}
		names[c.BOMRef], c.BOMRef = id, id
	}
	if bom.Components != nil {
		slices.SortFunc(*bom.Components, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	}
	if bom.Dependencies == nil {
		return
	}
	for i := range *bom.Dependencies {
		d := &(*bom.Dependencies)[i]
		d.Ref = names[d.Ref]
		if d.Dependencies != nil {
			refs := renamed(*d.Dependencies, names)
			d.Dependencies = &refs
		}
	}
	slices.SortFunc(*bom.Dependencies, func(a, b cdx.Dependency) int { return strings.Compare(a.Ref, b.Ref) })
}

func random(ref string) bool {
	_, err := uuid.Parse(ref)
	return err == nil
}

func renamed(refs []string, names map[string]string) []string {
	list := make([]string, len(refs))
	for i, ref := range refs {
		list[i] = names[ref]
	}
	slices.Sort(list)
	return list
}

func encodeSPDX(ctx context.Context, report types.Report, digest string) ([]byte, error) {
	doc, err := spdx.NewMarshaler(Version).MarshalReport(ctx, report)
	if err != nil {
		return nil, fmt.Errorf("making the SPDX SBOM of %s: %w", report.ArtifactName, err)
	}
	for _, p := range doc.Packages {
		if p.PrimaryPackagePurpose != spdx.PackagePurposeContainer {
			continue
		}
		p.PackageVersion = digest
		if h, err := v1.NewHash(digest); err == nil {
			p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: h.Hex}}
		}
	}
	slices.SortStableFunc(doc.Relationships, func(a, b *spdx23.Relationship) int {
		return cmp.Or(cmp.Compare(a.RefA.ElementRefID, b.RefA.ElementRefID), cmp.Compare(a.RefB.ElementRefID, b.RefB.ElementRefID), cmp.Compare(a.Relationship, b.Relationship))
	})
	// The namespace ends in a random UUID.
	base := doc.DocumentNamespace[:max(len(doc.DocumentNamespace)-36, 0)]
	doc.DocumentNamespace = ""
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("making the SPDX SBOM of %s: %w", report.ArtifactName, err)
	}
	doc.DocumentNamespace = base + named(data)
	if data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return nil, fmt.Errorf("making the SPDX SBOM of %s: %w", report.ArtifactName, err)
	}
	return append(data, '\n'), nil
}

// named is a name-based UUID (RFC 9562, version 5) of content.
func named(data []byte) string {
	sum := sha256.Sum256(data)
	return uuid.NewSHA1(uuid.NameSpaceOID, sum[:]).String()
}

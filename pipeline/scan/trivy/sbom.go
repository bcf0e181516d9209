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

// SBOM implements [scan.Scanner]. It returns a [fault.Input] error if f is not the
// format of an SBOM.
func (s *Scanner) SBOM(ctx context.Context, t scan.Target, f scan.Format) (data []byte, err error) {
	if f != scan.SPDX && f != scan.CycloneDX {
		return nil, fault.Inputf("sbom.format", "%q is not the format of an SBOM", f).WithFix("use %s or %s", scan.SPDX, scan.CycloneDX)
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	progress.Statusf(ctx, "listing the packages in %s", t.Name)
	err = recovering(func() error {
		// With the analyzers of a scan, because the results of a scan are reused.
		report, err := s.inspect(ctx, t, types.Scanners{types.SBOMScanner, types.SecretScanner}, scan.DefaultMaxBytes, scan.DefaultMaxFiles)
		if err != nil {
			return err
		}
		if err := nameReplaced(ctx, &report, t, scan.DefaultMaxBytes); err != nil {
			return err
		}
		data, err = describe(ctx, report, t, f)
		return err
	})()
	return data, err
}

// describe encodes a report as an SBOM of the image that is shipped. It replaces
// all random identifiers by identifiers that are computed from the content.
func describe(ctx context.Context, report types.Report, t scan.Target, f scan.Format) ([]byte, error) {
	own, err := t.Image.Digest()
	if err != nil {
		return nil, fmt.Errorf("computing the digest of %s: %w", t.Name, err)
	}
	digest := cmp.Or(t.Digest, own.String())
	if digest != own.String() {
		// These fields are of the scanned image, and another one is shipped.
		report.Metadata.ImageID, report.Metadata.DiffIDs, report.Metadata.Size = "", nil, 0
	}
	if len(report.Metadata.RepoDigests) == 0 {
		if d := shippedReference(scan.Target{Name: t.Name, Digest: digest}); d != "" {
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
		return nil, fmt.Errorf("creating the CycloneDX SBOM of %s: %w", report.ArtifactName, err)
	}
	if root := bom.Metadata.Component; root != nil {
		root.Version = digest
		if h, err := v1.NewHash(digest); err == nil {
			root.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: h.Hex}}
		}
	}
	makeDeterministic(bom)
	bom.SerialNumber = ""
	data, err := json.Marshal(bom)
	if err != nil {
		return nil, fmt.Errorf("creating the CycloneDX SBOM of %s: %w", report.ArtifactName, err)
	}
	bom.SerialNumber = "urn:uuid:" + contentUUID(data)
	var out bytes.Buffer
	e := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := e.Encode(bom); err != nil {
		return nil, fmt.Errorf("creating the CycloneDX SBOM of %s: %w", report.ArtifactName, err)
	}
	return out.Bytes(), nil
}

// makeDeterministic replaces the random references of components that have no
// package URL by UUIDs that depend only on the content of the SBOM. It sorts the
// components and dependencies by their references.
func makeDeterministic(bom *cdx.BOM) {
	all := components(bom)
	newRefs := contentRefs(bom, all)
	used := map[string]int{}
	for _, c := range all {
		ref := newRefs[c.BOMRef]
		if !isRandom(c.BOMRef) {
			newRefs[c.BOMRef] = c.BOMRef
			continue
		}
		if used[ref]++; used[ref] > 1 {
			ref = contentUUID(fmt.Appendf(nil, "%s %d", ref, used[ref]))
		}
		newRefs[c.BOMRef], c.BOMRef = ref, ref
	}
	if bom.Components != nil {
		slices.SortFunc(*bom.Components, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	}
	if bom.Dependencies == nil {
		return
	}
	for i := range *bom.Dependencies {
		d := &(*bom.Dependencies)[i]
		d.Ref = newRefs[d.Ref]
		if d.Dependencies != nil {
			refs := replaceRefs(*d.Dependencies, newRefs)
			d.Dependencies = &refs
		}
	}
	slices.SortFunc(*bom.Dependencies, func(a, b cdx.Dependency) int { return strings.Compare(a.Ref, b.Ref) })
}

// components returns pointers to the root component and all others.
func components(bom *cdx.BOM) []*cdx.Component {
	all := []*cdx.Component{}
	if bom.Metadata.Component != nil {
		all = append(all, bom.Metadata.Component)
	}
	if bom.Components != nil {
		for i := range *bom.Components {
			all = append(all, &(*bom.Components)[i])
		}
	}
	return all
}

// refRounds is the distance in the dependency graph up to which the components
// around a component determine its reference.
const refRounds = 4

// contentRefs returns a UUID for the reference of each component. If two programs
// contain the same module, its two components have the same content. The UUID
// therefore also depends on the components that depend on a component and on those
// that it depends on.
func contentRefs(bom *cdx.BOM, all []*cdx.Component) map[string]string {
	refs := map[string]string{}
	for _, c := range all {
		plain := *c
		if isRandom(c.BOMRef) {
			plain.BOMRef = ""
		}
		data, err := json.Marshal(plain)
		if err != nil {
			continue // impossible, because a component is plain data
		}
		refs[c.BOMRef] = contentUUID(data)
	}
	dependencies, dependents := map[string][]string{}, map[string][]string{}
	if bom.Dependencies != nil {
		for _, d := range *bom.Dependencies {
			if d.Dependencies == nil {
				continue
			}
			for _, ref := range *d.Dependencies {
				dependencies[d.Ref] = append(dependencies[d.Ref], ref)
				dependents[ref] = append(dependents[ref], d.Ref)
			}
		}
	}
	for range refRounds {
		next := make(map[string]string, len(refs))
		for ref, own := range refs {
			next[ref] = contentUUID(fmt.Appendf(nil, "%s %q %q", own, replaceRefs(dependencies[ref], refs), replaceRefs(dependents[ref], refs)))
		}
		refs = next
	}
	return refs
}

// isRandom reports whether a reference is a UUID, which Trivy uses for components
// without a package URL.
func isRandom(ref string) bool {
	_, err := uuid.Parse(ref)
	return err == nil
}

// replaceRefs returns the new references for refs, sorted.
func replaceRefs(refs []string, newRefs map[string]string) []string {
	list := make([]string, len(refs))
	for i, ref := range refs {
		list[i] = newRefs[ref]
	}
	slices.Sort(list)
	return list
}

func encodeSPDX(ctx context.Context, report types.Report, digest string) ([]byte, error) {
	doc, err := spdx.NewMarshaler(Version).MarshalReport(ctx, report)
	if err != nil {
		return nil, fmt.Errorf("creating the SPDX SBOM of %s: %w", report.ArtifactName, err)
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
		return nil, fmt.Errorf("creating the SPDX SBOM of %s: %w", report.ArtifactName, err)
	}
	doc.DocumentNamespace = base + contentUUID(data)
	if data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return nil, fmt.Errorf("creating the SPDX SBOM of %s: %w", report.ArtifactName, err)
	}
	return append(data, '\n'), nil
}

// contentUUID returns a name-based UUID (RFC 9562, version 5) of data.
func contentUUID(data []byte) string {
	sum := sha256.Sum256(data)
	return uuid.NewSHA1(uuid.NameSpaceOID, sum[:]).String()
}

package trivy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vex"
	"github.com/gocsaf/csaf/v3/csaf"
	openvex "github.com/openvex/go-vex/pkg/vex"
	"github.com/package-url/packageurl-go"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// maxVEX is the maximal size of a VEX document.
const maxVEX = 64 << 20

// Document is a VEX document that has been checked. Trivy's own parser accepts
// files that are not VEX documents and ignores them, and it panics on others.
type Document struct {
	Name   string   // as configured
	Path   string   // absolute
	Format string   // openvex, csaf or cyclonedx
	cdx    *cdx.BOM // applied by this package, because Trivy applies it only to SBOMs
}

// LoadVEX reads and checks VEX documents, whose names may be relative to root. It
// returns a [fault.Input] error if one is missing or malformed.
func LoadVEX(root string, names []string) ([]Document, error) {
	var documents []Document
	for _, name := range names {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, name)
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("resolving the path of the VEX document %s: %w", name, err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			return nil, fault.Inputf("scan.vex", "reading a VEX document: %w", err).WithFix("correct scan.vex in slipway.yaml")
		}
		if !fi.Mode().IsRegular() || fi.Size() > maxVEX {
			return nil, fault.Inputf("scan.vex", "%s is not a VEX document: it must be a file of at most 64 MiB", name)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.Inputf("scan.vex", "reading a VEX document: %w", err)
		}
		d, err := ParseVEX(data)
		if err != nil {
			return nil, fault.Inputf("scan.vex", "%s is not a VEX document: %w", name, err).
				WithFix("use OpenVEX, CSAF or CycloneDX, in JSON")
		}
		d.Name, d.Path = name, path
		documents = append(documents, d)
	}
	return documents, nil
}

// ParseVEX determines the format of a VEX document, and checks the fields that
// Trivy requires.
func ParseVEX(data []byte) (d Document, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be parsed: %v", p)
		}
	}()
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		return d, fmt.Errorf("it is not a JSON object: %w", err)
	}
	switch {
	case top["bomFormat"] != nil:
		d.Format = "cyclonedx"
		d.cdx = &cdx.BOM{}
		err = cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(d.cdx)
		if err == nil {
			err = checkCycloneDX(d.cdx)
		}
	case top["@context"] != nil:
		d.Format = "openvex"
		var doc *openvex.VEX
		if doc, err = openvex.Parse(data); err == nil {
			err = checkOpenVEX(doc)
		}
	case top["document"] != nil:
		d.Format = "csaf"
		var adv csaf.Advisory
		if err = json.Unmarshal(data, &adv); err == nil {
			err = checkCSAF(&adv)
		}
	default:
		err = errors.New(`it has none of "@context" (OpenVEX), "document" (CSAF) and "bomFormat" (CycloneDX)`)
	}
	return d, err
}

func checkOpenVEX(doc *openvex.VEX) error {
	if !strings.HasPrefix(doc.Context, "https://openvex.dev/ns") {
		return fmt.Errorf("its @context is %q, which is not OpenVEX", doc.Context)
	}
	if len(doc.Statements) == 0 {
		return errors.New("it has no statements")
	}
	for i, st := range doc.Statements {
		if st.Vulnerability.Name == "" && st.Vulnerability.ID == "" {
			return fmt.Errorf("statement %d names no vulnerability", i+1)
		}
		if !st.Status.Valid() {
			return fmt.Errorf("statement %d has the status %q, want not_affected, affected, fixed or under_investigation", i+1, st.Status)
		}
		if st.Status == openvex.StatusNotAffected && st.Justification == "" && st.ImpactStatement == "" {
			return fmt.Errorf("statement %d has the status not_affected without a justification or an impact statement", i+1)
		}
		if len(st.Products) == 0 {
			return fmt.Errorf("statement %d names no product", i+1)
		}
	}
	return nil
}

func checkCSAF(adv *csaf.Advisory) error {
	if len(adv.Vulnerabilities) == 0 {
		return errors.New("it has no vulnerabilities")
	}
	if adv.ProductTree == nil {
		return errors.New("it has no product_tree")
	}
	for i, v := range adv.Vulnerabilities {
		if v == nil || v.CVE == nil {
			return fmt.Errorf("vulnerability %d has no cve", i+1)
		}
		if slices.Contains(v.Threats, nil) {
			return fmt.Errorf("vulnerability %d has an empty threat", i+1)
		}
	}
	return nil
}

func checkCycloneDX(bom *cdx.BOM) error {
	if bom.Vulnerabilities == nil || len(*bom.Vulnerabilities) == 0 {
		return errors.New("it has no vulnerabilities")
	}
	known := []cdx.ImpactAnalysisState{"", cdx.IASResolved, cdx.IASResolvedWithPedigree, cdx.IASExploitable, cdx.IASInTriage, cdx.IASFalsePositive, cdx.IASNotAffected}
	for i, v := range *bom.Vulnerabilities {
		if v.ID == "" {
			return fmt.Errorf("vulnerability %d has no id", i+1)
		}
		if v.Analysis != nil && !slices.Contains(known, v.Analysis.State) {
			return fmt.Errorf("vulnerability %d has the analysis state %q", i+1, v.Analysis.State)
		}
	}
	return nil
}

// applyVEX removes the vulnerabilities that a document excludes from the report,
// and returns them.
func applyVEX(ctx context.Context, documents []Document, report *types.Report, t scan.Target) ([]scan.Ignored, error) {
	var ignored []scan.Ignored
	for _, d := range documents {
		if d.Format == "cyclonedx" {
			ignored = append(ignored, d.apply(report, t)...)
			continue
		}
		before := make([]int, len(report.Results))
		for i, res := range report.Results {
			before[i] = len(res.ModifiedFindings)
		}
		if err := vex.Filter(ctx, report, vex.Options{Sources: []vex.Source{{Type: vex.TypeFile, FilePath: d.Path}}}); err != nil {
			return nil, fault.Inputf("scan.vex", "applying the VEX document %s: %w", d.Name, err)
		}
		for i, res := range report.Results {
			for _, m := range res.ModifiedFindings[before[i]:] {
				if v, ok := m.Finding.(types.DetectedVulnerability); ok {
					ignored = append(ignored, scan.Ignored{
						Finding: fromVulnerability(v, res, t), By: d.Name, Reason: strings.TrimSpace(string(m.Status) + " " + m.Statement),
					})
				}
			}
		}
	}
	return ignored, nil
}

// apply applies a CycloneDX document. The document excludes a vulnerability of a
// package by the package URL, or by a link to the component of an SBOM whose
// reference is the package URL.
func (d Document) apply(report *types.Report, t scan.Target) []scan.Ignored {
	var ignored []scan.Ignored
	for i := range report.Results {
		res := &report.Results[i]
		res.Vulnerabilities = slices.DeleteFunc(res.Vulnerabilities, func(v types.DetectedVulnerability) bool {
			reason := d.reason(v)
			if reason != "" {
				ignored = append(ignored, scan.Ignored{Finding: fromVulnerability(v, *res, t), By: d.Name, Reason: reason})
			}
			return reason != ""
		})
	}
	return ignored
}

// reason returns why the document excludes a vulnerability, or "" if it does not.
func (d Document) reason(v types.DetectedVulnerability) string {
	for _, st := range *d.cdx.Vulnerabilities {
		if st.ID != v.VulnerabilityID || st.Analysis == nil || st.Affects == nil {
			continue
		}
		switch st.Analysis.State {
		case cdx.IASNotAffected, cdx.IASFalsePositive, cdx.IASResolved, cdx.IASResolvedWithPedigree:
		default:
			continue
		}
		for _, a := range *st.Affects {
			ref := a.Ref
			if link, err := cdx.ParseBOMLink(ref); err == nil {
				ref = link.Reference()
			}
			if samePackage(ref, v) {
				return strings.TrimSpace(string(st.Analysis.State) + " " + string(st.Analysis.Justification))
			}
		}
	}
	return ""
}

// samePackage reports whether ref is the package URL of the vulnerable package. A
// package URL without a version matches every version.
func samePackage(ref string, v types.DetectedVulnerability) bool {
	got := v.PkgIdentifier.PURL
	want, err := packageurl.FromString(ref)
	if err != nil || got == nil {
		return false
	}
	return want.Type == got.Type && want.Namespace == got.Namespace && want.Name == got.Name &&
		(want.Version == "" || want.Version == got.Version)
}

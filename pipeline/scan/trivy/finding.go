package trivy

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/types"

	"github.com/slipway-ci/slipway/pipeline/scan"
)

// findings collects the findings of concurrent searches.
type findings struct {
	mu       sync.Mutex
	findings []scan.Finding
	ignored  []scan.Ignored
}

func (f *findings) add(more ...scan.Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.findings = append(f.findings, more...)
}

// hasGo reports whether one of the findings is a Go vulnerability.
func (f *findings) hasGo() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.findings, scan.Finding.IsGo) ||
		slices.ContainsFunc(f.ignored, func(i scan.Ignored) bool { return i.IsGo() })
}

// fromReport converts Trivy's report to findings.
func fromReport(report types.Report, t scan.Target) []scan.Finding {
	var all []scan.Finding
	for _, res := range report.Results {
		for _, v := range res.Vulnerabilities {
			all = append(all, fromVulnerability(v, res, t))
		}
		for _, secret := range res.Secrets {
			f := scan.Finding{
				Kind: scan.Secret, ID: secret.RuleID, Severity: cmp.Or(secret.Severity, "UNKNOWN"), Title: secret.Title,
				ImagePath: strings.TrimPrefix(res.Target, "/"), Line: secret.StartLine, EndLine: secret.EndLine,
			}
			setTarget(&f, t)
			all = append(all, f)
		}
	}
	return all
}

func fromVulnerability(v types.DetectedVulnerability, res types.Result, t scan.Target) scan.Finding {
	severity := cmp.Or(v.Severity, "UNKNOWN") //nolint:staticcheck // deprecated for entries of the database; here it is the severity that applies to the package
	f := scan.Finding{
		Kind: scan.Vulnerability, ID: v.VulnerabilityID, Aliases: v.VendorIDs, Severity: severity, Title: v.Title,
		Package: v.PkgName, Type: string(res.Type), Installed: v.InstalledVersion, Fixed: v.FixedVersion, Status: v.Status.String(),
		PrimaryURL: v.PrimaryURL, ImagePath: v.PkgPath,
	}
	if v.PkgIdentifier.PURL != nil {
		f.PURL = v.PkgIdentifier.PURL.String()
	}
	if len(v.References) > 0 {
		f.URL = v.References[0]
	}
	if f.ImagePath == "" && res.Class == types.ClassLangPkg && !slices.Contains(ftypes.AggregatingTypes, res.Type) {
		f.ImagePath = strings.TrimPrefix(res.Target, "/")
	}
	if f.IsGo() {
		f.Reachability = scan.Unknown
	}
	setTarget(&f, t)
	return f
}

func setTarget(f *scan.Finding, t scan.Target) {
	f.Targets = []string{t.Name}
	if t.Platform != "" {
		f.Platforms = []string{t.Platform}
	}
}

package scan

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
)

// The types of GitLab's container scanning report
// (https://gitlab.com/gitlab-org/security-products/security-report-schemas, schema 15).
type (
	gitlabReport struct {
		Version         string                `json:"version"`
		Scan            gitlabScan            `json:"scan"`
		Vulnerabilities []gitlabVulnerability `json:"vulnerabilities"`
	}
	gitlabScan struct {
		Scanner   gitlabTool `json:"scanner"`
		Analyzer  gitlabTool `json:"analyzer"`
		Type      string     `json:"type"`
		StartTime string     `json:"start_time"`
		EndTime   string     `json:"end_time"`
		Status    string     `json:"status"`
	}
	gitlabTool struct {
		ID      string       `json:"id"`
		Name    string       `json:"name"`
		URL     string       `json:"url,omitempty"`
		Vendor  gitlabVendor `json:"vendor"`
		Version string       `json:"version"`
	}
	gitlabVendor struct {
		Name string `json:"name"`
	}
	gitlabVulnerability struct {
		ID          string             `json:"id"`
		Name        string             `json:"name"`
		Description string             `json:"description,omitempty"`
		Severity    string             `json:"severity"`
		Solution    string             `json:"solution,omitempty"`
		Identifiers []gitlabIdentifier `json:"identifiers"`
		Links       []gitlabLink       `json:"links,omitempty"`
		Location    gitlabLocation     `json:"location"`
	}
	gitlabIdentifier struct {
		Type  string `json:"type"`
		Name  string `json:"name"`
		Value string `json:"value"`
		URL   string `json:"url,omitempty"`
	}
	gitlabLink struct {
		URL string `json:"url"`
	}
	gitlabLocation struct {
		Dependency struct {
			Package struct {
				Name string `json:"name"`
			} `json:"package"`
			Version string `json:"version"`
		} `json:"dependency"`
		OperatingSystem string `json:"operating_system"`
		Image           string `json:"image"`
	}
)

func writeGitLab(w io.Writer, r Result) error {
	at := r.Time.UTC().Format("2006-01-02T15:04:05") // the schema requires UTC without a zone
	report := gitlabReport{Version: "15.2.1", Vulnerabilities: []gitlabVulnerability{}, Scan: gitlabScan{
		Scanner:  gitlabTool{ID: "trivy", Name: "Trivy", URL: "https://github.com/aquasecurity/trivy", Vendor: gitlabVendor{"Aqua Security"}, Version: r.Scanner.Version},
		Analyzer: gitlabTool{ID: "slipway", Name: "slipway", URL: "https://github.com/slipway-ci/slipway", Vendor: gitlabVendor{"slipway"}, Version: r.Scanner.Version},
		Type:     "container_scanning", StartTime: at, EndTime: at, Status: "success",
	}}
	systems := map[string]string{}
	for _, t := range r.Targets {
		systems[t.Name] = t.OS
	}
	for _, f := range r.Findings {
		if f.Kind != Vulnerability {
			continue // the schema has only vulnerabilities; SARIF has the other kinds
		}
		images := f.Targets
		if len(images) == 0 {
			images = []string{"unknown"}
		}
		for _, name := range images {
			report.Vulnerabilities = append(report.Vulnerabilities, gitlabFinding(f, name, systems[name]))
		}
	}
	return encode(w, report)
}

func gitlabFinding(f Finding, image, system string) gitlabVulnerability {
	v := gitlabVulnerability{
		ID:          uuid("gitlab", f.ID, f.Package, f.Installed, f.Type, f.ImagePath, image),
		Name:        f.ID + " in " + f.Package,
		Description: f.Title,
		Severity:    strings.ToUpper(f.Severity[:min(len(f.Severity), 1)]) + strings.ToLower(f.Severity[min(len(f.Severity), 1):]),
	}
	if f.Fixed != "" {
		v.Solution = fmt.Sprintf("Upgrade %s from %s to %s", f.Package, f.Installed, f.Fixed)
	}
	for _, id := range append([]string{f.ID}, f.Aliases...) {
		kind, url := "other", ""
		switch {
		case strings.HasPrefix(id, "CVE-"):
			kind, url = "cve", "https://nvd.nist.gov/vuln/detail/"+id
		case strings.HasPrefix(id, "GHSA-"):
			kind, url = "ghsa", "https://github.com/advisories/"+id
		case strings.HasPrefix(id, "GO-"):
			kind, url = "go", "https://pkg.go.dev/vuln/"+id
		}
		v.Identifiers = append(v.Identifiers, gitlabIdentifier{Type: kind, Name: id, Value: id, URL: url})
	}
	for _, url := range unique([]string{f.URL, f.PrimaryURL}) {
		if url != "" {
			v.Links = append(v.Links, gitlabLink{url})
		}
	}
	v.Location.Dependency.Package.Name = f.Package
	v.Location.Dependency.Version = f.Installed
	v.Location.OperatingSystem = system
	if system == "" {
		v.Location.OperatingSystem = "none" // the schema requires a value, also for a scratch image
	}
	v.Location.Image = image
	return v
}

// uuid returns a UUID that is a hash of parts (RFC 9562, version 8), so a finding
// has the same identifier in every run.
func uuid(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

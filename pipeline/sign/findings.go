package sign

import (
	"encoding/json"
	"slices"
	"strings"
)

// ScanGate is the part of a gate that decides which vulnerabilities fail it.
type ScanGate struct {
	Severities    []string `json:"severities"` // UNKNOWN, LOW, MEDIUM, HIGH, CRITICAL
	ReachableOnly bool     `json:"reachableOnly,omitempty"`
	IgnoreUnfixed bool     `json:"ignoreUnfixed,omitempty"`
}

// covers reports whether everything that fails the gate want also fails g.
func (g ScanGate) covers(want ScanGate) bool {
	for _, s := range want.Severities {
		if !slices.Contains(g.Severities, s) {
			return false
		}
	}
	return (want.ReachableOnly || !g.ReachableOnly) && (want.IgnoreUnfixed || !g.IgnoreUnfixed)
}

// CheckScan returns the reason for which an attested scan does not satisfy a gate, as a
// predicate whose subject is the image, or "" if it does. A verdict counts if the gate
// that gave it is at least as strict. Otherwise the findings in the report of the scanner
// count, which must have the format of slipway, Trivy or Grype. A gate without severities
// accepts every verdict [ScanPassed].
func CheckScan(predicate []byte, gate ScanGate) string {
	var p struct {
		Scanner struct {
			Result json.RawMessage `json:"result"`
		} `json:"scanner"`
		Metadata struct {
			Verdict string    `json:"verdict"`
			Policy  *ScanGate `json:"policy"`
		} `json:"metadata"`
	}
	if json.Unmarshal(predicate, &p) != nil {
		return "has an attested scan that cannot be read"
	}
	if v := p.Metadata.Verdict; v != "" && v != ScanPassed {
		return "has an attested scan that did not pass: " + v
	}
	if p.Metadata.Verdict == ScanPassed && (len(gate.Severities) == 0 || p.Metadata.Policy != nil && p.Metadata.Policy.covers(gate)) {
		return ""
	}
	findings, ok := readFindings(p.Scanner.Result)
	if !ok {
		return "has an attested scan without a verdict of this gate, and its report has no known format"
	}
	for _, f := range findings {
		if !gate.fails(f) {
			continue
		}
		return "has an attested scan with a finding that fails the gate: " + f.id + " (" + f.severity + ")"
	}
	return ""
}

// finding is a vulnerability in the report of a scanner.
type finding struct {
	id, severity string
	unfixed      bool // no version fixes it
	unreached    bool // the program does not call the vulnerable function
}

func (g ScanGate) fails(f finding) bool {
	excluded := g.IgnoreUnfixed && f.unfixed || g.ReachableOnly && f.unreached
	return slices.Contains(g.Severities, f.severity) && !excluded
}

// report is the report of a scanner in one of the known formats.
type report struct {
	Findings *[]struct { // slipway
		ID           string `json:"id"`
		Severity     string `json:"severity"`
		Fixed        string `json:"fixed"`
		Reachability string `json:"reachability"`
	} `json:"findings"`
	Ignored []struct {
		ID       string `json:"id"`
		Severity string `json:"severity"`
		By       string `json:"by"`
	} `json:"ignored"`
	SchemaVersion int `json:"SchemaVersion"` // Trivy
	Results       *[]struct {
		Vulnerabilities []struct {
			ID       string `json:"VulnerabilityID"`
			Severity string `json:"Severity"`
			Fixed    string `json:"FixedVersion"`
		} `json:"Vulnerabilities"`
		Misconfigurations []struct {
			ID       string `json:"ID"`
			Severity string `json:"Severity"`
			Status   string `json:"Status"`
		} `json:"Misconfigurations"`
		Secrets []struct {
			ID       string `json:"RuleID"`
			Severity string `json:"Severity"`
		} `json:"Secrets"`
	} `json:"Results"`
	Matches *[]struct { // Grype
		Vulnerability struct {
			ID       string `json:"id"`
			Severity string `json:"severity"`
			Fix      struct {
				Versions []string `json:"versions"`
			} `json:"fix"`
		} `json:"vulnerability"`
	} `json:"matches"`
}

// readFindings reads the report of a scanner. It reports false if it does not know the
// format.
func readFindings(text []byte) ([]finding, bool) {
	var r report
	if json.Unmarshal(text, &r) != nil {
		return nil, false
	}
	var out []finding
	add := func(id, severity string, fixed, unreached bool) {
		out = append(out, finding{id, severityOf(severity), !fixed, unreached})
	}
	formats := 0
	if r.Findings != nil {
		formats++
		for _, f := range *r.Findings {
			add(f.ID, f.Severity, f.Fixed != "", f.Reachability == "not-called")
		}
		for _, f := range r.Ignored { // those that a setting excludes, and not a rule with a reason
			if f.By == "unfixed" || f.By == "not called" {
				add(f.ID, f.Severity, f.By != "unfixed", f.By == "not called")
			}
		}
	}
	if r.Results != nil {
		formats++
		for _, result := range *r.Results {
			for _, v := range result.Vulnerabilities {
				add(v.ID, v.Severity, v.Fixed != "", false)
			}
			for _, m := range result.Misconfigurations {
				if m.Status != "PASS" {
					add(m.ID, m.Severity, true, false)
				}
			}
			for _, s := range result.Secrets {
				add(s.ID, s.Severity, true, false)
			}
		}
	}
	if r.Matches != nil {
		formats++
		for _, m := range *r.Matches {
			add(m.Vulnerability.ID, m.Vulnerability.Severity, len(m.Vulnerability.Fix.Versions) > 0, false)
		}
	}
	if formats == 0 && r.SchemaVersion > 0 { // Trivy omits the results if there are none
		formats = 1
	}
	return out, formats == 1
}

// severityOf returns a severity in the terms of Trivy.
func severityOf(s string) string {
	switch s = strings.ToUpper(strings.TrimSpace(s)); s {
	case "LOW", "MEDIUM", "HIGH", "CRITICAL", "UNKNOWN":
		return s
	case "NEGLIGIBLE":
		return "LOW"
	case "":
		return "UNKNOWN"
	}
	return "CRITICAL" // it is not known how severe this is
}

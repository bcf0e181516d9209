package scan

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
)

// The parts of SARIF 2.1.0 that GitHub, GitLab and editors read
// (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		URI     string      `json:"informationUri"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID            string    `json:"id"`
		Name          string    `json:"name"`
		Short         sarifText `json:"shortDescription"`
		HelpURI       string    `json:"helpUri,omitempty"`
		Configuration struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
		Properties struct {
			Severity string   `json:"security-severity,omitempty"`
			Tags     []string `json:"tags"`
		} `json:"properties"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Suppressions []sarifSuppressed `json:"suppressions,omitempty"`
	}
	sarifSuppressed struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification,omitempty"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region *sarifRegion `json:"region,omitempty"`
		} `json:"physicalLocation"`
		Message *sarifText `json:"message,omitempty"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
		EndLine   int `json:"endLine,omitempty"`
	}
)

func writeSARIF(w io.Writer, r Result) error {
	log := sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: make([]sarifRun, 1)}
	run := &log.Runs[0]
	run.ColumnKind = "unicodeCodePoints"
	run.Tool.Driver = sarifDriver{Name: "slipway", URI: "https://github.com/slipway-ci/slipway", Rules: []sarifRule{}}
	if r.Scanner.Name != "" {
		run.Tool.Driver.Name += " scan (" + r.Scanner.Name + ")"
		run.Tool.Driver.Version = r.Scanner.Version
	}
	run.Results = []sarifResult{}
	index := map[string]int{}
	add := func(f Finding, suppressed []sarifSuppressed) {
		i, ok := index[f.ID]
		if !ok {
			i = len(run.Tool.Driver.Rules)
			index[f.ID] = i
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule(f))
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: f.ID, RuleIndex: i, Level: level(f), Message: sarifText{describe(f)}, Locations: []sarifLocation{location(f, r)},
			Fingerprints: map[string]string{"slipway/v1": fingerprint(f)}, Suppressions: suppressed,
		})
	}
	for _, f := range r.Findings {
		add(f, nil)
	}
	for _, i := range r.Ignored {
		add(i.Finding, []sarifSuppressed{{Kind: "external", Justification: strings.TrimSpace(i.By + ": " + i.Reason)}})
	}
	return encode(w, log)
}

func rule(f Finding) sarifRule {
	rule := sarifRule{ID: f.ID, Name: string(f.Kind), Short: sarifText{f.Title}, HelpURI: f.link()}
	if f.Title == "" {
		rule.Short.Text = f.ID
	}
	rule.Configuration.Level = level(f)
	// GitHub sorts by this number: above 9 is critical, above 7 high, above 4 medium.
	rule.Properties.Severity = map[string]string{"CRITICAL": "9.5", "HIGH": "8.0", "MEDIUM": "5.5", "LOW": "2.0"}[f.Severity]
	rule.Properties.Tags = []string{"security", string(f.Kind), f.Severity}
	return rule
}

func level(f Finding) string {
	switch {
	case f.Fails || rank(f.Severity) >= rank("HIGH"):
		return "error"
	case f.Severity == "MEDIUM":
		return "warning"
	}
	return "note"
}

func describe(f Finding) string {
	text := f.Short()
	if f.Kind == Vulnerability && f.Title != "" {
		text += ". " + f.Title
	}
	if len(f.Trace) > 0 {
		text += ". Called by " + strings.Join(f.Trace, " → ")
	}
	if len(f.Targets) > 0 {
		text += ". In " + strings.Join(f.Targets, ", ")
	}
	return text
}

// location returns the line of the source if it is known, and otherwise the file
// in the image with the image's name as the message.
func location(f Finding, r Result) sarifLocation {
	var l sarifLocation
	uri := f.Path
	if uri == "" {
		uri = f.ImagePath
		if len(f.Targets) > 0 {
			l.Message = &sarifText{strings.Join(f.Targets, ", ")}
		}
	}
	if uri == "" && len(r.Targets) > 0 {
		uri = r.Targets[0].Name
	}
	l.Physical.Artifact.URI = escapeURI(strings.TrimPrefix(uri, "/"))
	line := max(f.Line, 1) // GitHub ignores results without a region
	l.Physical.Region = &sarifRegion{StartLine: line, EndLine: max(f.EndLine, line)}
	return l
}

// escapeURI escapes the characters that a relative reference does not permit
// (RFC 3986, section 4.2), and colons, which could end a scheme.
func escapeURI(path string) string {
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("/-._~@+,=", c) >= 0:
			b.WriteByte(c)
		default:
			const digits = "0123456789ABCDEF"
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// fingerprint identifies the finding across runs. It does not depend on versions
// and line numbers, which change.
func fingerprint(f Finding) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(f.Kind), f.ID, f.Package, f.Type, f.ImagePath, f.Path}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

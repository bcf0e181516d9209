package sign_test

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/sign"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// provenance returns a provenance of slipway, which change can modify.
func provenance(t *testing.T, change func(*sign.ProvenanceOptions)) []byte {
	t.Helper()
	o := sign.ProvenanceOptions{
		Builder: "https://github.com/acme/orders/.github/workflows/release.yml@refs/tags/v1", BuildType: "x",
		Source: "git+https://github.com/acme/orders", Revision: commit, External: map[string]any{"dirty": false},
		Materials: []sign.Material{{URI: "pkg:golang/toolchain@1.26.8", Name: "go"}},
	}
	change(&o)
	text, err := sign.Provenance(o)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestProvenancePolicy checks what a protected environment requires of a provenance.
func TestProvenancePolicy(t *testing.T) {
	policy := sign.ProvenancePolicy{
		Repository: "https://github.com/acme/orders", Revision: commit, Clean: true,
		Builders: []string{`https://github\.com/acme/orders/\.github/workflows/[^/@]+@.+`},
	}
	for _, tt := range []struct {
		name   string
		change func(*sign.ProvenanceOptions)
		want   string // part of the reason
	}{
		{"as required", func(*sign.ProvenanceOptions) {}, ""},
		{"another spelling of the repository", func(o *sign.ProvenanceOptions) { o.Source = "git+https://GitHub.com:443/Acme/orders.git" }, ""},
		{"with a ref", func(o *sign.ProvenanceOptions) { o.Ref = "refs/tags/v1" }, ""},
		{"dirty", func(o *sign.ProvenanceOptions) { o.External["dirty"] = true }, "changes without a commit"},
		{"does not say whether it is dirty", func(o *sign.ProvenanceOptions) { delete(o.External, "dirty") }, "does not say"},
		{"another repository", func(o *sign.ProvenanceOptions) { o.Source = "git+https://github.com/evil/orders" }, "evil/orders"},
		{"a repository with that prefix", func(o *sign.ProvenanceOptions) { o.Source = "git+https://github.com/acme/orders-evil" }, "orders-evil"},
		{"another host", func(o *sign.ProvenanceOptions) { o.Source = "git+https://github.com.evil.example/acme/orders" }, "evil.example"},
		{"the repository as the account", func(o *sign.ProvenanceOptions) { o.Source = "git+https://github.com@evil.example/acme/orders" }, "evil.example"},
		{"without a repository", func(o *sign.ProvenanceOptions) { o.Source = "" }, "without a source"},
		{"another commit", func(o *sign.ProvenanceOptions) { o.Revision = strings.Repeat("f", 40) }, "ffff"},
		{"without a commit", func(o *sign.ProvenanceOptions) { o.Revision = "" }, "without a commit"},
		{"an unknown builder", func(o *sign.ProvenanceOptions) { o.Builder = "https://evil.example/builder" }, "evil.example"},
		{"files that are not committed", func(o *sign.ProvenanceOptions) { o.External["uncommitted"] = []string{"zz.go"} }, "zz.go"},
		{"another scheme", func(o *sign.ProvenanceOptions) { o.Source = "git+file://github.com/acme/orders" }, "file://"},
		{"a builder that contains a known one", func(o *sign.ProvenanceOptions) { o.Builder = "https://evil.example/?" + o.Builder }, "evil.example"},
		{"the right source as another material", func(o *sign.ProvenanceOptions) {
			o.Source, o.Revision = "git+https://github.com/evil/orders", strings.Repeat("f", 40)
			o.Materials = append(o.Materials, sign.Material{URI: "git+https://github.com/acme/orders", Digest: map[string]string{"gitCommit": commit}})
		}, "evil/orders"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := policy.Check(provenance(t, tt.change))
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("the reason is %q, want %q", got, tt.want)
			}
			if reason := (sign.ProvenancePolicy{}).Check(provenance(t, tt.change)); reason != "" {
				t.Errorf("a policy that requires nothing is not satisfied: %s", reason)
			}
		})
	}
	const older = `{"builder": {"id": "https://github.com/acme/orders/.github/workflows/a.yml@refs/tags/v1"}, "invocation": {"configSource": {"uri": "git+https://github.com/acme/orders@refs/tags/v1", "digest": {"sha1": "` + commit + `"}}}}`
	policy.Clean = false
	if got := policy.Check([]byte(older)); got != "" {
		t.Errorf("version 0.2: %s", got)
	}
	for _, text := range []string{"", "[]", "{}", `{"buildDefinition": 1}`} {
		if policy.Check([]byte(text)) == "" {
			t.Errorf("%q satisfies the policy", text)
		}
	}
	policy = sign.ProvenancePolicy{Builders: []string{`a)|(.*`}}
	if policy.Check(provenance(t, func(*sign.ProvenanceOptions) {})) == "" {
		t.Error("a malformed pattern matches")
	}
}

// TestAttestedScan checks which attested scans satisfy a gate.
func TestAttestedScan(t *testing.T) {
	gate := sign.ScanGate{Severities: []string{"HIGH", "CRITICAL"}}
	scan := func(verdict string, g sign.ScanGate, report string) []byte {
		text, err := sign.ScanPredicate(sign.ScanOptions{Scanner: "x", Finished: time.Unix(1, 0), Verdict: verdict, Gate: g, Report: []byte(report)})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	foreign := func(report string) []byte {
		return []byte(`{"scanner": {"uri": "x", "result": ` + report + `}, "metadata": {}}`)
	}
	const clean, low, high = `{"findings": []}`, `{"findings": [{"id": "CVE-1", "severity": "LOW"}]}`, `{"findings": [{"id": "CVE-1", "severity": "HIGH"}]}`
	for _, tt := range []struct {
		name      string
		predicate []byte
		want      string // part of the reason
	}{
		{"passed this gate", scan(sign.ScanPassed, gate, clean), ""},
		{"passed a stricter gate", scan(sign.ScanPassed, sign.ScanGate{Severities: []string{"LOW", "MEDIUM", "HIGH", "CRITICAL"}}, clean), ""},
		{"did not pass", scan(sign.ScanFailed, gate, clean), "did not pass"},
		{"unknown verdict", foreign(`{"findings": []}, "x": 1`)[:0], "cannot be read"},
		{"passed a weaker gate, with a finding", scan(sign.ScanPassed, sign.ScanGate{Severities: []string{"CRITICAL"}}, high), "CVE-1 (HIGH)"},
		{"passed a weaker gate, without one", scan(sign.ScanPassed, sign.ScanGate{Severities: []string{"CRITICAL"}}, low), ""},
		{"passed a gate for what is called only", scan(sign.ScanPassed, sign.ScanGate{Severities: gate.Severities, ReachableOnly: true}, `{"findings": [], "ignored": [{"id": "CVE-2", "severity": "HIGH", "by": "not called"}]}`), "CVE-2"},
		{"passed a gate for what is fixed only", scan(sign.ScanPassed, sign.ScanGate{Severities: gate.Severities, IgnoreUnfixed: true}, `{"findings": [], "ignored": [{"id": "CVE-2", "severity": "HIGH", "by": "unfixed"}]}`), "CVE-2"},
		{"a rule of the ignore file", scan(sign.ScanPassed, sign.ScanGate{}, `{"findings": [], "ignored": [{"id": "CVE-2", "severity": "HIGH", "by": ".trivyignore:1"}]}`), ""},
		{"passed without a gate", scan(sign.ScanPassed, sign.ScanGate{}, high), "CVE-1"},
		{"Trivy with a finding", foreign(`{"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-3", "Severity": "CRITICAL"}]}]}`), "CVE-3"},
		{"Trivy without one", foreign(`{"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-3", "Severity": "LOW"}]}]}`), ""},
		{"Trivy with a secret", foreign(`{"SchemaVersion": 2, "Results": [{"Secrets": [{"RuleID": "aws", "Severity": "CRITICAL"}]}]}`), "aws"},
		{"Trivy without a result", foreign(`{"SchemaVersion": 2}`), ""},
		{"Grype with a finding", foreign(`{"matches": [{"vulnerability": {"id": "GHSA-1", "severity": "High"}}]}`), "GHSA-1"},
		{"Grype without one", foreign(`{"matches": [{"vulnerability": {"id": "GHSA-1", "severity": "Negligible"}}]}`), ""},
		{"Grype behind Trivy's version", foreign(`{"SchemaVersion": 1, "matches": [{"vulnerability": {"id": "GHSA-2", "severity": "Critical"}}]}`), "GHSA-2"},
		{"two formats", foreign(`{"findings": [], "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-3", "Severity": "LOW"}]}]}`), "no known format"},
		{"another severity", foreign(`{"matches": [{"vulnerability": {"id": "GHSA-3", "severity": "Important"}}]}`), "GHSA-3"},
		{"no report", foreign("null"), "no known format"},
		{"an empty report", foreign("{}"), "no known format"},
		{"a report of another format", foreign(`{"runs": []}`), "no known format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := sign.CheckScan(tt.predicate, gate); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("the reason is %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzCheckPredicates(f *testing.F) {
	f.Add([]byte(`{"scanner": {"result": {"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"Severity": "HIGH"}]}]}}}`))
	f.Add([]byte(`{"buildDefinition": {"externalParameters": {"dirty": true}, "resolvedDependencies": [{"uri": "git+https://a/b@c"}]}}`))
	f.Fuzz(func(t *testing.T, predicate []byte) {
		_ = sign.CheckScan(predicate, sign.ScanGate{Severities: []string{"HIGH"}})
		if (sign.ProvenancePolicy{Revision: commit, Clean: true}).Check(predicate) == "" && !strings.Contains(string(predicate), "false") {
			t.Error("a provenance that does not say that the tree was clean satisfies the policy")
		}
	})
}

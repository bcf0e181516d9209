package sigstore_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/sign"
)

// allowedStatement is a provenance whose external parameter allowed is the given JSON.
func allowedStatement(t *testing.T, allowed string, subs ...sign.Subject) sign.Statement {
	t.Helper()
	p := must(sign.Provenance(sign.ProvenanceOptions{
		BuildType: "https://slipway.dev/build/v1", Builder: "https://example.com/builder",
		External: map[string]any{sign.AllowedParameter: json.RawMessage(allowed)},
	}))(t)
	return sign.Statement{PredicateType: sign.PredicateProvenance, Predicate: p, For: subs}
}

// allowedCases are images that were made although a gate failed.
func allowedCases() []verifyCase {
	attested := func(allowed string) func(*testing.T, testImage) {
		return func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, allowedStatement(t, allowed, i.subs...))
		}
	}
	allow := func(gates ...string) func(*sign.Policy) { return func(p *sign.Policy) { p.Allow = gates } }
	withoutScan := func(allowed string) func(*testing.T, testImage) {
		return func(t *testing.T, i testImage) {
			i.sign(t, i.ours, i.subs)
			i.attest(t, i.ours, sbomStatement(i.subs...), allowedStatement(t, allowed, i.subs...))
		}
	}
	scanFailed := func(t *testing.T, i testImage) {
		i.complete(t)
		i.attest(t, i.ours, allowedStatement(t, `["scan"]`, i.subs...), scanStatement(t, now, sign.ScanFailed, i.subs...))
	}
	return []verifyCase{
		{name: "lint failed", prepare: attested(`["lint"]`), code: sign.CodeAllowed, contains: []string{"does not allow: lint", "verify.allow"}},
		{name: "lint failed and test is allowed", prepare: attested(`["lint"]`), policy: allow("test"), code: sign.CodeAllowed},
		{name: "lint and test failed and lint is allowed", prepare: attested(`["lint","test"]`), policy: allow("lint"), code: sign.CodeAllowed, contains: []string{"does not allow: test"}},
		{name: "lint failed, which is allowed", prepare: attested(`["lint"]`), policy: allow("test", "lint")},
		{name: "no gate failed", prepare: attested(`[]`)},
		{name: "the list is no list", prepare: attested(`"none"`), policy: allow("lint", "test", "scan", "license"), code: sign.CodeAllowed},
		{name: "the list is null", prepare: attested(`null`)},
		{name: "lint failed, and provenance is not required", prepare: attested(`["lint"]`), policy: func(p *sign.Policy) { p.Attestations = []string{"sbom"} }},
		{name: "only an untrusted run passed", prepare: func(t *testing.T, i testImage) {
			attested(`["lint"]`)(t, i)
			i.attest(t, i.theirs, provenanceStatement(t, i.subs...))
		}, code: sign.CodeAllowed},
		{name: "a later run of the same signer passed", prepare: func(t *testing.T, i testImage) {
			attested(`["lint"]`)(t, i)
			i.attest(t, i.ours, provenanceStatement(t, i.subs...))
		}},
		{name: "the scan failed, which is allowed", prepare: scanFailed, policy: allow("scan")},
		{name: "the scan failed, and lint is allowed", prepare: scanFailed, policy: allow("lint"), code: sign.CodeAllowed},
		{name: "the scan is missing, which is allowed", prepare: withoutScan(`["scan"]`), policy: allow("scan")},
		{name: "the scan is missing, and nothing says why", prepare: withoutScan(`["lint"]`), policy: allow("scan", "lint"), code: sign.CodeMissing},
		{name: "the allowed scan is too old", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, allowedStatement(t, `["scan"]`, i.subs...), scanStatement(t, now.Add(-25*time.Hour), sign.ScanFailed, i.subs...))
		}, policy: allow("scan"), code: sign.CodeScanExpired},
	}
}

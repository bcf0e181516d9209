package sigstore_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// badInput is a call that returns an input error with the code.
type badInput struct {
	name, code string
	do         func() error
}

// badPolicies are verifications with an invalid policy or reference.
func badPolicies(t *testing.T, p *testRepo, d name.Digest) []badInput {
	t.Helper()
	keys := keyPair(t, "cosign")
	good := keys.trust()
	verify := func(o sign.VerifyOptions) func() error {
		return func() error {
			o.Remote = p.remote()
			_, err := sigstore.Verify(t.Context(), o)
			return err
		}
	}
	policy := func(p sign.Policy) func() error { return verify(sign.VerifyOptions{Reference: d, Policy: p}) }
	id := func(i sign.Identity) func() error { return policy(sign.Policy{Identities: []sign.Identity{i}}) }
	root := func(file string) func() error {
		return policy(sign.Policy{Identities: []sign.Identity{{Issuer: "a", Subject: "b"}}, TrustedRoot: file})
	}
	return []badInput{
		{"no digest", "reference.no-digest", verify(sign.VerifyOptions{Reference: name.Digest{}, Policy: good})},
		{"nobody trusted", "verify.no-policy", policy(sign.Policy{})},
		{"unknown type", "verify.attestation-type", policy(sign.Policy{Keys: good.Keys, Attestations: []string{"sbmo"}})},
		{"no issuer", "verify.identity", id(sign.Identity{Subject: "a"})},
		{"no subject", "verify.identity", id(sign.Identity{Issuer: "a"})},
		{"issuer and pattern", "verify.identity", id(sign.Identity{Issuer: "a", IssuerPattern: "b", Subject: "c"})},
		{"malformed pattern", "verify.identity", id(sign.Identity{Issuer: "a", SubjectPattern: "("})},
		{"missing root", "root.unreadable", root("testdata/missing.json")},
		{"malformed root", "root.malformed", root(keys.public)},
		{"empty root", "root.incomplete", root("testdata/empty_root.json")},
	}
}

// badStatements are calls of Sign, Attest and the predicates with invalid options.
func badStatements(t *testing.T, p *testRepo, d name.Digest) []badInput {
	t.Helper()
	keys := keyPair(t, "cosign")
	s := keys.signer(t)
	attest := func(st ...sign.Statement) func() error {
		return func() error {
			_, err := sigstore.Attest(t.Context(), sign.AttestOptions{Statements: st, Signer: s, Remote: p.remote()})
			return err
		}
	}
	return []badInput{
		{"no signer", "key.missing", func() error {
			_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: []sign.Subject{{Digest: d}}})
			return err
		}},
		{"no subject to sign", "sign.nothing", func() error {
			_, err := sigstore.Sign(t.Context(), sign.Options{Signer: s})
			return err
		}},
		{"no statement", "attest.nothing", attest()},
		{"two statements of a type", "attest.twice", attest(sbomStatement(sign.Subject{Digest: d}), sbomStatement(sign.Subject{Digest: d}))},
		{"no predicate type", "attest.type", attest(sign.Statement{Predicate: json.RawMessage(`{}`), For: []sign.Subject{{Digest: d}}})},
		{"predicate is not JSON", "attest.predicate", attest(sign.Statement{PredicateType: "a", Predicate: json.RawMessage(`{`), For: []sign.Subject{{Digest: d}}})},
		{"predicate is not an object", "attest.predicate", attest(sign.Statement{PredicateType: "a", Predicate: json.RawMessage(`null`), For: []sign.Subject{{Digest: d}}})},
		{"malformed address of the log", "rekor.url", func() error {
			_, err := sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: keys.key(), Rekor: "rekor"})
			return err
		}},
		{"scan without verdict", "attest.scan", func() error {
			_, err := sign.ScanPredicate(sign.ScanOptions{Scanner: "a", Finished: now})
			return err
		}},
		{"scan without a time", "attest.scan", func() error {
			_, err := sign.ScanPredicate(sign.ScanOptions{Scanner: "a", Verdict: sign.ScanPassed})
			return err
		}},
		{"scan with a broken report", "attest.scan", func() error {
			_, err := sign.ScanPredicate(sign.ScanOptions{Scanner: "a", Verdict: sign.ScanPassed, Finished: now, Report: json.RawMessage("{")})
			return err
		}},
		{"provenance without builder", "attest.provenance", func() error {
			_, err := sign.Provenance(sign.ProvenanceOptions{BuildType: "a"})
			return err
		}},
	}
}

// Invalid input is reported before the first request to the registry.
func TestBadInput(t *testing.T) {
	p := newRepo(t, memory(t))
	d := p.repo.Digest("sha256:" + strings.Repeat("0", 64))
	for _, tt := range append(badPolicies(t, p, d), badStatements(t, p, d)...) {
		t.Run(tt.name, func(t *testing.T) { wantFault(t, tt.do(), fault.Input, tt.code) })
	}
	if p.reqs != 0 {
		t.Errorf("the registry received %d requests", p.reqs)
	}
}

package sigstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// keylessRun is an image that an identity has signed and attested on an instance of
// Sigstore.
type keylessRun struct {
	*testRepo
	issuer   *issuer
	instance instance
	subs     []sign.Subject
	policy   sign.Policy // trusts the identity
}

const keylessIdentity = "ci@acme.example"

// signKeyless signs and attests an image on a new instance. It returns the signer.
func signKeyless(t *testing.T, ct bool) (keylessRun, sign.Signer) {
	t.Helper()
	r := keylessRun{issuer: newIssuer(t), testRepo: newRepo(t, memory(t))}
	r.instance = startSigstore(t, r.issuer, ct)
	r.subs = r.pushIndex(t)
	r.policy = sign.Policy{
		Identities: []sign.Identity{{Issuer: r.issuer.URL, SubjectPattern: `.*@acme\.example`}}, TrustedRoot: r.instance.root,
		Attestations: []string{"sbom", "provenance", "scan"},
	}
	s := r.newSigner(t)
	if result := r.sign(t, s, r.subs); result.Unchanged || result.Subjects[0].LogIndex == nil {
		t.Errorf("result of signing: %+v", result)
	}
	r.attest(t, s, sbomStatement(r.subs...), provenanceStatement(t, r.subs...), scanStatement(t, now, sign.ScanPassed, r.subs...))
	return r, s
}

// newSigner returns a signer with a new certificate for the identity.
func (r keylessRun) newSigner(t *testing.T) sign.Signer {
	t.Helper()
	return r.instance.signer(t, givenToken(r.issuer.token("sigstore", keylessIdentity, time.Hour)))
}

// wantRejected checks that the policy rejects the image with the code.
func (r keylessRun) wantRejected(t *testing.T, name, code string, policy sign.Policy, parts ...string) {
	t.Helper()
	_, err := r.verify(t, r.subs[0], policy)
	wantFault(t, err, fault.Gate, code, parts...)
	t.Logf("%s: %v", name, err)
}

// testKeyless runs a test on an instance with and on one without a certificate
// transparency log.
func testKeyless(t *testing.T, test func(t *testing.T, r keylessRun, s sign.Signer)) {
	t.Helper()
	for _, ct := range []bool{true, false} {
		t.Run(fmt.Sprintf("ct=%t", ct), func(t *testing.T) {
			r, s := signKeyless(t, ct)
			test(t, r, s)
		})
	}
}

// Keyless signatures of the real services verify, and signing again with another
// certificate for the same identity changes nothing.
func TestKeyless(t *testing.T) {
	testKeyless(t, func(t *testing.T, r keylessRun, s sign.Signer) {
		wantNoSecrets(t, s)
		if id := s.Identity(); id.Identity != keylessIdentity || id.Issuer != r.issuer.URL {
			t.Errorf("the signer is %+v", id)
		}
		v, err := r.verify(t, r.subs[0], r.policy)
		if err != nil {
			t.Fatal(err)
		}
		wantNoSecrets(t, v)
		if sig := v.Subjects[2].Signatures[0]; sig.Identity != keylessIdentity || sig.Issuer != r.issuer.URL || sig.LogIndex == nil || sig.Logged.IsZero() {
			t.Errorf("the signature is %+v", sig)
		}
		again := r.newSigner(t)
		if !r.sign(t, again, r.subs).Unchanged || !r.attest(t, again, sbomStatement(r.subs...)).Unchanged {
			t.Error("signing again with the same identity changed something")
		}
	})
}

// Policies that do not trust the identity or its certificate authority reject the
// image.
func TestKeylessPolicies(t *testing.T) {
	testKeyless(t, func(t *testing.T, r keylessRun, _ sign.Signer) {
		url := r.issuer.URL
		trusting := func(id sign.Identity) sign.Policy {
			p := r.policy
			p.Identities = []sign.Identity{id}
			return p
		}
		r.wantRejected(t, "other subject", sign.CodeWrongIdentity, trusting(sign.Identity{Issuer: url, Subject: "boss@acme.example"}), keylessIdentity, url)
		r.wantRejected(t, "other issuer", sign.CodeWrongIdentity, trusting(sign.Identity{Issuer: "https://gitlab.com", SubjectPattern: ".*"}))
		r.wantRejected(t, "pattern that matches a part", sign.CodeWrongIdentity, trusting(sign.Identity{Issuer: url, SubjectPattern: "acme"}))
		otherRoot := r.policy
		otherRoot.TrustedRoot = "testdata/trusted_root.json"
		r.wantRejected(t, "other instance", sign.CodeUntrusted, otherRoot, "unknown authority", "trustedRoot")
		r.wantRejected(t, "only keys", sign.CodeWrongKey, sign.Policy{Keys: keyPair(t, "cosign").trust().Keys}, "keyless", keylessIdentity)
		other := r.pushImage(t)
		r.rewrite(t, sigTag(r.subs[0]), sigTag(other[0]), unchanged)
		_, err := r.verify(t, other[0], sign.Policy{Identities: r.policy.Identities, TrustedRoot: r.instance.root})
		wantFault(t, err, fault.Gate, sign.CodeOtherImage)
	})
}

// Changed keyless signatures and log entries are rejected.
func TestKeylessTampering(t *testing.T) {
	const bundle = "dev.sigstore.cosign/bundle"
	testKeyless(t, func(t *testing.T, r keylessRun, _ sign.Signer) {
		s := r.newSigner(t)
		change := func(sub sign.Subject, e edit) { r.rewrite(t, sigTag(sub), sigTag(sub), e) }
		change(r.subs[0], func(b []byte, a map[string]string) ([]byte, map[string]string) {
			delete(a, bundle)
			return b, a
		})
		r.wantRejected(t, "no log entry", sign.CodeNoLogEntry, r.policy, "transparency log")
		if !r.sign(t, s, r.subs[1:]).Unchanged || r.sign(t, s, r.subs[:1]).Unchanged {
			t.Error("want a new signature only for the manifest without a log entry")
		}
		change(r.subs[1], func(b []byte, a map[string]string) ([]byte, map[string]string) {
			return bytes.Replace(b, []byte("acme"), []byte("evil"), 1), a
		})
		r.wantRejected(t, "payload changed", sign.CodeTampered, r.policy, "its own certificate")
		r.sign(t, s, r.subs)
		change(r.subs[0], func(b []byte, a map[string]string) ([]byte, map[string]string) {
			a[bundle] = strings.Replace(a[bundle], `"logIndex":`, `"logIndex":7`, 1)
			return b, a
		})
		r.wantRejected(t, "log entry changed", sign.CodeTampered, r.policy, "proof")
		for _, malformed := range []string{`{"Payload":{"body":7}}`, `{"Payload":{"body":null}}`, `{"Payload":{"body":"e30="}}`, `{}`} {
			change(r.subs[0], func(b []byte, a map[string]string) ([]byte, map[string]string) {
				a[bundle] = malformed
				return b, a
			})
			r.wantRejected(t, malformed, sign.CodeTampered, r.policy)
		}
	})
}

// The cosign program verifies keyless signatures by slipway, and slipway those by
// the cosign program.
func TestKeylessWithCosign(t *testing.T) {
	cosign := cosignProgram(t)
	for _, ct := range []bool{true, false} {
		t.Run(fmt.Sprintf("ct=%t", ct), func(t *testing.T) {
			i := newIssuer(t)
			s := startSigstore(t, i, ct)
			p := newRepo(t, memory(t))
			ours, theirs := p.pushIndex(t), p.pushIndex(t)
			us := s.signer(t, givenToken(i.token("sigstore", "ci@acme.example", time.Hour)))
			p.sign(t, us, ours)
			p.attest(t, us, sbomStatement(ours...), scanStatement(t, now, sign.ScanPassed, ours...))
			flags := []string{"--allow-http-registry", "--certificate-identity", "ci@acme.example", "--certificate-oidc-issuer", i.URL}
			if !ct {
				flags = append(flags, "--insecure-ignore-sct")
			}
			for _, sub := range ours {
				if out, err := run(t, nil, cosign, append(append([]string{"verify", "--trusted-root", s.root}, flags...), sub.Digest.Name())...); err != nil {
					t.Errorf("cosign verify: %v: %s", err, out)
				}
				for _, kind := range []string{"spdxjson", "vuln"} {
					if out, err := run(t, s.env, cosign, append(append([]string{"verify-attestation", "--type", kind}, flags...), sub.Digest.Name())...); err != nil {
						t.Errorf("cosign verify-attestation --type %s: %v: %s", kind, err, out)
					}
				}
			}
			token := writeFile(t, i.token("sigstore", "ci@acme.example", time.Hour))
			signing := []string{"--allow-http-registry", "-y", "--fulcio-url", s.Fulcio, "--rekor-url", s.Rekor, "--identity-token", token}
			if !ct {
				signing = append(signing, "--insecure-skip-verify")
			}
			if out, err := run(t, s.env, cosign, append(append([]string{"sign", "--recursive"}, signing...), theirs[0].Digest.Name())...); err != nil {
				t.Fatalf("cosign sign: %v: %s", err, out)
			}
			file := writeFile(t, string(sbomStatement().Predicate))
			for _, sub := range theirs {
				if out, err := run(t, s.env, cosign, append(append([]string{"attest", "--type", "spdxjson", "--predicate", file}, signing...), sub.Digest.Name())...); err != nil {
					t.Fatalf("cosign attest: %v: %s", err, out)
				}
			}
			policy := sign.Policy{Identities: []sign.Identity{{Issuer: i.URL, Subject: "ci@acme.example"}}, TrustedRoot: s.root, Attestations: []string{"sbom"}}
			if _, err := p.verify(t, theirs[0], policy); err != nil {
				t.Error(err)
			}
			if !p.sign(t, us, theirs).Unchanged || !p.attest(t, us, sbomStatement(theirs...)).Unchanged {
				t.Error("the image was signed again after cosign sign with the same identity")
			}
		})
	}
}

// A signature by a key can be logged, and a policy can require that.
func TestKeyWithLog(t *testing.T) {
	i := newIssuer(t)
	s := startSigstore(t, i, false)
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	keys := keyPair(t, "cosign")
	policy := keys.trust()
	policy.RequireLog, policy.TrustedRoot, policy.Attestations = true, s.root, []string{"sbom"}
	p.sign(t, keys.signer(t), subs)
	p.attest(t, keys.signer(t), sbomStatement(subs...))
	_, err := p.verify(t, subs[0], policy)
	wantFault(t, err, fault.Gate, sign.CodeNoLogEntry)
	logging := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: keys.key(), Rekor: s.Rekor}))(t)
	if r := p.sign(t, logging, subs); r.Unchanged || r.Subjects[0].LogIndex == nil {
		t.Errorf("result of signing with a log: %+v", r)
	}
	p.attest(t, logging, sbomStatement(subs...))
	if v, err := p.verify(t, subs[0], policy); err != nil || v.Subjects[0].Attestations[0].LogIndex == nil {
		t.Errorf("%v: %+v", err, v)
	}
	if !p.sign(t, logging, subs).Unchanged || !p.attest(t, logging, sbomStatement(subs...)).Unchanged {
		t.Error("signing and attesting a second time changed something")
	}
}

// If Fulcio or Rekor rejects a request, there is an error with a code, and nothing
// is written.
func TestKeylessRejected(t *testing.T) {
	i := newIssuer(t)
	s := startSigstore(t, i, false)
	for _, tt := range []struct {
		name     string
		token    sign.TokenSource
		code     string
		contains string
	}{
		{"other audience", givenToken(i.token("someone", "ci@acme.example", time.Hour)), "fulcio.refused", "audience"},
		{"expired", givenToken(i.token("sigstore", "ci@acme.example", -time.Minute)), "fulcio.refused", "expired"},
		{"other issuer", givenToken(newIssuer(t).token("sigstore", "ci@acme.example", time.Hour)), "fulcio.refused", s.Fulcio},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.trySigner(t.Context(), tt.token)
			wantFault(t, err, fault.Failed, tt.code, tt.contains)
			t.Log(err)
		})
	}
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	before := p.written()
	// The log is of another instance than the trusted root.
	other := startSigstore(t, i, false)
	mixed := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{
		Keyless: &sign.Keyless{Fulcio: s.Fulcio, Token: givenToken(i.token("sigstore", "ci@acme.example", time.Hour)), TrustedRoot: s.root}, Rekor: other.Rekor,
	}))(t)
	_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: mixed, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "sign.untrusted", "trusted root")
	down := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{
		Keyless: &sign.Keyless{Fulcio: s.Fulcio, Token: givenToken(i.token("sigstore", "ci@acme.example", time.Hour)), TrustedRoot: s.root}, Rekor: i.URL,
	}))(t)
	_, err = sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: down, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "rekor.refused", i.URL)
	t.Log(err)
	if p.written() != before {
		t.Error("a manifest was written")
	}
}

// FindToken finds the token of the CI, and no error contains it.
func TestTokens(t *testing.T) {
	i := newIssuer(t)
	env := func(kv ...string) func(string) string {
		return func(name string) string {
			for n := 0; n < len(kv); n += 2 {
				if kv[n] == name {
					return kv[n+1]
				}
			}
			return ""
		}
	}
	for name, tt := range map[string]struct {
		env  func(string) string
		code string
	}{
		"gitlab":                 {env("SIGSTORE_ID_TOKEN", plantedToken), "token.malformed"},
		"file":                   {env("SIGSTORE_ID_TOKEN_FILE", writeFile(t, plantedToken)), "token.malformed"},
		"missing file":           {env("SIGSTORE_ID_TOKEN_FILE", "missing/token"), "token.missing"},
		"empty file":             {env("SIGSTORE_ID_TOKEN_FILE", writeFile(t, "\n")), "token.missing"},
		"github":                 {env("ACTIONS_ID_TOKEN_REQUEST_URL", i.URL+"/github?x=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedPassword), ""},
		"github denies":          {env("ACTIONS_ID_TOKEN_REQUEST_URL", i.URL+"/github", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedToken), "token.refused"},
		"github is unreachable":  {env("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:1/?t="+plantedToken, "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedToken), "token.refused"},
		"github without a token": {env("ACTIONS_ID_TOKEN_REQUEST_URL", i.URL+"/keys", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedToken), "token.refused"},
		"github without a URL":   {env("ACTIONS_ID_TOKEN_REQUEST_URL", "::"+plantedToken), "token.missing"},
		"no CI":                  {env(), "token.missing"},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := sigstore.FindToken(tt.env)
			if err == nil {
				if !strings.HasPrefix(name, "github") { // it prints its URL, which contains the planted token in this test
					wantNoSecrets(t, src)
				}
				_, err = sigstore.NewSigner(t.Context(), sign.SignerOptions{
					Keyless: &sign.Keyless{Fulcio: "http://127.0.0.1:1", Token: src, TrustedRoot: "testdata/trusted_root.json"},
				})
			}
			if tt.code == "" {
				wantFault(t, err, fault.Failed, "fulcio.refused", "127.0.0.1:1") // the token was accepted, and Fulcio is unreachable
				return
			}
			kind := fault.Input
			if tt.code == "token.refused" {
				kind = fault.Failed
			}
			wantFault(t, err, kind, tt.code)
			wantNoSecrets(t, err)
			t.Log(err)
		})
	}
	_, err := sign.GivenToken{}.Token(t.Context(), "sigstore")
	wantFault(t, err, fault.Input, "token.missing")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = sigstore.GitHubToken{URL: i.URL + "/github", Grant: sign.Hide([]byte(plantedPassword))}.Token(ctx, "sigstore")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

package sigstore_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// An index and all manifests in it can be signed, attested and verified. Signing
// and attesting again changes nothing.
func TestSignAttestVerify(t *testing.T) {
	for backend, handler := range registries() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			p := newRepo(t, handler(t))
			subs := p.pushIndex(t)
			keys := keyPair(t, "cosign")
			s := keys.signer(t)
			wantNoSecrets(t, s)
			wantNoSecrets(t, keys.key())
			r := p.sign(t, s, subs)
			if r.Unchanged || len(r.Subjects) != 3 || r.Signer.Key != keys.fingerprint {
				t.Errorf("result of signing: %+v", r)
			}
			statements := []sign.Statement{sbomStatement(subs...), provenanceStatement(t, subs...), scanStatement(t, now.Add(-time.Hour), sign.ScanPassed, subs...)}
			if r := p.attest(t, s, statements...); r.Unchanged || len(r.Attestations) != 9 {
				t.Errorf("result of attesting: %+v", r)
			}
			policy := keys.trust()
			policy.Attestations = []string{"sbom", "provenance", "scan"}
			policy.ScanMaxAge = 24 * time.Hour
			v, err := p.verify(t, subs[0], policy)
			if err != nil {
				t.Fatal(err)
			}
			if !v.Passed || len(v.Subjects) != 3 {
				t.Fatalf("result of verifying: %+v", v)
			}
			for i, sub := range v.Subjects {
				if len(sub.Signatures) != 1 || sub.Signatures[0].Key != keys.fingerprint || len(sub.Attestations) != 3 || sub.ScanAge != 3600 || sub.Platform != subs[i].Platform {
					t.Errorf("result of verifying: %+v", sub)
				}
			}
			before := p.written()
			if r := p.sign(t, s, subs); !r.Unchanged {
				t.Error("signing a second time changed something")
			}
			if r := p.attest(t, s, statements...); !r.Unchanged {
				t.Error("attesting a second time changed something")
			}
			if n := p.written() - before; n != 0 {
				t.Errorf("the second run wrote %d manifests", n)
			}
			// A new scan replaces the old one, and the other attestations are kept.
			again := p.attest(t, s, scanStatement(t, now, sign.ScanPassed, subs...))
			if again.Unchanged || !again.Attestations[0].Replaced {
				t.Errorf("result of attesting a new scan: %+v", again)
			}
			if n := p.layers(t, attTag(subs[0])); n != 3 {
				t.Errorf("%d attestations after attesting a new scan, want 3", n)
			}
			if v, err = p.verify(t, subs[0], policy); err != nil || v.Subjects[0].ScanAge != 0 {
				t.Errorf("after the new scan: %v, %+v", err, v.Subjects)
			}
			wantNoSecrets(t, v)
			wantNoSecrets(t, r)
		})
	}
}

// Signatures and attestations of other signers are kept.
func TestOtherSignersAreKept(t *testing.T) {
	t.Parallel()
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	a, b := keyPair(t, "a"), keyPair(t, "b")
	for _, k := range []pair{a, b} {
		p.sign(t, k.signer(t), subs)
		p.attest(t, k.signer(t), scanStatement(t, now, sign.ScanPassed, subs...))
	}
	if n := p.layers(t, sigTag(subs[0])); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
	for _, k := range []pair{a, b} {
		policy := k.trust()
		policy.Attestations = []string{"scan"}
		if _, err := p.verify(t, subs[0], policy); err != nil {
			t.Error(err)
		}
	}
}

// Signatures with different annotations are different signatures.
func TestAnnotationsAreSigned(t *testing.T) {
	t.Parallel()
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	s := keyPair(t, "cosign").signer(t)
	for range 2 {
		for _, env := range []string{"staging", "prod"} {
			must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Annotations: map[string]string{"env": env}, Remote: p.remote(), Backoff: quick}))(t)
		}
	}
	if n := p.layers(t, sigTag(subs[0])); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
}

// One valid signature is enough, even if another one is malformed.
func TestVerifyIgnoresMalformedSignatures(t *testing.T) {
	t.Parallel()
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	ours, theirs := keyPair(t, "ours"), keyPair(t, "theirs")
	p.sign(t, theirs.signer(t), subs)
	p.rewrite(t, sigTag(subs[0]), sigTag(subs[0]), annotate(signatureAnnotation, "%%%"))
	p.sign(t, ours.signer(t), subs)
	if _, err := p.verify(t, subs[0], ours.trust()); err != nil {
		t.Error(err)
	}
}

// An image that does not exist is not signed.
func TestSignMissingImage(t *testing.T) {
	t.Parallel()
	p := newRepo(t, memory(t))
	s := keyPair(t, "cosign").signer(t)
	missing := []sign.Subject{{Digest: p.repo.Digest("sha256:" + strings.Repeat("0", 64))}}
	_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: missing, Signer: s, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "sign.image-not-found")
	_, err = sigstore.Attest(t.Context(), sign.AttestOptions{Statements: []sign.Statement{sbomStatement(missing...)}, Signer: s, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "sign.image-not-found")
	if p.written() != 0 {
		t.Error("a manifest was written")
	}
}

// The same build gives the same provenance.
func TestProvenanceIsDeterministic(t *testing.T) {
	t.Parallel()
	a, b := provenanceStatement(t), provenanceStatement(t)
	if !bytes.Equal(a.Predicate, b.Predicate) {
		t.Errorf("%s\n%s", a.Predicate, b.Predicate)
	}
	want := `{"buildDefinition":{"buildType":"https://slipway.dev/build/v1","externalParameters":{"platforms":["linux/amd64"],"source":"git+https://github.com/acme/orders@refs/heads/main"},"resolvedDependencies":[{"uri":"git+https://github.com/acme/orders@refs/heads/main","digest":{"gitCommit":"` +
		strings.Repeat("ab", 20) + `"}},{"name":"go","digest":{"sha256":"` + strings.Repeat("0", 64) + `"}}]},"runDetails":{"builder":{"id":"https://github.com/acme/orders/.github/workflows/ship.yml@refs/heads/main"}}}`
	if string(a.Predicate) != want {
		t.Errorf("got  %s\nwant %s", a.Predicate, want)
	}
}

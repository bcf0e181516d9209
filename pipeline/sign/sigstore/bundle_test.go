package sigstore_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// signAs signs in the given formats.
func (p *testRepo) signAs(t *testing.T, s sign.Signer, subs []sign.Subject, formats ...sign.Format) sign.Result {
	t.Helper()
	return must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Formats: formats, Remote: p.remote(), Backoff: quick, Settle: time.Microsecond}))(t)
}

// attestAs attests in the given formats.
func (p *testRepo) attestAs(t *testing.T, s sign.Signer, formats []sign.Format, what ...sign.Statement) sign.AttestResult {
	t.Helper()
	return must(sigstore.Attest(t.Context(), sign.AttestOptions{Statements: what, Signer: s, Formats: formats, Remote: p.remote(), Backoff: quick, Settle: time.Microsecond}))(t)
}

// bundleOf returns the first bundle of an image and its predicate type.
func (p *testRepo) bundleOf(t *testing.T, sub sign.Subject) (text []byte, predicateType string) {
	t.Helper()
	list := must(must(remote.Referrers(sub.Digest, p.remote()...))(t).IndexManifest())(t)
	if len(list.Manifests) == 0 {
		t.Fatal("the image has no referrers")
	}
	m := list.Manifests[0]
	img := must(remote.Image(p.repo.Digest(m.Digest.String()), p.remote()...))(t)
	content := must(must(img.Layers())(t)[0].Compressed())(t)
	defer content.Close()
	manifest := must(img.Manifest())(t)
	return must(io.ReadAll(content))(t), manifest.Annotations["dev.sigstore.bundle.predicateType"]
}

// attach attaches a bundle to an image.
func (p *testRepo) attach(t *testing.T, sub sign.Subject, text []byte, predicateType string) {
	t.Helper()
	if err := ociremote.WriteAttestationNewBundleFormat(sub.Digest, text, predicateType, ociremote.WithRemoteOptions(p.remote()...), ociremote.WithTargetRepository(p.repo)); err != nil {
		t.Fatal(err)
	}
}

// TestBundles signs and attests with Sigstore bundles, alone and together with the tags, in
// registries with the API for referrers and without it.
func TestBundles(t *testing.T) {
	keys, other := keyPair(t, "ours"), keyPair(t, "theirs")
	policy := keys.trust()
	policy.Attestations = []string{"sbom", "provenance", "scan"}
	for backend, handler := range registries() {
		for _, formats := range [][]sign.Format{{sign.FormatBundle}, {sign.FormatTag, sign.FormatBundle}} {
			t.Run(backend+"/"+strings.Join(formats, " and "), func(t *testing.T) {
				t.Parallel()
				p := newRepo(t, handler(t))
				subs := p.pushIndex(t)
				statements := []sign.Statement{sbomStatement(subs...), provenanceStatement(t, subs...), scanStatement(t, now, sign.ScanPassed, subs...)}
				if r := p.signAs(t, keys.signer(t), subs, formats...); r.Unchanged || len(formats) == 1 && r.Subjects[0].Signature != "" {
					t.Errorf("%+v", r)
				}
				if r := p.attestAs(t, keys.signer(t), formats, statements...); r.Unchanged {
					t.Errorf("%+v", r)
				}
				if r := p.signAs(t, keys.signer(t), subs, formats...); !r.Unchanged {
					t.Errorf("signed again: %+v", r)
				}
				if r := p.attestAs(t, keys.signer(t), formats, statements...); !r.Unchanged {
					t.Errorf("attested again: %+v", r)
				}
				r, err := p.verify(t, subs[0], policy)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range r.Subjects {
					if len(s.Signatures) != len(formats) || len(s.Attestations) != 3*len(formats) {
						t.Errorf("%s has %d signatures and %d attestations", s.Reference, len(s.Signatures), len(s.Attestations))
					}
				}
				if _, err := p.verify(t, subs[0], other.trust()); fault.CodeOf(err) != sign.CodeWrongKey {
					t.Errorf("with another key: %v", err)
				}
			})
		}
	}
}

// TestHostileBundles attaches bundles to an image that are not signatures of it.
func TestHostileBundles(t *testing.T) {
	keys, theirs := keyPair(t, "ours"), keyPair(t, "theirs")
	for _, tt := range []struct {
		name, code string
		change     func(text []byte) []byte
		by         pair
	}{
		{"of another image", sign.CodeOtherImage, func(b []byte) []byte { return b }, keys},
		{"by another key", sign.CodeWrongKey, nil, theirs},
		{"with another signature", sign.CodeOtherImage, func(b []byte) []byte {
			at := bytes.Index(b, []byte(`"sig":"`)) + 30
			if b[at] == 'A' {
				b[at] = 'B'
			} else {
				b[at] = 'A'
			}
			return b
		}, keys},
		{"with another payload", sign.CodeUnsigned, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"payload":"`), []byte(`"payload":"eyJ9`), 1)
		}, keys},
		{"not JSON", sign.CodeUnsigned, func([]byte) []byte { return []byte("{") }, keys},
		{"empty", sign.CodeUnsigned, func([]byte) []byte { return nil }, keys},
		{"without an envelope", sign.CodeUnsigned, func([]byte) []byte {
			return []byte(`{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": {"publicKey": {"hint": "x"}}}`)
		}, keys},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newRepo(t, memory(t))
			image, other := p.pushImage(t)[0], p.pushImage(t)[0]
			if tt.change == nil {
				p.signAs(t, tt.by.signer(t), []sign.Subject{image}, sign.FormatBundle)
			} else {
				p.signAs(t, tt.by.signer(t), []sign.Subject{other}, sign.FormatBundle)
				text, predicateType := p.bundleOf(t, other)
				p.attach(t, image, tt.change(text), predicateType)
			}
			_, err := p.verify(t, image, keys.trust())
			if fault.CodeOf(err) != tt.code {
				t.Errorf("the code is %s, want %s: %v", fault.CodeOf(err), tt.code, err)
			}
			t.Log(err)
		})
	}
	t.Run("an attestation is no signature", func(t *testing.T) {
		p := newRepo(t, memory(t))
		image := p.pushImage(t)[0]
		p.attestAs(t, keys.signer(t), []sign.Format{sign.FormatBundle}, sbomStatement(image))
		text, _ := p.bundleOf(t, image)
		p.attach(t, image, text, "https://sigstore.dev/cosign/sign/v1") // the annotation is not signed
		if _, err := p.verify(t, image, keys.trust()); fault.CodeOf(err) != sign.CodeUnsigned {
			t.Errorf("%v", err)
		}
	})
}

// cosign3Program returns the cosign program whose default are bundles.
func cosign3Program(t *testing.T) string {
	t.Helper()
	return program(t, "github.com/sigstore/cosign/v3/cmd/cosign", "v3.1.3")
}

// TestBundlesOfCosign: the cosign program of today verifies bundles and tags by slipway, and
// slipway verifies what it signs and attests.
func TestBundlesOfCosign(t *testing.T) {
	cosign := cosign3Program(t)
	keys, other := keyPair(t, "cosign"), keyPair(t, "other")
	verify := func(t *testing.T, ref string, args ...string) (string, error) {
		t.Helper()
		return run(t, nil, cosign, append(append([]string{"verify", "--insecure-ignore-tlog", "--allow-http-registry"}, args...), ref)...)
	}
	for backend, handler := range registries() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			p := newRepo(t, handler(t))
			subs := p.pushIndex(t)
			p.signAs(t, keys.signer(t), subs, sign.FormatBundle)
			p.attestAs(t, keys.signer(t), []sign.Format{sign.FormatBundle}, sbomStatement(subs...), provenanceStatement(t, subs...))
			tagged := p.pushImage(t)
			p.signAs(t, keys.signer(t), tagged, sign.FormatTag)
			for _, sub := range append(subs, tagged...) {
				if out, err := verify(t, sub.Digest.Name(), "--key", keys.public); err != nil {
					t.Errorf("cosign verify: %v: %s", err, out)
				}
				if out, err := verify(t, sub.Digest.Name(), "--key", other.public); err == nil {
					t.Errorf("cosign verify with another key: %s", out)
				}
			}
			for _, kind := range []string{"spdxjson", "slsaprovenance1"} {
				out, err := run(t, nil, cosign, "verify-attestation", "--insecure-ignore-tlog", "--allow-http-registry", "--type", kind, "--key", keys.public, subs[0].Digest.Name())
				if err != nil {
					t.Errorf("cosign verify-attestation --type %s: %v: %s", kind, err, out)
				}
			}

			theirs := p.pushImage(t)
			ref := theirs[0].Digest.Name()
			flags := []string{"--key", keys.private, "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "-y"}
			if out, err := run(t, nil, cosign, append(append([]string{"sign"}, flags...), ref)...); err != nil {
				t.Fatalf("cosign sign: %v: %s", err, out)
			}
			file := writeFile(t, string(sbomStatement().Predicate))
			if out, err := run(t, nil, cosign, append(append([]string{"attest", "--type", "spdxjson", "--predicate", file}, flags...), ref)...); err != nil {
				t.Fatalf("cosign attest: %v: %s", err, out)
			}
			policy := keys.trust()
			policy.Attestations = []string{"sbom"}
			if _, err := p.verify(t, theirs[0], policy); err != nil {
				t.Error(err)
			}
			if _, err := p.verify(t, theirs[0], other.trust()); fault.CodeOf(err) != sign.CodeWrongKey {
				t.Errorf("with another key: %v", err)
			}
			if r := p.signAs(t, keys.signer(t), theirs, sign.FormatBundle); !r.Unchanged {
				t.Error("the image was signed again after cosign sign")
			}
		})
	}
}

// TestKeylessBundles signs with certificates and log entries of the real services.
func TestKeylessBundles(t *testing.T) {
	testKeyless(t, func(t *testing.T, r keylessRun, _ sign.Signer) {
		subs := r.pushIndex(t)
		s := r.newSigner(t)
		if result := r.signAs(t, s, subs, sign.FormatBundle); result.Unchanged || result.Subjects[0].LogIndex == nil {
			t.Errorf("%+v", result)
		}
		r.attestAs(t, s, []sign.Format{sign.FormatBundle}, sbomStatement(subs...), provenanceStatement(t, subs...), scanStatement(t, now, sign.ScanPassed, subs...))
		v, err := r.verify(t, subs[0], r.policy)
		if err != nil {
			t.Fatal(err)
		}
		if sig := v.Subjects[0].Signatures[0]; sig.Identity != keylessIdentity || sig.Issuer != r.issuer.URL || sig.LogIndex == nil || sig.Logged.IsZero() {
			t.Errorf("%+v", sig)
		}
		if result := r.signAs(t, r.newSigner(t), subs, sign.FormatBundle); !result.Unchanged {
			t.Error("the image was signed again with another certificate of the same identity")
		}
		policy := r.policy
		policy.Identities = []sign.Identity{{Issuer: r.issuer.URL, Subject: "evil@acme.example"}}
		if _, err := r.verify(t, subs[0], policy); fault.CodeOf(err) != sign.CodeWrongIdentity {
			t.Errorf("with another identity: %v", err)
		}
	})
}

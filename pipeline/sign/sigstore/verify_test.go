package sigstore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// testImage is an image that is verified with a policy that trusts only the signer
// ours.
type testImage struct {
	*testRepo
	subs, other  []sign.Subject // other is another image, which ours has signed and attested
	ours, theirs sign.Signer
}

// complete signs and attests the image so that it satisfies the policy.
func (i testImage) complete(t *testing.T) {
	t.Helper()
	i.sign(t, i.ours, i.subs)
	i.attest(t, i.ours, sbomStatement(i.subs...), provenanceStatement(t, i.subs...), scanStatement(t, now.Add(-time.Hour), sign.ScanPassed, i.subs...))
}

// editSignatures changes the signatures of the index.
func (i testImage) editSignatures(t *testing.T, e edit) {
	t.Helper()
	i.rewrite(t, sigTag(i.subs[0]), sigTag(i.subs[0]), e)
}

// editAttestations changes the attestations of the index.
func (i testImage) editAttestations(t *testing.T, e edit) {
	t.Helper()
	i.rewrite(t, attTag(i.subs[0]), attTag(i.subs[0]), e)
}

// interceptPayload calls f for requests for the payload of the signature of the index.
func (i testImage) interceptPayload(t *testing.T, f func(w http.ResponseWriter, r *http.Request)) {
	t.Helper()
	m := must(v1.ParseManifest(bytes.NewReader(i.manifest(t, sigTag(i.subs[0])))))(t)
	i.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+m.Layers[0].Digest.String()) {
			return false
		}
		f(w, r)
		return true
	})
}

// signatureAnnotation is cosign's annotation with the signature in base64.
const signatureAnnotation = "dev.cosignproject.cosign/signature"

func unchanged(b []byte, a map[string]string) ([]byte, map[string]string) { return b, a }

func annotate(key, value string) edit {
	return func(b []byte, a map[string]string) ([]byte, map[string]string) {
		a[key] = value
		return b, a
	}
}

// verifyCase is an image with the error code for which it is rejected.
type verifyCase struct {
	name     string
	prepare  func(t *testing.T, i testImage)
	policy   func(*sign.Policy)
	code     string   // "" if the image satisfies the policy
	contains []string // in the text of the error
}

// Every way in which an image does not satisfy the policy has its own code and text.
func TestVerifyRejections(t *testing.T) {
	ours, theirs := keyPair(t, "ours"), keyPair(t, "theirs")
	cases := slices.Concat(
		[]verifyCase{{name: "valid", prepare: func(t *testing.T, i testImage) { i.complete(t) }}},
		signerCases(ours, theirs), damagedSignatureCases(ours), registryCases(), attestationCases(theirs), scanCases(), allowedCases(),
	)
	for _, tt := range cases {
		for backend, handler := range registries() {
			t.Run(tt.name+"/"+backend, func(t *testing.T) {
				t.Parallel()
				p := newRepo(t, handler(t))
				i := testImage{testRepo: p, subs: p.pushIndex(t), other: p.pushImage(t), ours: ours.signer(t), theirs: theirs.signer(t)}
				p.sign(t, i.ours, i.other)
				p.attest(t, i.ours, sbomStatement(i.other...), provenanceStatement(t, i.other...), scanStatement(t, now, sign.ScanPassed, i.other...))
				tt.prepare(t, i)
				policy := ours.trust()
				policy.Attestations, policy.ScanMaxAge = []string{"sbom", "provenance", "scan"}, 24*time.Hour
				if tt.policy != nil {
					tt.policy(&policy)
				}
				r, err := p.verify(t, i.subs[0], policy)
				if tt.code == "" {
					if err != nil || !r.Passed {
						t.Fatalf("a valid image is rejected: %v", err)
					}
					return
				}
				wantFault(t, err, fault.Gate, tt.code, append(tt.contains, "acme/orders@sha256:")...)
				if r.Passed {
					t.Error("the result has Passed set")
				}
				t.Log(err)
			})
		}
	}
}

// signerCases are images without a signature by a trusted signer.
func signerCases(ours, theirs pair) []verifyCase {
	return []verifyCase{
		{name: "unsigned", prepare: func(*testing.T, testImage) {}, code: sign.CodeUnsigned, contains: []string{"is not signed", "slipway sign"}},
		{name: "one platform unsigned", prepare: func(t *testing.T, i testImage) {
			i.subs = i.subs[:2]
			i.complete(t)
		}, code: sign.CodeUnsigned, contains: []string{"linux/arm64"}},
		{name: "index unsigned", prepare: func(t *testing.T, i testImage) {
			i.subs = i.subs[1:]
			i.complete(t)
		}, code: sign.CodeUnsigned},
		{name: "wrong key", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.theirs, i.subs)
		}, code: sign.CodeWrongKey, contains: []string{theirs.fingerprint[:19], "verify.keys"}},
		{name: "wrong key without an annotation", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.theirs, i.subs)
			i.editSignatures(t, func(b []byte, a map[string]string) ([]byte, map[string]string) {
				delete(a, "dev.slipway.key")
				return b, a
			})
		}, code: sign.CodeWrongKey, contains: []string{"unknown key"}},
		{name: "key instead of identity", prepare: func(t *testing.T, i testImage) { i.complete(t) }, policy: func(p *sign.Policy) {
			p.Keys, p.Identities = nil, []sign.Identity{{Issuer: "https://a", Subject: "b"}}
			p.TrustedRoot = "testdata/trusted_root.json"
		}, code: sign.CodeWrongIdentity, contains: []string{ours.fingerprint[:19]}},
		{name: "log required", prepare: func(t *testing.T, i testImage) { i.complete(t) }, policy: func(p *sign.Policy) {
			p.RequireLog, p.TrustedRoot = true, "testdata/trusted_root.json"
		}, code: sign.CodeNoLogEntry, contains: []string{"transparency log"}},
	}
}

// damagedSignatureCases are images whose signature was changed in the registry.
func damagedSignatureCases(ours pair) []verifyCase {
	return []verifyCase{
		{name: "payload changed", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.editSignatures(t, func(b []byte, a map[string]string) ([]byte, map[string]string) {
				return bytes.Replace(b, []byte("acme"), []byte("evil"), 1), a
			})
		}, code: sign.CodeTampered, contains: []string{"changed"}},
		{name: "payload of another image with this digest", prepare: func(t *testing.T, i testImage) {
			i.rewrite(t, sigTag(i.other[0]), sigTag(i.subs[0]), func(b []byte, a map[string]string) ([]byte, map[string]string) {
				return bytes.ReplaceAll(b, []byte(i.other[0].Digest.DigestStr()), []byte(i.subs[0].Digest.DigestStr())), a
			})
		}, code: sign.CodeTampered},
		{name: "signature changed", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.editSignatures(t, func(b []byte, a map[string]string) ([]byte, map[string]string) {
				raw, _ := base64.StdEncoding.DecodeString(a[signatureAnnotation])
				raw[len(raw)-1] ^= 1
				a[signatureAnnotation] = base64.StdEncoding.EncodeToString(raw)
				return b, a
			})
		}, code: sign.CodeTampered},
		{name: "signature is not base64", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.theirs, i.subs)
			i.editSignatures(t, annotate(signatureAnnotation, "%%%"))
		}, code: sign.CodeTampered, contains: []string{"malformed"}},
		{name: "signature missing", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.editSignatures(t, func(b []byte, _ map[string]string) ([]byte, map[string]string) { return b, nil })
		}, code: sign.CodeTampered, contains: []string{"has no signature"}},
		{name: "certificate malformed", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.theirs, i.subs)
			i.editSignatures(t, annotate("dev.sigstore.cosign/certificate", "\n"))
		}, code: sign.CodeTampered},
		{name: "payload is not JSON", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.editSignatures(t, func([]byte, map[string]string) ([]byte, map[string]string) {
				return []byte("hello"), map[string]string{signatureAnnotation: "aGVsbG8="}
			})
		}, code: sign.CodeTampered},
		{name: "signature of another image", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.rewrite(t, sigTag(i.other[0]), sigTag(i.subs[1]), unchanged)
		}, code: sign.CodeOtherImage, contains: []string{"another image", "linux/amd64"}},
		{name: "attestation instead of a signature", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.rewrite(t, attTag(i.subs[0]), sigTag(i.subs[0]), unchanged)
		}, code: sign.CodeTampered},
		{name: "signed content is not about an image", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			sv := must(cosign.LoadPrivateKey(must(os.ReadFile(ours.private))(t), []byte(plantedPassword), nil))(t)
			i.editSignatures(t, func(b []byte, a map[string]string) ([]byte, map[string]string) {
				b = bytes.Replace(b, []byte("cosign container image signature"), []byte("another type"), 1)
				a[signatureAnnotation] = base64.StdEncoding.EncodeToString(must(sv.SignMessage(bytes.NewReader(b)))(t))
				return b, a
			})
		}, code: sign.CodeOtherImage, contains: []string{"not about an image"}},
	}
}

// registryCases are images for which the registry returns the wrong content.
func registryCases() []verifyCase {
	return []verifyCase{
		{name: "registry returns another payload", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.interceptPayload(t, func(w http.ResponseWriter, r *http.Request) {
				rec := httptest.NewRecorder()
				i.next.ServeHTTP(rec, r)
				_, _ = w.Write(bytes.Replace(rec.Body.Bytes(), []byte("acme"), []byte("evil"), 1))
			})
		}, code: sign.CodeTampered, contains: []string{"its digest"}},
		{name: "registry has lost the payload", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.interceptPayload(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
		}, code: sign.CodeTampered, contains: []string{"missing"}},
		{name: "registry returns another manifest", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/manifests/"+i.subs[1].Digest.DigestStr()) {
					return false
				}
				r.URL.Path = strings.Replace(r.URL.Path, i.subs[1].Digest.DigestStr(), i.other[0].Digest.DigestStr(), 1)
				rec := httptest.NewRecorder()
				i.next.ServeHTTP(rec, r)
				w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
				_, _ = w.Write(rec.Body.Bytes())
				return true
			})
		}, code: sign.CodeTampered, contains: []string{"another manifest"}},
		{name: "image does not exist", prepare: func(_ *testing.T, i testImage) {
			i.subs[0].Digest = i.repo.Digest("sha256:" + strings.Repeat("0", 64))
		}, code: sign.CodeNotFound, contains: []string{"not in the registry"}},
	}
}

// attestationCases are signed images without a valid attestation of every type.
func attestationCases(theirs pair) []verifyCase {
	return []verifyCase{
		{name: "no attestation", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.ours, i.subs)
		}, code: sign.CodeMissing, contains: []string{"sbom"}},
		{name: "one type missing", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.ours, i.subs)
			i.attest(t, i.ours, sbomStatement(i.subs...), scanStatement(t, now, sign.ScanPassed, i.subs...))
		}, code: sign.CodeMissing, contains: []string{"provenance"}},
		{name: "one type missing for a platform", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.ours, i.subs)
			i.attest(t, i.ours, sbomStatement(i.subs...), provenanceStatement(t, i.subs...), scanStatement(t, now, sign.ScanPassed, i.subs[:2]...))
		}, code: sign.CodeMissing, contains: []string{"scan", "linux/arm64"}},
		{name: "attestation by another key", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.ours, i.subs)
			i.attest(t, i.ours, sbomStatement(i.subs...), provenanceStatement(t, i.subs...))
			i.attest(t, i.theirs, scanStatement(t, now, sign.ScanPassed, i.subs...))
		}, code: sign.CodeForeign, contains: []string{"scan attestation", theirs.fingerprint[:19]}},
		{name: "attestation of another image", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.rewrite(t, attTag(i.other[0]), attTag(i.subs[0]), unchanged)
		}, code: sign.CodeForeign, contains: []string{"another image"}},
		{name: "attestation changed", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.editAttestations(t, func(b []byte, a map[string]string) ([]byte, map[string]string) {
				var e map[string]any
				_ = json.Unmarshal(b, &e)
				body, _ := base64.StdEncoding.DecodeString(e["payload"].(string))
				e["payload"] = base64.StdEncoding.EncodeToString(bytes.ReplaceAll(body, []byte("orders"), []byte("0rders")))
				out, _ := json.Marshal(e)
				return out, a
			})
		}, code: sign.CodeTampered, contains: []string{"SBOM attestation"}},
		{name: "attestation is not an envelope", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.editAttestations(t, func(_ []byte, a map[string]string) ([]byte, map[string]string) { return []byte("{"), a })
		}, code: sign.CodeTampered},
		{name: "type only in the annotation", prepare: func(t *testing.T, i testImage) {
			i.sign(t, i.ours, i.subs)
			i.attest(t, i.ours, sbomStatement(i.subs...), provenanceStatement(t, i.subs...))
			i.editAttestations(t, annotate("predicateType", sign.PredicateScan))
		}, code: sign.CodeMissing, contains: []string{"scan"}},
	}
}

// scanCases are images whose attested scan does not satisfy the policy.
func scanCases() []verifyCase {
	return []verifyCase{
		{name: "scan too old", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, scanStatement(t, now.Add(-25*time.Hour), sign.ScanPassed, i.subs...))
		}, code: sign.CodeScanExpired, contains: []string{"25h0m0s ago", "24h"}},
		{name: "scan in the future", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, scanStatement(t, now.Add(time.Hour), sign.ScanPassed, i.subs...))
		}, code: sign.CodeScanExpired, contains: []string{"future"}},
		{name: "scan without a time", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, sign.Statement{PredicateType: sign.PredicateScan, Predicate: json.RawMessage(`{"scanner":{}}`), For: i.subs})
		}, code: sign.CodeScanExpired, contains: []string{"without a time"}},
		{name: "scan failed", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, scanStatement(t, now, sign.ScanFailed, i.subs...))
		}, code: sign.CodeScanFailed, contains: []string{"failed"}},
		{name: "scan without a verdict", prepare: func(t *testing.T, i testImage) {
			i.complete(t)
			i.attest(t, i.ours, sign.Statement{PredicateType: sign.PredicateScan, Predicate: json.RawMessage(`{"scanner":{"result":{"SchemaVersion":2,"Results":[{"Vulnerabilities":[{"VulnerabilityID":"CVE-1","Severity":"CRITICAL"}]}]}},"metadata":{"scanFinishedOn":"` + now.Format(time.RFC3339) + `"}}`), For: i.subs})
		}, policy: func(p *sign.Policy) { p.Scan.Severities = []string{"CRITICAL"} }, code: sign.CodeScanFailed, contains: []string{"CVE-1"}},
	}
}

package sigstore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/sigstore/cosign/v2/pkg/cosign"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

func asFault(err error, e **fault.Error) bool { return errors.As(err, e) }

func rawLayer(data []byte, d v1.Descriptor) v1.Layer { return static.NewLayer(data, d.MediaType) }

// What is signed and attested verifies, index and every manifest, and doing it
// again changes nothing.
func TestSignAttestVerify(t *testing.T) {
	for backend, handler := range registries() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, handler(t))
			subs := p.anIndex(t)
			keys := aPair(t, "cosign")
			s := keys.signer(t)
			secretFree(t, s)
			secretFree(t, keys.key())
			r := p.sign(t, s, subs)
			if r.Unchanged || len(r.Subjects) != 3 || r.Signer.Key != keys.fingerprint {
				t.Errorf("signing says %+v", r)
			}
			what := []sign.Statement{anSBOM(subs...), aProvenance(t, subs...), aScan(t, now.Add(-time.Hour), sign.ScanPassed, subs...)}
			if r := p.attest(t, s, what...); r.Unchanged || len(r.Attestations) != 9 {
				t.Errorf("attesting says %+v", r)
			}
			policy := keys.trust()
			policy.Attestations = []string{"sbom", "provenance", "scan"}
			policy.ScanMaxAge = 24 * time.Hour
			v, err := p.verify(t, subs[0], policy)
			if err != nil {
				t.Fatal(err)
			}
			if !v.Passed || len(v.Subjects) != 3 {
				t.Fatalf("verifying says %+v", v)
			}
			for i, sub := range v.Subjects {
				if len(sub.Signatures) != 1 || sub.Signatures[0].Key != keys.fingerprint || len(sub.Attestations) != 3 || sub.ScanAge != 3600 || sub.Platform != subs[i].Platform {
					t.Errorf("verifying says %+v", sub)
				}
			}
			before := p.written()
			if r := p.sign(t, s, subs); !r.Unchanged {
				t.Error("signing twice changed something")
			}
			if r := p.attest(t, s, what...); !r.Unchanged {
				t.Error("attesting twice changed something")
			}
			if n := p.written() - before; n != 0 {
				t.Errorf("the second run wrote %d manifests", n)
			}
			// A new scan takes the place of the old one, the others stay.
			again := p.attest(t, s, aScan(t, now, sign.ScanPassed, subs...))
			if again.Unchanged || !again.Attestations[0].Replaced {
				t.Errorf("attesting a new scan says %+v", again)
			}
			if n := p.layers(t, attTag(subs[0])); n != 3 {
				t.Errorf("%d attestations are kept, want 3", n)
			}
			if v, err = p.verify(t, subs[0], policy); err != nil || v.Subjects[0].ScanAge != 0 {
				t.Errorf("after the new scan: %v, %+v", err, v.Subjects)
			}
			secretFree(t, v)
			secretFree(t, r)
		})
	}
}

// Other signers' signatures and attestations are left alone.
func TestOthersAreKept(t *testing.T) {
	t.Parallel()
	p := newPlace(t, memory(t))
	subs := p.anImage(t)
	a, b := aPair(t, "a"), aPair(t, "b")
	for _, k := range []pair{a, b} {
		p.sign(t, k.signer(t), subs)
		p.attest(t, k.signer(t), aScan(t, now, sign.ScanPassed, subs...))
	}
	if n := p.layers(t, sigTag(subs[0])); n != 2 {
		t.Errorf("%d signatures, want both", n)
	}
	for _, k := range []pair{a, b} {
		policy := k.trust()
		policy.Attestations = []string{"scan"}
		if _, err := p.verify(t, subs[0], policy); err != nil {
			t.Error(err)
		}
	}
}

// Signatures with other annotations are other signatures.
func TestAnnotationsAreSigned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, memory(t))
	subs := p.anImage(t)
	s := aPair(t, "cosign").signer(t)
	for range 2 {
		for _, env := range []string{"staging", "prod"} {
			must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Annotations: map[string]string{"env": env}, Remote: p.remote(), Backoff: quick}))(t)
		}
	}
	if n := p.layers(t, sigTag(subs[0])); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
}

// Each way an image can be wrong has its own answer.
func TestVerifyTellsFailuresApart(t *testing.T) {
	ours, theirs := aPair(t, "ours"), aPair(t, "theirs")
	all := []string{"sbom", "provenance", "scan"}
	type world struct {
		*place
		subs, other []sign.Subject // other is another image, signed and attested by us
		ours, them  sign.Signer
	}
	complete := func(t *testing.T, w world) {
		w.sign(t, w.ours, w.subs)
		w.attest(t, w.ours, anSBOM(w.subs...), aProvenance(t, w.subs...), aScan(t, now.Add(-time.Hour), sign.ScanPassed, w.subs...))
	}
	same := func(b []byte, n map[string]string) ([]byte, map[string]string) { return b, n }
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, w world)
		policy func(*sign.Policy)
		code   string
		says   []string
	}{
		{name: "nothing wrong", change: complete},
		{name: "unsigned", change: func(*testing.T, world) {}, code: sign.CodeUnsigned, says: []string{"is not signed", "slipway sign"}},
		{name: "one platform unsigned", change: func(t *testing.T, w world) {
			w.subs = w.subs[:2]
			complete(t, w)
		}, code: sign.CodeUnsigned, says: []string{"linux/arm64"}},
		{name: "index unsigned", change: func(t *testing.T, w world) {
			w.subs = w.subs[1:]
			complete(t, w)
		}, code: sign.CodeUnsigned},
		{name: "wrong key", change: func(t *testing.T, w world) {
			w.sign(t, w.them, w.subs)
		}, code: sign.CodeWrongKey, says: []string{theirs.fingerprint[:19], "verify.keys"}},
		{name: "wrong key without a name", change: func(t *testing.T, w world) {
			w.sign(t, w.them, w.subs)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				delete(n, "dev.slipway.key")
				return b, n
			})
		}, code: sign.CodeWrongKey, says: []string{"unknown key"}},
		{name: "keys only for identities", change: complete, policy: func(p *sign.Policy) {
			p.Keys, p.Identities = nil, []sign.Identity{{Issuer: "https://a", Subject: "b"}}
			p.TrustedRoot = "testdata/trusted_root.json"
		}, code: sign.CodeWrongIdentity, says: []string{ours.fingerprint[:19]}},
		{name: "payload changed with its manifest", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				return bytes.Replace(b, []byte("acme"), []byte("evil"), 1), n
			})
		}, code: sign.CodeTampered, says: []string{"changed"}},
		{name: "payload of another image given this digest", change: func(t *testing.T, w world) {
			w.rewrite(t, sigTag(w.other[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				return bytes.ReplaceAll(b, []byte(w.other[0].Digest.DigestStr()), []byte(w.subs[0].Digest.DigestStr())), n
			})
		}, code: sign.CodeTampered},
		{name: "signature changed", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				raw, _ := base64.StdEncoding.DecodeString(n["dev.cosignproject.cosign/signature"])
				raw[len(raw)-1] ^= 1
				n["dev.cosignproject.cosign/signature"] = base64.StdEncoding.EncodeToString(raw)
				return b, n
			})
		}, code: sign.CodeTampered},
		{name: "signature is no base64", change: func(t *testing.T, w world) {
			w.sign(t, w.them, w.subs)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				n["dev.cosignproject.cosign/signature"] = "%%%"
				return b, n
			})
		}, code: sign.CodeTampered, says: []string{"malformed"}},
		{name: "signature missing", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, _ map[string]string) ([]byte, map[string]string) { return b, nil })
		}, code: sign.CodeTampered, says: []string{"has no signature"}},
		{name: "certificate malformed", change: func(t *testing.T, w world) {
			w.sign(t, w.them, w.subs)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				n["dev.sigstore.cosign/certificate"] = "\n"
				return b, n
			})
		}, code: sign.CodeTampered},
		{name: "payload is no claim", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func([]byte, map[string]string) ([]byte, map[string]string) {
				return []byte("hello"), map[string]string{"dev.cosignproject.cosign/signature": "aGVsbG8="}
			})
		}, code: sign.CodeTampered},
		{name: "registry gives another payload", change: func(t *testing.T, w world) {
			complete(t, w)
			m := must(v1.ParseManifest(bytes.NewReader(w.manifest(t, sigTag(w.subs[0])))))(t)
			path := "/blobs/" + m.Layers[0].Digest.String()
			w.guard(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, path) {
					return false
				}
				rec := httptest.NewRecorder()
				w.next.ServeHTTP(rec, r)
				_, _ = rw.Write(bytes.Replace(rec.Body.Bytes(), []byte("acme"), []byte("evil"), 1))
				return true
			})
		}, code: sign.CodeTampered, says: []string{"its digest"}},
		{name: "registry lost the payload", change: func(t *testing.T, w world) {
			complete(t, w)
			m := must(v1.ParseManifest(bytes.NewReader(w.manifest(t, sigTag(w.subs[0])))))(t)
			path := "/blobs/" + m.Layers[0].Digest.String()
			w.guard(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, path) {
					return false
				}
				rw.WriteHeader(404)
				return true
			})
		}, code: sign.CodeTampered, says: []string{"missing"}},
		{name: "registry gives another manifest", change: func(t *testing.T, w world) {
			complete(t, w)
			w.guard(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/manifests/"+w.subs[1].Digest.DigestStr()) {
					return false
				}
				r.URL.Path = strings.Replace(r.URL.Path, w.subs[1].Digest.DigestStr(), w.other[0].Digest.DigestStr(), 1)
				rec := httptest.NewRecorder()
				w.next.ServeHTTP(rec, r)
				rw.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
				_, _ = rw.Write(rec.Body.Bytes())
				return true
			})
		}, code: sign.CodeTampered, says: []string{"another manifest"}},
		{name: "signature of another image", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, sigTag(w.other[0]), sigTag(w.subs[1]), same)
		}, code: sign.CodeOtherImage, says: []string{"another image", "linux/amd64"}},
		{name: "signed attestation as a signature", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, attTag(w.subs[0]), sigTag(w.subs[0]), same)
		}, code: sign.CodeTampered},
		{name: "signed claim that is none about an image", change: func(t *testing.T, w world) {
			complete(t, w)
			sv := must(cosign.LoadPrivateKey(must(os.ReadFile(ours.private))(t), []byte(plantedPassword), nil))(t)
			w.rewrite(t, sigTag(w.subs[0]), sigTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				b = bytes.Replace(b, []byte("cosign container image signature"), []byte("a permission of another kind"), 1)
				n["dev.cosignproject.cosign/signature"] = base64.StdEncoding.EncodeToString(must(sv.SignMessage(bytes.NewReader(b)))(t))
				return b, n
			})
		}, code: sign.CodeOtherImage, says: []string{"something else"}},
		{name: "image not there", change: func(t *testing.T, w world) {
			w.subs[0].Digest = w.repo.Digest("sha256:" + strings.Repeat("0", 64))
		}, code: sign.CodeNotFound, says: []string{"not in the registry"}},
		{name: "no attestation", change: func(t *testing.T, w world) {
			w.sign(t, w.ours, w.subs)
		}, code: sign.CodeMissing, says: []string{"sbom"}},
		{name: "one type missing", change: func(t *testing.T, w world) {
			w.sign(t, w.ours, w.subs)
			w.attest(t, w.ours, anSBOM(w.subs...), aScan(t, now, sign.ScanPassed, w.subs...))
		}, code: sign.CodeMissing, says: []string{"provenance"}},
		{name: "one platform's type missing", change: func(t *testing.T, w world) {
			w.sign(t, w.ours, w.subs)
			w.attest(t, w.ours, anSBOM(w.subs...), aProvenance(t, w.subs...), aScan(t, now, sign.ScanPassed, w.subs[:2]...))
		}, code: sign.CodeMissing, says: []string{"scan", "linux/arm64"}},
		{name: "attestation by another key", change: func(t *testing.T, w world) {
			w.sign(t, w.ours, w.subs)
			w.attest(t, w.ours, anSBOM(w.subs...), aProvenance(t, w.subs...))
			w.attest(t, w.them, aScan(t, now, sign.ScanPassed, w.subs...))
		}, code: sign.CodeForeign, says: []string{"scan attestation", theirs.fingerprint[:19]}},
		{name: "attestation of another image", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, attTag(w.other[0]), attTag(w.subs[0]), same)
		}, code: sign.CodeForeign, says: []string{"another image"}},
		{name: "attestation changed", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, attTag(w.subs[0]), attTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				var e map[string]any
				_ = json.Unmarshal(b, &e)
				body, _ := base64.StdEncoding.DecodeString(e["payload"].(string))
				e["payload"] = base64.StdEncoding.EncodeToString(bytes.ReplaceAll(body, []byte("orders"), []byte("0rders")))
				out, _ := json.Marshal(e)
				return out, n
			})
		}, code: sign.CodeTampered, says: []string{"SBOM attestation"}},
		{name: "attestation is no envelope", change: func(t *testing.T, w world) {
			complete(t, w)
			w.rewrite(t, attTag(w.subs[0]), attTag(w.subs[0]), func(_ []byte, n map[string]string) ([]byte, map[string]string) { return []byte("{"), n })
		}, code: sign.CodeTampered},
		{name: "type only on the label", change: func(t *testing.T, w world) {
			w.sign(t, w.ours, w.subs)
			w.attest(t, w.ours, anSBOM(w.subs...), aProvenance(t, w.subs...))
			w.rewrite(t, attTag(w.subs[0]), attTag(w.subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				n["predicateType"] = sign.PredicateScan
				return b, n
			})
		}, code: sign.CodeMissing, says: []string{"scan"}},
		{name: "scan too old", change: func(t *testing.T, w world) {
			complete(t, w)
			w.attest(t, w.ours, aScan(t, now.Add(-25*time.Hour), sign.ScanPassed, w.subs...))
		}, code: sign.CodeScanExpired, says: []string{"25h0m0s ago", "24h"}},
		{name: "scan from the future", change: func(t *testing.T, w world) {
			complete(t, w)
			w.attest(t, w.ours, aScan(t, now.Add(time.Hour), sign.ScanPassed, w.subs...))
		}, code: sign.CodeScanExpired, says: []string{"future"}},
		{name: "scan without a time", change: func(t *testing.T, w world) {
			complete(t, w)
			w.attest(t, w.ours, sign.Statement{PredicateType: sign.PredicateScan, Predicate: json.RawMessage(`{"scanner":{}}`), For: w.subs})
		}, code: sign.CodeScanExpired, says: []string{"does not say when"}},
		{name: "scan failed", change: func(t *testing.T, w world) {
			complete(t, w)
			w.attest(t, w.ours, aScan(t, now, sign.ScanFailed, w.subs...))
		}, code: sign.CodeScanFailed, says: []string{"failed"}},
		{name: "log asked for", change: complete, policy: func(p *sign.Policy) {
			p.RequireLog, p.TrustedRoot = true, "testdata/trusted_root.json"
		}, code: sign.CodeNoLogEntry, says: []string{"transparency log"}},
	} {
		for backend, handler := range registries() {
			t.Run(tt.name+"/"+backend, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, handler(t))
				w := world{place: p, subs: p.anIndex(t), other: p.anImage(t), ours: ours.signer(t), them: theirs.signer(t)}
				p.sign(t, w.ours, w.other)
				p.attest(t, w.ours, anSBOM(w.other...), aProvenance(t, w.other...), aScan(t, now, sign.ScanPassed, w.other...))
				tt.change(t, w)
				policy := ours.trust()
				policy.Attestations, policy.ScanMaxAge = all, 24*time.Hour
				if tt.policy != nil {
					tt.policy(&policy)
				}
				r, err := p.verify(t, w.subs[0], policy)
				if tt.code == "" {
					if err != nil || !r.Passed {
						t.Fatalf("refused: %v", err)
					}
					return
				}
				wantFault(t, err, fault.Gate, tt.code, append(tt.says, "acme/orders@sha256:")...)
				if r.Passed {
					t.Error("the result says that it passed")
				}
				t.Log(err)
			})
		}
	}
}

// One good signature is enough, whatever else lies beside it.
func TestVerifyFindsTheGoodOne(t *testing.T) {
	t.Parallel()
	p := newPlace(t, memory(t))
	subs := p.anImage(t)
	ours, theirs := aPair(t, "ours"), aPair(t, "theirs")
	p.sign(t, theirs.signer(t), subs)
	p.rewrite(t, sigTag(subs[0]), sigTag(subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
		n["dev.cosignproject.cosign/signature"] = "%%%"
		return b, n
	})
	p.sign(t, ours.signer(t), subs)
	if _, err := p.verify(t, subs[0], ours.trust()); err != nil {
		t.Error(err)
	}
}

// Two signers at the same time both get their signature in.
func TestConcurrentSigners(t *testing.T) {
	for backend, handler := range registries() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, handler(t))
			pairs := []pair{aPair(t, "a"), aPair(t, "b"), aPair(t, "c")}
			var signers []sign.Signer
			for _, k := range pairs {
				signers = append(signers, k.signer(t))
			}
			for range 10 {
				subs := p.anImage(t)
				var wg sync.WaitGroup
				errs := make([]error, 2*len(signers))
				for i, s := range signers {
					wg.Go(func() {
						_, errs[2*i] = sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Remote: p.remote(), Backoff: quick})
					})
					wg.Go(func() {
						_, errs[2*i+1] = sigstore.Attest(t.Context(), sign.AttestOptions{Statements: []sign.Statement{anSBOM(subs...)}, Signer: s, Remote: p.remote(), Backoff: quick})
					})
				}
				wg.Wait()
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				for _, k := range pairs {
					policy := k.trust()
					policy.Attestations = []string{"sbom"}
					if _, err := p.verify(t, subs[0], policy); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// A signer that another one overtakes between reading and writing loses
// nothing of the other's; one that is overwritten right after writing does it
// again.
func TestOvertaken(t *testing.T) {
	a, b := aPair(t, "a"), aPair(t, "b")
	for _, at := range []string{"before", "after"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, memory(t))
			subs := p.anImage(t)
			var met atomic.Bool
			p.guard(func(w http.ResponseWriter, r *http.Request) bool {
				write := r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".sig")
				upload := r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/uploads/")
				now := at == "before" && upload || at == "after" && write
				if !now || !met.CompareAndSwap(false, true) {
					return false
				}
				if at == "before" {
					p.sign(t, b.signer(t), subs) //nolint:contextcheck // it has the test's
					return false
				}
				p.next.ServeHTTP(w, r)
				// As if another, who saw no signature, had written last.
				gone, _ := http.NewRequestWithContext(r.Context(), http.MethodDelete, r.URL.String(), nil)
				p.next.ServeHTTP(httptest.NewRecorder(), gone)
				return true
			})
			p.sign(t, a.signer(t), subs)
			want := []pair{a, b}
			if at == "after" {
				want = want[:1]
			}
			for _, k := range want {
				if _, err := p.verify(t, subs[0], k.trust()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Where the registry gives no answer there is one clear error and no pass.
func TestRegistryFaults(t *testing.T) {
	keys := aPair(t, "cosign")
	fail := func(status int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			return true
		}
	}
	for _, tt := range []struct {
		name string
		fail func(http.ResponseWriter, *http.Request) bool
		code string
	}{
		{"500", fail(500), "registry.unavailable"},
		{"503", fail(503), "registry.unavailable"},
		{"429", fail(429), "registry.rate-limited"},
		{"401", fail(401), "registry.unauthorized"},
		{"403", fail(403), "registry.forbidden"},
		{"418", fail(418), "registry.refused"},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "5000")
			w.WriteHeader(200)
			_, _ = io.WriteString(w, `{"schemaVersion":`)
			panic(http.ErrAbortHandler)
		}, "registry.unreachable"},
		{"reset", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }, "registry.unreachable"},
	} {
		for _, at := range []string{"image", ".sig", ".att", "blob"} {
			t.Run(tt.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, memory(t))
				subs := p.anImage(t)
				s := keys.signer(t)
				p.sign(t, s, subs)
				p.attest(t, s, anSBOM(subs...))
				policy := keys.trust()
				policy.Attestations = []string{"sbom"}
				p.guard(func(w http.ResponseWriter, r *http.Request) bool {
					is := strings.HasSuffix(r.URL.Path, at) || at == "image" && strings.Contains(r.URL.Path, "/manifests/sha256:") || at == "blob" && strings.Contains(r.URL.Path, "/blobs/")
					return is && tt.fail(w, r)
				})
				r, err := p.verify(t, subs[0], policy)
				wantFault(t, err, fault.Failed, tt.code, p.Listener.Addr().String())
				if r.Passed {
					t.Error("passed without an answer")
				}
				_, err = sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Remote: p.remote(), Backoff: quick})
				if at != ".att" {
					wantFault(t, err, fault.Failed, tt.code, p.Listener.Addr().String())
				}
			})
		}
	}
}

// A fault that passes is not noticed.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	keys := aPair(t, "cosign")
	for backend, handler := range registries() {
		p := newPlace(t, handler(t))
		subs := p.anImage(t)
		seen := map[string]bool{}
		var mu sync.Mutex
		p.guard(func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if !strings.Contains(r.URL.Path, ".sig") && !strings.Contains(r.URL.Path, "/uploads/") {
				return false
			}
			key := r.Method + strings.Split(r.URL.Path, "/uploads/")[0]
			if seen[key] {
				return false
			}
			seen[key] = true
			w.WriteHeader(502)
			return true
		})
		// One write takes several requests, each of which fails once.
		patient := remote.Backoff{Duration: time.Millisecond, Steps: 10}
		must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: keys.signer(t), Remote: p.remote(), Backoff: patient}))(t)
		if _, err := p.verify(t, subs[0], keys.trust()); err != nil {
			t.Errorf("%s: %v", backend, err)
		}
		if len(seen) < 3 {
			t.Errorf("%s: the fault was met at %v only", backend, seen)
		}
	}
}

// The end of a run ends signing at once and is no failure of its own.
func TestCancelled(t *testing.T) {
	t.Parallel()
	p := newPlace(t, memory(t))
	subs := p.anImage(t)
	keys := aPair(t, "cosign")
	s := keys.signer(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.guard(func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	})
	_, err := sigstore.Sign(ctx, sign.Options{Subjects: subs, Signer: s, Remote: p.remote()})
	if !errors.Is(err, context.Canceled) || fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("signing ends with %v", err)
	}
	_, err = sigstore.Verify(ctx, sign.VerifyOptions{Reference: subs[0].Digest, Policy: keys.trust(), Remote: p.remote()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("verifying ends with %v", err)
	}
}

// What is not there is not signed.
func TestSignMissingImage(t *testing.T) {
	t.Parallel()
	p := newPlace(t, memory(t))
	s := aPair(t, "cosign").signer(t)
	gone := []sign.Subject{{Digest: p.repo.Digest("sha256:" + strings.Repeat("0", 64))}}
	_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: gone, Signer: s, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "sign.image-not-found")
	_, err = sigstore.Attest(t.Context(), sign.AttestOptions{Statements: []sign.Statement{anSBOM(gone...)}, Signer: s, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "sign.image-not-found")
	if p.written() != 0 {
		t.Error("something was written")
	}
}

// Bad input is found before anything is asked of the registry.
func TestBadInput(t *testing.T) {
	p := newPlace(t, memory(t))
	d := p.repo.Digest("sha256:" + strings.Repeat("0", 64))
	keys := aPair(t, "cosign")
	good := keys.trust()
	s := keys.signer(t)
	verify := func(o sign.VerifyOptions) func() error {
		return func() error {
			o.Remote = p.remote()
			_, err := sigstore.Verify(t.Context(), o)
			return err
		}
	}
	policy := func(p sign.Policy) func() error { return verify(sign.VerifyOptions{Reference: d, Policy: p}) }
	attest := func(st ...sign.Statement) func() error {
		return func() error {
			_, err := sigstore.Attest(t.Context(), sign.AttestOptions{Statements: st, Signer: s, Remote: p.remote()})
			return err
		}
	}
	id := func(i sign.Identity) func() error { return policy(sign.Policy{Identities: []sign.Identity{i}}) }
	for _, tt := range []struct {
		name, code string
		do         func() error
	}{
		{"no digest", "reference.no-digest", verify(sign.VerifyOptions{Reference: name.Digest{}, Policy: good})},
		{"nobody trusted", "verify.no-policy", policy(sign.Policy{})},
		{"unknown type", "verify.attestation-type", policy(sign.Policy{Keys: good.Keys, Attestations: []string{"sbmo"}})},
		{"no issuer", "verify.identity", id(sign.Identity{Subject: "a"})},
		{"no subject", "verify.identity", id(sign.Identity{Issuer: "a"})},
		{"both", "verify.identity", id(sign.Identity{Issuer: "a", IssuerPattern: "b", Subject: "c"})},
		{"bad pattern", "verify.identity", id(sign.Identity{Issuer: "a", SubjectPattern: "("})},
		{"no root file", "root.unreadable", policy(sign.Policy{Identities: []sign.Identity{{Issuer: "a", Subject: "b"}}, TrustedRoot: "testdata/none.json"})},
		{"root is no root", "root.malformed", policy(sign.Policy{Identities: []sign.Identity{{Issuer: "a", Subject: "b"}}, TrustedRoot: keys.public})},
		{"empty root", "root.incomplete", policy(sign.Policy{Identities: []sign.Identity{{Issuer: "a", Subject: "b"}}, TrustedRoot: "testdata/empty_root.json"})},
		{"no signer", "key.missing", func() error {
			_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: []sign.Subject{{Digest: d}}})
			return err
		}},
		{"no subject to sign", "sign.nothing", func() error {
			_, err := sigstore.Sign(t.Context(), sign.Options{Signer: s})
			return err
		}},
		{"no statement", "attest.nothing", attest()},
		{"type twice", "attest.twice", attest(anSBOM(sign.Subject{Digest: d}), anSBOM(sign.Subject{Digest: d}))},
		{"no type", "attest.type", attest(sign.Statement{Predicate: json.RawMessage(`{}`), For: []sign.Subject{{Digest: d}}})},
		{"no JSON", "attest.predicate", attest(sign.Statement{PredicateType: "a", Predicate: json.RawMessage(`{`), For: []sign.Subject{{Digest: d}}})},
		{"no object", "attest.predicate", attest(sign.Statement{PredicateType: "a", Predicate: json.RawMessage(`null`), For: []sign.Subject{{Digest: d}}})},
		{"rekor", "rekor.url", func() error {
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
	} {
		t.Run(tt.name, func(t *testing.T) { wantFault(t, tt.do(), fault.Input, tt.code) })
	}
	if p.reqs != 0 {
		t.Errorf("the registry was asked %d times", p.reqs)
	}
}

// The same build gives the same provenance.
func TestProvenanceIsDeterministic(t *testing.T) {
	t.Parallel()
	a, b := aProvenance(t), aProvenance(t)
	if !bytes.Equal(a.Predicate, b.Predicate) {
		t.Errorf("%s\n%s", a.Predicate, b.Predicate)
	}
	want := `{"buildDefinition":{"buildType":"https://slipway.dev/build/v1","externalParameters":{"platforms":["linux/amd64"],"source":"git+https://github.com/acme/orders@refs/heads/main"},"resolvedDependencies":[{"uri":"git+https://github.com/acme/orders@refs/heads/main","digest":{"gitCommit":"` +
		strings.Repeat("ab", 20) + `"}},{"name":"go","digest":{"sha256":"` + strings.Repeat("0", 64) + `"}}]},"runDetails":{"builder":{"id":"https://github.com/acme/orders/.github/workflows/ship.yml@refs/heads/main"}}}`
	if string(a.Predicate) != want {
		t.Errorf("got  %s\nwant %s", a.Predicate, want)
	}
}

package sigstore_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// direct is a transport that calls a handler without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.ServeHTTP(rec, r)
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// Any content that is not a valid signature or attestation is rejected without a
// panic.
func FuzzAttached(f *testing.F) {
	reg := direct{memory(nil)}
	opts := []remote.Option{remote.WithTransport(reg)}
	repo, err := name.NewRepository("127.0.0.1:1/acme/orders", name.Insecure)
	if err != nil {
		f.Fatal(err)
	}
	img, err := random.Image(10, 1)
	if err != nil {
		f.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		f.Fatal(err)
	}
	d := repo.Digest(h.String())
	if err := remote.Write(d, img, opts...); err != nil {
		f.Fatal(err)
	}
	const cert = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
	f.Add([]byte(`{"critical":{"identity":{"docker-reference":"a"},"image":{"docker-manifest-digest":"`+h.String()+`"},"type":"cosign container image signature"},"optional":null}`), "aGVsbG8=", "", "", "")
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"aGVsbG8="}]}`), "", "", "", "")
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"eyJwcmVkaWNhdGVUeXBlIjoiaHR0cHM6Ly9zcGR4LmRldi9Eb2N1bWVudCJ9","signatures":[]}`), "", cert, cert, "")
	for _, b := range []string{`{}`, `{"Payload":{"body":7}}`, `{"Payload":{"body":"e30="}}`, `{"SignedEntryTimestamp":"","Payload":{"body":"eyJhcGlWZXJzaW9uIjoiMC4wLjEiLCJraW5kIjoiaGFzaGVkcmVrb3JkIiwic3BlYyI6e319"}}`} {
		f.Add([]byte("x"), "aGVsbG8=", "", "", b)
	}
	for _, c := range []string{"\n", " ", "-----BEGIN", "-----BEGIN X-----\n-----END X-----\n"} {
		f.Add([]byte("x"), "aGVsbG8=", c, c, "")
	}
	policies := []sign.Policy{
		{Keys: []sign.Key{{Ref: "testdata/cosign.pub"}}, Attestations: []string{"sbom", "scan"}, ScanMaxAge: time.Hour},
		{Keys: []sign.Key{{Ref: "testdata/cosign.pub"}}, Identities: []sign.Identity{{IssuerPattern: ".*", SubjectPattern: ".*"}}, TrustedRoot: "testdata/trusted_root.json", RequireLog: true, Attestations: []string{"sbom"}},
	}
	f.Fuzz(func(t *testing.T, payload []byte, sig, cert, chain, bundle string) {
		annotations := map[string]string{"dev.cosignproject.cosign/signature": sig}
		for k, v := range map[string]string{"certificate": cert, "chain": chain, "bundle": bundle} {
			if v != "" {
				annotations["dev.sigstore.cosign/"+k] = v
			}
		}
		out := must(mutate.Append(empty.Image, mutate.Addendum{
			Layer: static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"), Annotations: annotations,
		}))(t)
		out = mutate.MediaType(out, types.OCIManifestSchema1)
		for _, suffix := range []string{".sig", ".att"} {
			if err := remote.Write(repo.Tag(strings.Replace(h.String(), ":", "-", 1)+suffix), out, opts...); err != nil {
				t.Skip(err)
			}
		}
		for _, p := range policies {
			r, err := sigstore.Verify(t.Context(), sign.VerifyOptions{Reference: d, Policy: p, Remote: opts, Backoff: quick, Now: now})
			var e *fault.Error
			if !errors.As(err, &e) || e.Kind != fault.Gate || r.Passed {
				t.Fatalf("%T %v: %+v", err, err, r)
			}
			if strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
				t.Errorf("the error contains control characters of the registry's content: %q", err)
			}
			_ = must(json.Marshal(r))(t)
		}
	})
}

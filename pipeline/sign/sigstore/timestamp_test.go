package sigstore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// authority serves timestamps (RFC 3161) with a new key, whose certificate it returns.
func authority(t *testing.T) (*httptest.Server, *x509.Certificate) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	usage := must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))(t) // time stamping, RFC 3161, section 2.3
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "timestamps"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)))(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		request, err := timestamp.ParseRequest(text)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		stamp := timestamp.Timestamp{
			HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Time: time.Now(), Nonce: request.Nonce,
			Policy: asn1.ObjectIdentifier{1, 2, 3, 4, 1}, Accuracy: time.Second, AddTSACertificate: true,
		}
		response, err := stamp.CreateResponseWithOpts(cert, key, crypto.SHA256)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(response)
	}))
	t.Cleanup(server.Close)
	return server, cert
}

// TestTimestamps adds the timestamp of an authority to a bundle. If the authority fails,
// nothing is written.
func TestTimestamps(t *testing.T) {
	keys := keyPair(t, "ours")
	p := newRepo(t, memory(t))
	stamped := func(url string) sign.Signer {
		return must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: keys.key(), Timestamp: url}))(t)
	}
	subs := p.pushImage(t)
	server, _ := authority(t)
	p.signAs(t, stamped(server.URL), subs, sign.FormatBundle)
	text, _ := p.bundleOf(t, subs[0])
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Timestamps(); err != nil || len(all) != 1 {
		t.Errorf("the bundle has %d timestamps, want 1: %v", len(all), err)
	}
	if _, err := p.verify(t, subs[0], keys.trust()); err != nil {
		t.Error(err)
	}

	broken := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(broken.Close)
	before := p.written()
	other := p.pushImage(t)
	_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: other, Signer: stamped(broken.URL), Formats: []sign.Format{sign.FormatBundle}, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "timestamp.refused", "sign.timestamp")
	if p.written() != before+1 { // the image itself
		t.Error("something was written although there is no timestamp")
	}
}

package sigstore

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/slipway-ci/slipway/pipeline/sign"
)

// mostSpecific returns the rejection that explains most. The first may be nil.
func mostSpecific(a, b *rejection) *rejection {
	order := []string{sign.CodeTampered, sign.CodeOtherImage, sign.CodeForeign, sign.CodeNoLogEntry, sign.CodeWrongIdentity, sign.CodeUntrusted, sign.CodeWrongKey, sign.CodeUnsigned}
	if a == nil || slices.Index(order, b.code) < slices.Index(order, a.code) {
		return b
	}
	return a
}

// withLogEntry adds the log entry of a candidate to its signature.
func withLogEntry(s sign.Signature, c candidate) sign.Signature {
	if b, err := c.Bundle(); err == nil && b != nil {
		s.LogIndex, s.Logged = &b.Payload.LogIndex, time.Unix(b.Payload.IntegratedTime, 0).UTC()
	}
	return s
}

// explainCertificate returns why a signature with a certificate was rejected with
// the error cause.
func (p *policy) explainCertificate(ctx context.Context, c candidate, k kind, cert *x509.Certificate, cause error) *rejection {
	var signedBy sign.Signature
	signedBy.Identity, signedBy.Issuer = identityOf(cert)
	v, err := signature.LoadVerifier(cert.PublicKey, crypto.SHA256)
	if err != nil || !matches(ctx, v, c, k) {
		return reject(sign.CodeTampered, "has a damaged signature: it is not by the key in its own certificate")
	}
	if len(p.identities) == 0 {
		return reject(sign.CodeWrongKey, "has no signature by a trusted key; it is signed keyless by %s", signedBy)
	}
	if _, err := verify.VerifyLeafCertificate(cert.NotBefore, cert, p.root); err != nil {
		return reject(sign.CodeUntrusted, "has a signature with a certificate of an unknown authority, issued to %s", signedBy)
	}
	if cosign.CheckCertificatePolicy(cert, &cosign.CheckOpts{Identities: p.identities}) != nil {
		return reject(sign.CodeWrongIdentity, "has no signature by a trusted identity; it is signed by %s", signedBy)
	}
	if b, err := c.Bundle(); err == nil && b == nil {
		return reject(sign.CodeNoLogEntry, "has a signature by %s without an entry in a transparency log", signedBy)
	}
	return reject(sign.CodeTampered, "has a signature by %s whose proof cannot be verified: %v", signedBy, oneLine(errors.Join(cause)))
}

// explainKey returns why a signature without a certificate was rejected. A
// signature does not contain its key, so a damaged one looks like one by another
// key. Only if the signer left the annotation keyHint can they be distinguished.
func (p *policy) explainKey(ctx context.Context, c candidate, k kind) *rejection {
	for _, key := range p.keys {
		for _, v := range key.verifiers {
			if matches(ctx, v, c, k) { // only the log entry can be the reason
				return reject(sign.CodeNoLogEntry, "has a signature by key %s without a valid entry in the transparency log", sign.Short(key.fingerprint))
			}
		}
	}
	hint := annotation(c.attached, keyHint)
	if slices.ContainsFunc(p.keys, func(t trustedKey) bool { return t.fingerprint == hint }) {
		return reject(sign.CodeTampered, "has a damaged signature: its annotation names key %s, but it is not by that key, so the signature or the signed content was changed", sign.Short(hint))
	}
	if !wellFormed(c, k) {
		return reject(sign.CodeTampered, "has a damaged signature: it is malformed")
	}
	signedBy := "by an unknown key"
	if regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(hint) {
		signedBy = "by key " + sign.Short(hint)
	}
	if len(p.keys) == 0 {
		return reject(sign.CodeWrongIdentity, "has no signature by a trusted identity; it is signed %s", signedBy)
	}
	return reject(sign.CodeWrongKey, "has no signature by a trusted key; it is signed %s", signedBy)
}

// wellFormed reports whether a candidate has the form of a signature or an
// attestation.
func wellFormed(c candidate, k kind) bool {
	if k == attestations {
		e := decodeEnvelope(c.payload)
		return e != nil && len(e.Signatures) > 0 && json.Valid(e.body)
	}
	text := annotation(c.attached, static.SignatureAnnotationKey)
	raw, err := base64.StdEncoding.DecodeString(text)
	var claim payload.SimpleContainerImage
	return err == nil && len(raw) > 0 && json.Unmarshal(c.payload, &claim) == nil && claim.Critical.Image.DockerManifestDigest != ""
}

// matches reports whether the signature of a candidate is by the key of v. It checks
// nothing else.
func matches(ctx context.Context, v signature.Verifier, c candidate, k kind) bool {
	if k == attestations {
		e := decodeEnvelope(c.payload)
		if e == nil {
			return false
		}
		pae := string(ssldsse.PAE(e.PayloadType, e.body))
		return slices.ContainsFunc(e.Signatures, func(s ssldsse.Signature) bool {
			raw, err := base64.StdEncoding.DecodeString(s.Sig)
			return err == nil && v.VerifySignature(strings.NewReader(string(raw)), strings.NewReader(pae), options.WithContext(ctx)) == nil
		})
	}
	text, err := c.Base64Signature()
	if err != nil {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	return err == nil && v.VerifySignature(strings.NewReader(string(raw)), strings.NewReader(string(c.payload)), options.WithContext(ctx)) == nil
}

// identityOf returns the subject of a certificate, and the identity provider that
// authenticated it.
func identityOf(cert *x509.Certificate) (identity, issuer string) {
	if names := cryptoutils.GetSubjectAlternateNames(cert); len(names) > 0 {
		identity = names[0]
	}
	ce := cosign.CertExtensions{Cert: cert}
	return identity, ce.GetIssuer()
}

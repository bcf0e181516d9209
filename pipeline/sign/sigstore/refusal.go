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

// telling picks the finding that says most about what happened.
func telling(a, b *finding) *finding {
	order := []string{sign.CodeTampered, sign.CodeOtherImage, sign.CodeForeign, sign.CodeNoLogEntry, sign.CodeWrongIdentity, sign.CodeUntrusted, sign.CodeWrongKey, sign.CodeUnsigned}
	if a == nil || slices.Index(order, b.code) < slices.Index(order, a.code) {
		return b
	}
	return a
}

func logged(s sign.Signature, c candidate) sign.Signature {
	if b, err := c.Bundle(); err == nil && b != nil {
		s.LogIndex, s.Logged = &b.Payload.LogIndex, time.Unix(b.Payload.IntegratedTime, 0).UTC()
	}
	return s
}

// explainCertificate says why a signature with a certificate is not believed.
func (p *policy) explainCertificate(ctx context.Context, c candidate, k kind, cert *x509.Certificate, why error) *finding {
	var who sign.Signature
	who.Identity, who.Issuer = identityOf(cert)
	v, err := signature.LoadVerifier(cert.PublicKey, crypto.SHA256)
	if err != nil || !holds(ctx, v, c, k) {
		return found(sign.CodeTampered, "carries a damaged signature: it is not by the key in its own certificate")
	}
	if len(p.identities) == 0 {
		return found(sign.CodeWrongKey, "carries no signature by a trusted key; it is signed keyless by %s", who)
	}
	if _, err := verify.VerifyLeafCertificate(cert.NotBefore, cert, p.root); err != nil {
		return found(sign.CodeUntrusted, "carries a signature with a certificate of an unknown authority, made out to %s", who)
	}
	if cosign.CheckCertificatePolicy(cert, &cosign.CheckOpts{Identities: p.identities}) != nil {
		return found(sign.CodeWrongIdentity, "carries no signature by a trusted identity; it is signed by %s", who)
	}
	if b, err := c.Bundle(); err == nil && b == nil {
		return found(sign.CodeNoLogEntry, "carries a signature by %s without an entry in a transparency log", who)
	}
	return found(sign.CodeTampered, "carries a signature by %s whose proof does not verify: %v", who, oneLine(errors.Join(why)))
}

// explainKey says why a signature by a bare key is not believed. Whose key it
// was cannot be told from a signature; where the signer left its name, damage
// and another key are told apart.
func (p *policy) explainKey(ctx context.Context, c candidate, k kind) *finding {
	for _, key := range p.keys {
		for _, v := range key.verifiers {
			if holds(ctx, v, c, k) { // so it is the log
				return found(sign.CodeNoLogEntry, "carries a signature by key %s without a valid entry in the transparency log", sign.Short(key.name))
			}
		}
	}
	hint := annotation(c.attached, keyHint)
	if slices.ContainsFunc(p.keys, func(t trustedKey) bool { return t.name == hint }) {
		return found(sign.CodeTampered, "carries a damaged signature: it says that it is by key %s but is not, so it or what it signs was changed", sign.Short(hint))
	}
	if !wellFormed(c, k) {
		return found(sign.CodeTampered, "carries a damaged signature: it is malformed")
	}
	whose := "by an unknown key"
	if regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(hint) {
		whose = "by key " + sign.Short(hint)
	}
	if len(p.keys) == 0 {
		return found(sign.CodeWrongIdentity, "carries no signature by a trusted identity; it is signed %s", whose)
	}
	return found(sign.CodeWrongKey, "carries no signature by a trusted key; it is signed %s", whose)
}

// wellFormed tells a signature by someone else from bytes that are none.
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

// holds tells whether a key made this signature, and nothing else.
func holds(ctx context.Context, v signature.Verifier, c candidate, k kind) bool {
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

// identityOf reads whom a certificate is made out to, and by which provider.
func identityOf(cert *x509.Certificate) (identity, issuer string) {
	if names := cryptoutils.GetSubjectAlternateNames(cert); len(names) > 0 {
		identity = names[0]
	}
	ce := cosign.CertExtensions{Cert: cert}
	return identity, ce.GetIssuer()
}

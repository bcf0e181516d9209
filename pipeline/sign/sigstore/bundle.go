package sigstore

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// signatureType is the predicate type of a bundle that is the signature of an image
// (https://github.com/sigstore/cosign/blob/v2.6.5/specs/BUNDLE_SPEC.md).
const signatureType = types.CosignSignPredicateType

// bundleMediaType is the beginning of the media types of Sigstore bundles.
const bundleMediaType = "application/vnd.dev.sigstore.bundle"

// maxReferrers is the limit for the referrers of an image that are read.
const maxReferrers = 200

// bundles returns the Sigstore bundles that refer to an image, without verifying them:
// those that are signatures, or those that are attestations
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers).
// Referrers of other kinds are ignored.
func (s *store) bundles(ctx context.Context, k kind, d name.Digest) ([]candidate, error) {
	var all []candidate
	err := s.retry(ctx, func() (err error) {
		all, err = s.bundlesOnce(k, d)
		return err
	})
	if large, ok := errors.AsType[*fault.Error](err); ok {
		return nil, large
	}
	if err != nil {
		return nil, registryError(ctx, "reading the bundles of", d, err)
	}
	return all, nil
}

func (s *store) bundlesOnce(k kind, d name.Digest) ([]candidate, error) {
	index, err := remote.Referrers(d, s.remote...)
	if isMissing(err) { // the registry has neither the API nor the tag
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var all []candidate
	for _, m := range list.Manifests {
		if !strings.HasPrefix(m.ArtifactType, bundleMediaType) {
			continue
		}
		if of := m.Annotations["dev.sigstore.bundle.predicateType"]; of != "" && (of == signatureType) != (k == signatures) {
			continue
		}
		if len(all) == maxReferrers {
			return nil, fault.Failedf("verify.too-large", "%s has more than %d bundles", d.Name(), maxReferrers)
		}
		c, ok, err := s.bundle(k, d, m.Digest)
		if err != nil {
			return nil, err
		}
		if ok && (c.predicateType == signatureType) == (k == signatures) {
			all = append(all, c)
		}
	}
	return all, nil
}

// bundle reads one bundle. It reports false if the referrer is not a bundle with an
// attestation.
func (s *store) bundle(k kind, d name.Digest, at v1.Hash) (candidate, bool, error) {
	img, err := remote.Image(d.Context().Digest(at.String()), s.remote...)
	if isMissing(err) || isDigestMismatch(err) {
		return candidate{}, false, nil
	}
	if err != nil {
		return candidate{}, false, err
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		return candidate{}, false, err
	}
	size, err := layers[0].Size()
	if err != nil {
		return candidate{}, false, err
	}
	if size < 0 || size > maxTotal || s.budget != nil && s.budget.Add(-size) < 0 {
		return candidate{}, false, tooLarge(k, d)
	}
	content, err := layers[0].Compressed()
	if isMissing(err) {
		return candidate{}, false, nil
	}
	if err != nil {
		return candidate{}, false, err
	}
	defer content.Close()
	text, err := io.ReadAll(content) // the library returns no more than the size in the manifest
	if isDigestMismatch(err) {
		return candidate{}, false, nil
	}
	if err != nil {
		return candidate{}, false, err
	}
	c, ok := parseBundle(text)
	return c, ok, nil
}

// parseBundle returns a bundle with a DSSE envelope as a candidate.
func parseBundle(text []byte) (c candidate, ok bool) {
	defer func() {
		if recover() != nil { // the libraries are given whatever the registry has
			c, ok = candidate{}, false
		}
	}()
	b := &bundle.Bundle{}
	if b.UnmarshalJSON(text) != nil || !b.MinVersion("v0.3") {
		return candidate{}, false
	}
	content, ok := b.Content.(*protobundle.Bundle_DsseEnvelope)
	if !ok || content.DsseEnvelope == nil {
		return candidate{}, false
	}
	e := ssldsse.Envelope{PayloadType: content.DsseEnvelope.GetPayloadType(), Payload: base64.StdEncoding.EncodeToString(content.DsseEnvelope.GetPayload())}
	for _, sig := range content.DsseEnvelope.GetSignatures() {
		e.Signatures = append(e.Signatures, ssldsse.Signature{KeyID: sig.GetKeyid(), Sig: base64.StdEncoding.EncodeToString(sig.GetSig())})
	}
	envelope, err := json.Marshal(e)
	if err != nil {
		return candidate{}, false
	}
	c = candidate{payload: envelope, bundle: b}
	var st statement
	if json.Unmarshal(content.DsseEnvelope.GetPayload(), &st) == nil {
		c.predicateType = st.PredicateType
	}
	opts := []static.Option{static.WithAnnotations(map[string]string{"predicateType": c.predicateType})}
	if cert := c.bundleCertificate(); cert != nil {
		text, err := cryptoutils.MarshalCertificateToPEM(cert)
		if err != nil {
			return candidate{}, false
		}
		opts = append(opts, static.WithCertChain(text, nil))
	}
	c.attached, err = static.NewAttestation(envelope, opts...)
	return c, err == nil
}

// bundleCertificate returns the certificate of a bundle, or nil if it is signed with a key.
func (c candidate) bundleCertificate() *x509.Certificate {
	content, err := c.bundle.VerificationContent()
	if err != nil {
		return nil
	}
	return content.Certificate()
}

// checkBundle verifies that a bundle is signed by a key or identity that the policy
// trusts, and that it is about the image with the digest d.
func (p *policy) checkBundle(ctx context.Context, c candidate, d name.Digest) (sign.Signature, *rejection) {
	algorithm, text, _ := strings.Cut(d.DigestStr(), ":")
	sum, err := hex.DecodeString(text)
	if err != nil {
		return sign.Signature{}, reject(sign.CodeTampered, "has a malformed digest")
	}
	about := verify.WithArtifactDigest(algorithm, sum)
	var cause error
	for _, key := range p.keys {
		for _, v := range key.verifiers {
			co := &cosign.CheckOpts{SigVerifier: v, IgnoreTlog: !p.requireLog, Offline: true, NewBundleFormat: true, TrustedMaterial: &root.BaseTrustedMaterial{}}
			if p.requireLog {
				co.TrustedMaterial = p.root
			}
			if _, cause = cosign.VerifyNewBundle(ctx, co, about, c.bundle); cause == nil {
				return withBundleEntry(sign.Signature{Key: key.fingerprint}, c), nil
			}
		}
	}
	cert := c.bundleCertificate()
	if cert == nil {
		if other := aboutOther(c, d); other != nil {
			return sign.Signature{}, other
		}
		return sign.Signature{}, p.explainKey(ctx, c, attestations)
	}
	for _, id := range p.identities {
		for _, stamped := range []bool{false, true} { // the time is that of the log, or of a timestamp authority
			co := &cosign.CheckOpts{Identities: []cosign.Identity{id}, TrustedMaterial: p.root, IgnoreSCT: p.ignoreSCT, Offline: true, NewBundleFormat: true, UseSignedTimestamps: stamped}
			if _, cause = cosign.VerifyNewBundle(ctx, co, about, c.bundle); cause == nil {
				var signedBy sign.Signature
				signedBy.Identity, signedBy.Issuer = identityOf(cert)
				return withBundleEntry(signedBy, c), nil
			}
		}
	}
	if other := aboutOther(c, d); other != nil {
		return sign.Signature{}, other
	}
	return sign.Signature{}, p.explainCertificate(ctx, c, attestations, cert, cause)
}

// aboutOther returns the rejection of a bundle that is about another image, or nil.
func aboutOther(c candidate, d name.Digest) *rejection {
	var st statement
	if env := decodeEnvelope(c.payload); env != nil && json.Unmarshal(env.body, &st) == nil && !st.hasSubject(d) {
		return reject(sign.CodeOtherImage, "has the bundle of another image")
	}
	return nil
}

// withBundleEntry adds the first log entry of a bundle to its signature.
func withBundleEntry(s sign.Signature, c candidate) sign.Signature {
	entries, err := c.bundle.TlogEntries()
	if err != nil || len(entries) == 0 {
		return s
	}
	index := entries[0].LogIndex()
	s.LogIndex = &index
	if at := entries[0].IntegratedTime(); !at.IsZero() && at.Unix() > 0 {
		s.Logged = at.UTC()
	}
	return s
}

// newBundle signs a statement and returns it as a Sigstore bundle.
func (s *signer) newBundle(ctx context.Context, d name.Digest, statement []byte) ([]byte, error) {
	envelope, err := dsse.WrapSigner(s.key, intotoType).SignMessage(bytes.NewReader(statement), options.WithContext(ctx))
	if err != nil {
		return nil, signError(ctx, d, err)
	}
	pub, err := s.key.PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, signError(ctx, d, err)
	}
	signedBy := s.cert
	if signedBy == nil {
		if signedBy, err = cryptoutils.MarshalPublicKeyToPEM(pub); err != nil {
			return nil, signError(ctx, d, err)
		}
	}
	var entry *models.LogEntryAnon
	if s.log != nil {
		if entry, err = cosign.TLogUploadDSSEEnvelope(ctx, s.log, envelope, signedBy); err != nil {
			return nil, s.logError(ctx, d, err)
		}
	}
	stamp, err := s.timestamp(ctx, d, envelope)
	if err != nil {
		return nil, err
	}
	text, err := cosignbundle.MakeNewBundle(pub, entry, statement, envelope, signedBy, stamp)
	if err != nil {
		return nil, fmt.Errorf("creating the bundle of %s: %w", d.Name(), err)
	}
	if s.tiles != nil {
		return s.withTiles(ctx, d, text, signedBy)
	}
	return text, nil
}

// withTiles adds a bundle to a log of version 2, and returns it with the entry. signedBy is
// the public key or the certificate in PEM.
func (s *signer) withTiles(ctx context.Context, d name.Digest, text, signedBy []byte) ([]byte, error) {
	var b protobundle.Bundle
	err := protojson.Unmarshal(text, &b)
	if err == nil {
		if err = s.tiles.GetTransparencyLogEntry(ctx, signedBy, &b); err != nil {
			return nil, s.logError(ctx, d, err)
		}
		text, err = protojson.Marshal(&b)
	}
	if err != nil {
		return nil, fmt.Errorf("creating the bundle of %s: %w", d.Name(), err)
	}
	return text, nil
}

// timestamp returns a timestamp of the signature in an envelope, or nil if the signer has no
// timestamp authority.
func (s *signer) timestamp(ctx context.Context, d name.Digest, envelope []byte) ([]byte, error) {
	if s.authority == nil {
		return nil, nil
	}
	sig, err := cosign.GetDSSESigBytes(envelope)
	if err != nil {
		return nil, fmt.Errorf("reading the new signature of %s: %w", d.Name(), err)
	}
	stamp, err := s.authority.GetTimestamp(ctx, sig)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fault.Failedf("timestamp.refused", "getting a timestamp for the signature of %s: %w", d.Name(), oneLine(err)).
			WithFix("check sign.timestamp, and that the timestamp authority can be reached; nothing was written to the registry")
	}
	return stamp, nil
}

// attachBundle signs a statement and attaches it to the image as a bundle, unless the image
// has a bundle of this signer with the same statement. It reports whether it has attached
// one, and the index of its log entry.
func (s *signer) attachBundle(ctx context.Context, st *store, k kind, d name.Digest, w sign.Statement) (attached bool, entry *int64, err error) {
	current, err := st.bundles(ctx, k, d)
	if err != nil {
		return false, nil, err
	}
	for _, c := range current {
		a, rejected := s.policy.attestation(ctx, c, d)
		if rejected == nil && a.PredicateType == w.PredicateType && equalJSON(a.Predicate, w.Predicate) && (!s.logs() || a.LogIndex != nil) {
			return false, a.LogIndex, nil
		}
	}
	text, err := newStatement(d, w)
	if err != nil {
		return false, nil, err
	}
	made, err := s.newBundle(ctx, d, text)
	if err != nil {
		return false, nil, err
	}
	c, ok := parseBundle(made)
	if !ok {
		return false, nil, fault.Failedf("sign.untrusted", "signing %s: the new bundle cannot be read", d.Name())
	}
	a, rejected := s.policy.attestation(ctx, c, d)
	if rejected != nil {
		return false, nil, untrustedError(d, rejected)
	}
	err = st.retry(ctx, func() error {
		return ociremote.WriteAttestationNewBundleFormat(d, made, w.PredicateType, ociremote.WithRemoteOptions(st.remote...), ociremote.WithTargetRepository(d.Context()))
	})
	if err != nil {
		return false, nil, registryError(ctx, "writing a bundle for", d, err)
	}
	return true, a.LogIndex, nil
}

// signatureStatement is the statement of a signature in a bundle.
func signatureStatement() sign.Statement {
	return sign.Statement{PredicateType: signatureType, Predicate: json.RawMessage("{}")}
}

// wants reports whether signatures are to be written in a format. By default they have the
// format that all versions of cosign read.
func wants(formats []sign.Format, f sign.Format) bool {
	if len(formats) == 0 {
		return f == sign.FormatTag
	}
	return slices.Contains(formats, f)
}

package sigstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	rekor "github.com/sigstore/rekor/pkg/client"
	rekorapi "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/models"
	sgsign "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// jobs is the maximal number of subjects that are processed at the same time.
const jobs = 6

// signer is a [sign.Signer] with a key, and for keyless signing a certificate.
type signer struct {
	key         signature.SignerVerifier
	cert, chain []byte          // PEM, only for keyless signing
	log         *rekorapi.Rekor // nil if signatures are not logged, or in a log of version 2
	tiles       *sgsign.Rekor   // a log of version 2, or nil
	logURL      string
	authority   *sgsign.TimestampAuthority // nil if signatures get no timestamp
	policy      *policy                    // trusts only this signer
	identity    sign.Signature
}

// rekorV2 is the version of the API of logs that consist of tiles
// (https://github.com/sigstore/rekor-tiles).
const rekorV2 = 2

// logs reports whether signatures are written to a transparency log.
func (s *signer) logs() bool { return s.log != nil || s.tiles != nil }

// NewSigner loads the key or requests a certificate. It returns a [fault.Input]
// error if the key cannot be used, or if both a key and keyless signing are set.
func NewSigner(ctx context.Context, o sign.SignerOptions) (sign.Signer, error) {
	s := &signer{logURL: o.Rekor}
	var err error
	switch {
	case o.Keyless != nil && o.Key.Ref != "":
		return nil, fault.Inputf("key.two", "a key and keyless signing are both set").WithFix("remove sign.key or sign.keyless")
	case o.Keyless != nil:
		err = s.keyless(ctx, *o.Keyless)
	default:
		err = s.withKey(ctx, o.Key)
	}
	if err != nil {
		return nil, err
	}
	if o.Timestamp != "" {
		if err := checkURL("timestamp", o.Timestamp); err != nil {
			return nil, err
		}
		s.authority = sgsign.NewTimestampAuthority(&sgsign.TimestampAuthorityOptions{URL: o.Timestamp, Timeout: 30 * time.Second, Retries: 3})
	}
	if s.logURL != "" {
		if err := checkURL("rekor", s.logURL); err != nil {
			return nil, err
		}
		if o.RekorVersion == rekorV2 {
			if s.cert != nil && s.authority == nil {
				return nil, fault.Inputf("rekor.timestamp", "an entry of a log of version 2 has no time, which keyless signing needs").
					WithFix("set sign.timestamp to the URL of a timestamp authority")
			}
			s.tiles = sgsign.NewRekor(&sgsign.RekorOptions{BaseURL: s.logURL, Version: rekorV2, Timeout: 30 * time.Second, Retries: 3})
			return s, nil
		}
		// Without a logger, because the library would print every attempt.
		if s.log, err = rekor.GetRekorClient(s.logURL, rekor.WithUserAgent("slipway"), rekor.WithRetryCount(3)); err != nil {
			return nil, fault.Inputf("rekor.url", "the address %q of the transparency log is malformed: %w", s.logURL, err)
		}
	}
	return s, nil
}

// Identity returns the fingerprint of the key, or the identity and its issuer.
func (s *signer) Identity() sign.Signature { return s.identity }

func (s *signer) withKey(ctx context.Context, k sign.Key) error {
	sv, err := loadSigner(ctx, k)
	if err != nil {
		return err
	}
	pub, err := sv.PublicKey(options.WithContext(ctx))
	if err != nil {
		return kmsError(ctx, k, err)
	}
	vs, err := verifiersOf(k, pub)
	if err != nil {
		return err
	}
	s.key = sv
	if s.identity.Key, err = fingerprint(pub); err != nil {
		return err
	}
	s.policy = &policy{keys: []trustedKey{{s.identity.Key, vs}}}
	return nil
}

// Sign signs every subject that does not have a valid signature of this signer
// with the same annotations. It returns a [fault.Input] error if the signer or the
// subjects are missing, and a [fault.Failed] error with the code
// sign.image-not-found if a subject is not in the registry.
func Sign(ctx context.Context, o sign.Options) (sign.Result, error) {
	start := time.Now()
	s, err := checkInput(o.Subjects, o.Signer, o.Formats)
	if err != nil {
		return sign.Result{}, err
	}
	st := newStore(ctx, o.Remote, o.Backoff)
	st.settle = o.Settle
	r := sign.Result{Signer: s.identity, Subjects: make([]sign.SignedSubject, len(o.Subjects)), Unchanged: true}
	progress.Statusf(ctx, "signing %s", o.Subjects[0].Digest.Name())
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, sub := range o.Subjects {
		g.Go(func() (err error) {
			r.Subjects[i], err = s.sign(gctx, st.with(gctx), sub, o.Annotations, o.Formats)
			return err
		})
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return sign.Result{}, ctx.Err()
	}
	if err != nil {
		return sign.Result{}, err
	}
	for _, sub := range r.Subjects {
		r.Unchanged = r.Unchanged && sub.Unchanged
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// checkInput checks the input of Sign and Attest, and returns the signer.
func checkInput(subjects []sign.Subject, given sign.Signer, formats []sign.Format) (*signer, error) {
	s, ok := given.(*signer)
	if !ok || s == nil {
		return nil, fault.Inputf("key.missing", "there is nothing to sign with").WithFix("set sign.key or sign.keyless in slipway.yaml")
	}
	if len(subjects) == 0 {
		return nil, fault.Inputf("sign.nothing", "signing: no image is given")
	}
	for _, sub := range subjects {
		if err := checkDigest(sub.Digest); err != nil {
			return nil, err
		}
	}
	return s, s.checkFormats(formats)
}

func checkDigest(d name.Digest) error {
	if d.DigestStr() == "" {
		return fault.Inputf("reference.no-digest", "an image is given without its digest").
			WithFix("write repository@sha256:..., because a tag can be moved to another image")
	}
	return nil
}

func (s *signer) sign(ctx context.Context, st *store, sub sign.Subject, annotations map[string]string, formats []sign.Format) (sign.SignedSubject, error) {
	r := sign.SignedSubject{Reference: sub.Digest.Name(), Platform: sub.Platform, Signature: signatures.tag(sub.Digest).Name()}
	if err := st.mustExist(ctx, sub.Digest); err != nil {
		return r, err
	}
	bundled := false
	if wants(formats, sign.FormatBundle) {
		var err error
		if bundled, r.LogIndex, err = s.attachBundle(ctx, st, signatures, sub.Digest, signatureStatement()); err != nil {
			return r, err
		}
	}
	if !wants(formats, sign.FormatTag) {
		r.Signature, r.Unchanged = "", !bundled
		return r, nil
	}
	var signed oci.Signature
	changed, err := st.update(ctx, signatures, sub.Digest, func(current []candidate) ([]candidate, []oci.Signature, error) {
		for _, c := range current {
			sig, rejected := s.policy.signature(ctx, c, sub.Digest)
			if rejected == nil && (!s.logs() || sig.LogIndex != nil) && sameAnnotations(c.payload, annotations) {
				r.LogIndex = sig.LogIndex
				return nil, nil, nil
			}
		}
		if signed == nil {
			var err error
			if signed, err = s.newSignature(ctx, sub.Digest, annotations); err != nil {
				return nil, nil, err
			}
		}
		r.LogIndex = logIndex(signed)
		return current, []oci.Signature{signed}, nil
	})
	r.Unchanged = !changed && !bundled
	return r, err
}

// checkFormats returns an error if the signer cannot sign in one of the formats.
func (s *signer) checkFormats(formats []sign.Format) error {
	if s.tiles == nil || !wants(formats, sign.FormatTag) {
		return nil
	}
	return fault.Inputf("rekor.bundle", "a log of version 2 takes only bundles").WithFix("set sign.formats: [bundle], or sign.rekorVersion: 1")
}

// sameAnnotations reports whether the annotations in a payload are want.
func sameAnnotations(p []byte, want map[string]string) bool {
	var text struct {
		Optional map[string]any `json:"optional"`
	}
	if json.Unmarshal(p, &text) != nil {
		return false
	}
	got := map[string]string{}
	for k, v := range text.Optional {
		s, ok := v.(string)
		if !ok {
			return false
		}
		got[k] = s
	}
	return maps.Equal(got, want)
}

// newSignature signs the digest and the annotations.
func (s *signer) newSignature(ctx context.Context, d name.Digest, annotations map[string]string) (oci.Signature, error) {
	text := payload.Cosign{Image: d}
	if len(annotations) > 0 {
		text.Annotations = map[string]any{}
		for k, v := range annotations {
			text.Annotations[k] = v
		}
	}
	body, err := text.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encoding the payload of the signature of %s: %w", d.Name(), err)
	}
	raw, err := s.key.SignMessage(bytes.NewReader(body), options.WithContext(ctx))
	if err != nil {
		return nil, signError(ctx, d, err)
	}
	opts, err := s.proof(ctx, d, nil, func(pem []byte) (*models.LogEntryAnon, error) {
		sum := sha256.New()
		sum.Write(body)
		return cosign.TLogUpload(ctx, s.log, raw, sum, pem)
	})
	if err != nil {
		return nil, err
	}
	sig, err := static.NewSignature(body, base64.StdEncoding.EncodeToString(raw), opts...)
	if err != nil {
		return nil, fmt.Errorf("creating the signature of %s: %w", d.Name(), err)
	}
	if _, rejected := s.policy.signature(ctx, candidate{attached: sig, payload: body}, d); rejected != nil {
		return nil, untrustedError(d, rejected)
	}
	return sig, nil
}

// newAttestation signs a statement as a DSSE envelope.
func (s *signer) newAttestation(ctx context.Context, d name.Digest, predicateType string, statement []byte) (oci.Signature, error) {
	envelope, err := dsse.WrapSigner(s.key, intotoType).SignMessage(bytes.NewReader(statement), options.WithContext(ctx))
	if err != nil {
		return nil, signError(ctx, d, err)
	}
	opts, err := s.proof(ctx, d, map[string]string{"predicateType": predicateType}, func(pem []byte) (*models.LogEntryAnon, error) {
		return cosign.TLogUploadDSSEEnvelope(ctx, s.log, envelope, pem)
	})
	if err != nil {
		return nil, err
	}
	att, err := static.NewAttestation(envelope, append(opts, static.WithLayerMediaType(envelopeType))...)
	if err != nil {
		return nil, fmt.Errorf("creating the attestation of %s: %w", d.Name(), err)
	}
	if _, rejected := s.policy.attestation(ctx, candidate{attached: att, payload: envelope}, d); rejected != nil {
		return nil, untrustedError(d, rejected)
	}
	return att, nil
}

// proof returns the annotations of a signature: those given, the certificate or the
// fingerprint of the key, and the log entry that it creates with upload.
func (s *signer) proof(ctx context.Context, d name.Digest, annotations map[string]string, upload func(pem []byte) (*models.LogEntryAnon, error)) ([]static.Option, error) {
	all := maps.Clone(annotations)
	if all == nil {
		all = map[string]string{}
	}
	if s.identity.Key != "" {
		all[keyHint] = s.identity.Key
	}
	opts := []static.Option{static.WithAnnotations(all)}
	if s.cert != nil {
		opts = append(opts, static.WithCertChain(s.cert, s.chain))
	}
	if s.log == nil {
		return opts, nil
	}
	pem := s.cert
	if pem == nil {
		pub, err := s.key.PublicKey(options.WithContext(ctx))
		if err != nil {
			return nil, signError(ctx, d, err)
		}
		if pem, err = cryptoutils.MarshalPublicKeyToPEM(pub); err != nil {
			return nil, signError(ctx, d, err)
		}
	}
	entry, err := upload(pem)
	if err != nil || ctx.Err() != nil {
		return nil, s.logError(ctx, d, err)
	}
	if entry.LogIndex == nil || entry.LogID == nil || entry.IntegratedTime == nil || entry.Verification == nil {
		return nil, fault.Failedf("rekor.refused", "adding the signature of %s to the transparency log %s: the response contains no proof", d.Name(), s.logURL)
	}
	return append(opts, static.WithBundle(bundle.EntryToBundle(entry))), nil
}

// logError returns the error of a transparency log that did not add a signature.
func (s *signer) logError(ctx context.Context, d name.Digest, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Failedf("rekor.refused", "adding the signature of %s to the transparency log %s: %w", d.Name(), s.logURL, oneLine(err)).
		WithFix("check sign.rekor, and that the log can be reached; nothing was written to the registry")
}

// logIndex returns the index of the log entry of a signature, or nil.
func logIndex(sig oci.Signature) *int64 {
	b, err := sig.Bundle()
	if err != nil || b == nil {
		return nil
	}
	return &b.Payload.LogIndex
}

func signError(ctx context.Context, d name.Digest, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Failedf("sign.failed", "signing %s: %w", d.Name(), oneLine(err)).WithFix("check the permissions of the key and, if it is in a KMS, the KMS; nothing was written to the registry")
}

// untrustedError returns the error for a new signature that the signer's own policy
// rejects.
func untrustedError(d name.Digest, r *rejection) error {
	return fault.Failedf("sign.untrusted", "signing %s: the new signature cannot be verified: the image %s", d.Name(), r.text).
		WithFix("check that the trusted root is the one of this certificate authority and log; nothing was written to the registry")
}

// mustExist returns an error if the image is not in the registry.
func (s *store) mustExist(ctx context.Context, d name.Digest) error {
	err := s.retry(ctx, func() error {
		_, err := remote.Head(d, s.remote...)
		return err
	})
	if isMissing(err) && ctx.Err() == nil {
		return fault.Failedf("sign.image-not-found", "signing: %s is not in the registry", d.Name()).WithFix("push the image first, and sign the digest that was pushed")
	}
	if err != nil {
		return registryError(ctx, "locating", d, err)
	}
	return nil
}

// with returns the store with another context.
func (s *store) with(ctx context.Context) *store {
	c := newStore(ctx, s.remote, s.backoff)
	c.settle, c.budget = s.settle, s.budget
	return c
}

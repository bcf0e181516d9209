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

// jobs is how many subjects are worked on at a time.
const jobs = 6

// signer is a [Signer] with its key or certificate.
type signer struct {
	key         signature.SignerVerifier
	cert, chain []byte // PEM, keyless only
	log         *rekorapi.Rekor
	logURL      string
	self        *policy // trusts this signer alone
	who         sign.Signature
}

// NewSigner loads the key, or gets a certificate. It returns a [fault.Input]
// error for a key that cannot be used.
func NewSigner(ctx context.Context, o sign.SignerOptions) (sign.Signer, error) {
	s := &signer{logURL: o.Rekor}
	var err error
	switch {
	case o.Keyless != nil && o.Key.Ref != "":
		return nil, fault.Inputf("key.two", "both a key and keyless signing are asked for").WithFix("keep one of sign.key and sign.keyless")
	case o.Keyless != nil:
		err = s.keyless(ctx, *o.Keyless)
	default:
		err = s.withKey(ctx, o.Key)
	}
	if err != nil {
		return nil, err
	}
	if s.logURL != "" {
		if err := checkURL("rekor", s.logURL); err != nil {
			return nil, err
		}
		// Without a logger: the library would print every try.
		if s.log, err = rekor.GetRekorClient(s.logURL, rekor.WithUserAgent("slipway"), rekor.WithRetryCount(3)); err != nil {
			return nil, fault.Inputf("rekor.url", "%q is no address of a transparency log: %w", s.logURL, err)
		}
	}
	return s, nil
}

// Identity says who signs: a key's fingerprint, or an identity and its issuer.
func (s *signer) Identity() sign.Signature { return s.who }

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
	if s.who.Key, err = fingerprint(pub); err != nil {
		return err
	}
	s.self = &policy{keys: []trustedKey{{s.who.Key, vs}}}
	return nil
}

// Sign signs every subject. One that already has a valid signature of this
// signer with these annotations gets nothing more.
func Sign(ctx context.Context, o sign.Options) (sign.Result, error) {
	start := time.Now()
	s, err := own(o.Subjects, o.Signer)
	if err != nil {
		return sign.Result{}, err
	}
	st := newStore(ctx, o.Remote, o.Backoff)
	st.settle = o.Settle
	r := sign.Result{Signer: s.who, Subjects: make([]sign.SignedSubject, len(o.Subjects)), Unchanged: true}
	progress.Statusf(ctx, "signing %s", o.Subjects[0].Digest.Name())
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, sub := range o.Subjects {
		g.Go(func() (err error) {
			r.Subjects[i], err = s.sign(gctx, st.with(gctx), sub, o.Annotations)
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

// own returns what signs behind a [Signer].
func own(subjects []sign.Subject, given sign.Signer) (*signer, error) {
	s, ok := given.(*signer)
	if !ok || s == nil {
		return nil, fault.Inputf("key.missing", "there is nothing to sign with").WithFix("set sign.key or sign.keyless in slipway.yaml")
	}
	if len(subjects) == 0 {
		return nil, fault.Inputf("sign.nothing", "no image is given")
	}
	for _, sub := range subjects {
		if err := checkDigest(sub.Digest); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func checkDigest(d name.Digest) error {
	if d.DigestStr() == "" {
		return fault.Inputf("reference.no-digest", "an image is given without its digest").
			WithFix("write repository@sha256:...; a tag can point elsewhere a moment later")
	}
	return nil
}

func (s *signer) sign(ctx context.Context, st *store, sub sign.Subject, annotations map[string]string) (sign.SignedSubject, error) {
	r := sign.SignedSubject{Reference: sub.Digest.Name(), Platform: sub.Platform, Signature: signatures.tag(sub.Digest).Name()}
	if err := st.mustExist(ctx, sub.Digest); err != nil {
		return r, err
	}
	var made oci.Signature
	changed, err := st.change(ctx, signatures, sub.Digest, func(have []candidate) ([]candidate, []oci.Signature, error) {
		for _, c := range have {
			sig, bad := s.self.signature(ctx, c, sub.Digest)
			if bad == nil && (s.log == nil || sig.LogIndex != nil) && sameAnnotations(c.payload, annotations) {
				r.LogIndex = sig.LogIndex
				return nil, nil, nil
			}
		}
		if made == nil {
			var err error
			if made, err = s.newSignature(ctx, sub.Digest, annotations); err != nil {
				return nil, nil, err
			}
		}
		r.LogIndex = logIndex(made)
		return have, []oci.Signature{made}, nil
	})
	r.Unchanged = !changed
	return r, err
}

// sameAnnotations tells whether a payload carries exactly these annotations.
func sameAnnotations(p []byte, want map[string]string) bool {
	var text struct {
		Optional map[string]any `json:"optional"`
	}
	if json.Unmarshal(p, &text) != nil {
		return false
	}
	have := map[string]string{}
	for k, v := range text.Optional {
		s, ok := v.(string)
		if !ok {
			return false
		}
		have[k] = s
	}
	return maps.Equal(have, want)
}

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
		return nil, fmt.Errorf("writing the claim about %s: %w", d.Name(), err)
	}
	raw, err := s.key.SignMessage(bytes.NewReader(body), options.WithContext(ctx))
	if err != nil {
		return nil, s.failed(ctx, d, err)
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
		return nil, fmt.Errorf("putting together the signature of %s: %w", d.Name(), err)
	}
	if _, bad := s.self.signature(ctx, candidate{attached: sig, payload: body}, d); bad != nil {
		return nil, s.untrusted(d, bad)
	}
	return sig, nil
}

// newAttestation signs a statement as a DSSE envelope.
func (s *signer) newAttestation(ctx context.Context, d name.Digest, predicateType string, statement []byte) (oci.Signature, error) {
	envelope, err := dsse.WrapSigner(s.key, intotoType).SignMessage(bytes.NewReader(statement), options.WithContext(ctx))
	if err != nil {
		return nil, s.failed(ctx, d, err)
	}
	opts, err := s.proof(ctx, d, map[string]string{"predicateType": predicateType}, func(pem []byte) (*models.LogEntryAnon, error) {
		return cosign.TLogUploadDSSEEnvelope(ctx, s.log, envelope, pem)
	})
	if err != nil {
		return nil, err
	}
	att, err := static.NewAttestation(envelope, append(opts, static.WithLayerMediaType(envelopeType))...)
	if err != nil {
		return nil, fmt.Errorf("putting together the attestation of %s: %w", d.Name(), err)
	}
	if _, bad := s.self.attestation(ctx, candidate{attached: att, payload: envelope}, d); bad != nil {
		return nil, s.untrusted(d, bad)
	}
	return att, nil
}

// proof is what goes beside a signature: the certificate and the log entry, or
// which key it was.
func (s *signer) proof(ctx context.Context, d name.Digest, notes map[string]string, upload func(pem []byte) (*models.LogEntryAnon, error)) ([]static.Option, error) {
	all := maps.Clone(notes)
	if all == nil {
		all = map[string]string{}
	}
	if s.who.Key != "" {
		all[keyHint] = s.who.Key
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
			return nil, s.failed(ctx, d, err)
		}
		if pem, err = cryptoutils.MarshalPublicKeyToPEM(pub); err != nil {
			return nil, s.failed(ctx, d, err)
		}
	}
	entry, err := upload(pem)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fault.Failedf("rekor.refused", "entering the signature of %s in the log %s: %w", d.Name(), s.logURL, oneLine(err)).
			WithFix("check sign.rekor and that the log can be reached; nothing was signed")
	}
	if entry.LogIndex == nil || entry.LogID == nil || entry.IntegratedTime == nil || entry.Verification == nil {
		return nil, fault.Failedf("rekor.refused", "entering the signature of %s in the log %s: its answer proves nothing", d.Name(), s.logURL)
	}
	return append(opts, static.WithBundle(bundle.EntryToBundle(entry))), nil
}

func logIndex(sig oci.Signature) *int64 {
	b, err := sig.Bundle()
	if err != nil || b == nil {
		return nil
	}
	return &b.Payload.LogIndex
}

func (s *signer) failed(ctx context.Context, d name.Digest, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Failedf("sign.failed", "signing %s: %w", d.Name(), oneLine(err)).WithFix("check the key's rights and its store; nothing was written")
}

// untrusted is a new signature that we ourselves would refuse.
func (s *signer) untrusted(d name.Digest, bad *finding) error {
	return fault.Failedf("sign.untrusted", "signing %s: the new signature does not verify: %s", d.Name(), bad.text).
		WithFix("check that the trusted root belongs to this certificate authority and log; nothing was written")
}

// mustExist asks for the image, so that nothing is signed that is not there.
func (s *store) mustExist(ctx context.Context, d name.Digest) error {
	err := s.again(ctx, func() error {
		_, err := remote.Head(d, s.remote...)
		return err
	})
	if isMissing(err) && ctx.Err() == nil {
		return fault.Failedf("sign.image-not-found", "%s is not in the registry", d.Name()).WithFix("push it first, and sign the digest that was pushed")
	}
	if err != nil {
		return registryError(ctx, "looking for", d, err)
	}
	return nil
}

// with is the store under another context.
func (s *store) with(ctx context.Context) *store {
	c := newStore(ctx, s.remote, s.backoff)
	c.settle = s.settle
	return c
}

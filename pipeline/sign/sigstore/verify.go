package sigstore

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Verify checks the image and every manifest in it against the policy. It
// returns a [fault.Gate] error with one of this package's codes when the image
// is refused, and the result with every reason; other errors say that it could
// not be checked, which is no pass either.
func Verify(ctx context.Context, o sign.VerifyOptions) (sign.VerifyResult, error) {
	start := time.Now()
	if o.Now.IsZero() {
		o.Now = start
	}
	if err := checkDigest(o.Reference); err != nil {
		return sign.VerifyResult{}, err
	}
	p, err := load(ctx, o.Policy)
	if err != nil {
		return sign.VerifyResult{}, err
	}
	progress.Statusf(ctx, "verifying %s", o.Reference.Name())
	st := newStore(ctx, o.Remote, o.Backoff)
	subjects, err := st.manifests(ctx, o.Reference, "", 0)
	if err != nil {
		return sign.VerifyResult{}, err
	}
	r := sign.VerifyResult{Reference: o.Reference.Name(), Subjects: make([]sign.Verified, len(subjects))}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, sub := range subjects {
		g.Go(func() (err error) {
			r.Subjects[i], err = p.verify(gctx, st.with(gctx), sub, o)
			return err
		})
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return sign.VerifyResult{}, ctx.Err()
	}
	if err != nil {
		return sign.VerifyResult{}, err
	}
	r.Seconds = time.Since(start).Seconds()
	var first *sign.Failure
	failed := 0
	for _, s := range r.Subjects {
		if len(s.Failures) == 0 {
			continue
		}
		failed++
		if first == nil {
			first = &s.Failures[0]
		}
	}
	if r.Passed = failed == 0; r.Passed {
		return r, nil
	}
	more := ""
	if failed > 1 {
		more = fmt.Sprintf("; %d of its %d manifests are refused", failed, len(r.Subjects))
	}
	return r, fault.Gatef(first.Code, "%s%s", first.Message, more).WithFix("%s", fixOf(first.Code))
}

// maxManifests bounds an index; maxDepth how deep indexes may hold indexes.
const (
	maxManifests = 500
	maxDepth     = 3
)

// manifests returns the image and every manifest in it.
func (s *store) manifests(ctx context.Context, d name.Digest, platform string, depth int) ([]sign.Subject, error) {
	desc, err := s.get(ctx, d)
	switch {
	case isMissing(err) && ctx.Err() == nil:
		return nil, fault.Gatef(sign.CodeNotFound, "%s is not in the registry", d.Name()).WithFix("%s", fixOf(sign.CodeNotFound))
	case isLie(err):
		return nil, fault.Gatef(sign.CodeTampered, "%s: the registry gives another manifest than the one asked for", d.Name()).WithFix("%s", fixOf(sign.CodeTampered))
	case err != nil:
		return nil, registryError(ctx, "reading", d, err)
	}
	all := []sign.Subject{{Digest: d, Platform: platform}}
	if !desc.MediaType.IsIndex() {
		return all, nil
	}
	if depth == maxDepth {
		return nil, fault.Failedf("verify.index", "%s holds indexes in indexes deeper than %d", d.Name(), maxDepth)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(desc.Manifest, &index); err != nil {
		return nil, fault.Failedf("verify.index", "%s is no index: %w", d.Name(), oneLine(err))
	}
	for _, m := range index.Manifests {
		child := d.Context().Digest(m.Digest.String())
		platform := ""
		if m.Platform != nil {
			platform = m.Platform.String()
		}
		more, err := s.manifests(ctx, child, platform, depth+1)
		if err != nil {
			return nil, err
		}
		for _, sub := range more {
			if !slices.ContainsFunc(all, func(have sign.Subject) bool { return have.Digest == sub.Digest }) {
				all = append(all, sub)
			}
		}
		if len(all) > maxManifests {
			return nil, fault.Failedf("verify.index", "%s holds more than %d manifests", d.Name(), maxManifests)
		}
	}
	return all, nil
}

func (p *policy) verify(ctx context.Context, st *store, sub sign.Subject, o sign.VerifyOptions) (sign.Verified, error) {
	r := sign.Verified{Reference: sub.Digest.Name(), Platform: sub.Platform, Signatures: []sign.Signature{}, Attestations: []sign.Attestation{}}
	refuse := func(f *finding) {
		what := sub.Digest.Name()
		if sub.Platform != "" {
			what += " (" + sub.Platform + ")"
		}
		r.Failures = append(r.Failures, sign.Failure{Code: f.code, Message: what + " " + f.text})
	}
	all, _, err := st.list(ctx, signatures, sub.Digest)
	if err != nil {
		return r, err
	}
	worst := found(sign.CodeUnsigned, "is not signed")
	for _, c := range all {
		sig, bad := p.signature(ctx, c, sub.Digest)
		if bad != nil {
			worst = telling(worst, bad)
			continue
		}
		r.Signatures = append(r.Signatures, sig)
	}
	if len(r.Signatures) == 0 {
		refuse(worst)
	}
	if len(o.Policy.Attestations) == 0 {
		return r, nil
	}
	if all, _, err = st.list(ctx, attestations, sub.Digest); err != nil {
		return r, err
	}
	refused := map[string]*finding{} // by claimed type; "" where none can be read
	for _, c := range all {
		a, bad := p.attestation(ctx, c, sub.Digest)
		if bad != nil {
			claimed := sign.TypeOf(a.PredicateType)
			refused[claimed] = telling(refused[claimed], bad)
			continue
		}
		r.Attestations = append(r.Attestations, a)
	}
	for _, want := range o.Policy.Attestations {
		var best *sign.Attestation
		for i, a := range r.Attestations {
			if a.Type == want && (best == nil || a.Time.After(best.Time)) {
				best = &r.Attestations[i]
			}
		}
		switch {
		case best != nil && want == sign.TypeScan:
			if bad := scanned(*best, o, &r); bad != nil {
				refuse(bad)
			}
		case best != nil:
		case refused[want] != nil:
			refuse(refused[want])
		case refused[""] != nil:
			refuse(refused[""])
		default:
			refuse(found(sign.CodeMissing, "has no attestation of type %s", want))
		}
	}
	return r, nil
}

// clockSkew is how far clocks may differ.
const clockSkew = 10 * time.Minute

// scanned judges the newest attested scan.
func scanned(a sign.Attestation, o sign.VerifyOptions, r *sign.Verified) *finding {
	if a.Verdict != "" && a.Verdict != sign.ScanPassed {
		return found(sign.CodeScanFailed, "has an attested scan of %s that did not pass: %.40q", a.Time.Format(time.RFC3339), a.Verdict)
	}
	age := o.Now.Sub(a.Time)
	if !a.Time.IsZero() {
		r.ScanAge = age.Seconds()
	}
	switch {
	case o.Policy.ScanMaxAge == 0:
		return nil
	case a.Time.IsZero():
		return found(sign.CodeScanExpired, "has an attested scan that does not say when it was made")
	case age < -clockSkew:
		return found(sign.CodeScanExpired, "has an attested scan from the future (%s); a clock is wrong", a.Time.Format(time.RFC3339))
	case age > o.Policy.ScanMaxAge:
		return found(sign.CodeScanExpired, "was last scanned %s ago (%s); at most %s is allowed", age.Round(time.Minute), a.Time.Format(time.RFC3339), o.Policy.ScanMaxAge)
	}
	return nil
}

// signature believes a candidate or says why not. cosign answers yes or no;
// only after a no we look for the reason.
func (p *policy) signature(ctx context.Context, c candidate, d name.Digest) (sign.Signature, *finding) {
	sig, bad := p.check(ctx, c, signatures)
	if bad != nil {
		return sig, bad
	}
	var claim payload.SimpleContainerImage
	if err := json.Unmarshal(c.payload, &claim); err != nil || claim.Critical.Type != payload.CosignSignatureType {
		return sig, found(sign.CodeOtherImage, "carries a valid signature of something else than an image")
	}
	h, err := v1.NewHash(d.DigestStr())
	if err != nil {
		return sig, found(sign.CodeTampered, "has a malformed digest")
	}
	if err := cosign.SimpleClaimVerifier(c, h, nil); err != nil {
		return sig, found(sign.CodeOtherImage, "carries the signature of another image, %s, by %s",
			shown(claim.Critical.Identity.DockerReference+"@"+claim.Critical.Image.DockerManifestDigest), sig)
	}
	return sig, nil
}

// attestation believes a candidate or says why not. What it claims to be is
// returned either way.
func (p *policy) attestation(ctx context.Context, c candidate, d name.Digest) (sign.Attestation, *finding) {
	var a sign.Attestation
	var st statement
	var readable bool
	if h, err := c.Digest(); err == nil {
		a.Digest = h.String()
	}
	if env := decodeEnvelope(c.payload); env != nil && json.Unmarshal(env.body, &st) == nil && st.PredicateType != "" {
		readable = true
		a.Type, a.PredicateType, a.Predicate = sign.TypeOf(st.PredicateType), st.PredicateType, st.Predicate
	} else if all, err := c.Annotations(); err == nil {
		a.PredicateType = all["predicateType"]
	}
	label := "attestation"
	if t := sign.TypeOf(a.PredicateType); t != "" {
		label = strings.Replace(t, sign.TypeSBOM, "SBOM", 1) + " attestation"
	}
	sig, bad := p.check(ctx, c, attestations)
	a.Signature = sig
	if bad != nil {
		text := strings.Replace(bad.text, "signature", label, 1)
		if bad.code == sign.CodeTampered || bad.code == sign.CodeNoLogEntry {
			return a, &finding{bad.code, text}
		}
		return a, &finding{sign.CodeForeign, text}
	}
	if !readable {
		return a, found(sign.CodeTampered, "carries a signed %s that is no in-toto statement", label)
	}
	if !st.about(d) {
		return a, found(sign.CodeForeign, "carries the %s of another image", label)
	}
	h, err := v1.NewHash(d.DigestStr())
	if err != nil {
		return a, found(sign.CodeTampered, "has a malformed digest")
	}
	if err := cosign.IntotoSubjectClaimVerifier(c, h, nil); err != nil {
		return a, found(sign.CodeForeign, "carries the %s of another image", label)
	}
	a.Time = sign.TimeOf(st.PredicateType, st.Predicate)
	if a.Type == sign.TypeScan {
		a.Verdict = sign.VerdictOf(st.Predicate)
	}
	return a, nil
}

// Payload returns what was read once.
func (c candidate) Payload() ([]byte, error) { return c.payload, nil }

// envelope is a DSSE envelope taken apart.
type envelope struct {
	ssldsse.Envelope
	body []byte
}

func decodeEnvelope(data []byte) *envelope {
	var e envelope
	if json.Unmarshal(data, &e.Envelope) != nil || e.PayloadType != intotoType {
		return nil
	}
	body, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil
	}
	e.body = body
	return &e
}

// check asks cosign whether anyone the policy trusts signed this, whatever it
// says.
func (p *policy) check(ctx context.Context, c candidate, k kind) (sig sign.Signature, bad *finding) {
	defer func() {
		// cosign follows pointers of a log entry before its signature is
		// checked; who writes the registry must not end this program.
		if recover() != nil {
			sig, bad = sign.Signature{}, found(sign.CodeTampered, "carries a malformed signature")
		}
	}()
	if c.damage != "" {
		return sign.Signature{}, found(sign.CodeTampered, "carries a damaged signature: %s", c.damage)
	}
	ask := cosign.VerifyImageSignature
	if k == attestations {
		ask = cosign.VerifyBlobAttestation
	}
	var why error
	for _, key := range p.keys {
		for _, v := range key.verifiers {
			co := &cosign.CheckOpts{SigVerifier: v, IgnoreTlog: !p.requireLog, Offline: true}
			if p.requireLog {
				co.TrustedMaterial = p.root
			}
			if _, why = ask(ctx, c, v1.Hash{}, co); why == nil {
				return logged(sign.Signature{Key: key.name}, c), nil
			}
		}
	}
	cert, err := c.Cert()
	if err != nil {
		return sign.Signature{}, found(sign.CodeTampered, "carries a damaged signature: its certificate is malformed")
	}
	if cert != nil && len(p.identities) > 0 {
		co := &cosign.CheckOpts{Identities: p.identities, TrustedMaterial: p.root, IgnoreSCT: p.ignoreSCT, Offline: true}
		if _, why = ask(ctx, c, v1.Hash{}, co); why == nil {
			var who sign.Signature
			who.Identity, who.Issuer = identityOf(cert)
			return logged(who, c), nil
		}
	}
	if ctx.Err() != nil {
		return sign.Signature{}, found(sign.CodeTampered, "was not checked") // the caller looks at ctx first
	}
	if cert != nil {
		return sign.Signature{}, p.explainCertificate(ctx, c, k, cert, why)
	}
	return sign.Signature{}, p.explainKey(ctx, c, k)
}

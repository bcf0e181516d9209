package sigstore

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
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

// Verify checks the image and every manifest in it against the policy. If the
// image does not satisfy the policy, it returns a [fault.Gate] error with one of
// the codes of package sign, and the result with every reason. Any other error
// means that the image could not be checked.
func Verify(ctx context.Context, o sign.VerifyOptions) (sign.VerifyResult, error) {
	start := time.Now()
	if o.Now.IsZero() {
		o.Now = start
	}
	if err := checkDigest(o.Reference); err != nil {
		return sign.VerifyResult{}, err
	}
	p, err := loadPolicy(ctx, o.Policy)
	if err != nil {
		return sign.VerifyResult{}, err
	}
	progress.Statusf(ctx, "verifying %s", o.Reference.Name())
	st := newStore(ctx, o.Remote, o.Backoff)
	st.budget = new(atomic.Int64)
	st.budget.Store(maxTotal)
	subjects, err := st.manifests(ctx, o.Reference, "", 0)
	if err != nil {
		return sign.VerifyResult{}, err
	}
	if o.IndexOnly {
		subjects = subjects[:1]
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
		more = fmt.Sprintf("; %d of its %d manifests do not satisfy the policy", failed, len(r.Subjects))
	}
	return r, fault.Gatef(first.Code, "%s%s", first.Message, more).WithFix("%s", fixOf(first.Code))
}

const (
	maxManifests = 500 // in an index
	maxDepth     = 3   // of indexes in indexes
)

// manifests returns the image and all manifests in it.
func (s *store) manifests(ctx context.Context, d name.Digest, platform string, depth int) ([]sign.Subject, error) {
	desc, err := s.get(ctx, d)
	switch {
	case isMissing(err) && ctx.Err() == nil:
		return nil, fault.Gatef(sign.CodeNotFound, "%s is not in the registry", d.Name()).WithFix("%s", fixOf(sign.CodeNotFound))
	case isDigestMismatch(err):
		return nil, fault.Gatef(sign.CodeTampered, "reading %s: digest mismatch: the registry returned another manifest", d.Name()).WithFix("%s", fixOf(sign.CodeTampered))
	case err != nil:
		return nil, registryError(ctx, "reading", d, err)
	}
	all := []sign.Subject{{Digest: d, Platform: platform}}
	if !desc.MediaType.IsIndex() {
		return all, nil
	}
	if depth == maxDepth {
		return nil, fault.Failedf("verify.index", "verifying %s: indexes are nested deeper than %d levels", d.Name(), maxDepth)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(desc.Manifest, &index); err != nil {
		return nil, fault.Failedf("verify.index", "verifying %s: the index is malformed: %w", d.Name(), oneLine(err))
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
			if !slices.ContainsFunc(all, func(s sign.Subject) bool { return s.Digest == sub.Digest }) {
				all = append(all, sub)
			}
		}
		if len(all) > maxManifests {
			return nil, fault.Failedf("verify.index", "verifying %s: the index has more than %d manifests", d.Name(), maxManifests)
		}
	}
	return all, nil
}

// verify checks one manifest against the policy.
func (p *policy) verify(ctx context.Context, st *store, sub sign.Subject, o sign.VerifyOptions) (sign.Verified, error) {
	r := sign.Verified{Reference: sub.Digest.Name(), Platform: sub.Platform, Signatures: []sign.Signature{}, Attestations: []sign.Attestation{}}
	fail := func(f *rejection) {
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
	more, err := st.bundles(ctx, signatures, sub.Digest)
	if err != nil {
		return r, err
	}
	reason := reject(sign.CodeUnsigned, "is not signed")
	for _, c := range slices.Concat(all, more) {
		sig, rejected := p.signature(ctx, c, sub.Digest)
		if rejected != nil {
			reason = mostSpecific(reason, rejected)
			continue
		}
		r.Signatures = append(r.Signatures, sig)
	}
	if len(r.Signatures) == 0 {
		fail(reason)
	}
	if len(o.Policy.Attestations) == 0 {
		return r, nil
	}
	if all, _, err = st.list(ctx, attestations, sub.Digest); err != nil {
		return r, err
	}
	if more, err = st.bundles(ctx, attestations, sub.Digest); err != nil {
		return r, err
	}
	rejections := map[string]*rejection{} // by claimed type; "" if the type cannot be read
	for _, c := range slices.Concat(all, more) {
		a, rejected := p.attestation(ctx, c, sub.Digest)
		if rejected != nil {
			claimed := sign.TypeOf(a.PredicateType)
			rejections[claimed] = mostSpecific(rejections[claimed], rejected)
			continue
		}
		r.Attestations = append(r.Attestations, a)
	}
	for _, want := range o.Policy.Attestations {
		newest := newestOf(r.Attestations, want)
		switch {
		case newest == nil && want == sign.TypeScan && allows(o.Policy, r.Attestations):
		case newest == nil && rejections[want] != nil:
			fail(rejections[want])
		case newest == nil && rejections[""] != nil:
			fail(rejections[""])
		case newest == nil:
			fail(reject(sign.CodeMissing, "has no attestation of type %s", want))
		case want == sign.TypeScan:
			if rejected := checkScan(*newest, o, &r); rejected != nil {
				fail(rejected)
			}
		case want == sign.TypeProvenance:
			if rejected := checkProvenance(r.Attestations, o.Policy); rejected != nil {
				fail(rejected)
			}
		}
	}
	return r, nil
}

// newestOf returns the newest attestation of a type, or nil if there is none.
func newestOf(all []sign.Attestation, want string) (newest *sign.Attestation) {
	for i, a := range all {
		if a.Type == want && (newest == nil || a.Time.After(newest.Time)) {
			newest = &all[i]
		}
	}
	return newest
}

// checkProvenance checks that a provenance satisfies the policy, and that the policy
// allows the gates that failed when the image was made. If several trusted runs have made
// the same image, one of them is enough, because it determines what the image is made of.
func checkProvenance(all []sign.Attestation, p sign.Policy) (rejected *rejection) {
	for _, a := range all {
		if a.Type != sign.TypeProvenance {
			continue
		}
		if reason := p.Provenance.Check(a.Predicate); reason != "" {
			rejected = reject(sign.CodeProvenance, "%s", sanitize(reason))
			continue
		}
		refused := slices.DeleteFunc(slices.Clone(a.Allowed), func(gate string) bool { return slices.Contains(p.Allow, gate) })
		if len(refused) == 0 {
			return nil
		}
		rejected = reject(sign.CodeAllowed, "was made although these gates failed, which its provenance says and the policy does not allow: %s", sanitize(strings.Join(refused, ", ")))
	}
	return rejected
}

// allows reports whether the policy accepts an image without an attested scan, because a
// scan without a result was allowed when the image was made.
func allows(p sign.Policy, all []sign.Attestation) bool {
	return slices.Contains(p.Allow, sign.TypeScan) && slices.ContainsFunc(all, func(a sign.Attestation) bool {
		return a.Type == sign.TypeProvenance && slices.Contains(a.Allowed, sign.TypeScan)
	})
}

// clockSkew is the accepted difference between two clocks.
const clockSkew = 10 * time.Minute

// checkScan checks the verdict, the age and the findings of the newest attested scan.
func checkScan(a sign.Attestation, o sign.VerifyOptions, r *sign.Verified) *rejection {
	mayFail := slices.Contains(o.Policy.Allow, sign.TypeScan)
	if a.Verdict != "" && a.Verdict != sign.ScanPassed && !mayFail {
		return reject(sign.CodeScanFailed, "has an attested scan of %s that did not pass: %.40q", a.Time.Format(time.RFC3339), a.Verdict)
	}
	age := o.Now.Sub(a.Time)
	if !a.Time.IsZero() {
		r.ScanAge = age.Seconds()
	}
	switch limit := o.Policy.ScanMaxAge; {
	case limit == 0:
	case a.Time.IsZero():
		return reject(sign.CodeScanExpired, "has an attested scan without a time")
	case age < -clockSkew:
		return reject(sign.CodeScanExpired, "has an attested scan with a time in the future (%s); a clock is wrong", a.Time.Format(time.RFC3339))
	case age > limit:
		return reject(sign.CodeScanExpired, "was last scanned %s ago (%s); the maximum is %s", age.Round(time.Minute), a.Time.Format(time.RFC3339), limit)
	}
	if reason := sign.CheckScan(a.Predicate, o.Policy.Scan); reason != "" && !mayFail {
		return reject(sign.CodeScanFailed, "%s", sanitize(reason))
	}
	return nil
}

// signature verifies a candidate as a signature of an image. It returns the
// signature, or the reason for which the candidate is rejected.
func (p *policy) signature(ctx context.Context, c candidate, d name.Digest) (sign.Signature, *rejection) {
	sig, rejected := p.check(ctx, c, signatures, d)
	if rejected != nil || c.bundle != nil { // of a bundle, check has also checked what it is about
		return sig, rejected
	}
	var claim payload.SimpleContainerImage
	if err := json.Unmarshal(c.payload, &claim); err != nil || claim.Critical.Type != payload.CosignSignatureType {
		return sig, reject(sign.CodeOtherImage, "has a valid signature whose content is not about an image")
	}
	h, err := v1.NewHash(d.DigestStr())
	if err != nil {
		return sig, reject(sign.CodeTampered, "has a malformed digest")
	}
	if err := cosign.SimpleClaimVerifier(c, h, nil); err != nil {
		return sig, reject(sign.CodeOtherImage, "has the signature of another image, %s, by %s",
			sanitize(claim.Critical.Identity.DockerReference+"@"+claim.Critical.Image.DockerManifestDigest), sig)
	}
	return sig, nil
}

// attestation verifies a candidate as an attestation about an image. It returns the
// attestation, or the reason for which the candidate is rejected. The type of the
// attestation is set in both cases, if it can be read.
func (p *policy) attestation(ctx context.Context, c candidate, d name.Digest) (sign.Attestation, *rejection) {
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
	sig, rejected := p.check(ctx, c, attestations, d)
	a.Signature = sig
	if rejected != nil {
		text := strings.Replace(rejected.text, "signature", label, 1)
		if rejected.code == sign.CodeTampered || rejected.code == sign.CodeNoLogEntry {
			return a, &rejection{rejected.code, text}
		}
		return a, &rejection{sign.CodeForeign, text}
	}
	if !readable {
		return a, reject(sign.CodeTampered, "has a signed %s that is not an in-toto statement", label)
	}
	if !st.hasSubject(d) {
		return a, reject(sign.CodeForeign, "has the %s of another image", label)
	}
	h, err := v1.NewHash(d.DigestStr())
	if err != nil {
		return a, reject(sign.CodeTampered, "has a malformed digest")
	}
	if err := cosign.IntotoSubjectClaimVerifier(c, h, nil); err != nil && c.bundle == nil { // statements in bundles can have another version
		return a, reject(sign.CodeForeign, "has the %s of another image", label)
	}
	a.Time = sign.TimeOf(st.PredicateType, st.Predicate)
	switch a.Type {
	case sign.TypeScan:
		a.Verdict = sign.VerdictOf(st.Predicate)
	case sign.TypeProvenance:
		a.Allowed = sign.AllowedOf(st.Predicate)
	}
	return a, nil
}

// Payload returns the content that was read before.
func (c candidate) Payload() ([]byte, error) { return c.payload, nil }

// envelope is a DSSE envelope with its decoded body.
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

// check verifies that a candidate is signed by a key or identity that the policy
// trusts. Unless the candidate is a bundle, check does not check what the signed content
// is about. cosign's errors do not give the reason, so check determines it after an error.
func (p *policy) check(ctx context.Context, c candidate, k kind, d name.Digest) (sig sign.Signature, rejected *rejection) {
	defer func() {
		// cosign dereferences pointers of a log entry before it verifies the
		// signature of the entry, so the content of a registry can cause a panic.
		if recover() != nil {
			sig, rejected = sign.Signature{}, reject(sign.CodeTampered, "has a malformed signature")
		}
	}()
	if c.damage != "" {
		return sign.Signature{}, reject(sign.CodeTampered, "has a damaged signature: %s", c.damage)
	}
	if c.bundle != nil {
		return p.checkBundle(ctx, c, d)
	}
	verify := cosign.VerifyImageSignature
	if k == attestations {
		verify = cosign.VerifyBlobAttestation
	}
	var cause error
	for _, key := range p.keys {
		for _, v := range key.verifiers {
			co := &cosign.CheckOpts{SigVerifier: v, IgnoreTlog: !p.requireLog, Offline: true}
			if p.requireLog {
				co.TrustedMaterial = p.root
			}
			if _, cause = verify(ctx, c, v1.Hash{}, co); cause == nil {
				return withLogEntry(sign.Signature{Key: key.fingerprint}, c), nil
			}
		}
	}
	cert, err := c.Cert()
	if err != nil {
		return sign.Signature{}, reject(sign.CodeTampered, "has a damaged signature: its certificate is malformed")
	}
	if cert != nil && len(p.identities) > 0 {
		co := &cosign.CheckOpts{Identities: p.identities, TrustedMaterial: p.root, IgnoreSCT: p.ignoreSCT, Offline: true}
		if _, cause = verify(ctx, c, v1.Hash{}, co); cause == nil {
			var signedBy sign.Signature
			signedBy.Identity, signedBy.Issuer = identityOf(cert)
			return withLogEntry(signedBy, c), nil
		}
	}
	if ctx.Err() != nil {
		return sign.Signature{}, reject(sign.CodeTampered, "was not checked") // callers check ctx first
	}
	if cert != nil {
		return sign.Signature{}, p.explainCertificate(ctx, c, k, cert, cause)
	}
	return sign.Signature{}, p.explainKey(ctx, c, k)
}

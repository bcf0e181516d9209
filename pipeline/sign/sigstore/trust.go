package sigstore

import (
	"context"
	"fmt"
	"regexp"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// fixOf returns the fix for the code of a rejection.
func fixOf(code string) string {
	switch code {
	case sign.CodeUnsigned:
		return "if it was built by your pipeline, sign it with slipway sign; otherwise do not run it"
	case sign.CodeWrongKey, sign.CodeForeign:
		return "use an image of your own pipeline, or add its key to verify.keys"
	case sign.CodeWrongIdentity:
		return "use an image of your own pipeline, or add its identity to verify.identities"
	case sign.CodeUntrusted:
		return "set verify.trustedRoot to the trusted root of the instance that signed it"
	case sign.CodeNoLogEntry:
		return "sign it again with a transparency log"
	case sign.CodeTampered, sign.CodeOtherImage:
		return "do not use it; find out who changed the registry, then build and sign again"
	case sign.CodeMissing:
		return "attest it with slipway sign, or remove the type from verify.attestations"
	case sign.CodeScanExpired:
		return "scan and attest it again, or raise verify.scanMaxAge"
	case sign.CodeScanFailed:
		return "fix the vulnerabilities and build it again"
	case sign.CodeProvenance:
		return "build, sign and attest it from the clean tree of this commit, or change verify.provenance in slipway.yaml"
	case sign.CodeAllowed:
		return "make the gates pass and ship it again, or name them in verify.allow of slipway.yaml"
	default:
		return "check the digest and the repository"
	}
}

// policy is a [sign.Policy] with loaded keys and a loaded trusted root.
type policy struct {
	keys       []trustedKey
	identities []cosign.Identity
	root       root.TrustedMaterial
	ignoreSCT  bool // the instance has no certificate log
	requireLog bool
}

type trustedKey struct {
	fingerprint string
	verifiers   []signature.Verifier
}

// rejection is the reason for which a candidate or an image is rejected. The text
// is a predicate whose subject is the image, for example "is not signed".
type rejection struct{ code, text string }

func reject(code, format string, args ...any) *rejection {
	return &rejection{code, fmt.Sprintf(format, args...)}
}

// loadPolicy loads the keys and the trusted root of a policy. It returns a
// [fault.Input] error if the policy is invalid.
func loadPolicy(ctx context.Context, o sign.Policy) (*policy, error) {
	if len(o.Keys) == 0 && len(o.Identities) == 0 {
		return nil, fault.Inputf("verify.no-policy", "the policy trusts no key and no identity, so no image can satisfy it").
			WithFix("set verify.keys or verify.identities in slipway.yaml")
	}
	p := &policy{requireLog: o.RequireLog}
	for _, a := range o.Attestations {
		if a != sign.TypeSBOM && a != sign.TypeProvenance && a != sign.TypeScan {
			return nil, fault.Inputf("verify.attestation-type", "%q is not a type of attestation", a).WithFix("use %s, %s or %s", sign.TypeSBOM, sign.TypeProvenance, sign.TypeScan)
		}
	}
	for _, id := range o.Identities {
		got, err := compileIdentity(id)
		if err != nil {
			return nil, err
		}
		p.identities = append(p.identities, got)
	}
	for _, k := range o.Keys {
		vs, err := loadVerifiers(ctx, k)
		if err != nil {
			return nil, err
		}
		pub, err := vs[0].PublicKey()
		if err != nil {
			return nil, fault.Inputf("key.malformed", "reading key %s: %w", k.Ref, err)
		}
		fp, err := fingerprint(pub)
		if err != nil {
			return nil, err
		}
		p.keys = append(p.keys, trustedKey{fp, vs})
	}
	if len(o.Identities) > 0 || o.RequireLog {
		if err := p.loadRoot(ctx, o.TrustedRoot); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// compileIdentity converts an identity to the library's type. It returns a
// [fault.Input] error if the identity is incomplete or a pattern is malformed.
func compileIdentity(id sign.Identity) (cosign.Identity, error) {
	if id.Issuer+id.IssuerPattern == "" || id.Subject+id.SubjectPattern == "" {
		return cosign.Identity{}, fault.Inputf("verify.identity", "an identity has no issuer or no subject").
			WithFix("set both in verify.identities; without the issuer, any identity provider could vouch for the subject")
	}
	got := cosign.Identity{Issuer: id.Issuer, Subject: id.Subject}
	for _, p := range []struct {
		pattern, exact, what string
		to                   *string
	}{
		{id.IssuerPattern, id.Issuer, "issuer", &got.IssuerRegExp},
		{id.SubjectPattern, id.Subject, "subject", &got.SubjectRegExp},
	} {
		if p.pattern == "" {
			continue
		}
		if p.exact != "" {
			return cosign.Identity{}, fault.Inputf("verify.identity", "an identity has both %s and %sPattern", p.what, p.what).WithFix("remove one of them")
		}
		if _, err := regexp.Compile(p.pattern); err != nil {
			return cosign.Identity{}, fault.Inputf("verify.identity", "the pattern %q for the %s of an identity: %w", p.pattern, p.what, err)
		}
		*p.to = `\A(?:` + p.pattern + `)\z` // the library would also match a part of the text
	}
	return got, nil
}

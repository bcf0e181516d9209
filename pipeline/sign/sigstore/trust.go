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

// fixes say what to do about each.
func fixOf(code string) string {
	switch code {
	case sign.CodeUnsigned:
		return "sign it with slipway sign; an image that was not built here should not run here"
	case sign.CodeWrongKey, sign.CodeForeign:
		return "use an image of your own pipeline, or add its key under verify.keys"
	case sign.CodeWrongIdentity:
		return "use an image of your own pipeline, or add its identity under verify.identities"
	case sign.CodeUntrusted:
		return "name the trusted root of the instance that signed it under verify.trustedRoot"
	case sign.CodeNoLogEntry:
		return "sign it again with a transparency log"
	case sign.CodeTampered, sign.CodeOtherImage:
		return "do not use it; find out who changed the registry, then build and sign again"
	case sign.CodeMissing:
		return "attest it with slipway sign, or leave the type out of verify.attestations"
	case sign.CodeScanExpired:
		return "scan and attest it again, or raise verify.scanMaxAge"
	case sign.CodeScanFailed:
		return "build it with the vulnerabilities mended"
	default:
		return "check the digest and the repository"
	}
}

// policy is a [Policy] with its keys and roots loaded.
type policy struct {
	keys       []trustedKey
	identities []cosign.Identity
	root       root.TrustedMaterial
	ignoreSCT  bool
	requireLog bool
}

type trustedKey struct {
	name      string // fingerprint
	verifiers []signature.Verifier
}

// finding is why a candidate is not believed.
type finding struct{ code, text string }

func found(code, format string, args ...any) *finding {
	return &finding{code, fmt.Sprintf(format, args...)}
}

// load reads the keys and the trusted root. Everything wrong in a policy is
// bad input, before anything is asked of the registry.
func load(ctx context.Context, o sign.Policy) (*policy, error) {
	if len(o.Keys) == 0 && len(o.Identities) == 0 {
		return nil, fault.Inputf("verify.no-policy", "nobody is trusted, so no image can pass").
			WithFix("set verify.keys or verify.identities in slipway.yaml")
	}
	p := &policy{requireLog: o.RequireLog}
	for _, a := range o.Attestations {
		if a != sign.TypeSBOM && a != sign.TypeProvenance && a != sign.TypeScan {
			return nil, fault.Inputf("verify.attestation-type", "%q is no type of attestation", a).WithFix("use %s, %s or %s", sign.TypeSBOM, sign.TypeProvenance, sign.TypeScan)
		}
	}
	for _, id := range o.Identities {
		got, err := compile(id)
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
			return nil, fault.Inputf("key.malformed", "reading %s: %w", k.Ref, err)
		}
		fp, err := fingerprint(pub)
		if err != nil {
			return nil, err
		}
		p.keys = append(p.keys, trustedKey{fp, vs})
	}
	if len(o.Identities) > 0 || o.RequireLog {
		if err := p.trust(ctx, o.TrustedRoot); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func compile(id sign.Identity) (cosign.Identity, error) {
	if id.Issuer+id.IssuerPattern == "" || id.Subject+id.SubjectPattern == "" {
		return cosign.Identity{}, fault.Inputf("verify.identity", "an identity needs an issuer and a subject").
			WithFix("without the issuer anyone's provider could name that subject")
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
			return cosign.Identity{}, fault.Inputf("verify.identity", "an identity has both %s and %sPattern", p.what, p.what).WithFix("keep one")
		}
		if _, err := regexp.Compile(p.pattern); err != nil {
			return cosign.Identity{}, fault.Inputf("verify.identity", "the pattern %q of an identity's %s: %w", p.pattern, p.what, err)
		}
		*p.to = `\A(?:` + p.pattern + `)\z` // by itself a pattern matches a part
	}
	return got, nil
}

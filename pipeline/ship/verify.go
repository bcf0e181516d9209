package ship

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// checkPolicy returns an error if the environment does not exist.
func (p *run) checkPolicy() error {
	if err := p.checkSigner(); err != nil {
		return err
	}
	_, err := p.Config.Policy(p.Environment)
	return err
}

// verify checks the image against the policy of the environment.
func (p *run) verify(ctx context.Context) (graph.Outcome, error) {
	policy, err := p.policy(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	ref, err := p.reference(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	client, err := p.registry()
	if err != nil {
		return graph.Outcome{}, err
	}
	verified, r, err := sign.Verify(ctx, p.Signer, sign.VerifyOptions{Reference: ref, Policy: policy, Remote: client.Options(ctx), Backoff: p.Backoff})
	if len(r.Subjects) > 0 {
		p.report.Verify = &r
	}
	if err != nil {
		return graph.Outcome{}, err
	}
	p.verified = verified
	return graph.Outcome{Kind: progress.Passed, Summary: summarizeVerify(r, policy)}, nil
}

func summarizeVerify(r sign.VerifyResult, policy sign.Policy) string {
	s := fmt.Sprintf("%d manifests signed", len(r.Subjects))
	if len(policy.Attestations) > 0 {
		s += ", " + strings.Join(policy.Attestations, ", ") + " attested"
	}
	return s
}

// policy returns the policy for the image. If it names neither keys nor identities, the
// configured signing key is trusted.
func (p *run) policy(ctx context.Context) (sign.Policy, error) {
	v, err := p.Config.Policy(p.Environment)
	if err != nil {
		return sign.Policy{}, err
	}
	policy := sign.Policy{
		Identities: v.Identities, TrustedRoot: p.resolve(v.TrustedRoot),
		Attestations: v.Attestations, ScanMaxAge: time.Duration(v.ScanMaxAge), Allow: p.acceptedGates(v.Allow),
	}
	for _, k := range v.Keys {
		policy.Keys = append(policy.Keys, sign.Key{Ref: p.resolve(k)})
	}
	if len(policy.Keys) > 0 || len(policy.Identities) > 0 {
		return policy, nil
	}
	switch s := p.Config.Sign; {
	case s.Keyless != nil:
		return policy, fault.Inputf("verify.nobody", "nobody is named whose signature counts").
			WithFix("set verify.identities in slipway.yaml to who signs keyless")
	case s.Key != "":
		policy.Keys = []sign.Key{{Ref: p.resolve(s.Key), Password: p.Signing.Password}}
	case p.local():
		file, err := p.machineKey(ctx)
		if err != nil {
			return policy, err
		}
		policy.Keys = []sign.Key{{Ref: publicKeyFile(file)}}
	default:
		return policy, fault.Inputf("verify.nobody", "nobody is named whose signature counts").
			WithFix("set verify.keys or verify.identities in slipway.yaml, or give --key")
	}
	return policy, nil
}

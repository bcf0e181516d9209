package ship

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/image"
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
		Attestations: v.Attestations, ScanMaxAge: time.Duration(v.ScanMaxAge), Allow: p.acceptedGates(v.Allow), Scan: p.scanGate(),
	}
	if policy.Provenance, err = p.provenancePolicy(ctx, v.Provenance); err != nil {
		return policy, err
	}
	if !policy.Provenance.IsZero() && !slices.Contains(policy.Attestations, sign.TypeProvenance) {
		policy.Attestations = append(slices.Clone(policy.Attestations), sign.TypeProvenance)
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

// scanGate returns the part of the scan's settings that decides which vulnerabilities
// fail the gate.
func (p *run) scanGate() sign.ScanGate {
	s := p.Config.Scan
	return sign.ScanGate{Severities: s.Severities, ReachableOnly: s.FailOn.ReachableOnly, IgnoreUnfixed: s.IgnoreUnfixed}
}

// provenancePolicy returns what the provenance of the image must say: what the policy
// sets and, in a protected environment, by default this repository, the commit that is
// checked out, which has the tag, a clean tree and a builder that is known.
func (p *run) provenancePolicy(ctx context.Context, set config.Provenance) (sign.ProvenancePolicy, error) {
	policy := sign.ProvenancePolicy{Repository: set.Repository, Builders: set.Builder, Clean: set.Clean != nil && *set.Clean}
	protected := p.Config.Deploy.Environments[p.Environment].Protected
	if !protected && set.Ref != refCheckout {
		return policy, nil
	}
	s := p.source
	if p.report.Source == nil { // the image is given
		var err error
		if s, err = p.OpenSource(ctx, false); err != nil {
			return policy, err
		}
	}
	if set.Ref == refCheckout || protected && set.Ref == "" {
		policy.Revision = s.Revision
	}
	if !protected {
		return policy, nil
	}
	policy.Repository = cmp.Or(set.Repository, image.SourceURL(p.Config.Image.Source, s.Module))
	policy.Clean = set.Clean == nil || *set.Clean
	if len(policy.Builders) == 0 {
		policy.Builders = knownBuilders(policy.Repository)
	}
	return policy, nil
}

// refCheckout is the value of verify.provenance.ref that stands for the commit that is
// checked out.
const refCheckout = "checkout"

// knownBuilders returns patterns of the builder IDs that slipway writes for a repository:
// those of its workflows on GitHub and of its runners on GitLab, see [ci.System.Builder],
// and that of a build outside CI.
func knownBuilders(repository string) []string {
	at := `https?://[^/]+/.+`
	if repository != "" {
		at = regexp.QuoteMeta(strings.TrimSuffix(strings.TrimRight(repository, "/"), ".git"))
	}
	return []string{
		`(?i:` + at + `)/\.github/workflows/[^/@]+@refs/(heads|tags)/.+`,
		`(?i:` + at + `)/-/runners/[0-9]+`,
		regexp.QuoteMeta(localBuilder),
	}
}

package ship

import (
	"context"
	"errors"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Rollback rolls back an environment to a revision, see [deploy.Tool]. It verifies the
// image of a revision that has no record of it with the policy of the environment.
func Rollback(ctx context.Context, o Options, d deploy.Options, revision int) (result deploy.Result, err error) {
	p := &run{Options: o}
	defer func() { err = errors.Join(err, p.close()) }()
	p.resolveSubject()
	p.verifyWith(&d)
	return p.Deployer.Rollback(ctx, d, revision)
}

// verifyWith lets a deployment verify images other than the one of the run.
func (p *run) verifyWith(o *deploy.Options) {
	if p.Signer == nil {
		return
	}
	o.VerifyImage = func(ctx context.Context, ref name.Digest, by config.AllowedImage) error {
		policy := sign.Policy{Identities: by.Identities}
		for _, k := range by.Keys {
			policy.Keys = append(policy.Keys, sign.Key{Ref: p.resolve(k)})
		}
		if v, err := p.Config.Policy(p.Environment); err == nil {
			policy.TrustedRoot = p.resolve(v.TrustedRoot)
		}
		return p.verifyOther(ctx, sign.VerifyOptions{Reference: ref, Policy: policy, IndexOnly: true})
	}
	o.VerifyApp = func(ctx context.Context, ref name.Digest) error {
		if err := p.isApp(ref); err != nil {
			return err
		}
		policy, err := p.policy(ctx)
		if err != nil {
			return err
		}
		// An older revision was built from another commit, and nobody scans it again.
		policy.Provenance.Revision, policy.ScanMaxAge = "", 0
		return p.verifyOther(ctx, sign.VerifyOptions{Reference: ref, Policy: policy})
	}
}

// isApp returns an error if an image is not in the repository of the app. Another app can
// satisfy the same policy.
func (p *run) isApp(ref name.Digest) error {
	if p.Config.Image.Repository == "" {
		return nil // the embedded registry, whose repositories only this machine can write
	}
	client, err := p.registry()
	if err != nil {
		return err
	}
	repository, err := client.Repository(p.Config.Image.Repository)
	if err != nil {
		return err
	}
	if ref.Context().Name() != repository.Name() {
		return fault.Gatef("deploy.another-app", "%s is not in the repository of the app, %s", ref.Name(), repository.Name())
	}
	return nil
}

// verifyOther verifies an image other than the one of the run. If the image is in the
// embedded registry, it starts the registry.
func (p *run) verifyOther(ctx context.Context, o sign.VerifyOptions) error {
	if _, ok := p.embeddedPort(o.Reference.RegistryStr()); ok {
		if _, err := p.embedded(ctx); err != nil {
			return err
		}
	}
	client, err := p.registry()
	if err != nil {
		return err
	}
	o.Remote, o.Backoff = client.Options(ctx), p.Backoff
	_, _, err = sign.Verify(ctx, p.Signer, o)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"dagger/slipway/internal/dagger"
)

// Show what a deployment would change, by dry runs on the cluster.
//
// Values of Secrets are hidden; nothing is pushed or changed.
//
//	dagger call plan --env prod --image ghcr.io/acme/orders@sha256:... --kubeconfig file:$HOME/.kube/config
//	dagger call plan --env dev --image ... --kubeconfig env:KUBECONFIG_TEXT --cluster tcp://127.0.0.1:6443
//
// +cache="never"
func (s *Slipway) Plan(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The image, as repository@sha256:...
	image string,
	// The kubeconfig: file:PATH or env:NAME.
	kubeconfig *dagger.Secret,
	// A cluster on the caller's own machine, as tcp://127.0.0.1:6443: the
	// kubeconfig's server is reached there, and its TLS name stays.
	// +optional
	cluster *dagger.Service,
	// Values of the environment's secrets, each as env:NAME.
	// +optional
	secrets []*dagger.Secret,
) (string, error) {
	d := deployment{env: env, kubeconfig: kubeconfig, cluster: cluster, secrets: secrets}
	c, args, err := d.prepare(ctx, s)
	if err != nil {
		return "", err
	}
	c = c.WithExec(slices.Concat([]string{"slipway", "plan"}, s.flags(), args, []string{"--image", image}), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	code, err := c.ExitCode(ctx)
	if err != nil {
		return "", explain(err)
	}
	if code != 0 && code != exitChanges {
		said, err := c.Stderr(ctx)
		if err != nil {
			return "", err
		}
		return "", errors.New(lines(said))
	}
	return c.Stdout(ctx)
}

// exitChanges is the program's exit code for a plan that found changes.
const exitChanges = 3

// Bring an image to a cluster and follow the rollout; without --image, run
// everything before it too.
//
// The signature is verified by the environment's policy. A failed rollout says
// why, with events and logs, and goes back to the newest good revision.
//
//	dagger call deploy --env prod --image ghcr.io/acme/orders@sha256:... --kubeconfig file:$HOME/.kube/config
//	dagger call deploy --env dev --image 127.0.0.1:5077/orders@sha256:... --registry tcp://127.0.0.1:5077 \
//	  --kubeconfig file:kubeconfig --cluster tcp://127.0.0.1:6443
//	dagger call deploy --env prod --address ghcr.io/acme/orders --key env:SIGNING_KEY --kubeconfig env:KUBECONFIG_TEXT
//
// +cache="never"
func (s *Slipway) Deploy(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The kubeconfig: file:PATH or env:NAME.
	kubeconfig *dagger.Secret,
	// The image, as repository@sha256:... Default: what this source builds,
	// after lint, test, scan, publish and sign.
	// +optional
	image string,
	// A cluster on the caller's own machine, as tcp://127.0.0.1:6443: the
	// kubeconfig's server is reached there, and its TLS name stays.
	// +optional
	cluster *dagger.Service,
	// Values of the environment's secrets, each as env:NAME.
	// +optional
	secrets []*dagger.Secret,
	// Deploy to a protected environment.
	// +optional
	yes bool,
	// The git tag this commit has, for protected environments.
	// +optional
	gitTag string,
	// Run the chart's tests after the rollout.
	// +optional
	test bool,
	// Leave a failed rollout as it is.
	// +optional
	noRollback bool,
	// Fail at once when another run is deploying this release.
	// +optional
	noWaitLock bool,
	// Repository to push to. Default: that of slipway.yaml.
	// +optional
	address string,
	// Tags of the image. Default: the commit's first twelve digits.
	// +optional
	tags []string,
	// Private key to sign with, in cosign's format.
	// +optional
	key *dagger.Secret,
	// Password of the key.
	// +optional
	keyPassword *dagger.Secret,
	// OIDC token of the signer, for signing without a key.
	// +optional
	identityToken *dagger.Secret,
	// User at the registry.
	// +optional
	username string,
	// Password or token at the registry: env:NAME, file:PATH or cmd:COMMAND.
	// +optional
	password *dagger.Secret,
	// Docker's config.json with logins, in place of user and password.
	// +optional
	dockerConfig *dagger.Secret,
	// A registry on the caller's own machine, as tcp://localhost:PORT; the
	// image names the same port. It is spoken to over plain HTTP.
	// +optional
	registry *dagger.Service,
	// Speak plain HTTP to the registry.
	// +optional
	insecure bool,
) (*Report, error) {
	if image == "" {
		var err error
		if image, err = s.shipped(ctx, address, tags, key, keyPassword, identityToken, access{username, password, dockerConfig, registry, insecure}); err != nil {
			return nil, err
		}
	}
	d := deployment{env: env, kubeconfig: kubeconfig, cluster: cluster, secrets: secrets}
	c, args, err := d.prepare(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		on   bool
	}{{"--insecure", insecure}, {"--no-rollback", noRollback}, {"--no-wait-lock", noWaitLock}, {"--test", test}, {"--yes", yes}} {
		if f.on {
			args = append(args, f.name)
		}
	}
	if gitTag != "" {
		args = append(args, "--git-tag", gitTag)
	}
	if registry != nil {
		c = c.WithServiceBinding(alias, registry)
		args = append(args, "--registry-server", alias)
	}
	if username != "" {
		args = append(args, "--username", username)
	}
	if password != nil {
		c = c.WithSecretVariable("SLIPWAY_REGISTRY_PASSWORD", password)
	}
	if dockerConfig != nil {
		c = c.WithMountedSecret("/root/.docker/config.json", dockerConfig)
	}
	c, args, err = s.stamped(ctx, c, args)
	if err != nil {
		return nil, err
	}
	return s.gate(ctx, "deploy", c, append(args, "--image", image)...)
}

// Run everything: lint, test, scan, build, publish and sign; and, with --env,
// deploy.
//
// Lint, test and scan run side by side, and nothing is pushed unless all pass.
//
//	dagger call ship --address ghcr.io/acme/orders --key env:SIGNING_KEY
//	dagger call ship --env prod --address ghcr.io/acme/orders --key env:SIGNING_KEY --kubeconfig file:$HOME/.kube/config
//
// +cache="never"
func (s *Slipway) Ship(
	ctx context.Context,
	// Environment of slipway.yaml to deploy to. Default: none.
	// +optional
	env string,
	// The kubeconfig: file:PATH or env:NAME.
	// +optional
	kubeconfig *dagger.Secret,
	// A cluster on the caller's own machine, as tcp://127.0.0.1:6443: the
	// kubeconfig's server is reached there, and its TLS name stays.
	// +optional
	cluster *dagger.Service,
	// Values of the environment's secrets, each as env:NAME.
	// +optional
	secrets []*dagger.Secret,
	// Deploy to a protected environment.
	// +optional
	yes bool,
	// The git tag this commit has, for protected environments.
	// +optional
	gitTag string,
	// Repository to push to. Default: that of slipway.yaml.
	// +optional
	address string,
	// Tags of the image. Default: the commit's first twelve digits.
	// +optional
	tags []string,
	// Private key to sign with, in cosign's format.
	// +optional
	key *dagger.Secret,
	// Password of the key.
	// +optional
	keyPassword *dagger.Secret,
	// OIDC token of the signer, for signing without a key.
	// +optional
	identityToken *dagger.Secret,
	// User at the registry.
	// +optional
	username string,
	// Password or token at the registry: env:NAME, file:PATH or cmd:COMMAND.
	// +optional
	password *dagger.Secret,
	// Docker's config.json with logins, in place of user and password.
	// +optional
	dockerConfig *dagger.Secret,
	// A registry on the caller's own machine, as tcp://localhost:PORT; the
	// address names the same port. It is spoken to over plain HTTP.
	// +optional
	registry *dagger.Service,
	// Speak plain HTTP to the registry.
	// +optional
	insecure bool,
) (string, error) {
	if (env == "") != (kubeconfig == nil) {
		return "", fmt.Errorf("--env and --kubeconfig go together")
	}
	image, err := s.shipped(ctx, address, tags, key, keyPassword, identityToken, access{username, password, dockerConfig, registry, insecure})
	if err != nil || env == "" {
		return image, err
	}
	report, err := s.Deploy(ctx, env, kubeconfig, image, cluster, secrets, yes, gitTag, false, false, false,
		"", nil, nil, nil, nil, username, password, dockerConfig, registry, insecure)
	if err != nil {
		return "", err
	}
	if err := report.failed(); err != nil {
		return "", err
	}
	return report.Text, nil
}

// shipped runs everything up to a signed image, and gives its reference.
func (s *Slipway) shipped(ctx context.Context, address string, tags []string, key, keyPassword, identityToken *dagger.Secret, a access) (string, error) {
	g, gctx := errgroup.WithContext(ctx)
	for _, gate := range []func(context.Context) (*Report, error){
		s.Lint, s.Test,
		func(ctx context.Context) (*Report, error) { return s.Scan(ctx, nil, false, false, nil, nil) },
	} {
		g.Go(func() error {
			r, err := gate(gctx)
			if err != nil {
				return err
			}
			return r.failed()
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	image, err := s.Publish(ctx, address, tags, a.username, a.password, a.dockerConfig, a.registry, a.insecure, nil, false, "", "")
	if err != nil {
		return "", err
	}
	return s.Sign(ctx, image, key, keyPassword, identityToken, false, a.username, a.password, a.dockerConfig, a.registry, a.insecure, false, "", "")
}

// Show what is released, and how its pods are.
//
//	dagger call status --env prod --kubeconfig file:$HOME/.kube/config
//
// +cache="never"
func (s *Slipway) Status(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The kubeconfig: file:PATH or env:NAME.
	kubeconfig *dagger.Secret,
	// A cluster on the caller's own machine, as tcp://127.0.0.1:6443.
	// +optional
	cluster *dagger.Service,
) (string, error) {
	d := deployment{env: env, kubeconfig: kubeconfig, cluster: cluster}
	return d.run(ctx, s, "status")
}

// Go back to a revision, by default the newest good one before.
//
//	dagger call rollback --env prod --kubeconfig file:$HOME/.kube/config
//	dagger call rollback --env prod --revision 12 --kubeconfig file:$HOME/.kube/config
//
// +cache="never"
func (s *Slipway) Rollback(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The kubeconfig: file:PATH or env:NAME.
	kubeconfig *dagger.Secret,
	// The revision to go back to. Default: the newest good one before.
	// +optional
	revision int,
	// Roll a protected environment back.
	// +optional
	yes bool,
	// A cluster on the caller's own machine, as tcp://127.0.0.1:6443.
	// +optional
	cluster *dagger.Service,
) (string, error) {
	d := deployment{env: env, kubeconfig: kubeconfig, cluster: cluster}
	var args []string
	if revision > 0 {
		args = append(args, strconv.Itoa(revision))
	}
	if yes {
		args = append(args, "--yes")
	}
	return d.run(ctx, s, "rollback", args...)
}

// deployment is how an environment's cluster is reached.
type deployment struct {
	env        string
	kubeconfig *dagger.Secret
	cluster    *dagger.Service
	secrets    []*dagger.Secret
}

// clusterAlias is the name under which a container reaches a cluster on the
// caller's machine.
const clusterAlias = "cluster"

// prepare gives a container that reaches the cluster, and the flags for it.
func (d deployment) prepare(ctx context.Context, s *Slipway) (*dagger.Container, []string, error) {
	const file = "/run/secrets/kubeconfig"
	args := []string{"--env", d.env, "--kubeconfig", file}
	c := s.on(s.deployer(s.image(s.GoImage)), s.Built).
		WithDirectory(".", s.Deployed).
		WithMountedSecret(file, d.kubeconfig).
		WithEnvVariable("SLIPWAY_RUN", nonce())
	if d.cluster != nil {
		c = c.WithServiceBinding(clusterAlias, d.cluster)
		args = append(args, "--cluster-server", clusterAlias)
	}
	for _, secret := range d.secrets {
		uri, err := secret.URI(ctx)
		if err != nil {
			return nil, nil, err
		}
		name, ok := strings.CutPrefix(uri, "env://")
		if !ok {
			return nil, nil, fmt.Errorf("--secrets takes env:NAME, because slipway.yaml names the variable")
		}
		c = c.WithSecretVariable(name, secret)
	}
	return c, args, nil
}

// run runs a command of the program that needs no image.
func (d deployment) run(ctx context.Context, s *Slipway, command string, more ...string) (string, error) {
	c, args, err := d.prepare(ctx, s)
	if err != nil {
		return "", err
	}
	out, err := c.WithExec(slices.Concat([]string{"slipway", command}, more, s.flags(), args)).Stdout(ctx)
	if err != nil {
		return "", explain(err)
	}
	return out, nil
}

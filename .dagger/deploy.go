package main

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"dagger/slipway/internal/dagger"
)

// Show what a deployment would change, by dry runs on the cluster.
//
// Values of Secrets are hidden; nothing is pushed or changed. with-cluster sets
// how the cluster is reached.
//
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config \
//	  plan --env prod --image ghcr.io/acme/orders@sha256:...
//
// +cache="never"
func (s *Slipway) Plan(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The image, as repository@sha256:...
	image string,
) (string, error) {
	c, args, err := s.deployment(ctx, env)
	if err != nil {
		return "", err
	}
	c = c.WithExec(slices.Concat([]string{"slipway", "plan"}, s.stageFlags(), args, []string{"--image", image}), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	code, err := c.ExitCode(ctx)
	if err != nil {
		return "", s.explain("plan", err)
	}
	if code != 0 && code != exitChanges {
		said, err := c.Stderr(ctx)
		if err != nil {
			return "", err
		}
		return "", errors.New(s.lines("plan", said))
	}
	return c.Stdout(ctx)
}

// exitChanges is the program's exit code for a plan that found changes.
const exitChanges = 3

// Deploy an image to a cluster and follow the rollout.
//
// Without --image it runs everything before it: lint, test, scan, publish and sign.
// The signature is verified against the policy of the environment. If the rollout
// fails the report says why, with events and logs, and the release is rolled back to
// the newest good revision. with-cluster sets how the cluster is reached;
// with-registry and with-signer are for the steps before.
//
//	dagger call deploy --env prod
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config \
//	  deploy --env prod --image ghcr.io/acme/orders@sha256:...
//	dagger call with-registry --address ghcr.io/acme/orders --username ci --password env:TOKEN \
//	  with-signer --key env:SIGNING_KEY with-cluster --kubeconfig env:KUBECONFIG_TEXT deploy --env prod --yes
//
// +cache="never"
func (s *Slipway) Deploy(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The image, as repository@sha256:... Default: what this source builds, after
	// lint, test, scan, publish and sign.
	// +optional
	image string,
	// Tags of an image that is published. Default: the first twelve digits of the
	// commit.
	// +optional
	tags []string,
	// Deploy to a protected environment.
	// +optional
	yes bool,
	// The git tag of this commit, for protected environments.
	// +optional
	gitTag string,
	// Run the chart's tests after the rollout.
	// +optional
	test bool,
	// Leave a failed rollout as it is.
	// +optional
	noRollback bool,
	// Fail at once if another run is deploying this release.
	// +optional
	noWaitLock bool,
) (*Report, error) {
	o := rollout{function: "deploy", env: env, image: image, tags: tags, gitTag: gitTag}
	for _, f := range []struct {
		name string
		on   bool
	}{{"--no-rollback", noRollback}, {"--no-wait-lock", noWaitLock}, {"--test", test}, {"--yes", yes}} {
		if f.on {
			o.flags = append(o.flags, f.name)
		}
	}
	return s.deploy(ctx, o)
}

// rollout holds the options of a deployment.
type rollout struct {
	function   string // of the module, which was called
	env, image string
	tags       []string
	gitTag     string
	flags      []string
}

func (s *Slipway) deploy(ctx context.Context, o rollout) (*Report, error) {
	if o.image == "" {
		var err error
		if o.image, err = s.shipped(ctx, o.function, o.tags); err != nil {
			return nil, err
		}
	}
	c, args, err := s.deployment(ctx, o.env)
	if err != nil {
		return nil, err
	}
	args = append(args, o.flags...)
	if o.gitTag != "" {
		args = append(args, "--git-tag", o.gitTag)
	}
	c, args, err = s.stamped(ctx, o.function, c, args)
	if err != nil {
		return nil, err
	}
	return s.gate(ctx, o.function, "deploy", c, append(args, "--image", o.image)...)
}

// Run everything from lint to a signed image, and with --env deploy it.
//
// Lint, test, license and scan run at the same time, and nothing is pushed unless all of them
// pass.
//
//	dagger call with-registry --address ghcr.io/acme/orders with-signer --key env:SIGNING_KEY ship
//	dagger call ship --env prod --yes
//
// +cache="never"
func (s *Slipway) Ship(
	ctx context.Context,
	// Environment of slipway.yaml to deploy to. Default: none.
	// +optional
	env string,
	// Tags of the image. Default: the first twelve digits of the commit.
	// +optional
	tags []string,
	// Deploy to a protected environment.
	// +optional
	yes bool,
	// The git tag of this commit, for protected environments.
	// +optional
	gitTag string,
) (string, error) {
	if env == "" {
		return s.shipped(ctx, "ship", tags)
	}
	o := rollout{function: "ship", env: env, tags: tags, gitTag: gitTag}
	if yes {
		o.flags = []string{"--yes"}
	}
	report, err := s.deploy(ctx, o)
	if err != nil {
		return "", err
	}
	if err := report.failed(); err != nil {
		return "", err
	}
	return report.Text, nil
}

// shipped runs everything up to a signed image, and returns its reference.
func (s *Slipway) shipped(ctx context.Context, function string, tags []string) (string, error) {
	g, gctx := errgroup.WithContext(ctx)
	for _, gate := range []func(context.Context, string) (*Report, error){
		s.lint, s.test,
		func(ctx context.Context, function string) (*Report, error) { return s.license(ctx, function, nil) },
		func(ctx context.Context, function string) (*Report, error) { return s.scan(ctx, function, nil) },
	} {
		g.Go(func() error {
			r, err := gate(gctx, function)
			if err != nil {
				return err
			}
			return r.failed()
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	image, err := s.push(ctx, s.Registry.Address, tags, request{function: function})
	if err != nil {
		return "", err
	}
	return s.sign(ctx, image, false, request{function: function})
}

// Show what is released, and the state of its pods.
//
//	dagger call status --env prod
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config status --env prod
//
// +cache="never"
func (s *Slipway) Status(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
) (string, error) {
	return s.inspect(ctx, env, "status")
}

// Show the revisions of a release, to one of which rollback can go back.
//
//	dagger call history --env prod
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config history --env prod
//
// +cache="never"
func (s *Slipway) History(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
) (string, error) {
	return s.inspect(ctx, env, "history")
}

// Roll back to a revision, by default the newest good one before the current.
//
//	dagger call rollback --env prod
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config rollback --env prod --revision 12
//
// +cache="never"
func (s *Slipway) Rollback(
	ctx context.Context,
	// Environment of slipway.yaml.
	env string,
	// The revision. Default: the newest good one before the current.
	// +optional
	revision int,
	// Roll back a protected environment.
	// +optional
	yes bool,
) (string, error) {
	var args []string
	if revision > 0 {
		args = append(args, strconv.Itoa(revision))
	}
	if yes {
		args = append(args, "--yes")
	}
	return s.inspect(ctx, env, "rollback", args...)
}

// deployment is a container that reaches the registry and the cluster of an
// environment, with the flags for both.
func (s *Slipway) deployment(ctx context.Context, env string) (*dagger.Container, []string, error) {
	c, err := s.modules(ctx, released()) // the program asks the go command what the source is
	if err != nil {
		return nil, nil, err
	}
	c, cluster, err := s.atCluster(ctx, s.charted(c), env)
	if err != nil {
		return nil, nil, err
	}
	c, registry, err := s.atRegistry(ctx, c)
	return c, append(cluster, registry...), err
}

// charted adds the program that deploys, the charts and the values to a container.
func (s *Slipway) charted(c *dagger.Container) *dagger.Container {
	return s.on(s.deployer(c), s.Built).WithDirectory(".", s.Deployed)
}

// inspect runs a command of the program that needs no image.
func (s *Slipway) inspect(ctx context.Context, env, command string, more ...string) (string, error) {
	c, cluster, err := s.atCluster(ctx, s.charted(s.base()), env)
	if err != nil {
		return "", err
	}
	c, args, err := s.reaching(ctx, c)
	if err != nil {
		return "", err
	}
	out, err := c.WithExec(slices.Concat([]string{"slipway", command}, more, s.flags(), cluster, args)).Stdout(ctx)
	if err != nil {
		return "", s.explain(command, err)
	}
	return out, nil
}

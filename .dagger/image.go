package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"dagger/slipway/internal/dagger"
)

// Build the image, as a container that runs, exports and publishes.
//
// Of an image for several platforms it is the engine's own; build-layout and
// publish give all of them.
//
//	dagger call build as-service up --ports 8080:8080
//	dagger call build terminal
//	dagger call build --upx export --path order-service.tar
func (s *Slipway) Build(
	ctx context.Context,
	// Platforms to build for. Default: those of slipway.yaml, else linux/amd64
	// and linux/arm64.
	// +optional
	platforms []string,
	// Pack the binary with upx --best --lzma.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that
	// of slipway.yaml, else scratch.
	// +optional
	base string,
	// Version to stamp. Default: from the commit.
	// +optional
	version string,
) (*dagger.Container, error) {
	built, err := s.build(ctx, request{platforms, upx, base, version})
	if err != nil {
		return nil, err
	}
	own, err := dag.DefaultPlatform(ctx)
	if err != nil {
		return nil, err
	}
	if len(platforms) == 0 {
		platforms = s.Platforms
	}
	if len(platforms) > 0 && !slices.Contains(platforms, string(own)) {
		own = dagger.Platform(platforms[0])
	}
	return dag.Container(dagger.ContainerOpts{Platform: own}).Import(built.File("/image/oci.tar")), nil
}

// Run the built image beside the Postgres and Redis of slipway.yaml.
//
// They are empty, and gone when the call ends. The app finds them as its tests
// do, by DATABASE_URL and REDIS_URL.
//
//	dagger call serve up --ports 8080:8080
//	dagger call serve --args /server,--debug up --ports 8080:8080
//
// +cache="session"
func (s *Slipway) Serve(
	ctx context.Context,
	// Command to run, with its arguments. Default: the image's own.
	// +optional
	args []string,
	// More environment, each as NAME=VALUE. Nothing secret: it is part of a cache key.
	// +optional
	env []string,
) (*dagger.Service, error) {
	c, err := s.Build(ctx, nil, false, "", "")
	if err != nil {
		return nil, err
	}
	c = c.With(s.withServices)
	for _, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--env %q is not NAME=VALUE", e)
		}
		c = c.WithEnvVariable(name, value)
	}
	return c.AsService(dagger.ContainerAsServiceOpts{UseEntrypoint: len(args) == 0, Args: args}), nil
}

// Build the image, as an OCI layout folder.
//
// It has the exact bytes and digest that the slipway program gives for the
// same commit.
//
//	dagger call build-layout export --path image
//	dagger call build-layout --platforms linux/arm64 export --path image
func (s *Slipway) BuildLayout(
	ctx context.Context,
	// Platforms to build for. Default: those of slipway.yaml, else linux/amd64
	// and linux/arm64.
	// +optional
	platforms []string,
	// Pack the binary with upx --best --lzma.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that
	// of slipway.yaml, else scratch.
	// +optional
	base string,
	// Version to stamp. Default: from the commit.
	// +optional
	version string,
) (*dagger.Directory, error) {
	built, err := s.build(ctx, request{platforms, upx, base, version})
	if err != nil {
		return nil, err
	}
	return built.Directory("/image/layout"), nil
}

// Build the image and push it; gives its reference by digest.
//
// A push of what the registry has already changes nothing.
//
//	dagger call publish --address ghcr.io/acme/orders --tags v1.2.3,latest \
//	  --username ci --password env:REGISTRY_TOKEN
//	dagger call publish --address localhost:5000/orders --registry tcp://localhost:5000
//
// +cache="never"
func (s *Slipway) Publish(
	ctx context.Context,
	// Repository to push to, for example ghcr.io/acme/orders. Default: that of
	// slipway.yaml.
	// +optional
	address string,
	// Tags of the image. Default: the commit's first twelve digits.
	// +optional
	tags []string,
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
	// Platforms to build for. Default: those of slipway.yaml, else linux/amd64
	// and linux/arm64.
	// +optional
	platforms []string,
	// Pack the binary with upx --best --lzma.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that
	// of slipway.yaml, else scratch.
	// +optional
	base string,
	// Version to stamp. Default: from the commit.
	// +optional
	version string,
) (string, error) {
	c, args, err := s.prepare(ctx, "publish", request{platforms, upx, base, version})
	if err != nil {
		return "", err
	}
	for _, tag := range tags {
		args = append(args, "--tag", tag)
	}
	a := access{username, password, dockerConfig, registry, insecure}
	return a.run(ctx, c, args, "--repository", address)
}

// request is what a build is asked for beside slipway.yaml.
type request struct {
	platforms []string
	upx       bool
	base      string
	version   string
}

func (s *Slipway) build(ctx context.Context, r request) (*dagger.Container, error) {
	c, args, err := s.prepare(ctx, "build", r)
	if err != nil {
		return nil, err
	}
	args = append(args, "-o", "oci:/image/layout")
	c, err = c.WithExec(append([]string{"sh", "-c", `"$@" && tar -C /image/layout -cf /image/oci.tar .`, "sh"}, args...)).Sync(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return c, nil
}

// prepare gives a container and the call of the program that builds in it.
func (s *Slipway) prepare(ctx context.Context, command string, r request) (*dagger.Container, []string, error) {
	c := s.stage(s.Built)
	if r.upx || s.Packed {
		c = c.With(debian("upx", "upx-ucl"))
	}
	if s.CGO {
		c = c.With(debian("musl-gcc", "musl-tools"))
	}
	args := append([]string{"slipway", command}, s.flags()...)
	if len(r.platforms) > 0 {
		args = append(args, "--platforms", strings.Join(r.platforms, ","))
	}
	if r.upx {
		args = append(args, "--upx")
	}
	if r.base != "" {
		args = append(args, "--base", r.base)
	}
	if r.version != "" {
		args = append(args, "--version", r.version)
	}
	if s.Mirror != "" {
		args = append(args, "--mirror", s.Mirror)
	}
	return s.stamped(ctx, c, args)
}

// install puts a program into a Debian container that lacks it, from backports
// at the same mirror where the release itself has none.
const install = `command -v "$1" >/dev/null && exit
. /etc/os-release
apt-get update -qq
mirror=$(apt-cache policy | awk -v s="$VERSION_CODENAME/main" '$2 ~ /^http/ && index($0, s) { print $2; exit }')
echo "deb $mirror $VERSION_CODENAME-backports main" >/etc/apt/sources.list.d/slipway.list
apt-get update -qq && apt-get install -qq -y --no-install-recommends "$2" >/dev/null`

func debian(program, name string) dagger.WithContainerFunc {
	return func(c *dagger.Container) *dagger.Container {
		return c.WithExec([]string{"sh", "-c", install, "sh", program, name})
	}
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"dagger/slipway/internal/dagger"
)

// Build the image, as a container that runs, exports and publishes.
//
// If the image is for several platforms, this is the one of the engine's own
// platform. build-layout and publish include all of them.
//
//	dagger call build as-service up --ports 8080:8080
//	dagger call build terminal
//	dagger call build --upx export --path .slipway/order-service.tar
func (s *Slipway) Build(
	ctx context.Context,
	// Platforms to build for. Default: those of slipway.yaml, or linux/amd64 and
	// linux/arm64.
	// +optional
	platforms []string,
	// Pack the binary with upx --best --lzma.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that of
	// slipway.yaml, or scratch.
	// +optional
	base string,
	// Version to stamp. Default: made from the commit.
	// +optional
	version string,
) (*dagger.Container, error) {
	return s.container(ctx, request{"build", platforms, upx, base, version})
}

// container is the built image as a container: of an image for several platforms,
// that of the engine's own platform, or else the first.
func (s *Slipway) container(ctx context.Context, r request) (*dagger.Container, error) {
	built, err := s.build(ctx, r)
	if err != nil {
		return nil, err
	}
	own, err := dag.DefaultPlatform(ctx)
	if err != nil {
		return nil, err
	}
	platforms := r.platforms
	if len(platforms) == 0 {
		platforms = s.Platforms
	}
	if len(platforms) > 0 && !slices.Contains(platforms, string(own)) {
		own = dagger.Platform(platforms[0])
	}
	return dag.Container(dagger.ContainerOpts{Platform: own}).Import(built.File("/image/oci.tar")), nil
}

// Run the built image together with the Postgres and Redis of slipway.yaml.
//
// Both are empty and end with the call. The app finds them in the way its tests do,
// with DATABASE_URL and REDIS_URL.
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
	// Further environment, each as NAME=VALUE. Never a secret: it is part of a cache
	// key.
	// +optional
	env []string,
) (*dagger.Service, error) {
	c, err := s.container(ctx, request{function: "serve"})
	if err != nil {
		return nil, err
	}
	if err := s.startServices(ctx, "serve"); err != nil {
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
// It has exactly the bytes and the digest of what the slipway program builds from the
// same commit.
//
//	dagger call build-layout export --path .slipway/image
//	dagger call build-layout --platforms linux/arm64 export --path .slipway/image
func (s *Slipway) BuildLayout(
	ctx context.Context,
	// Platforms to build for. Default: those of slipway.yaml, or linux/amd64 and
	// linux/arm64.
	// +optional
	platforms []string,
	// Pack the binary with upx --best --lzma.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that of
	// slipway.yaml, or scratch.
	// +optional
	base string,
	// Version to stamp. Default: made from the commit.
	// +optional
	version string,
) (*dagger.Directory, error) {
	built, err := s.build(ctx, request{"build-layout", platforms, upx, base, version})
	if err != nil {
		return nil, err
	}
	return built.Directory("/image/layout"), nil
}

// Build the image and push it. Returns its reference by digest.
//
// Pushing an image that the registry already has changes nothing. with-registry sets
// the registry and the login.
//
//	dagger call publish --address ghcr.io/acme/orders --tags v1.2.3,latest
//	dagger call with-registry --address ghcr.io/acme/orders --username ci --password env:REGISTRY_TOKEN publish
//
// +cache="never"
func (s *Slipway) Publish(
	ctx context.Context,
	// Repository to push to, for example ghcr.io/acme/orders. Default: that of
	// with-registry, or of slipway.yaml.
	// +optional
	address string,
	// Tags of the image. Default: the first twelve digits of the commit.
	// +optional
	tags []string,
	// Platforms to build for. Default: those of slipway.yaml, or linux/amd64 and
	// linux/arm64.
	// +optional
	platforms []string,
	// Pack the binary with upx --best --lzma.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that of
	// slipway.yaml, or scratch.
	// +optional
	base string,
	// Version to stamp. Default: made from the commit.
	// +optional
	version string,
) (string, error) {
	return s.push(ctx, cmp.Or(address, s.Registry.Address), tags, request{"publish", platforms, upx, base, version})
}

func (s *Slipway) push(ctx context.Context, address string, tags []string, r request) (string, error) {
	if address == "" && s.Repository == "" {
		return "", errors.New("there is no repository to push to: set image.repository in slipway.yaml, " +
			"or name it with --address or with-registry --address")
	}
	c, args, err := s.prepare(ctx, "publish", r)
	if err != nil {
		return "", err
	}
	c, more, err := s.atRegistry(ctx, c)
	if err != nil {
		return "", err
	}
	args = append(args, more...)
	for _, tag := range tags {
		args = append(args, "--tag", tag)
	}
	if address != "" {
		args = append(args, "--repository", address)
	}
	return s.reference(ctx, r.function, c, args)
}

// reference runs the program and returns the reference of the image in its report.
func (s *Slipway) reference(ctx context.Context, function string, c *dagger.Container, args []string) (string, error) {
	done, err := s.attempt(ctx, function, c, append(args, "-o", "json"))
	if err != nil {
		return "", err
	}
	out, err := done.Stdout(ctx)
	if err != nil {
		return "", err
	}
	var report struct {
		Reference string `json:"reference"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return "", fmt.Errorf("reading the report of the program: %w", err)
	}
	return report.Reference, nil
}

// request is what a build is asked for in addition to slipway.yaml.
type request struct {
	function  string // of the module, which was called
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
	return s.attempt(ctx, r.function, c, append([]string{"sh", "-c", `"$@" && tar -C /image/layout -cf /image/oci.tar .`, "sh"}, args...))
}

// prepare returns a container and the call of the program that builds in it.
func (s *Slipway) prepare(ctx context.Context, command string, r request) (*dagger.Container, []string, error) {
	c, err := s.stage(ctx, s.Built, released())
	if err != nil {
		return nil, nil, err
	}
	if r.upx || s.Packed {
		c = c.With(debian("upx", "upx-ucl"))
	}
	if s.CGO {
		c = c.With(debian("musl-gcc", "musl-tools"))
	}
	args := append([]string{"slipway", command}, s.stageFlags()...)
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
	if m := s.images().Mirror; m != "" {
		args = append(args, "--mirror", m)
	}
	return s.stamped(ctx, r.function, c, args)
}

// install is a script that installs a program in a Debian container that lacks it. It
// adds the release's backports, from the same mirror, for programs that only they
// have.
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

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"dagger/slipway/internal/dagger"
)

// Scan the image and the source for vulnerabilities, secrets and misconfiguration.
//
// HIGH and CRITICAL findings fail it unless slipway.yaml says otherwise. The
// plain binary is scanned, so that packing hides nothing, and each Go
// vulnerability tells whether the program calls it. Without a vulnerability
// database it fails.
//
//	dagger call scan
//	dagger call scan --fail-on CRITICAL --reachable-only text
//	dagger call scan report export --path reports
//	dagger call scan --database mirror.example.com/trivy-db:2
//
// +check
// +cache="session"
func (s *Slipway) Scan(
	ctx context.Context,
	// Severities that fail: UNKNOWN, LOW, MEDIUM, HIGH, CRITICAL. Default:
	// those of slipway.yaml, else HIGH and CRITICAL.
	// +optional
	failOn []string,
	// Go vulnerabilities fail only where the program calls what is vulnerable,
	// or where that is not known.
	// +optional
	reachableOnly bool,
	// Pass vulnerabilities that no version fixes yet.
	// +optional
	ignoreUnfixed bool,
	// Repositories of the vulnerability database, tried in order; bundled
	// stands for the few advisories inside slipway. Default: those of
	// slipway.yaml, else Trivy's public ones.
	// +optional
	database []string,
	// The vulnerability database as an OCI layout folder, for sites without
	// network.
	// +optional
	databaseLayout *dagger.Directory,
) (*Report, error) {
	var args []string
	if len(failOn) > 0 {
		args = append(args, "--severity", strings.Join(failOn, ","))
	}
	if reachableOnly {
		args = append(args, "--reachable-only")
	}
	if ignoreUnfixed {
		args = append(args, "--ignore-unfixed")
	}
	for _, d := range database {
		args = append(args, "--db-repository", d)
	}
	c := s.on(s.scanner(s.modules()), s.Built)
	if databaseLayout != nil {
		c = c.WithMountedDirectory("/database", databaseLayout)
		args = append(args, "--db-repository", "oci:/database")
	}
	c, args, err := s.stamped(ctx, c, args)
	if err != nil {
		return nil, err
	}
	if s.Mirror != "" {
		args = append(args, "--mirror", s.Mirror)
	}
	// The database changes every day, which the engine cannot see.
	return s.gate(ctx, "scan", c.WithEnvVariable("SLIPWAY_RUN", nonce()), args...)
}

// List what is in the image: a software bill of materials.
//
// The same commit gives the same bytes.
//
//	dagger call sbom export --path sbom.spdx.json
//	dagger call sbom --format cyclonedx --platform linux/arm64 contents
func (s *Slipway) Sbom(
	ctx context.Context,
	// spdx-json or cyclonedx.
	// +default="spdx-json"
	format string,
	// The platform whose image is listed.
	// +default="linux/amd64"
	platform string,
	// Pack the binary with upx --best --lzma: the SBOM names the packed image.
	// +optional
	upx bool,
	// Base image: scratch, alpine, distroless or any reference. Default: that
	// of slipway.yaml, else scratch.
	// +optional
	base string,
	// Version to stamp. Default: from the commit.
	// +optional
	version string,
) (*dagger.File, error) {
	name, ok := map[string]string{"spdx-json": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json"}[format]
	if !ok {
		return nil, fmt.Errorf("--format %q is neither spdx-json nor cyclonedx", format)
	}
	c, args, err := s.prepare(ctx, "sbom", request{[]string{platform}, upx, base, version})
	if err != nil {
		return nil, err
	}
	out := "/" + name
	c, err = s.scanner(c).
		WithExec(append(args, "--as", format), dagger.ContainerWithExecOpts{RedirectStdout: out}).
		Sync(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return c.File(out), nil
}

// Sign an image by digest, and attest what is in it and how it was made.
//
// Attestations are made from this source, so the image must be what this source
// builds; --only-signature signs any. Signing again adds nothing. Gives the
// image's reference by digest.
//
//	dagger call sign --image ghcr.io/acme/orders@sha256:... \
//	  --key file:cosign.key --key-password env:KEY_PASSWORD
//	dagger call sign --image ghcr.io/acme/orders@sha256:... --identity-token env:SIGSTORE_ID_TOKEN
//
// +cache="never"
func (s *Slipway) Sign(
	ctx context.Context,
	// The image, by digest.
	image string,
	// Private key in cosign's format: file:cosign.key or env:NAME. Default:
	// sign.key of slipway.yaml, which is then a KMS key.
	// +optional
	key *dagger.Secret,
	// Password of the key.
	// +optional
	keyPassword *dagger.Secret,
	// OIDC token of the signer, for signing without a key.
	// +optional
	identityToken *dagger.Secret,
	// Sign, and attest nothing.
	// +optional
	onlySignature bool,
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
	// Pack the binary with upx --best --lzma, as the image was built.
	// +optional
	upx bool,
	// Base image, as the image was built.
	// +optional
	base string,
	// Version to stamp, as the image was built.
	// +optional
	version string,
) (string, error) {
	a := access{username, password, dockerConfig, registry, insecure}
	var c *dagger.Container
	var args []string
	var err error
	if onlySignature {
		c, args = s.on(s.signer(s.image(s.GoImage)), s.Built), append([]string{"slipway", "sign", "--only-signature"}, s.flags()...)
	} else {
		if c, args, err = s.prepare(ctx, "sign", request{nil, upx, base, version}); err != nil {
			return "", err
		}
		c = s.scanner(c)
	}
	if key != nil {
		const file = "/run/secrets/signing-key"
		c = c.WithMountedSecret(file, key)
		args = append(args, "--key", file)
	}
	if keyPassword != nil {
		c = c.WithSecretVariable("SLIPWAY_KEY_PASSWORD", keyPassword)
	}
	if identityToken != nil {
		const file = "/run/secrets/identity-token"
		c = c.WithMountedSecret(file, identityToken)
		args = append(args, "--identity-token", file)
	}
	return a.run(ctx, c, args, "--image", image)
}

// Verify an image: its signature, its attestations and the age of its scan.
//
// What must be true is the policy of slipway.yaml. Gives the image's reference
// by digest.
//
//	dagger call verify --image ghcr.io/acme/orders@sha256:... --env prod
//	dagger call verify --image ghcr.io/acme/orders:v1.2.3 --key cosign.pub
//
// +cache="never"
func (s *Slipway) Verify(
	ctx context.Context,
	// The image; a tag is resolved once.
	image string,
	// Environment whose policy counts.
	// +optional
	env string,
	// Public key that must have signed, in place of those of slipway.yaml.
	// +optional
	key *dagger.File,
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
) (string, error) {
	a := access{username, password, dockerConfig, registry, insecure}
	c := s.on(s.signer(s.image(s.GoImage)), s.Built)
	args := append([]string{"slipway", "verify"}, s.flags()...)
	if env != "" {
		args = append(args, "--env", env)
	}
	if key != nil {
		c = c.WithMountedFile("/key.pub", key)
		args = append(args, "--key", "/key.pub")
	}
	return a.run(ctx, c, args, "--image", image)
}

// alias is the name under which a container reaches a registry on the caller's
// machine.
const alias = "registry"

// access is how a registry is reached.
type access struct {
	username     string
	password     *dagger.Secret
	dockerConfig *dagger.Secret
	registry     *dagger.Service
	insecure     bool
}

// run runs the program against a registry and gives the reference it reports.
// flag is the one that takes the image's address; an empty address is that of
// slipway.yaml.
func (a access) run(ctx context.Context, c *dagger.Container, args []string, flag, address string) (string, error) {
	host := ""
	if a.registry != nil {
		if address == "" {
			return "", fmt.Errorf("--registry needs the image's address, for example localhost:5000/orders")
		}
		// A container cannot reach the caller's localhost by that name.
		var repository string
		host, repository, _ = strings.Cut(address, "/")
		_, port, _ := strings.Cut(host, ":")
		address, a.insecure = alias+":"+port+"/"+repository, true
		c = c.WithServiceBinding(alias, a.registry)
	}
	if address != "" {
		args = append(args, flag, address)
	}
	if a.insecure {
		args = append(args, "--insecure")
	}
	if a.username != "" {
		args = append(args, "--username", a.username)
	}
	if a.dockerConfig != nil {
		c = c.WithMountedSecret("/root/.docker/config.json", a.dockerConfig)
	}
	var o dagger.ContainerWithExecOpts
	if a.password != nil {
		const file = "/run/secrets/registry-password"
		c = c.WithMountedSecret(file, a.password)
		args, o.RedirectStdin = append(args, "--password-stdin"), file
	}
	out, err := c.WithEnvVariable("SLIPWAY_RUN", nonce()).WithExec(append(args, "-o", "json"), o).Stdout(ctx)
	if err != nil {
		return "", explain(err)
	}
	var report struct {
		Reference string `json:"reference"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return "", fmt.Errorf("reading the program's report: %w", err)
	}
	if name, ok := strings.CutPrefix(report.Reference, alias+":"); ok && host != "" {
		_, name, _ = strings.Cut(name, "/")
		return host + "/" + name, nil
	}
	return report.Reference, nil
}

package main

import (
	"context"
	"fmt"
	"strings"

	"dagger/slipway/advice"
	"dagger/slipway/internal/dagger"
)

// Check that every module in the program has an allowed licence.
//
// The allowed licences are license.allow of slipway.yaml. If that is empty, nothing is
// checked. The modules are read from the compiled program.
//
//	dagger call license
//	dagger call license --allow MIT,Apache-2.0,BSD-3-Clause text
//	dagger call license report export --path .slipway/reports
//
// +cache="session"
func (s *Slipway) License(
	ctx context.Context,
	// SPDX identifiers of the licences that modules may have. Default: those of
	// slipway.yaml.
	// +optional
	allow []string,
) (*Report, error) {
	return s.license(ctx, "license", allow)
}

func (s *Slipway) license(ctx context.Context, function string, allow []string) (*Report, error) {
	c, err := s.modules(ctx, released())
	if err != nil {
		return nil, err
	}
	var args []string
	for _, id := range allow {
		args = append(args, "--allow-license", id)
	}
	c, args, err = s.stamped(ctx, function, s.on(s.program(c, released()), s.Built), args)
	if err != nil {
		return nil, err
	}
	return s.gate(ctx, function, "license", c, args...)
}

// Scan the image and the source for vulnerabilities, secrets and misconfiguration.
//
// HIGH and CRITICAL findings fail the scan unless slipway.yaml says otherwise. The
// plain binary is scanned, so packing hides nothing. For a vulnerability in Go code
// the report says whether the program calls it. Without a vulnerability database the
// scan fails.
//
//	dagger call scan
//	dagger call scan --fail-on CRITICAL --reachable-only text
//	dagger call scan report export --path .slipway/reports
//	dagger call scan --database mirror.example.com/trivy-db:2
//
// +check
// +cache="session"
func (s *Slipway) Scan(
	ctx context.Context,
	// Severities that fail: UNKNOWN, LOW, MEDIUM, HIGH, CRITICAL. Default: those of
	// slipway.yaml, or HIGH and CRITICAL.
	// +optional
	failOn []string,
	// Go vulnerabilities fail only if the program calls the vulnerable function, or
	// if that is not known.
	// +optional
	reachableOnly bool,
	// Ignore vulnerabilities for which no fixed version exists yet.
	// +optional
	ignoreUnfixed bool,
	// Repositories of the vulnerability database, tried in order; bundled stands for
	// the few advisories inside slipway. Default: those of slipway.yaml, or Trivy's
	// public ones.
	// +optional
	database []string,
	// The vulnerability database as an OCI layout folder, for sites without a
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
	if databaseLayout != nil {
		args = append(args, "--db-repository", "oci:"+advice.DatabaseDir)
	}
	return s.scan(ctx, "scan", databaseLayout, args...)
}

func (s *Slipway) scan(ctx context.Context, function string, databaseLayout *dagger.Directory, args ...string) (*Report, error) {
	c, err := s.modules(ctx, released())
	if err != nil {
		return nil, err
	}
	c = s.on(s.scanner(c), s.Built)
	if databaseLayout != nil {
		c = c.WithMountedDirectory(advice.DatabaseDir, databaseLayout)
	}
	c, args, err = s.stamped(ctx, function, c, args)
	if err != nil {
		return nil, err
	}
	if m := s.images().Mirror; m != "" {
		args = append(args, "--mirror", m)
	}
	// The database changes every day, which the engine cannot see.
	return s.gate(ctx, function, "scan", c.WithEnvVariable("SLIPWAY_RUN", nonce()), args...)
}

// List what is in the image: a software bill of materials.
//
// The same commit gives the same bytes.
//
//	dagger call sbom export --path .slipway/sbom.spdx.json
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
	// Base image: scratch, alpine, distroless or any reference. Default: that of
	// slipway.yaml, or scratch.
	// +optional
	base string,
	// Version to stamp. Default: made from the commit.
	// +optional
	version string,
) (*dagger.File, error) {
	name, ok := map[string]string{"spdx-json": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json"}[format]
	if !ok {
		return nil, fmt.Errorf("--format %q is neither spdx-json nor cyclonedx", format)
	}
	c, args, err := s.prepare(ctx, "sbom", request{"sbom", []string{platform}, upx, base, version})
	if err != nil {
		return nil, err
	}
	out := "/" + name
	c, err = s.attempt(ctx, "sbom", s.scanner(c), append(args, "--as", format), dagger.ContainerWithExecOpts{RedirectStdout: out})
	if err != nil {
		return nil, err
	}
	return c.File(out), nil
}

// Sign an image by digest, and attest what is in it and how it was made.
//
// Attestations are made from this source, so the image must be what this source
// builds; --only-signature signs any image. Signing an image again adds nothing.
// Returns the reference of the image by digest. with-signer sets who signs.
//
//	dagger call with-signer --key file:cosign.key --password env:KEY_PASSWORD \
//	  sign --image ghcr.io/acme/orders@sha256:...
//	dagger call with-signer --identity-token env:SIGSTORE_ID_TOKEN sign --image ghcr.io/acme/orders@sha256:...
//
// +cache="never"
func (s *Slipway) Sign(
	ctx context.Context,
	// The image, by digest.
	image string,
	// Sign without attestations.
	// +optional
	onlySignature bool,
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
	return s.sign(ctx, image, onlySignature, request{"sign", nil, upx, base, version})
}

func (s *Slipway) sign(ctx context.Context, image string, onlySignature bool, r request) (string, error) {
	var c *dagger.Container
	var args []string
	var err error
	if onlySignature {
		if c, err = s.modules(ctx, released()); err != nil {
			return "", err
		}
		c, args = s.on(s.signer(c), s.Built), append([]string{"slipway", "sign", "--only-signature"}, s.stageFlags()...)
	} else {
		if c, args, err = s.prepare(ctx, "sign", r); err != nil {
			return "", err
		}
		c = s.scanner(c)
	}
	c, signer := s.signing(c)
	c, registry, err := s.atRegistry(ctx, c)
	if err != nil {
		return "", err
	}
	args = append(append(args, signer...), registry...)
	return s.reference(ctx, r.function, c, append(args, "--image", image))
}

// Verify an image: its signature, its attestations and the age of its scan.
//
// The policy is that of slipway.yaml. Returns the reference of the image by digest.
//
//	dagger call verify --image ghcr.io/acme/orders@sha256:... --env prod
//	dagger call verify --image ghcr.io/acme/orders:v1.2.3 --key cosign.pub
//
// +cache="never"
func (s *Slipway) Verify(
	ctx context.Context,
	// The image; a tag is resolved once.
	image string,
	// Environment whose policy applies.
	// +optional
	env string,
	// Public key that must have signed, instead of those of slipway.yaml.
	// +optional
	key *dagger.File,
) (string, error) {
	c, args, err := s.atRegistry(ctx, s.on(s.signer(s.base()), s.Built))
	if err != nil {
		return "", err
	}
	if env != "" {
		args = append(args, "--env", env)
	}
	if key != nil {
		c = c.WithMountedFile(advice.PublicKeyFile, key)
		args = append(args, "--key", advice.PublicKeyFile)
	}
	args = append(append([]string{"slipway", "verify"}, s.flags()...), args...)
	return s.reference(ctx, "verify", c, append(args, "--image", image))
}

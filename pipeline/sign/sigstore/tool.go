// Package sigstore signs, attests and verifies images with cosign's library
// (https://github.com/sigstore/cosign). It is compatible with cosign 2 in both
// directions: signatures and attestations are stored under cosign's tags in the
// repository of the image (sha256-<hex>.sig and sha256-<hex>.att).
//
// The package promises no compatibility to programs other than slipway.
package sigstore

import (
	"context"

	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Tool implements [sign.Tool] with the functions of this package.
type Tool struct{}

// GenerateKeys calls [GenerateKeys].
func (Tool) GenerateKeys(ctx context.Context, o sign.KeysOptions) (sign.Keys, error) {
	return GenerateKeys(ctx, o)
}

// NewSigner calls [NewSigner].
func (Tool) NewSigner(ctx context.Context, o sign.SignerOptions) (sign.Signer, error) {
	return NewSigner(ctx, o)
}

// Sign calls [Sign].
func (Tool) Sign(ctx context.Context, o sign.Options) (sign.Result, error) {
	return Sign(ctx, o)
}

// Attest calls [Attest].
func (Tool) Attest(ctx context.Context, o sign.AttestOptions) (sign.AttestResult, error) {
	return Attest(ctx, o)
}

// Verify calls [Verify].
func (Tool) Verify(ctx context.Context, o sign.VerifyOptions) (sign.VerifyResult, error) {
	return Verify(ctx, o)
}

// Package sigstore signs images, attests what is known of them and verifies
// both, with cosign's library. What it writes, cosign 2 verifies, and the other
// way round: signatures are kept in cosign's tags beside the image
// (sha256-<hex>.sig and .att).
package sigstore

import (
	"context"

	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Tool is this package as a [sign.Tool].
type Tool struct{}

// GenerateKeys is [GenerateKeys].
func (Tool) GenerateKeys(ctx context.Context, o sign.KeysOptions) (sign.Keys, error) {
	return GenerateKeys(ctx, o)
}

// NewSigner is [NewSigner].
func (Tool) NewSigner(ctx context.Context, o sign.SignerOptions) (sign.Signer, error) {
	return NewSigner(ctx, o)
}

// Sign is [Sign].
func (Tool) Sign(ctx context.Context, o sign.Options) (sign.Result, error) {
	return Sign(ctx, o)
}

// Attest is [Attest].
func (Tool) Attest(ctx context.Context, o sign.AttestOptions) (sign.AttestResult, error) {
	return Attest(ctx, o)
}

// Verify is [Verify].
func (Tool) Verify(ctx context.Context, o sign.VerifyOptions) (sign.VerifyResult, error) {
	return Verify(ctx, o)
}

package testkit

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/sign"
)

// trusting is a fake [sign.Tool] for which every image is signed.
type trusting struct{ sign.Tool }

func (trusting) Verify(_ context.Context, o sign.VerifyOptions) (sign.VerifyResult, error) {
	return sign.VerifyResult{
		Reference: o.Reference.Name(), Passed: true,
		Subjects: []sign.Verified{{Reference: o.Reference.Name(), Signatures: []sign.Signature{{Key: "of a test"}}}},
	}, nil
}

// Verified returns a verified image without verifying it, for tests of code that requires
// a verified image.
func Verified(ref name.Digest) sign.VerifiedImage {
	v, _, err := sign.Verify(context.Background(), trusting{}, sign.VerifyOptions{Reference: ref})
	if err != nil {
		panic(fmt.Sprintf("verifying %s by a fake: %v", ref, err))
	}
	return v
}

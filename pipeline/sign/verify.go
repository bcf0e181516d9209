package sign

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// VerifiedImage is an image that satisfies a policy. Only [Verify] makes one, so
// a function that takes a VerifiedImage cannot be given an image that was not
// verified. The zero value stands for no image.
type VerifiedImage struct{ digest name.Digest }

// Reference returns the image by digest.
func (v VerifiedImage) Reference() name.Digest { return v.digest }

// IsZero reports whether v stands for no image.
func (v VerifiedImage) IsZero() bool { return v == VerifiedImage{} }

// Verify has tool check an image against a policy. It returns the result, which
// holds every reason for a refusal, and the errors of [Tool.Verify].
//
// It does not rely on the absence of an error alone: the result itself must say
// that the image and every manifest in it is signed.
func Verify(ctx context.Context, tool Tool, o VerifyOptions) (VerifiedImage, VerifyResult, error) {
	r, err := tool.Verify(ctx, o)
	if err != nil {
		return VerifiedImage{}, r, err //nolint:wrapcheck // the tool says what was verified
	}
	complete := r.Passed && r.Reference == o.Reference.Name() && len(r.Subjects) > 0 && r.Subjects[0].Reference == r.Reference
	for _, s := range r.Subjects {
		complete = complete && len(s.Signatures) > 0 && len(s.Failures) == 0
	}
	if !complete {
		return VerifiedImage{}, r, fault.Failedf("verify.incomplete", "verifying %s: the result does not say that the image is signed", o.Reference)
	}
	return VerifiedImage{o.Reference}, r, nil
}

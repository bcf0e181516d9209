package sign

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// VerifiedImage is an image that satisfies a policy. Only [Verify] creates one, so
// a function with a parameter of this type cannot be called with an image that was
// not verified. The zero value stands for no image.
type VerifiedImage struct{ digest name.Digest }

// Reference returns the image by digest.
func (v VerifiedImage) Reference() name.Digest { return v.digest }

// IsZero reports whether v stands for no image.
func (v VerifiedImage) IsZero() bool { return v == VerifiedImage{} }

// Verify checks an image against a policy with tool. It returns the result, with
// every reason for which the image does not satisfy the policy, and the errors of
// [Tool.Verify].
//
// It is not enough that tool returns no error: the result must also show that the
// image and every manifest in it is signed. Otherwise Verify returns a
// [fault.Failed] error with the code verify.incomplete.
func Verify(ctx context.Context, tool Tool, o VerifyOptions) (VerifiedImage, VerifyResult, error) {
	r, err := tool.Verify(ctx, o)
	if err != nil {
		return VerifiedImage{}, r, err
	}
	complete := r.Passed && r.Reference == o.Reference.Name() && len(r.Subjects) > 0 && r.Subjects[0].Reference == r.Reference
	for _, s := range r.Subjects {
		complete = complete && len(s.Signatures) > 0 && len(s.Failures) == 0
	}
	if !complete {
		return VerifiedImage{}, r, fault.Failedf("verify.incomplete", "verifying %s: the result does not show that the image is signed", o.Reference)
	}
	return VerifiedImage{o.Reference}, r, nil
}

package sign_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// fakeTool returns the same result for every verification.
type fakeTool struct {
	sign.Tool
	result sign.VerifyResult
	err    error
}

func (f fakeTool) Verify(context.Context, sign.VerifyOptions) (sign.VerifyResult, error) {
	return f.result, f.err
}

// An image is verified only if the result of the tool shows it. It is not enough
// that the tool returns no error.
func TestVerifyChecksTheResult(t *testing.T) {
	ref, err := name.NewDigest("registry.example.com/acme/orders@sha256:" + strings.Repeat("a", 64))
	if err != nil {
		t.Fatal(err)
	}
	other := ref.Context().Digest("sha256:" + strings.Repeat("b", 64))
	signed := sign.Verified{Reference: ref.Name(), Signatures: []sign.Signature{{Key: "sha256:1"}}}
	unsigned := sign.Verified{Reference: other.Name()}
	failed := sign.Verified{Reference: other.Name(), Signatures: signed.Signatures, Failures: []sign.Failure{{Code: sign.CodeMissing}}}
	good := sign.VerifyResult{Reference: ref.Name(), Passed: true, Subjects: []sign.Verified{signed}}
	with := func(change func(*sign.VerifyResult)) sign.VerifyResult {
		r := good
		change(&r)
		return r
	}
	tests := []struct {
		name string
		tool fakeTool
		code string // "" if the image is verified
	}{
		{"signed", fakeTool{result: good}, ""},
		{"rejected", fakeTool{result: good, err: fault.Gatef(sign.CodeUnsigned, "no")}, sign.CodeUnsigned},
		{"error without a code", fakeTool{err: errors.New("no response")}, "failed"},
		{"no result", fakeTool{}, "verify.incomplete"},
		{"not passed", fakeTool{result: with(func(r *sign.VerifyResult) { r.Passed = false })}, "verify.incomplete"},
		{"another image", fakeTool{result: with(func(r *sign.VerifyResult) { r.Reference = other.Name() })}, "verify.incomplete"},
		{"no subject", fakeTool{result: with(func(r *sign.VerifyResult) { r.Subjects = nil })}, "verify.incomplete"},
		{"only a platform", fakeTool{result: with(func(r *sign.VerifyResult) {
			r.Subjects = []sign.Verified{{Reference: other.Name(), Signatures: signed.Signatures}}
		})}, "verify.incomplete"},
		{"a manifest without a signature", fakeTool{result: with(func(r *sign.VerifyResult) { r.Subjects = []sign.Verified{signed, unsigned} })}, "verify.incomplete"},
		{"a manifest with a failure", fakeTool{result: with(func(r *sign.VerifyResult) { r.Subjects = []sign.Verified{signed, failed} })}, "verify.incomplete"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, _, err := sign.Verify(t.Context(), tt.tool, sign.VerifyOptions{Reference: ref})
			if code := fault.CodeOf(err); code != tt.code || v.IsZero() != (tt.code != "") {
				t.Errorf("got code %q and verified %v, want code %q", code, !v.IsZero(), tt.code)
			}
			if tt.code == "" && v.Reference() != ref {
				t.Errorf("verified image is %s, want %s", v.Reference(), ref)
			}
		})
	}
}

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

// answers is a fake tool that answers every verification in the same way.
type answers struct {
	sign.Tool
	result sign.VerifyResult
	err    error
}

func (a answers) Verify(context.Context, sign.VerifyOptions) (sign.VerifyResult, error) {
	return a.result, a.err
}

// TestOnlyAVerifiedImage: no error from a tool is not enough for an image to
// count as verified.
func TestOnlyAVerifiedImage(t *testing.T) {
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
		tool answers
		code string
	}{
		{"signed", answers{result: good}, ""},
		{"refused", answers{result: good, err: fault.Gatef(sign.CodeUnsigned, "no")}, sign.CodeUnsigned},
		{"broken", answers{err: errors.New("no answer")}, "failed"},
		{"no result", answers{}, "verify.incomplete"},
		{"not passed", answers{result: with(func(r *sign.VerifyResult) { r.Passed = false })}, "verify.incomplete"},
		{"another image", answers{result: with(func(r *sign.VerifyResult) { r.Reference = other.Name() })}, "verify.incomplete"},
		{"nothing checked", answers{result: with(func(r *sign.VerifyResult) { r.Subjects = nil })}, "verify.incomplete"},
		{"only a platform checked", answers{result: with(func(r *sign.VerifyResult) {
			r.Subjects = []sign.Verified{{Reference: other.Name(), Signatures: signed.Signatures}}
		})}, "verify.incomplete"},
		{"a manifest without a signature", answers{result: with(func(r *sign.VerifyResult) { r.Subjects = []sign.Verified{signed, unsigned} })}, "verify.incomplete"},
		{"a manifest with a failure", answers{result: with(func(r *sign.VerifyResult) { r.Subjects = []sign.Verified{signed, failed} })}, "verify.incomplete"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, _, err := sign.Verify(t.Context(), tt.tool, sign.VerifyOptions{Reference: ref})
			if code := fault.CodeOf(err); code != tt.code || v.IsZero() != (tt.code != "") {
				t.Errorf("code %q, verified %v; want code %q", code, !v.IsZero(), tt.code)
			}
			if tt.code == "" && v.Reference() != ref {
				t.Errorf("verified %s", v.Reference())
			}
		})
	}
}

// Package sign defines how images are signed, attested and verified: the options,
// the results, the policies and the predicates of attestations.
//
// Package sign/sigstore implements the interface [Tool] with cosign's library,
// which takes as long to compile as all build stages of slipway. This package must
// therefore not import it.
//
// The package promises no compatibility to programs other than slipway.
package sign

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Tool generates keys, signs, attests and verifies.
type Tool interface {
	// GenerateKeys creates an encrypted private key (mode 0600) and its public
	// key. It returns a [fault.Input] error if a file exists already.
	GenerateKeys(ctx context.Context, o KeysOptions) (Keys, error)
	// NewSigner loads a key or requests a certificate. It returns a [fault.Input]
	// error if the key cannot be used.
	NewSigner(ctx context.Context, o SignerOptions) (Signer, error)
	// Sign signs every subject that does not have a signature of this signer.
	Sign(ctx context.Context, o Options) (Result, error)
	// Attest signs every statement and attaches it to each of its subjects.
	Attest(ctx context.Context, o AttestOptions) (AttestResult, error)
	// Verify checks an image and every manifest in it against a policy. If the
	// image does not satisfy the policy, it returns a [fault.Gate] error with one
	// of this package's codes, and the result with every reason.
	Verify(ctx context.Context, o VerifyOptions) (VerifyResult, error)
}

// Signer signs as one identity. Create one Signer per run: hashing the password of
// a key is slow on purpose, and a certificate needs a request.
type Signer interface {
	// Identity returns the signer: the fingerprint of a key, or an identity and
	// its issuer.
	Identity() Signature
}

// Subject is a manifest that is signed, attested or verified.
type Subject struct {
	Digest   name.Digest
	Platform string // os/arch; empty for an index
}

// SignerOptions is the input of [Tool.NewSigner]. Exactly one of Key and Keyless
// must be set.
type SignerOptions struct {
	Key     Key
	Keyless *Keyless // signs with the identity of the CI
	// Rekor is the URL of the transparency log. Default: no log for a key, and the
	// public log for keyless signing.
	Rekor string
	// RekorVersion is the version of the log's API, 1 or 2. Default: 1. A log of version
	// 2 takes only bundles, and its entries have no time, so keyless signing needs
	// Timestamp.
	RekorVersion int
	// Timestamp is the URL of a timestamp authority (RFC 3161), whose timestamp is added
	// to bundles. Default: no timestamp.
	Timestamp string
}

// Format is how signatures and attestations are stored in a registry.
type Format = string

// The formats.
const (
	// FormatTag is a manifest under a tag that is computed from the digest, as cosign 1
	// and 2 write it
	// (https://github.com/sigstore/cosign/blob/v2.6.5/specs/SIGNATURE_SPEC.md).
	FormatTag Format = "tag"
	// FormatBundle is a Sigstore bundle that refers to the image, as cosign 3 writes it
	// (https://github.com/sigstore/cosign/blob/v2.6.5/specs/BUNDLE_SPEC.md).
	FormatBundle Format = "bundle"
)

// Options is the input of [Tool.Sign].
type Options struct {
	Subjects    []Subject // the index first, then every manifest in it
	Signer      Signer
	Annotations map[string]string // signed together with the digest; not in bundles
	Formats     []Format          // default: FormatTag
	Remote      []remote.Option
	Backoff     remote.Backoff // default: 5 attempts, 0.5 s before the second, doubling

	// Settle is how long to wait after a write before checking that no other
	// process has overwritten it. Default: a multiple of the time of the write.
	Settle time.Duration
}

// Result is the result of signing.
type Result struct {
	Signer    Signature       `json:"signer"`
	Subjects  []SignedSubject `json:"subjects"`
	Unchanged bool            `json:"unchanged"` // all subjects were signed already
	Seconds   float64         `json:"seconds"`
}

// SignedSubject is one signed manifest.
type SignedSubject struct {
	Reference string `json:"reference"` // repository@sha256:...
	Platform  string `json:"platform,omitempty"`
	Signature string `json:"signature,omitempty"` // the tag with the signatures; empty without FormatTag
	LogIndex  *int64 `json:"log_index,omitempty"`
	Unchanged bool   `json:"unchanged"` // a valid signature of this signer existed already
}

// Statement is a statement to attest.
type Statement struct {
	PredicateType string          // for example [PredicateSPDX]
	Predicate     json.RawMessage // a JSON object
	For           []Subject       // the manifests that the statement is about
}

// AttestOptions is the input of [Tool.Attest].
type AttestOptions struct {
	Statements []Statement
	Signer     Signer
	Formats    []Format // default: FormatTag
	Remote     []remote.Option
	Backoff    remote.Backoff // default: 5 attempts, 0.5 s before the second, doubling

	// Settle is how long to wait after a write before checking that no other
	// process has overwritten it. Default: a multiple of the time of the write.
	Settle time.Duration
}

// AttestResult is the result of attesting.
type AttestResult struct {
	Signer       Signature  `json:"signer"`
	Attestations []Attested `json:"attestations"`
	Unchanged    bool       `json:"unchanged"` // all attestations existed already
	Seconds      float64    `json:"seconds"`
}

// Attested is one attestation of one manifest.
type Attested struct {
	Reference     string `json:"reference"` // repository@sha256:...
	Platform      string `json:"platform,omitempty"`
	Type          string `json:"type,omitempty"` // sbom, provenance or scan
	PredicateType string `json:"predicate_type"`
	Attestation   string `json:"attestation"` // the tag with the attestations
	LogIndex      *int64 `json:"log_index,omitempty"`
	Unchanged     bool   `json:"unchanged"` // the same attestation existed already
	Replaced      bool   `json:"replaced"`  // an older attestation of this signer was replaced
}

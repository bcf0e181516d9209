// Package sign says what it is to sign an image, to attest what is known of it
// and to verify both: the options, the results, the policies and the predicates.
// Package sign/sigstore does it with cosign's library, which weighs as much as
// the rest of slipway's build stages, so nothing in here may import it.
package sign

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Tool makes keys, signs, attests and verifies.
type Tool interface {
	// GenerateKeys makes an encrypted private key (mode 0600) and its public
	// key. It returns a [fault.Input] error where a file is there already.
	GenerateKeys(ctx context.Context, o KeysOptions) (Keys, error)
	// NewSigner loads a key, or gets a certificate. It returns a [fault.Input]
	// error for a key that cannot be used.
	NewSigner(ctx context.Context, o SignerOptions) (Signer, error)
	// Sign signs every subject. One that is signed already gets nothing more.
	Sign(ctx context.Context, o Options) (Result, error)
	// Attest signs every statement and attaches it to each of its subjects.
	Attest(ctx context.Context, o AttestOptions) (AttestResult, error)
	// Verify checks an image and every manifest in it against a policy. It
	// returns a [fault.Gate] error with one of this package's codes when the
	// image is refused, and the result with every reason.
	Verify(ctx context.Context, o VerifyOptions) (VerifyResult, error)
}

// Signer signs as one identity. Loading a key is slow on purpose (a password
// is hashed) and a certificate is asked for once, so make one for a run.
type Signer interface {
	// Identity says who signs: a key's fingerprint, or an identity and its issuer.
	Identity() Signature
}

// Subject is a manifest that is signed, attested or verified.
type Subject struct {
	Digest   name.Digest
	Platform string // os/arch; empty for an index
}

// SignerOptions says who signs: a key or, keyless, the CI's identity.
type SignerOptions struct {
	Key     Key
	Keyless *Keyless
	// Rekor is the transparency log's URL. Default: none with a key, the public
	// one keyless.
	Rekor string
}

// Options says what is signed by whom.
type Options struct {
	Subjects    []Subject // the index first, then every manifest in it
	Signer      Signer
	Annotations map[string]string // signed with the digest
	Remote      []remote.Option
	Backoff     remote.Backoff // default: 5 tries, 0.5 s before the second, doubling

	// Settle is how long to wait for what others write meanwhile. Default: as
	// long as the write took, within bounds.
	Settle time.Duration
}

// Result is what was signed.
type Result struct {
	Signer    Signature       `json:"signer"`
	Subjects  []SignedSubject `json:"subjects"`
	Unchanged bool            `json:"unchanged"` // all were signed already
	Seconds   float64         `json:"seconds"`
}

// SignedSubject is one signed manifest.
type SignedSubject struct {
	Reference string `json:"reference"` // repository@sha256:...
	Platform  string `json:"platform,omitempty"`
	Signature string `json:"signature"` // the tag that holds it
	LogIndex  *int64 `json:"log_index,omitempty"`
	Unchanged bool   `json:"unchanged"` // a valid signature of this signer was there
}

// Statement is something to be attested.
type Statement struct {
	PredicateType string          // for example [PredicateSPDX]
	Predicate     json.RawMessage // a JSON object
	For           []Subject       // what it is true of
}

// AttestOptions says what is attested by whom.
type AttestOptions struct {
	Statements []Statement
	Signer     Signer
	Remote     []remote.Option
	Backoff    remote.Backoff // default: 5 tries, 0.5 s before the second, doubling

	// Settle is how long to wait for what others write meanwhile. Default: as
	// long as the write took, within bounds.
	Settle time.Duration
}

// AttestResult is what was attested.
type AttestResult struct {
	Signer       Signature  `json:"signer"`
	Attestations []Attested `json:"attestations"`
	Unchanged    bool       `json:"unchanged"` // all of them were there already
	Seconds      float64    `json:"seconds"`
}

// Attested is one attestation of one manifest.
type Attested struct {
	Reference     string `json:"reference"` // repository@sha256:...
	Platform      string `json:"platform,omitempty"`
	Type          string `json:"type,omitempty"` // sbom, provenance or scan
	PredicateType string `json:"predicate_type"`
	Attestation   string `json:"attestation"` // the tag that holds it
	LogIndex      *int64 `json:"log_index,omitempty"`
	Unchanged     bool   `json:"unchanged"` // the same was attested already
	Replaced      bool   `json:"replaced"`  // an older one of this signer made way
}

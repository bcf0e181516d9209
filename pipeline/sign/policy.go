package sign

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/display"
)

// The stable codes of what [Verify] refuses.
const (
	CodeUnsigned      = "verify.unsigned"
	CodeWrongKey      = "verify.wrong-key"
	CodeWrongIdentity = "verify.wrong-identity"
	CodeUntrusted     = "verify.untrusted-certificate" // of an unknown authority
	CodeNoLogEntry    = "verify.no-log-entry"
	CodeTampered      = "verify.tampered"
	CodeOtherImage    = "verify.other-image"
	CodeMissing       = "verify.missing-attestation"
	CodeForeign       = "verify.foreign-attestation"
	CodeScanExpired   = "verify.scan-expired"
	CodeScanFailed    = "verify.scan-failed"
	CodeNotFound      = "verify.image-not-found"
)

// Identity is who may sign keyless. A pattern is a Go regular expression that
// must match the whole text.
type Identity = config.Identity

// Policy is what must be true of an image.
type Policy struct {
	Keys         []Key      // any of which may have signed
	Identities   []Identity // any of which may have signed keyless
	TrustedRoot  string     // trusted_root.json; default: the public instance's, by TUF
	Attestations []string   // sbom, provenance, scan
	ScanMaxAge   time.Duration
	RequireLog   bool // signatures by keys, too, must be in the transparency log
}

// VerifyOptions says what is verified.
type VerifyOptions struct {
	Reference name.Digest // an index is verified with every manifest in it
	Policy    Policy
	Now       time.Time // default: now
	Remote    []remote.Option
	Backoff   remote.Backoff // default: 5 tries, 0.5 s before the second, doubling
}

// VerifyResult is what was found.
type VerifyResult struct {
	Reference string     `json:"reference"`
	Passed    bool       `json:"passed"`
	Subjects  []Verified `json:"subjects"` // the index first
	Seconds   float64    `json:"seconds"`
}

// Verified is what was found about one manifest.
type Verified struct {
	Reference    string        `json:"reference"` // repository@sha256:...
	Platform     string        `json:"platform,omitempty"`
	Signatures   []Signature   `json:"signatures"` // those the policy trusts
	Attestations []Attestation `json:"attestations"`
	ScanAge      float64       `json:"scan_age_seconds,omitempty"`
	Failures     []Failure     `json:"failures,omitempty"`
}

// Failure is one reason why a manifest is refused.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Signature says who signed.
type Signature struct {
	Key      string    `json:"key,omitempty"` // fingerprint, sha256:...
	Identity string    `json:"identity,omitempty"`
	Issuer   string    `json:"issuer,omitempty"`
	LogIndex *int64    `json:"log_index,omitempty"` // by a key: checked only where the policy asks for it
	Logged   time.Time `json:"logged,omitzero"`
}

// String names the signer.
func (s Signature) String() string {
	if s.Key != "" {
		return "key " + Short(s.Key)
	}
	return display.Clean(fmt.Sprintf("%s (issuer %s)", s.Identity, s.Issuer))
}

// Attestation is a verified attestation.
type Attestation struct {
	Type          string `json:"type,omitempty"` // sbom, provenance or scan
	PredicateType string `json:"predicate_type"`
	Digest        string `json:"digest"` // of the envelope
	Signature
	Time    time.Time `json:"time,omitzero"`     // what the predicate says
	Verdict string    `json:"verdict,omitempty"` // of a scan

	Predicate json.RawMessage `json:"-"` // what is attested
}

// Short is a fingerprint as people compare it.
func Short(fingerprint string) string { return fingerprint[:min(len(fingerprint), len("sha256:")+12)] }

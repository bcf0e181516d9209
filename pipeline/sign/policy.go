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

// The stable codes of the errors for which [Verify] rejects an image.
const (
	CodeUnsigned      = "verify.unsigned"
	CodeWrongKey      = "verify.wrong-key"
	CodeWrongIdentity = "verify.wrong-identity"
	CodeUntrusted     = "verify.untrusted-certificate" // issued by an unknown authority
	CodeNoLogEntry    = "verify.no-log-entry"
	CodeTampered      = "verify.tampered"
	CodeOtherImage    = "verify.other-image"
	CodeMissing       = "verify.missing-attestation"
	CodeForeign       = "verify.foreign-attestation"
	CodeScanExpired   = "verify.scan-expired"
	CodeScanFailed    = "verify.scan-failed"
	CodeAllowed       = "verify.allowed" // a gate failed, and the run went on
	CodeProvenance    = "verify.provenance"
	CodeNotFound      = "verify.image-not-found"
)

// Identity describes who is trusted to sign keyless. A pattern is a Go regular
// expression that must match the whole text.
type Identity = config.Identity

// Policy holds the requirements for an image.
type Policy struct {
	Keys         []Key            // trusted keys; a signature by one of them is enough
	Identities   []Identity       // trusted identities; a keyless signature by one of them is enough
	TrustedRoot  string           // trusted_root.json; default: that of the public instance, through TUF
	Attestations []string         // required types: sbom, provenance, scan
	ScanMaxAge   time.Duration    // of the latest attested scan; 0 for no limit
	RequireLog   bool             // signatures by keys must be in the transparency log, too
	Scan         ScanGate         // what the attested scan must have found no vulnerability for
	Provenance   ProvenancePolicy // what the provenance must say; it counts only if provenance is required
	// Allow lists the gates that may have failed in the run that made the image,
	// according to its provenance: lint, test, scan, license. It counts only if
	// provenance is required. With scan, an attested scan may have failed, or be
	// missing.
	Allow []string
}

// VerifyOptions is the input of [Verify].
type VerifyOptions struct {
	Reference name.Digest // if it is an index, every manifest in it is verified, too
	// IndexOnly verifies only the reference itself. The digest of an index also determines
	// the manifests in it, and most programs sign only the index.
	IndexOnly bool
	Policy    Policy
	Now       time.Time // default: the clock
	Remote    []remote.Option
	Backoff   remote.Backoff // default: 5 attempts, 0.5 s before the second, doubling
}

// VerifyResult is the result of a verification.
type VerifyResult struct {
	Reference string     `json:"reference"`
	Passed    bool       `json:"passed"`
	Subjects  []Verified `json:"subjects"` // the index first
	Seconds   float64    `json:"seconds"`
}

// Verified is the result for one manifest.
type Verified struct {
	Reference    string        `json:"reference"` // repository@sha256:...
	Platform     string        `json:"platform,omitempty"`
	Signatures   []Signature   `json:"signatures"` // those that satisfy the policy
	Attestations []Attestation `json:"attestations"`
	ScanAge      float64       `json:"scan_age_seconds,omitempty"`
	Failures     []Failure     `json:"failures,omitempty"`
}

// Failure is a reason for which a manifest does not satisfy the policy.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Signature identifies a signer and the log entry of the signature.
type Signature struct {
	Key      string    `json:"key,omitempty"` // fingerprint, sha256:...
	Identity string    `json:"identity,omitempty"`
	Issuer   string    `json:"issuer,omitempty"`
	LogIndex *int64    `json:"log_index,omitempty"` // for a key: verified only if the policy requires the log
	Logged   time.Time `json:"logged,omitzero"`
}

// String returns the short fingerprint of the key, or the identity and its issuer.
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
	Time    time.Time `json:"time,omitzero"`     // according to the predicate
	Verdict string    `json:"verdict,omitempty"` // of a scan
	Allowed []string  `json:"allowed,omitempty"` // of a provenance; see [AllowedOf]

	Predicate json.RawMessage `json:"-"`
}

// Short returns the beginning of a fingerprint, which is enough to compare keys.
func Short(fingerprint string) string { return fingerprint[:min(len(fingerprint), len("sha256:")+12)] }

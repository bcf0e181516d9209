package sign

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// The types of attestations that a policy can require.
const (
	TypeSBOM       = "sbom"
	TypeProvenance = "provenance"
	TypeScan       = "scan"
)

// Predicate types.
const (
	PredicateSPDX       = "https://spdx.dev/Document"
	PredicateCycloneDX  = "https://cyclonedx.org/bom"
	PredicateProvenance = "https://slsa.dev/provenance/v1"
	PredicateScan       = "https://cosign.sigstore.dev/attestation/vuln/v1"
)

// TypeOf returns the type of a policy to which a predicate type belongs, or "" if
// it belongs to no type.
func TypeOf(predicateType string) string {
	switch {
	case predicateType == PredicateSPDX, strings.HasPrefix(predicateType, PredicateSPDX+"/"),
		predicateType == PredicateCycloneDX, strings.HasPrefix(predicateType, PredicateCycloneDX+"/"):
		return TypeSBOM
	case predicateType == PredicateProvenance, predicateType == "https://slsa.dev/provenance/v0.2":
		return TypeProvenance
	case predicateType == PredicateScan:
		return TypeScan
	}
	return ""
}

// ProvenanceOptions describes how an image was built. Empty fields are omitted
// from the predicate, so without times the same build gives the same predicate.
// The fields are those of https://slsa.dev/spec/v1.0/provenance.
type ProvenanceOptions struct {
	BuildType    string         // URI that defines the meaning of the parameters
	Builder      string         // URI of the build platform, for example the CI's runner
	Source       string         // URI, for example git+https://github.com/acme/orders
	Ref          string         // for example refs/heads/main
	Revision     string         // the commit
	External     map[string]any // parameters under the user's control
	Internal     map[string]any // parameters under the builder's control
	Materials    []Material     // inputs in addition to the source
	InvocationID string         // URI of the run
	Started      time.Time
	Finished     time.Time
}

// Material is an input of a build.
type Material struct {
	URI    string            `json:"uri,omitempty"`
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest,omitempty"` // by algorithm, in hex
}

// provenance is the predicate of https://slsa.dev/spec/v1.0/provenance#schema.
type provenance struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters,omitempty"`
		ResolvedDependencies []Material     `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata *provenanceTimes `json:"metadata,omitempty"`
	} `json:"runDetails"`
}

type provenanceTimes struct {
	InvocationID string     `json:"invocationId,omitempty"`
	StartedOn    *time.Time `json:"startedOn,omitempty"`
	FinishedOn   *time.Time `json:"finishedOn,omitempty"`
}

// Provenance returns a SLSA provenance v1 predicate ([PredicateProvenance]). It
// returns a [fault.Input] error if the builder or the build type is missing.
func Provenance(o ProvenanceOptions) (json.RawMessage, error) {
	if o.Builder == "" || o.BuildType == "" {
		return nil, fault.Inputf("attest.provenance", "creating the provenance: the builder or the build type is missing")
	}
	var p provenance
	p.BuildDefinition.BuildType = o.BuildType
	p.BuildDefinition.ExternalParameters = map[string]any{}
	maps.Copy(p.BuildDefinition.ExternalParameters, o.External)
	p.BuildDefinition.InternalParameters = o.Internal
	if o.Source != "" || o.Revision != "" {
		m := Material{URI: o.Source}
		if o.Ref != "" && o.Source != "" {
			m.URI += "@" + o.Ref
		}
		if o.Revision != "" {
			m.Digest = map[string]string{"gitCommit": o.Revision}
		}
		if m.URI == "" {
			m.Name = "source" // its repository is not known
		}
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, m)
		if _, ok := p.BuildDefinition.ExternalParameters["source"]; !ok && m.URI != "" {
			p.BuildDefinition.ExternalParameters["source"] = m.URI
		}
	}
	p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, o.Materials...)
	p.RunDetails.Builder.ID = o.Builder
	if times := (provenanceTimes{o.InvocationID, instant(o.Started), instant(o.Finished)}); times != (provenanceTimes{}) {
		p.RunDetails.Metadata = &times
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	return data, nil
}

// AllowedParameter is the external parameter of a provenance that lists the gates that
// failed although the image was made.
const AllowedParameter = "allowed"

// AllowedOf returns the gates that, according to a provenance, failed in the run that made
// the image, because it allowed that. It is empty for the provenance of other programs. If
// the list cannot be read, AllowedOf returns a gate that no policy allows.
func AllowedOf(predicate []byte) []string {
	var p struct {
		BuildDefinition struct {
			ExternalParameters map[string]json.RawMessage `json:"externalParameters"`
		} `json:"buildDefinition"`
	}
	if json.Unmarshal(predicate, &p) != nil {
		return []string{"unknown"}
	}
	text, ok := p.BuildDefinition.ExternalParameters[AllowedParameter]
	if !ok {
		return nil
	}
	var gates []string
	if json.Unmarshal(text, &gates) != nil {
		return []string{"unknown"}
	}
	return gates
}

// instant returns t in whole seconds of UTC, or nil if t is zero.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// The verdicts of an attested scan.
const (
	ScanPassed = "passed"
	ScanFailed = "failed"
)

// ScanOptions describes the result of a vulnerability scan.
type ScanOptions struct {
	Scanner    string    // URI, for example pkg:github/aquasecurity/trivy
	Version    string    // of the scanner
	Database   string    // URI
	DatabaseID string    // version or digest of the database
	Updated    time.Time // date of the database
	Started    time.Time
	Finished   time.Time
	Verdict    string          // [ScanPassed] or [ScanFailed]
	Gate       ScanGate        // what gave the verdict
	Counts     map[string]int  // findings by severity
	Report     json.RawMessage // the scanner's own report
}

// scan is cosign's predicate for vulnerability scans
// (https://github.com/sigstore/cosign/blob/v2.6.5/specs/COSIGN_VULN_ATTESTATION_SPEC.md).
// The verdict, the policy, the counts and the date of the database are additions.
type scan struct {
	Invocation scanInvocation `json:"invocation"`
	Scanner    struct {
		URI     string `json:"uri"`
		Version string `json:"version"`
		DB      struct {
			URI        string     `json:"uri"`
			Version    string     `json:"version"`
			LastUpdate *time.Time `json:"lastUpdate,omitempty"`
		} `json:"db"`
		Result json.RawMessage `json:"result"`
	} `json:"scanner"`
	Metadata struct {
		ScanStartedOn  time.Time      `json:"scanStartedOn"`
		ScanFinishedOn time.Time      `json:"scanFinishedOn"`
		Verdict        string         `json:"verdict,omitempty"`
		Policy         *ScanGate      `json:"policy,omitempty"`
		Counts         map[string]int `json:"counts,omitempty"`
	} `json:"metadata"`
}

type scanInvocation struct {
	Parameters any    `json:"parameters"`
	URI        string `json:"uri"`
	EventID    string `json:"event_id"`
	BuilderID  string `json:"builder.id"`
}

// ScanPredicate returns a predicate for a vulnerability scan ([PredicateScan]). It
// returns a [fault.Input] error if the verdict, the time or the scanner is missing,
// or if the report is not JSON.
func ScanPredicate(o ScanOptions) (json.RawMessage, error) {
	switch {
	case o.Verdict != ScanPassed && o.Verdict != ScanFailed:
		return nil, fault.Inputf("attest.scan", "creating the attestation of a scan: %q is not a verdict", o.Verdict)
	case o.Finished.IsZero():
		return nil, fault.Inputf("attest.scan", "creating the attestation of a scan: the time at which it finished is missing")
	case o.Scanner == "":
		return nil, fault.Inputf("attest.scan", "creating the attestation of a scan: the scanner is missing")
	}
	var s scan
	s.Scanner.URI, s.Scanner.Version = o.Scanner, o.Version
	s.Scanner.DB.URI, s.Scanner.DB.Version, s.Scanner.DB.LastUpdate = o.Database, o.DatabaseID, instant(o.Updated)
	if s.Scanner.Result = o.Report; len(o.Report) == 0 {
		s.Scanner.Result = json.RawMessage("null")
	}
	if o.Started.IsZero() {
		o.Started = o.Finished
	}
	s.Metadata.ScanStartedOn, s.Metadata.ScanFinishedOn = *instant(o.Started), *instant(o.Finished)
	s.Metadata.Verdict, s.Metadata.Counts = o.Verdict, o.Counts
	if len(o.Gate.Severities) > 0 {
		s.Metadata.Policy = &o.Gate
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fault.Inputf("attest.scan", "creating the attestation of a scan: the report is not JSON: %w", err)
	}
	return data, nil
}

// TimeOf returns the time at which a predicate was created, according to the
// predicate itself. It is zero if the predicate has no time.
func TimeOf(predicateType string, predicate []byte) time.Time {
	var p struct {
		Metadata struct { // scan, CycloneDX
			ScanFinishedOn time.Time `json:"scanFinishedOn"`
			Timestamp      time.Time `json:"timestamp"`
		} `json:"metadata"`
		CreationInfo struct { // SPDX
			Created time.Time `json:"created"`
		} `json:"creationInfo"`
		RunDetails struct { // provenance
			Metadata struct {
				FinishedOn time.Time `json:"finishedOn"`
			} `json:"metadata"`
		} `json:"runDetails"`
	}
	if json.Unmarshal(predicate, &p) != nil {
		return time.Time{}
	}
	switch TypeOf(predicateType) {
	case TypeScan:
		return p.Metadata.ScanFinishedOn
	case TypeProvenance:
		return p.RunDetails.Metadata.FinishedOn
	case TypeSBOM:
		if !p.CreationInfo.Created.IsZero() {
			return p.CreationInfo.Created
		}
		return p.Metadata.Timestamp
	}
	return time.Time{}
}

// VerdictOf returns the verdict of an attested scan. It is empty if the predicate
// has no verdict, as in attestations of other programs.
func VerdictOf(predicate []byte) string {
	var p struct {
		Metadata struct {
			Verdict string `json:"verdict"`
		} `json:"metadata"`
	}
	if json.Unmarshal(predicate, &p) != nil {
		return ""
	}
	return p.Metadata.Verdict
}

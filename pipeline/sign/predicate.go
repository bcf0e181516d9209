package sign

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// The kinds of attestations a policy can ask for.
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

// TypeOf is what a policy calls a predicate type; empty for others.
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

// ProvenanceOptions says how an image came to be. What is left out stays out,
// so that without times the same build gives the same predicate.
type ProvenanceOptions struct {
	BuildType    string // URI that says how the parameters are read
	Builder      string // URI of who built, for example the CI's runner
	Source       string // URI, for example git+https://github.com/acme/orders
	Ref          string // for example refs/heads/main
	Revision     string // the commit
	External     map[string]any
	Internal     map[string]any
	Materials    []Material // what went in beside the source
	InvocationID string     // URI of the run
	Started      time.Time
	Finished     time.Time
}

// Material is something a build used.
type Material struct {
	URI    string            `json:"uri,omitempty"`
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest,omitempty"` // by algorithm, in hex
}

// provenance is https://slsa.dev/spec/v1.0/provenance#schema.
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

// Provenance writes a SLSA provenance v1 predicate ([PredicateProvenance]).
func Provenance(o ProvenanceOptions) (json.RawMessage, error) {
	if o.Builder == "" || o.BuildType == "" {
		return nil, fault.Inputf("attest.provenance", "a provenance needs its builder and its build type")
	}
	var p provenance
	p.BuildDefinition.BuildType = o.BuildType
	p.BuildDefinition.ExternalParameters = map[string]any{}
	maps.Copy(p.BuildDefinition.ExternalParameters, o.External)
	p.BuildDefinition.InternalParameters = o.Internal
	if o.Source != "" {
		uri := o.Source
		if o.Ref != "" {
			uri += "@" + o.Ref
		}
		m := Material{URI: uri}
		if o.Revision != "" {
			m.Digest = map[string]string{"gitCommit": o.Revision}
		}
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies, m)
		if _, ok := p.BuildDefinition.ExternalParameters["source"]; !ok {
			p.BuildDefinition.ExternalParameters["source"] = uri
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

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// Verdicts of an attested scan.
const (
	ScanPassed = "passed"
	ScanFailed = "failed"
)

// ScanOptions says what a vulnerability scan found.
type ScanOptions struct {
	Scanner    string // URI, for example pkg:github/aquasecurity/trivy
	Version    string
	Database   string // URI
	DatabaseID string // version or digest of the database
	Updated    time.Time
	Started    time.Time
	Finished   time.Time
	Verdict    string          // [ScanPassed] or [ScanFailed]
	Counts     map[string]int  // findings by severity
	Report     json.RawMessage // the scanner's own report
}

// scan is cosign's predicate for vulnerabilities
// (https://github.com/sigstore/cosign/blob/v2.6.5/specs/COSIGN_VULN_ATTESTATION_SPEC.md)
// with the verdict, the counts and the database's age added.
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
		Counts         map[string]int `json:"counts,omitempty"`
	} `json:"metadata"`
}

type scanInvocation struct {
	Parameters any    `json:"parameters"`
	URI        string `json:"uri"`
	EventID    string `json:"event_id"`
	BuilderID  string `json:"builder.id"`
}

// ScanPredicate writes a predicate for a vulnerability scan ([PredicateScan]).
func ScanPredicate(o ScanOptions) (json.RawMessage, error) {
	switch {
	case o.Verdict != ScanPassed && o.Verdict != ScanFailed:
		return nil, fault.Inputf("attest.scan", "%q is no verdict of a scan", o.Verdict)
	case o.Finished.IsZero():
		return nil, fault.Inputf("attest.scan", "a scan needs the time it finished")
	case o.Scanner == "":
		return nil, fault.Inputf("attest.scan", "a scan needs its scanner")
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
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fault.Inputf("attest.scan", "the scanner's report is no JSON: %w", err)
	}
	return data, nil
}

// TimeOf is when the predicate says it was made; zero where it does not.
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

// VerdictOf is what a scan says in the end; empty where it does not, as in
// attestations other programs made.
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

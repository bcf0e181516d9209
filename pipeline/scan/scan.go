// Package scan is the gate for vulnerabilities, secrets and misconfiguration. It
// defines the options and results of a scan, decides which findings fail the
// gate, and writes reports.
//
// The scanner itself is behind the interface [Scanner]. Package scan/trivy
// implements it with Trivy's library, which takes ten times longer to compile
// than the rest of slipway. This package must therefore not import Trivy.
//
// The package promises no compatibility to programs other than slipway.
package scan

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Scanner scans images and source.
type Scanner interface {
	// Scan finds vulnerabilities, secrets and misconfiguration, and applies the
	// gate to them as [Judge] does. If a finding fails the gate, Scan returns the
	// complete Result together with a [fault.Gate] error.
	Scan(ctx context.Context, o Options) (Result, error)
	// SBOM returns the list of the packages in an image in the format [SPDX] or
	// [CycloneDX]. The same target gives the same bytes.
	SBOM(ctx context.Context, t Target, f Format) ([]byte, error)
}

// Target is one image to scan.
type Target struct {
	Name     string   // in reports, for example ghcr.io/acme/orders:v1.2.3
	Platform string   // for example linux/amd64
	Image    v1.Image // in memory, in a layout or in a registry
	// Digest is the digest of the image that is shipped. It can differ from the
	// digest of Image, because the binary is scanned before it is compressed.
	Digest string
	Time   time.Time // of the commit; the creation time of an SBOM
}

// Options is the input of a scan.
type Options struct {
	Targets []Target
	// Root is the folder of slipway.yaml. Relative paths in Settings and the
	// paths of findings are relative to it.
	Root     string
	Source   string                // the app's folder, which is searched for secrets; "" for no search
	Module   string                // the folder of the app's go.mod; default Source
	Hidden   func(rel string) bool // reports whether a slash-separated path below Source is not searched
	Settings config.Scan
	Reach    *Reach // how to analyse which functions are called; nil for no analysis
	Cache    cache.Dir
	Registry image.Bases // pulls the vulnerability databases; nil if that is impossible
	// Now is the time for expiry dates and the ages of databases.
	// Default: the clock.
	Now time.Time
	// MaxBytes and MaxFiles limit what is unpacked of one image.
	// Default: [DefaultMaxBytes] and [DefaultMaxFiles].
	MaxBytes int64
	MaxFiles int
	Timeout  time.Duration // of the whole scan; default [DefaultTimeout]
}

// The defaults of the limits in [Options].
const (
	DefaultMaxBytes = 4 << 30
	DefaultMaxFiles = 1_000_000
	DefaultTimeout  = 10 * time.Minute
)

// Reach describes how the app is built. The analysis of which vulnerable
// functions the app calls needs it.
type Reach struct {
	Dir  string        // the module's folder
	Main string        // package pattern, for example ./cmd/server
	Tags []string      // build tags
	Env  []string      // additional environment, NAME=value, for example GOOS and GOARCH
	Go   *toolchain.Go // the app's toolchain
	// Database is the Go vulnerability database: a URL, a folder in its format
	// (https://go.dev/doc/security/vuln/database), or [Bundled].
	// Default: [GoDatabase], or [Bundled] if the scan itself uses that.
	Database string
}

const (
	// Bundled is the name of the advisories that are compiled into slipway.
	Bundled = "bundled"
	// GoDatabase is the URL of the Go project's vulnerability database.
	GoDatabase = "https://vuln.go.dev"
)

// Kind is the kind of a finding.
type Kind string

// The kinds of findings.
const (
	Vulnerability    Kind = "vulnerability"
	Secret           Kind = "secret"
	Misconfiguration Kind = "misconfiguration"
)

// Reachability is the result of the analysis of whether the program calls a
// vulnerable function. It is empty for findings other than Go vulnerabilities.
type Reachability string

// The results, as govulncheck reports them.
const (
	Called    Reachability = "called"     // a vulnerable function is in the call graph
	NotCalled Reachability = "not-called" // no vulnerable function is in the call graph
	Unknown   Reachability = "unknown"    // not analysed, or the vulnerable functions are not known
)

// Finding is a vulnerability, a secret or a misconfiguration.
type Finding struct {
	Kind         Kind         `json:"kind"`
	ID           string       `json:"id"`                // CVE-2023-45288, aws-access-key-id, KSV-0001
	Aliases      []string     `json:"aliases,omitempty"` // GHSA, GO and older identifiers
	Severity     string       `json:"severity"`          // UNKNOWN, LOW, MEDIUM, HIGH or CRITICAL
	Title        string       `json:"title"`
	Package      string       `json:"package,omitempty"`
	Type         string       `json:"type,omitempty"` // in Trivy's terms, for example gobinary, debian or helm
	PURL         string       `json:"purl,omitempty"`
	Installed    string       `json:"installed,omitempty"`
	Fixed        string       `json:"fixed,omitempty"`      // the versions that fix it, separated by ", "
	Status       string       `json:"status,omitempty"`     // in Trivy's terms, for example fixed, affected or will_not_fix
	Targets      []string     `json:"targets,omitempty"`    // names of the images with the finding
	Platforms    []string     `json:"platforms,omitempty"`  // of these images
	ImagePath    string       `json:"image_path,omitempty"` // file in the image
	Path         string       `json:"path,omitempty"`       // file in the source, relative to Options.Root, or to the repository after Rebase
	Line         int          `json:"line,omitempty"`       // 1-based; 0 if unknown
	EndLine      int          `json:"end_line,omitempty"`
	URL          string       `json:"url,omitempty"` // of the first advisory
	PrimaryURL   string       `json:"primary_url,omitempty"`
	Reachability Reachability `json:"reachability,omitempty"`
	Trace        []string     `json:"trace,omitempty"` // call path from a function of the app to the vulnerable one
	Fails        bool         `json:"fails"`           // whether it fails the gate
}

// Ignored is a finding that does not count for the gate, with the reason.
type Ignored struct {
	Finding
	By      string `json:"by"` // file:line of the rule, the VEX file, "unfixed" or "not called"
	Reason  string `json:"reason,omitempty"`
	Expires string `json:"expires,omitempty"` // first day on which it counts again
}

// Values of [Ignored.By] for findings that a setting excludes.
const (
	ByUnfixed   = "unfixed"
	ByNotCalled = "not called"
)

// Database describes the vulnerability database of a scan.
type Database struct {
	Source     string    `json:"source"` // as configured
	Digest     string    `json:"digest,omitempty"`
	UpdatedAt  time.Time `json:"updated_at,omitzero"`
	NextUpdate time.Time `json:"next_update,omitzero"`
	FetchedAt  time.Time `json:"fetched_at,omitzero"` // when it was downloaded or last found unchanged
	AgeSeconds int64     `json:"age_seconds"`         // time since UpdatedAt
	Bundled    bool      `json:"bundled,omitempty"`   // it is only the advisories inside slipway
	Advisories int       `json:"advisories,omitzero"` // number of advisories, if known
}

// Tool is the scanner's name and version.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Counts holds the number of findings of each severity.
type Counts struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Unknown  int `json:"unknown"`
	Total    int `json:"total"`
	Failing  int `json:"failing"`
	Ignored  int `json:"ignored"`
}

// Subject is an image that was scanned.
type Subject struct {
	Name     string `json:"name"`
	Platform string `json:"platform,omitempty"`
	Digest   string `json:"digest,omitempty"`
	OS       string `json:"os,omitempty"` // family and version, if the image has an operating system
}

// Result is the result of a scan.
type Result struct {
	Time     time.Time `json:"time"` // of the scan
	Passed   bool      `json:"passed"`
	Targets  []Subject `json:"targets"`
	Counts   Counts    `json:"counts"`
	Findings []Finding `json:"findings"` // failing ones first, then by severity
	Ignored  []Ignored `json:"ignored"`
	Database Database  `json:"database"`
	Scanner  Tool      `json:"scanner"`
	Warnings []string  `json:"warnings,omitempty"` // limitations of this result
	Reports  []string  `json:"reports,omitempty"`  // absolute paths of the reports that were written
}

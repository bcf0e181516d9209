// Package scan is the gate for vulnerabilities, secrets and misconfiguration.
//
// It holds what a scan is asked, what it finds, what of it fails the gate and
// how it is reported. What looks into images is behind [Scanner]: package
// scan/trivy does it with Trivy's library, which weighs ten times the rest of
// slipway, so nothing in here may import it.
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

// Scanner looks into images and source.
type Scanner interface {
	// Scan looks for vulnerabilities, secrets and misconfiguration and judges
	// them. When something fails the gate it returns the full Result beside a
	// [fault.Gate] error.
	Scan(ctx context.Context, o Options) (Result, error)
	// SBOM lists what is in an image, as [SPDX] or [CycloneDX]. The same target
	// gives the same bytes.
	SBOM(ctx context.Context, t Target, f Format) ([]byte, error)
}

// Target is one image to look into.
type Target struct {
	Name     string   // as reports call it, for example ghcr.io/acme/orders:v1.2.3
	Platform string   // for example linux/amd64
	Image    v1.Image // in memory, in a layout or in a registry
	// Digest is that of the image that is shipped. It may differ from Image's
	// own: the plain binary is scanned, the packed one shipped.
	Digest string
	Time   time.Time // of the commit, for an SBOM's creation time
}

// Options says what to scan and what fails.
type Options struct {
	Targets []Target
	// Root is the folder of slipway.yaml. Relative paths in Settings and the
	// paths of findings are relative to it.
	Root     string
	Source   string                // the app's folder, searched for secrets; "" is not searched
	Module   string                // the folder of the app's go.mod; default Source
	Hidden   func(rel string) bool // files and folders below Source that are not searched; rel has slashes
	Settings config.Scan
	Reach    *Reach // how to find out what is called; nil leaves it unknown
	Cache    cache.Dir
	Registry image.Bases // where databases are pulled from; nil cannot pull
	// Now is the time that expiry dates and ages are measured against.
	// Default: the clock.
	Now time.Time
	// MaxBytes and MaxFiles bound what is unpacked of one image.
	// Default: [DefaultMaxBytes] and [DefaultMaxFiles].
	MaxBytes int64
	MaxFiles int
	Timeout  time.Duration // of the whole scan; default [DefaultTimeout]
}

// Bounds where Options names none.
const (
	DefaultMaxBytes = 4 << 30
	DefaultMaxFiles = 1_000_000
	DefaultTimeout  = 10 * time.Minute
)

// Reach says how the app is built, for finding out which vulnerable functions
// it calls.
type Reach struct {
	Dir  string        // the module's folder
	Main string        // package pattern, for example ./cmd/server
	Tags []string      // build tags
	Env  []string      // more environment, NAME=value, for example GOOS and GOARCH
	Go   *toolchain.Go // the app's toolchain
	// Database is the Go vulnerability database: a URL, a folder in its format
	// (https://go.dev/doc/security/vuln/database), or [Bundled].
	// Default: [GoDatabase], or [Bundled] when the scan itself uses that.
	Database string
}

const (
	// Bundled names the advisories inside slipway.
	Bundled = "bundled"
	// GoDatabase is the Go project's vulnerability database.
	GoDatabase = "https://vuln.go.dev"
)

// Kind is what a finding is about.
type Kind string

// The kinds of findings.
const (
	Vulnerability    Kind = "vulnerability"
	Secret           Kind = "secret"
	Misconfiguration Kind = "misconfiguration"
)

// Reachability tells whether the program calls what is vulnerable.
type Reachability string

// The answers, as govulncheck gives them. Only Go vulnerabilities have one.
const (
	Called    Reachability = "called"     // a vulnerable function is in the call graph
	NotCalled Reachability = "not-called" // the functions are known and none is
	Unknown   Reachability = "unknown"    // not analysed, or the functions are not known
)

// Finding is one thing found.
type Finding struct {
	Kind         Kind         `json:"kind"`
	ID           string       `json:"id"`                // CVE-2023-45288, aws-access-key-id, KSV-0001
	Aliases      []string     `json:"aliases,omitempty"` // GHSA, GO and older identifiers
	Severity     string       `json:"severity"`          // UNKNOWN, LOW, MEDIUM, HIGH or CRITICAL
	Title        string       `json:"title"`
	Package      string       `json:"package,omitempty"`
	Type         string       `json:"type,omitempty"` // gobinary, debian, helm and so on, as Trivy calls it
	PURL         string       `json:"purl,omitempty"`
	Installed    string       `json:"installed,omitempty"`
	Fixed        string       `json:"fixed,omitempty"`      // the versions that fix it, separated by ", "
	Status       string       `json:"status,omitempty"`     // fixed, affected, will_not_fix and so on
	Targets      []string     `json:"targets,omitempty"`    // names of the images it is in
	Platforms    []string     `json:"platforms,omitempty"`  // and their platforms
	ImagePath    string       `json:"image_path,omitempty"` // file in the image
	Path         string       `json:"path,omitempty"`       // file in the source, relative to the root
	Line         int          `json:"line,omitempty"`       // 1-based; 0 where it is not known
	EndLine      int          `json:"end_line,omitempty"`
	URL          string       `json:"url,omitempty"` // of the first advisory
	PrimaryURL   string       `json:"primary_url,omitempty"`
	Reachability Reachability `json:"reachability,omitempty"`
	Trace        []string     `json:"trace,omitempty"` // from the program's own function to the vulnerable one
	Fails        bool         `json:"fails"`           // whether it fails the gate
}

// Ignored is a finding that was left out of the verdict, and why.
type Ignored struct {
	Finding
	By      string `json:"by"` // file:line of the rule, the VEX file, "unfixed" or "not called"
	Reason  string `json:"reason,omitempty"`
	Expires string `json:"expires,omitempty"` // date from which it counts again
}

// Reasons in [Ignored.By] that are settings and not files.
const (
	ByUnfixed   = "unfixed"
	ByNotCalled = "not called"
)

// Database is the vulnerability database that was used.
type Database struct {
	Source     string    `json:"source"` // as configured
	Digest     string    `json:"digest,omitempty"`
	UpdatedAt  time.Time `json:"updated_at,omitzero"`
	NextUpdate time.Time `json:"next_update,omitzero"`
	FetchedAt  time.Time `json:"fetched_at,omitzero"` // or found unchanged
	AgeSeconds int64     `json:"age_seconds"`         // since UpdatedAt
	Bundled    bool      `json:"bundled,omitempty"`   // the few advisories inside slipway
	Advisories int       `json:"advisories,omitzero"` // how many, where that is known
}

// Tool is the program that scanned.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Counts is how many findings there are of each severity.
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
	OS       string `json:"os,omitempty"` // family and version, where the image has one
}

// Result is what a scan gave.
type Result struct {
	Time     time.Time `json:"time"` // of the scan
	Passed   bool      `json:"passed"`
	Targets  []Subject `json:"targets"`
	Counts   Counts    `json:"counts"`
	Findings []Finding `json:"findings"` // failing ones first, then by severity
	Ignored  []Ignored `json:"ignored"`
	Database Database  `json:"database"`
	Scanner  Tool      `json:"scanner"`
	Warnings []string  `json:"warnings,omitempty"` // what the reader should know about this verdict
	Reports  []string  `json:"reports,omitempty"`  // absolute paths of the files written
}

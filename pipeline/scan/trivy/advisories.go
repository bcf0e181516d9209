package trivy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	trivydb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	bolt "go.etcd.io/bbolt"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/semver"

	"github.com/slipway-ci/slipway/pipeline/scan"
)

// Advisories is a vulnerability database in YAML. [BuildDatabase] converts it to
// Trivy's format.
type Advisories struct {
	Updated string     `yaml:"updated"` // date of the data, for example 2025-06-30
	List    []Advisory `yaml:"advisories"`
}

// Advisory is one vulnerability.
type Advisory struct {
	ID       string     `yaml:"id"`      // for example CVE-2023-45288
	Aliases  []string   `yaml:"aliases"` // GHSA and GO identifiers
	Severity string     `yaml:"severity"`
	Title    string     `yaml:"title"`
	URL      string     `yaml:"url"`
	Affected []Affected `yaml:"affected"`
}

// Affected is a module or package that has the vulnerability.
type Affected struct {
	// Module is the path of a Go module, "stdlib" for Go's standard library, or
	// the name of a package if Distro is set.
	Module string  `yaml:"module"`
	Ranges []Range `yaml:"ranges"`
	// Symbols holds the vulnerable functions by package, for the analysis of what
	// is called. A method has the form Transport.RoundTrip.
	Symbols map[string][]string `yaml:"symbols"`
	// Distro is a distribution and its release in the terms of Trivy's database,
	// for example "debian 12" or "alpine 3.22".
	Distro string `yaml:"distro"`
	// Fixed is the fixed version of the distribution's package; empty if there is
	// no fix yet.
	Fixed string `yaml:"fixed"`
}

// Range is a range of vulnerable versions, which have no leading "v".
type Range struct {
	Introduced string `yaml:"introduced"` // first vulnerable version; empty for all before Fixed
	Fixed      string `yaml:"fixed"`      // first fixed version; empty if there is no fix
}

//go:embed advisories
var bundledFiles embed.FS

// BundledAdvisories returns the advisories that are compiled into slipway, and
// their digest.
func BundledAdvisories() (Advisories, string, error) {
	var all Advisories
	sum := sha256.New()
	err := fs.WalkDir(bundledFiles, "advisories", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := bundledFiles.ReadFile(path)
		if err != nil {
			return err
		}
		sum.Write(data)
		a, err := ParseAdvisories(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all.Updated = max(all.Updated, a.Updated)
		all.List = append(all.List, a.List...)
		return nil
	})
	if err != nil {
		return Advisories{}, "", fmt.Errorf("reading the bundled advisories: %w", err)
	}
	return all, "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// ParseAdvisories parses advisories in YAML. It returns an error if a required
// field is missing or a version is malformed.
func ParseAdvisories(data []byte) (Advisories, error) {
	var a Advisories
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&a); err != nil {
		return a, fmt.Errorf("reading advisories: %w", err)
	}
	if _, err := time.Parse(time.DateOnly, a.Updated); err != nil {
		return a, fmt.Errorf("reading advisories: updated: %w", err)
	}
	for _, adv := range a.List {
		if _, err := dbtypes.NewSeverity(adv.Severity); err != nil || adv.ID == "" || adv.Title == "" || len(adv.Affected) == 0 {
			return a, fmt.Errorf("reading advisories: %q has no id, title or affected module, or the severity %q", adv.ID, adv.Severity)
		}
		for _, f := range adv.Affected {
			if f.Module == "" || f.Distro == "" && len(f.Ranges) == 0 {
				return a, fmt.Errorf("reading advisories: %s has an affected module without a name or ranges", adv.ID)
			}
			for _, r := range f.Ranges {
				for _, v := range []string{r.Introduced, r.Fixed} {
					if v != "" && !semver.IsValid("v"+v) {
						return a, fmt.Errorf("reading advisories: %s: %q is not a version", adv.ID, v)
					}
				}
			}
		}
	}
	return a, nil
}

// source returns the bucket of Trivy's database for the advisory, and the source
// that Trivy reports for it.
func (f Affected) source() (bucket string, source dbtypes.DataSource) {
	switch {
	case strings.HasPrefix(f.Distro, "debian"):
		return f.Distro, dbtypes.DataSource{ID: "debian", Name: "Debian Security Tracker", URL: "https://salsa.debian.org/security-tracker-team/security-tracker"}
	case strings.HasPrefix(f.Distro, "alpine"):
		return f.Distro, dbtypes.DataSource{ID: "alpine", Name: "Alpine Secdb", URL: "https://secdb.alpinelinux.org/"}
	case f.Distro != "":
		id, _, _ := strings.Cut(f.Distro, " ")
		return f.Distro, dbtypes.DataSource{ID: dbtypes.SourceID(id), Name: id}
	case f.Module == "stdlib", strings.HasPrefix(f.Module, "golang.org/x/"):
		return "go::The Go Vulnerability Database", dbtypes.DataSource{ID: "govulndb", Name: "The Go Vulnerability Database", URL: "https://pkg.go.dev/vuln/"}
	}
	return "go::GitHub Security Advisory Go", dbtypes.DataSource{ID: "ghsa", Name: "GitHub Security Advisory Go", URL: "https://github.com/advisories?query=type%3Areviewed+ecosystem%3Ago"}
}

// advisory converts the entry to an advisory of Trivy's database.
func (f Affected) advisory(a Advisory) *dbtypes.Advisory {
	adv := &dbtypes.Advisory{FixedVersion: f.Fixed}
	if f.Distro != "" {
		if f.Fixed == "" {
			adv.Status = dbtypes.StatusAffected
		}
		return adv
	}
	for _, alias := range a.Aliases {
		if strings.HasPrefix(alias, "GHSA-") || strings.HasPrefix(alias, "GO-") {
			adv.VendorIDs = append(adv.VendorIDs, alias)
		}
	}
	for _, r := range f.Ranges {
		var parts []string
		if r.Introduced != "" {
			parts = append(parts, ">="+r.Introduced)
		}
		if r.Fixed != "" {
			parts = append(parts, "<"+r.Fixed)
			adv.PatchedVersions = append(adv.PatchedVersions, r.Fixed)
		}
		if len(parts) == 0 {
			parts = []string{">=0.0.0-0"}
		}
		adv.VulnerableVersions = append(adv.VulnerableVersions, strings.Join(parts, ", "))
	}
	return adv
}

// BuildDatabase writes a as a Trivy vulnerability database of schema 2 to dir.
func BuildDatabase(dir string, a Advisories) (err error) {
	updated, err := time.Parse(time.DateOnly, a.Updated)
	if err != nil {
		return fmt.Errorf("building a vulnerability database: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("building a vulnerability database: %w", err)
	}
	db, err := bolt.Open(filepath.Join(dir, databaseFile), 0o644, &bolt.Options{Timeout: 5 * time.Second, NoSync: true})
	if err != nil {
		return fmt.Errorf("building a vulnerability database: %w", err)
	}
	dbc := trivydb.Config{}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists([]byte("vulnerability")); err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists([]byte("data-source")); err != nil {
			return err
		}
		for _, adv := range a.List {
			severity, err := dbtypes.NewSeverity(adv.Severity)
			if err != nil {
				return err
			}
			vuln := dbtypes.Vulnerability{Title: adv.Title, VendorSeverity: dbtypes.VendorSeverity{"nvd": severity}}
			if adv.URL != "" {
				vuln.References = []string{adv.URL}
			}
			for _, f := range adv.Affected {
				bucket, source := f.source()
				if source.ID == "ghsa" || f.Distro != "" {
					vuln.VendorSeverity[source.ID] = severity
				}
				if err := dbc.PutDataSource(tx, bucket, source); err != nil {
					return err
				}
				if err := dbc.PutAdvisory(tx, []string{bucket, f.Module}, adv.ID, f.advisory(adv)); err != nil {
					return err
				}
			}
			if err := dbc.PutVulnerability(tx, adv.ID, vuln); err != nil {
				return err
			}
		}
		return nil
	})
	if closeErr := db.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("building a vulnerability database: %w", err)
	}
	meta, err := json.Marshal(metadata.Metadata{Version: trivydb.SchemaVersion, UpdatedAt: updated, NextUpdate: updated.Add(24 * time.Hour)})
	if err != nil {
		return fmt.Errorf("building a vulnerability database: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, metadataFile), meta, 0o644); err != nil {
		return fmt.Errorf("building a vulnerability database: %w", err)
	}
	return nil
}

// Artifact returns the database in dir as an OCI artifact of the form that Trivy
// pulls.
func Artifact(dir string) (v1.Image, error) {
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	tw := tar.NewWriter(zw)
	for _, name := range []string{metadataFile, databaseFile} {
		if err := addFile(tw, dir, name); err != nil {
			return nil, fmt.Errorf("packing the vulnerability database: %w", err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("packing the vulnerability database: %w", err)
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("packing the vulnerability database: %w", err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.aquasec.trivy.config.v1+json")
	img, err := mutate.Append(img, mutate.Addendum{
		Layer:       static.NewLayer(packed.Bytes(), LayerType),
		MediaType:   LayerType,
		Annotations: map[string]string{"org.opencontainers.image.title": "db.tar.gz"},
	})
	if err != nil {
		return nil, fmt.Errorf("packing the vulnerability database: %w", err)
	}
	return img, nil
}

func addFile(tw *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: fi.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// WriteArtifact writes the OCI artifact of the database in dir to an OCI layout in
// the folder to.
func WriteArtifact(to, dir string) error {
	img, err := Artifact(dir)
	if err != nil {
		return err
	}
	l, err := layout.Write(to, empty.Index)
	if err != nil {
		return fmt.Errorf("writing the OCI layout of the vulnerability database: %w", err)
	}
	if err := l.AppendImage(img); err != nil {
		return fmt.Errorf("writing the OCI layout of the vulnerability database: %w", err)
	}
	return nil
}

// bundled returns the database of the bundled advisories. It builds the database
// if the cache does not have it.
func (d databases) bundled(ctx context.Context) (installed, error) {
	a, digest, err := BundledAdvisories()
	if err != nil {
		return installed{}, err
	}
	have, ok := d.load(scan.Bundled)
	if ok && have.Digest == digest {
		return have, nil
	}
	unlock, err := d.cache.Lock(ctx, d.key(scan.Bundled, "lock")...)
	if err != nil {
		return installed{}, err
	}
	defer unlock()
	if have, ok := d.load(scan.Bundled); ok && have.Digest == digest {
		return have, nil
	}
	have, err = d.install(ctx, scan.Bundled, digest, func(dir string) error { return BuildDatabase(dir, a) })
	if err != nil {
		return installed{}, err
	}
	have.Advisories = len(a.List)
	return have, d.cache.Store(have, d.key(scan.Bundled, stateFile)...)
}

// osv is one entry of a Go vulnerability database
// (https://go.dev/doc/security/vuln/database#schema).
type osv struct {
	SchemaVersion string        `json:"schema_version"`
	ID            string        `json:"id"`
	Modified      time.Time     `json:"modified"`
	Aliases       []string      `json:"aliases,omitempty"`
	Summary       string        `json:"summary"`
	Details       string        `json:"details"`
	Affected      []osvAffected `json:"affected"`
}

type osvAffected struct {
	Package struct {
		Name      string `json:"name"`
		Ecosystem string `json:"ecosystem"`
	} `json:"package"`
	Ranges   []osvRange `json:"ranges"`
	Specific struct {
		Imports []osvImport `json:"imports,omitempty"`
	} `json:"ecosystem_specific"`
}

type osvRange struct {
	Type   string              `json:"type"`
	Events []map[string]string `json:"events"`
}

type osvImport struct {
	Path    string   `json:"path"`
	Symbols []string `json:"symbols,omitempty"`
}

// WriteGoDatabase writes the advisories for Go modules to dir as a Go
// vulnerability database (https://go.dev/doc/security/vuln/database), which
// govulncheck reads.
func WriteGoDatabase(dir string, a Advisories) error {
	updated, err := time.Parse(time.DateOnly, a.Updated)
	if err != nil {
		return fmt.Errorf("writing a Go vulnerability database: %w", err)
	}
	type vuln struct {
		ID       string    `json:"id"`
		Modified time.Time `json:"modified"`
		Fixed    string    `json:"fixed,omitempty"`
	}
	type module struct {
		Path  string `json:"path"`
		Vulns []vuln `json:"vulns"`
	}
	modules := []module{}
	files := map[string]any{"index/db": map[string]time.Time{"modified": updated}}
	for _, adv := range a.List {
		entry := osv{SchemaVersion: "1.3.1", ID: adv.goID(), Modified: updated, Aliases: adv.otherIDs(), Summary: adv.Title, Details: adv.Title}
		for _, f := range adv.Affected {
			if f.Distro != "" {
				continue
			}
			entry.Affected = append(entry.Affected, f.osv())
			v := vuln{ID: entry.ID, Modified: updated}
			for _, r := range f.Ranges {
				if v.Fixed == "" || semver.Compare("v"+r.Fixed, "v"+v.Fixed) > 0 {
					v.Fixed = r.Fixed
				}
			}
			i := slices.IndexFunc(modules, func(m module) bool { return m.Path == f.Module })
			if i < 0 {
				i = len(modules)
				modules = append(modules, module{Path: f.Module})
			}
			modules[i].Vulns = append(modules[i].Vulns, v)
		}
		if len(entry.Affected) > 0 {
			files["ID/"+entry.ID] = entry
		}
	}
	files["index/modules"] = modules
	for name, content := range files {
		data, err := json.Marshal(content)
		if err != nil {
			return fmt.Errorf("writing a Go vulnerability database: %w", err)
		}
		path := filepath.Join(dir, filepath.FromSlash(name)+".json")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing a Go vulnerability database: %w", err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("writing a Go vulnerability database: %w", err)
		}
	}
	return nil
}

// goID returns the identifier of the advisory in a Go vulnerability database.
func (a Advisory) goID() string {
	for _, alias := range a.Aliases {
		if strings.HasPrefix(alias, "GO-") {
			return alias
		}
	}
	return a.ID
}

// otherIDs returns the identifiers that are not of the Go vulnerability database.
func (a Advisory) otherIDs() []string {
	ids := []string{a.ID}
	for _, alias := range a.Aliases {
		if !strings.HasPrefix(alias, "GO-") {
			ids = append(ids, alias)
		}
	}
	return ids
}

func (f Affected) osv() osvAffected {
	var o osvAffected
	o.Package.Name, o.Package.Ecosystem = f.Module, "Go"
	r := osvRange{Type: "SEMVER"}
	for _, v := range f.Ranges {
		introduced := v.Introduced
		if introduced == "" {
			introduced = "0"
		}
		r.Events = append(r.Events, map[string]string{"introduced": introduced})
		if v.Fixed != "" {
			r.Events = append(r.Events, map[string]string{"fixed": v.Fixed})
		}
	}
	o.Ranges = []osvRange{r}
	for path, symbols := range f.Symbols {
		o.Specific.Imports = append(o.Specific.Imports, osvImport{Path: path, Symbols: symbols})
	}
	slices.SortFunc(o.Specific.Imports, func(a, b osvImport) int { return strings.Compare(a.Path, b.Path) })
	return o
}

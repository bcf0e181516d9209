package trivy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	bolt "go.etcd.io/bbolt"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	own "github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
)

// advisories has one vulnerability of the fixture, with an identifier that no
// other database has.
const advisories = `
updated: 2025-07-10
advisories:
  - id: CVE-2099-0001
    aliases: [GO-2099-0001]
    severity: HIGH
    title: test
    affected:
      - module: golang.org/x/net
        ranges: [{fixed: 0.21.0}]
`

// database builds a vulnerability database from YAML and returns its folder.
func database(t *testing.T, text string) string {
	t.Helper()
	a, err := trivy.ParseAdvisories([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := trivy.BuildDatabase(dir, a); err != nil {
		t.Fatal(err)
	}
	return dir
}

// artifact returns the OCI artifact of a database with any archive and media type,
// including invalid ones.
func artifact(t *testing.T, packed []byte, media types.MediaType) v1.Image {
	t.Helper()
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{Layer: static.NewLayer(packed, media), MediaType: media})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// packed returns a compressed archive of files, which are names and contents.
func packed(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// hub is a registry whose responses a test can change.
type hub struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	wrap func(w http.ResponseWriter, r *http.Request, next http.Handler)
	gets int // number of GET requests for blobs
}

func newHub(t *testing.T) *hub {
	t.Helper()
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h := &hub{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		wrap := h.wrap
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			h.gets++
		}
		h.mu.Unlock()
		if wrap != nil {
			wrap(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	h.host = strings.TrimPrefix(h.URL, "http://")
	return h
}

func (h *hub) set(wrap func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrap = wrap
}

// push pushes img and returns its reference.
func (h *hub) push(t *testing.T, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(h.host+"/db/trivy-db:2", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return h.host + "/db/trivy-db:2"
}

func (h *hub) client(t *testing.T) *own.Client {
	t.Helper()
	c, err := own.New(own.Options{Settings: config.Registry{Insecure: []string{h.host}}, Backoff: remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 2}, Stall: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// withDatabase returns options with the sources of the database and an empty cache.
func withDatabase(t *testing.T, sources ...string) scan.Options {
	t.Helper()
	o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "imported"))}))))
	o.Settings.Databases = sources
	o.Cache = cache.Dir(t.TempDir())
	return o
}

func TestDatabaseFromRegistryAndLayout(t *testing.T) {
	dir := database(t, advisories)
	h := newHub(t)
	img, err := trivy.Artifact(dir)
	if err != nil {
		t.Fatal(err)
	}
	ref := h.push(t, img)
	o := withDatabase(t, ref)
	o.Registry = h.client(t)
	var seen events
	r, err := scanner.Scan(progress.With(t.Context(), &seen, "scan"), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2099-0001 (HIGH) in golang.org/x/net v0.20.0, fixed in 0.21.0")
	if r.Database.Source != ref || r.Database.Digest != digestOf(t, img) || r.Database.Bundled || r.Database.UpdatedAt.Format(time.DateOnly) != "2025-07-10" {
		t.Errorf("database %+v", r.Database)
	}
	if !slices.ContainsFunc(seen.all, func(e progress.Event) bool { return e.Kind == progress.Counted && e.Total > 0 && e.Done == e.Total }) {
		t.Errorf("no progress in bytes among %v", seen.all)
	}
	// Until the maximal age there is no request. After it only the manifest is
	// requested.
	gets := h.gets
	h.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		t.Errorf("unexpected request for %s", r.URL)
	})
	o.Now = now.Add(23 * time.Hour)
	if _, err = scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Error(err)
	}
	h.set(nil)
	o.Now = now.Add(25 * time.Hour)
	r, err = scanner.Scan(t.Context(), o)
	if fault.CodeOf(err) != "scan.findings" || !r.Database.FetchedAt.Equal(o.Now) {
		t.Errorf("%v %+v", err, r.Database)
	}
	if h.gets != gets {
		t.Errorf("an unchanged database was fetched again")
	}

	// A database with a digest in its reference is fetched only once.
	o = withDatabase(t, strings.TrimSuffix(ref, ":2")+"@"+digestOf(t, img))
	o.Registry = h.client(t)
	if _, err = scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Error(err)
	}
	h.Close()
	o.Now = now.Add(1000 * time.Hour)
	if _, err = scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Error(err)
	}

	o = withDatabase(t, "oci:mirror")
	if err := trivy.WriteArtifact(filepath.Join(o.Root, "mirror"), dir); err != nil {
		t.Fatal(err)
	}
	o.Settings.Offline = true // an OCI layout needs no network
	r, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Gate, "scan.findings", "CVE-2099-0001")
	if r.Database.Digest != digestOf(t, img) {
		t.Errorf("database %+v", r.Database)
	}
}

func TestDatabaseFallbacks(t *testing.T) {
	h := newHub(t)
	img, err := trivy.Artifact(database(t, advisories))
	if err != nil {
		t.Fatal(err)
	}
	ref := h.push(t, img)
	o := withDatabase(t, h.host+"/missing/trivy-db:2", ref)
	o.Registry = h.client(t)
	r, err := scanner.Scan(t.Context(), o)
	if fault.CodeOf(err) != "scan.findings" || r.Database.Source != ref {
		t.Fatalf("got %v and database %+v, want the second source if the first is missing", err, r.Database)
	}
	// If no source is reachable, a cached database that is not too old is used with
	// a warning.
	h.set(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "down", http.StatusServiceUnavailable)
	})
	o.Now = now.Add(3 * 24 * time.Hour)
	r, err = scanner.Scan(t.Context(), o)
	if fault.CodeOf(err) != "scan.findings" || !slices.ContainsFunc(r.Warnings, func(w string) bool {
		return strings.Contains(w, "no newer vulnerability database could be fetched") && strings.Contains(w, "3 days ago")
	}) {
		t.Errorf("%v %q", err, r.Warnings)
	}
	o.Now = now.Add(8 * 24 * time.Hour)
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Failed, "scan.database-old", "8 days old", "--offline", "2025-07-10")
	o.Settings.Offline = true
	r, err = scanner.Scan(t.Context(), o)
	if fault.CodeOf(err) != "scan.findings" || !slices.ContainsFunc(r.Warnings, func(w string) bool {
		return strings.Contains(w, "offline mode: the vulnerability database was updated on 2025-07-10 and is 8 days old")
	}) {
		t.Errorf("%v %q", err, r.Warnings)
	}

	o = withDatabase(t, ref, h.host+"/other/trivy-db:2")
	o.Registry = h.client(t)
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Failed, "scan.no-database", ref+": ", h.host+"/other/trivy-db:2: ", "503", "--db-repository")
	o.Settings.Offline = true
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Failed, "scan.no-database", "offline", "oci:DIR")
	o.Settings.Offline = false
	o.Settings.Databases = append(o.Settings.Databases, scan.Bundled)
	r, err = scanner.Scan(t.Context(), o)
	if fault.CodeOf(err) != "scan.findings" || !r.Database.Bundled {
		t.Errorf("got %v and database %+v, want the bundled advisories if they are a source", err, r.Database)
	}
	o.Settings.Databases = nil
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.no-database")
}

// damagedDatabase is an artifact with the error that a scan returns for it.
type damagedDatabase struct {
	img  v1.Image
	code string
	want string // in the text of the error
}

func damagedDatabases(t *testing.T) map[string]damagedDatabase {
	t.Helper()
	dir := database(t, advisories)
	db, meta := read(t, dir, "trivy.db"), read(t, dir, "metadata.json")
	empty := filepath.Join(t.TempDir(), "empty.db")
	b, err := bolt.Open(empty, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	garbled := []byte(db)
	for i := 8192; i < len(garbled); i++ { // after the two meta pages, which stay valid
		garbled[i] ^= 0x5a
	}
	good := packed(t, [2]string{"trivy.db", db}, [2]string{"metadata.json", meta})
	return map[string]damagedDatabase{
		"an ordinary image":  {imageOf(t, archive(t, map[string]string{"a": "b"})), "scan.database-foreign", "not one of type " + trivy.LayerType},
		"no layer":           {imageOf(t), "scan.database-foreign", "layers []"},
		"not gzip":           {artifact(t, []byte("hello"), trivy.LayerType), "scan.database-corrupt", "not gzip"},
		"truncated":          {artifact(t, good[:len(good)/2], trivy.LayerType), "scan.database-corrupt", "unexpected EOF"},
		"no metadata":        {artifact(t, packed(t, [2]string{"trivy.db", db}), trivy.LayerType), "scan.database-corrupt", "does not contain both"},
		"path traversal":     {artifact(t, packed(t, [2]string{"../../trivy.db", db}), trivy.LayerType), "scan.database-corrupt", `contains "../../trivy.db"`},
		"same file twice":    {artifact(t, packed(t, [2]string{"trivy.db", db}, [2]string{"trivy.db", db}), trivy.LayerType), "scan.database-corrupt", "twice"},
		"too large metadata": {artifact(t, packed(t, [2]string{"metadata.json", strings.Repeat(" ", 2<<20)}), trivy.LayerType), "scan.database-corrupt", "metadata.json is 2097152 bytes"},
		"metadata not JSON":  {artifact(t, packed(t, [2]string{"trivy.db", db}, [2]string{"metadata.json", "{"}), trivy.LayerType), "scan.database-corrupt", "metadata"},
		"another schema":     {artifact(t, packed(t, [2]string{"trivy.db", db}, [2]string{"metadata.json", `{"Version":3}`}), trivy.LayerType), "scan.database-schema", "schema 3"},
		"no date":            {artifact(t, packed(t, [2]string{"trivy.db", db}, [2]string{"metadata.json", `{"Version":2}`}), trivy.LayerType), "scan.database-corrupt", "no date"},
		"not a BoltDB":       {artifact(t, packed(t, [2]string{"trivy.db", strings.Repeat("x", 65536)}, [2]string{"metadata.json", meta}), trivy.LayerType), "scan.database-corrupt", "invalid database"},
		"an empty file":      {artifact(t, packed(t, [2]string{"trivy.db", ""}, [2]string{"metadata.json", meta}), trivy.LayerType), "scan.database-corrupt", "opening"},
		"no buckets":         {artifact(t, packed(t, [2]string{"trivy.db", read(t, empty)}, [2]string{"metadata.json", meta}), trivy.LayerType), "scan.database-corrupt", `no bucket "vulnerability"`},
		"garbled pages":      {artifact(t, packed(t, [2]string{"trivy.db", string(garbled)}, [2]string{"metadata.json", meta}), trivy.LayerType), "scan.database-corrupt", "a page cannot be read"},
		"missing pages":      {artifact(t, packed(t, [2]string{"trivy.db", db[:12288]}, [2]string{"metadata.json", meta}), trivy.LayerType), "scan.database-corrupt", "damaged"},
	}
}

func TestDamagedDatabases(t *testing.T) {
	for name, c := range damagedDatabases(t) {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			o := withDatabase(t, h.push(t, c.img))
			o.Registry = h.client(t)
			_, err := scanner.Scan(t.Context(), o)
			wantFault(t, err, fault.Failed, c.code, c.want, h.host)
			installed, _ := filepath.Glob(filepath.Join(string(o.Cache), "trivy", "db", "*", "*sha256*"))
			runs, _ := filepath.Glob(filepath.Join(string(o.Cache), "runs", "*"))
			if len(installed)+len(runs) > 0 {
				t.Errorf("files of the damaged database are still in the cache: %v %v", installed, runs)
			}
		})
	}
}

// A registry or an OCI layout may return other bytes than the manifest requires.
func TestDigestMismatchOfTheDatabase(t *testing.T) {
	img, err := trivy.Artifact(database(t, advisories))
	if err != nil {
		t.Fatal(err)
	}
	other, err := trivy.Artifact(database(t, strings.ReplaceAll(advisories, "HIGH", "LOW")))
	if err != nil {
		t.Fatal(err)
	}
	layers, _ := other.Layers()
	rc, _ := layers[0].Compressed()
	wrong, _ := io.ReadAll(rc)
	for name, body := range map[string][]byte{"other content": wrong, "empty": {}, "cut off": wrong[:len(wrong)/2], "too long": append(slices.Clone(wrong), wrong...)} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			o := withDatabase(t, h.push(t, img))
			o.Registry = h.client(t)
			h.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
					w.WriteHeader(http.StatusOK)
					w.(http.Flusher).Flush() // so that there is no Content-Length, which would not match
					_, _ = w.Write(body)
					return
				}
				next.ServeHTTP(w, r)
			})
			_, err := scanner.Scan(t.Context(), o)
			wantFault(t, err, fault.Failed, "scan.database-corrupt", h.host)
		})
	}
	t.Run("layout", func(t *testing.T) {
		o := withDatabase(t, "oci:mirror")
		dir := filepath.Join(o.Root, "mirror")
		if err := trivy.WriteArtifact(dir, database(t, advisories)); err != nil {
			t.Fatal(err)
		}
		good, _ := img.Layers()
		digest, _ := good[0].Digest()
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest.Hex), wrong, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := scanner.Scan(t.Context(), o)
		wantFault(t, err, fault.Failed, "scan.database-corrupt", "oci:mirror")
		o.Settings.Databases = []string{"oci:missing"}
		_, err = scanner.Scan(t.Context(), o)
		wantFault(t, err, fault.Input, "scan.database-layout", "oci:missing is not an OCI layout")
	})
}

// fetchedDatabase scans with a database from a registry, which the cache has afterwards. It
// returns the options of the scan and the file of the database.
func fetchedDatabase(t *testing.T) (o scan.Options, file string) {
	t.Helper()
	h := newHub(t)
	img, err := trivy.Artifact(database(t, advisories))
	if err != nil {
		t.Fatal(err)
	}
	o = withDatabase(t, h.push(t, img))
	o.Registry = h.client(t)
	if _, err := scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(string(o.Cache), "trivy", "db", "*", "*", "trivy.db"))
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	return o, files[0]
}

func TestDamagedCacheIsReplaced(t *testing.T) {
	o, file := fetchedDatabase(t)
	if err := os.Truncate(file, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Errorf("with a truncated database: %v", err)
	}
	states, _ := filepath.Glob(filepath.Join(string(o.Cache), "trivy", "db", "*", "current.json"))
	if err := os.WriteFile(states[0], []byte(`{"source":"x","dir":"../../..","size":1`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Errorf("with a malformed current.json: %v", err)
	}
}

func TestFetchStopsWhenCancelled(t *testing.T) {
	h := newHub(t)
	img, err := trivy.Artifact(database(t, advisories))
	if err != nil {
		t.Fatal(err)
	}
	o := withDatabase(t, h.push(t, img))
	o.Registry = h.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	h.set(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		cancel()
		<-r.Context().Done()
	})
	start := time.Now()
	if _, err := scanner.Scan(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestBundledAdvisories(t *testing.T) {
	a, digest, err := trivy.BundledAdvisories()
	if err != nil || len(a.List) < 30 || !strings.HasPrefix(digest, "sha256:") {
		t.Fatalf("%d %s %v", len(a.List), digest, err)
	}
	seen := map[string]bool{}
	for _, adv := range a.List {
		if seen[adv.ID] {
			t.Errorf("duplicate advisory %s", adv.ID)
		}
		seen[adv.ID] = true
		if !strings.HasPrefix(adv.URL, "https://pkg.go.dev/vuln/GO-") || !slices.Contains(adv.Aliases, filepath.Base(adv.URL)) {
			t.Errorf("%s: %s, %v", adv.ID, adv.URL, adv.Aliases)
		}
	}
	for text, want := range map[string]string{
		"updated: x\nadvisories: []":         "updated",
		"updated: 2025-01-01\nadvisories: 1": "reading advisories",
		"updated: 2025-01-01\nadvisories: [{id: A, title: t, severity: BAD, affected: [{module: m, ranges: [{}]}]}]":          "severity",
		"updated: 2025-01-01\nadvisories: [{id: A, title: t, severity: LOW, affected: [{module: m, ranges: [{fixed: vx}]}]}]": "not a version",
		"updated: 2025-01-01\nadvisories: [{id: A, title: t, severity: LOW, affected: [{module: m}]}]":                        "without a name or ranges",
		"updated: 2025-01-01\nunknown: key": "unknown",
	} {
		if _, err := trivy.ParseAdvisories([]byte(text)); err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestVersionMatchesGoMod(t *testing.T) {
	if !strings.Contains(read(t, "../../../go.mod"), "github.com/aquasecurity/trivy v"+trivy.Version+"\n") {
		t.Errorf("go.mod does not require version %s of Trivy", trivy.Version)
	}
}

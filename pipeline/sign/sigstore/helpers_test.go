package sigstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	goleak.VerifyTestMain(m,
		// Distribution provides no way to stop the goroutine of its event queue.
		goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"),
		// The library of Google's KMS starts a goroutine in an init function.
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.Cleanup(func(code int) {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			_ = os.RemoveAll(keyring.dir)
			os.Exit(code)
		}))
}

// must returns a function that returns v, or ends the test if err is not nil.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Secrets that no output and no error may contain.
const (
	plantedPassword = "pl4nted-passw0rd"
	plantedToken    = "pl4nted-t0ken"
)

// pair is a pair of keys in files.
type pair struct {
	private, public, fingerprint string
	loaded                       sign.Signer
}

// keyring holds the pairs by name. Generating and loading a pair takes half a
// second, because its password is hashed.
var keyring struct {
	sync.Mutex
	dir   string
	pairs map[string]pair
}

// keyPair returns the pair with a name. It generates the pair at the first call.
func keyPair(t *testing.T, name string) pair {
	t.Helper()
	keyring.Lock()
	defer keyring.Unlock()
	if k, ok := keyring.pairs[name]; ok {
		return k
	}
	if keyring.dir == "" {
		keyring.dir = must(os.MkdirTemp("", "slipway-sign-test"))(t)
		keyring.pairs = map[string]pair{}
	}
	keys := must(sigstore.GenerateKeys(t.Context(), sign.KeysOptions{
		Private: filepath.Join(keyring.dir, name+".key"), Public: filepath.Join(keyring.dir, name+".pub"), Password: sign.Hide([]byte(plantedPassword)),
	}))(t)
	k := pair{private: keys.Private, public: keys.Public, fingerprint: keys.Fingerprint}
	k.loaded = must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: k.key()}))(t)
	keyring.pairs[name] = k
	return k
}

func (p pair) key() sign.Key {
	return sign.Key{Ref: p.private, Password: sign.Hide([]byte(plantedPassword))}
}

func (p pair) signer(*testing.T) sign.Signer { return p.loaded }

func (p pair) trust() sign.Policy { return sign.Policy{Keys: []sign.Key{{Ref: p.public}}} }

// testRepo is a repository on a real registry, behind a proxy that can inject
// faults.
type testRepo struct {
	*httptest.Server
	next http.Handler
	repo name.Repository
	tr   *http.Transport

	mu          sync.Mutex
	interceptor func(w http.ResponseWriter, r *http.Request) bool // true if it has responded
	puts        int                                               // number of manifests written
	reqs        int                                               // number of requests
}

// registries returns the registries that the tests run against: with -short only the
// one that answers from memory.
func registries() map[string]func(*testing.T) http.Handler {
	if testing.Short() {
		return map[string]func(*testing.T) http.Handler{"memory": memory}
	}
	return map[string]func(*testing.T) http.Handler{"memory": memory, "distribution": distribution}
}

func memory(*testing.T) http.Handler { return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))) }

// distribution starts CNCF Distribution on a free port.
func distribution(t *testing.T) http.Handler {
	t.Helper()
	s, err := embedded.Start(t.Context(), t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return &httputil.ReverseProxy{
		Transport: tr, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: s.Addr})
			r.Out.Host = r.In.Host // so that upload locations point at the proxy
		},
	}
}

func newRepo(t *testing.T, next http.Handler) *testRepo {
	t.Helper()
	p := &testRepo{next: next, tr: &http.Transport{MaxIdleConnsPerHost: 10}}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Start()
	t.Cleanup(func() { p.tr.CloseIdleConnections(); p.Close() })
	p.repo = must(name.NewRepository(p.Listener.Addr().String()+"/acme/orders", name.Insecure))(t)
	return p
}

func (p *testRepo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	interceptor := p.interceptor
	p.reqs++
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
		p.puts++
	}
	p.mu.Unlock()
	if interceptor != nil && interceptor(w, r) {
		return
	}
	p.next.ServeHTTP(w, r)
}

// intercept calls f for every request. If f returns true, the request does not
// reach the registry.
func (p *testRepo) intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.interceptor = f
}

// written returns the number of manifests that were written.
func (p *testRepo) written() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.puts
}

func (p *testRepo) remote() []remote.Option {
	return []remote.Option{remote.WithTransport(p.tr), remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
}

// quick is a backoff that hardly waits.
var quick = remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 3}

// pushIndex pushes an image for two platforms and returns its manifests, the index
// first.
func (p *testRepo) pushIndex(t *testing.T) []sign.Subject {
	t.Helper()
	var idx v1.ImageIndex = empty.Index
	var subs []sign.Subject
	for _, arch := range []string{"amd64", "arm64"} {
		img := must(random.Image(100, 1))(t)
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		subs = append(subs, sign.Subject{Digest: p.repo.Digest(must(img.Digest())(t).String()), Platform: "linux/" + arch})
	}
	d := p.repo.Digest(must(idx.Digest())(t).String())
	if err := remote.WriteIndex(d, idx, p.remote()...); err != nil {
		t.Fatal(err)
	}
	return append([]sign.Subject{{Digest: d}}, subs...)
}

// pushImage pushes an image without an index.
func (p *testRepo) pushImage(t *testing.T) []sign.Subject {
	t.Helper()
	img := must(random.Image(100, 1))(t)
	d := p.repo.Digest(must(img.Digest())(t).String())
	if err := remote.Write(d, img, p.remote()...); err != nil {
		t.Fatal(err)
	}
	return []sign.Subject{{Digest: d}}
}

func (p *testRepo) sign(t *testing.T, s sign.Signer, subs []sign.Subject) sign.Result {
	t.Helper()
	return must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Remote: p.remote(), Backoff: quick, Settle: time.Microsecond}))(t)
}

func (p *testRepo) attest(t *testing.T, s sign.Signer, what ...sign.Statement) sign.AttestResult {
	t.Helper()
	return must(sigstore.Attest(t.Context(), sign.AttestOptions{Statements: what, Signer: s, Remote: p.remote(), Backoff: quick, Settle: time.Microsecond}))(t)
}

func (p *testRepo) verify(t *testing.T, sub sign.Subject, policy sign.Policy) (sign.VerifyResult, error) {
	t.Helper()
	return sigstore.Verify(t.Context(), sign.VerifyOptions{Reference: sub.Digest, Policy: policy, Remote: p.remote(), Backoff: quick, Now: now})
}

// now is the time of all verifications.
var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// scanStatement returns the attestation of a scan that finished at a time.
func scanStatement(t *testing.T, at time.Time, verdict string, subs ...sign.Subject) sign.Statement {
	t.Helper()
	p := must(sign.ScanPredicate(sign.ScanOptions{
		Scanner: "pkg:github/aquasecurity/trivy", Version: "0.74.0", Database: "ghcr.io/aquasecurity/trivy-db", DatabaseID: "2",
		Updated: at.Add(-time.Hour), Started: at.Add(-time.Second), Finished: at, Verdict: verdict,
		Counts: map[string]int{"HIGH": 0}, Report: json.RawMessage(`{"Results":[]}`),
	}))(t)
	return sign.Statement{PredicateType: sign.PredicateScan, Predicate: p, For: subs}
}

func sbomStatement(subs ...sign.Subject) sign.Statement {
	return sign.Statement{PredicateType: sign.PredicateSPDX, For: subs, Predicate: json.RawMessage(
		`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"orders","dataLicense":"CC0-1.0","documentNamespace":"https://example.com/orders","creationInfo":{"created":"2026-11-20T10:00:00Z","creators":["Tool: slipway"]},"packages":[]}`)}
}

func provenanceStatement(t *testing.T, subs ...sign.Subject) sign.Statement {
	t.Helper()
	p := must(sign.Provenance(sign.ProvenanceOptions{
		BuildType: "https://slipway.dev/build/v1", Builder: "https://github.com/acme/orders/.github/workflows/ship.yml@refs/heads/main",
		Source: "git+https://github.com/acme/orders", Ref: "refs/heads/main", Revision: strings.Repeat("ab", 20),
		External:  map[string]any{"platforms": []string{"linux/amd64"}},
		Materials: []sign.Material{{Name: "go", Digest: map[string]string{"sha256": strings.Repeat("0", 64)}}},
	}))(t)
	return sign.Statement{PredicateType: sign.PredicateProvenance, Predicate: p, For: subs}
}

// wantFault checks that err is a fault of the kind and code, on one line, with the
// parts in its text and without secrets.
func wantFault(t *testing.T, err error, kind fault.Kind, code string, parts ...string) {
	t.Helper()
	var e *fault.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want the error %s", err, err, code)
	}
	if e.Kind != kind || e.Code != code {
		t.Fatalf("got %s error %s, want %s error %s: %v", e.Kind, e.Code, kind, code, err)
	}
	text := err.Error()
	if strings.Contains(text, "\n") {
		t.Errorf("the error has more than one line: %q", text)
	}
	for _, s := range parts {
		if !strings.Contains(text, s) {
			t.Errorf("error %q does not contain %q", text, s)
		}
	}
	wantNoSecrets(t, err)
}

// wantNoSecrets checks that v contains no secret, however it is printed.
func wantNoSecrets(t *testing.T, v any) {
	t.Helper()
	data, _ := json.Marshal(v)
	for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%s %q %x", v, v, v), string(data)} {
		for _, secret := range []string{plantedPassword, plantedToken, fmt.Sprintf("%x", plantedPassword), strings.Trim(fmt.Sprintf("%d", []byte(plantedPassword)), "[]")} {
			if strings.Contains(text, secret) {
				t.Errorf("the text contains a secret: %.300s", text)
			}
		}
	}
}

// manifest returns the manifest of a reference.
func (p *testRepo) manifest(t *testing.T, ref name.Reference) []byte {
	t.Helper()
	return must(remote.Get(ref, p.remote()...))(t).Manifest
}

func sigTag(sub sign.Subject) name.Tag { return attachedTag(sub, ".sig") }
func attTag(sub sign.Subject) name.Tag { return attachedTag(sub, ".att") }

// attachedTag returns cosign's tag for a manifest.
func attachedTag(sub sign.Subject, suffix string) name.Tag {
	return sub.Digest.Context().Tag(strings.Replace(sub.Digest.DigestStr(), ":", "-", 1) + suffix)
}

// layers returns the number of signatures or attestations under a tag.
func (p *testRepo) layers(t *testing.T, tag name.Tag) int {
	t.Helper()
	m := must(v1.ParseManifest(bytes.NewReader(p.manifest(t, tag))))(t)
	return len(m.Layers)
}

// edit changes the content and the annotations of a signature or an attestation.
type edit func(content []byte, annotations map[string]string) ([]byte, map[string]string)

// rewrite applies change to the signatures or attestations under one tag and writes
// them under another, as an attacker with write access to the registry could.
func (p *testRepo) rewrite(t *testing.T, from, to name.Tag, change edit) {
	t.Helper()
	img := must(remote.Image(from, p.remote()...))(t)
	m := must(img.Manifest())(t)
	out := mutate.MediaType(empty.Image, m.MediaType)
	out = mutate.ConfigMediaType(out, m.Config.MediaType)
	for _, d := range m.Layers {
		l := must(img.LayerByDigest(d.Digest))(t)
		r := must(l.Compressed())(t)
		data := must(io.ReadAll(r))(t)
		_ = r.Close()
		data, annotations := change(data, d.Annotations)
		out = must(mutate.Append(out, mutate.Addendum{Layer: static.NewLayer(data, d.MediaType), Annotations: annotations, MediaType: d.MediaType}))(t)
	}
	if err := remote.Write(to, out, p.remote()...); err != nil {
		t.Fatal(err)
	}
}

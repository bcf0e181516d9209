package sigstore_test

import (
	"bytes"
	"context"
	"encoding/json"
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
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	goleak.VerifyTestMain(m,
		// Distribution has no way to end the one goroutine of its event queue.
		goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"),
		// The library of Google's KMS starts one when it is loaded.
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
		goleak.Cleanup(func(code int) {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			_ = os.RemoveAll(keyring.dir)
			os.Exit(code)
		}))
}

// must ends the test on an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// plantedPassword must appear nowhere.
const plantedPassword = "pl4nted-passw0rd"

// pair is a pair of keys in files.
type pair struct {
	private, public, fingerprint string
	loaded                       sign.Signer
}

// keyring holds the pairs by name. Making and loading one takes half a second,
// since the password is hashed.
var keyring struct {
	sync.Mutex
	dir   string
	pairs map[string]pair
}

func aPair(t *testing.T, name string) pair {
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
	made := must(sigstore.GenerateKeys(t.Context(), sign.KeysOptions{
		Private: filepath.Join(keyring.dir, name+".key"), Public: filepath.Join(keyring.dir, name+".pub"), Password: sign.Hide([]byte(plantedPassword)),
	}))(t)
	k := pair{private: made.Private, public: made.Public, fingerprint: made.Fingerprint}
	k.loaded = must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: k.key()}))(t)
	keyring.pairs[name] = k
	return k
}

func (p pair) key() sign.Key {
	return sign.Key{Ref: p.private, Password: sign.Hide([]byte(plantedPassword))}
}

func (p pair) signer(*testing.T) sign.Signer { return p.loaded }

func (p pair) trust() sign.Policy { return sign.Policy{Keys: []sign.Key{{Ref: p.public}}} }

// place is a repository on a real registry, behind a door that can be made to
// lie and to fail.
type place struct {
	*httptest.Server
	next http.Handler
	repo name.Repository
	tr   *http.Transport

	mu   sync.Mutex
	door func(w http.ResponseWriter, r *http.Request) bool // true: answered
	puts int                                               // manifests written
	reqs int
}

// registries are what everything is tried against.
func registries() map[string]func(*testing.T) http.Handler {
	return map[string]func(*testing.T) http.Handler{"memory": memory, "distribution": distribution}
}

func memory(*testing.T) http.Handler { return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))) }

// distribution is a real CNCF Distribution on a port of its own.
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
			r.Out.Host = r.In.Host // upload locations must lead through here
		},
	}
}

func newPlace(t *testing.T, next http.Handler) *place {
	t.Helper()
	p := &place{next: next, tr: &http.Transport{MaxIdleConnsPerHost: 10}}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Start()
	t.Cleanup(func() { p.tr.CloseIdleConnections(); p.Close() })
	p.repo = must(name.NewRepository(p.Listener.Addr().String()+"/acme/orders", name.Insecure))(t)
	return p
}

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	door := p.door
	p.reqs++
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
		p.puts++
	}
	p.mu.Unlock()
	if door != nil && door(w, r) {
		return
	}
	p.next.ServeHTTP(w, r)
}

func (p *place) guard(door func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.door = door
}

func (p *place) written() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.puts
}

func (p *place) remote() []remote.Option {
	return []remote.Option{remote.WithTransport(p.tr), remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
}

// quick is a backoff that spends no time.
var quick = remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 3}

// anIndex pushes an image for two platforms and returns it with its manifests,
// the index first.
func (p *place) anIndex(t *testing.T) []sign.Subject {
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

func (p *place) anImage(t *testing.T) []sign.Subject {
	t.Helper()
	img := must(random.Image(100, 1))(t)
	d := p.repo.Digest(must(img.Digest())(t).String())
	if err := remote.Write(d, img, p.remote()...); err != nil {
		t.Fatal(err)
	}
	return []sign.Subject{{Digest: d}}
}

func (p *place) sign(t *testing.T, s sign.Signer, subs []sign.Subject) sign.Result {
	t.Helper()
	return must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Remote: p.remote(), Backoff: quick, Settle: time.Microsecond}))(t)
}

func (p *place) attest(t *testing.T, s sign.Signer, what ...sign.Statement) sign.AttestResult {
	t.Helper()
	return must(sigstore.Attest(t.Context(), sign.AttestOptions{Statements: what, Signer: s, Remote: p.remote(), Backoff: quick, Settle: time.Microsecond}))(t)
}

func (p *place) verify(t *testing.T, sub sign.Subject, policy sign.Policy) (sign.VerifyResult, error) {
	t.Helper()
	return sigstore.Verify(t.Context(), sign.VerifyOptions{Reference: sub.Digest, Policy: policy, Remote: p.remote(), Backoff: quick, Now: now})
}

// now is when the tests take place.
var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func aScan(t *testing.T, at time.Time, verdict string, subs ...sign.Subject) sign.Statement {
	t.Helper()
	p := must(sign.ScanPredicate(sign.ScanOptions{
		Scanner: "pkg:github/aquasecurity/trivy", Version: "0.74.0", Database: "ghcr.io/aquasecurity/trivy-db", DatabaseID: "2",
		Updated: at.Add(-time.Hour), Started: at.Add(-time.Second), Finished: at, Verdict: verdict,
		Counts: map[string]int{"HIGH": 0}, Report: json.RawMessage(`{"Results":[]}`),
	}))(t)
	return sign.Statement{PredicateType: sign.PredicateScan, Predicate: p, For: subs}
}

func anSBOM(subs ...sign.Subject) sign.Statement {
	return sign.Statement{PredicateType: sign.PredicateSPDX, For: subs, Predicate: json.RawMessage(
		`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"orders","dataLicense":"CC0-1.0","documentNamespace":"https://example.com/orders","creationInfo":{"created":"2026-11-20T10:00:00Z","creators":["Tool: slipway"]},"packages":[]}`)}
}

func aProvenance(t *testing.T, subs ...sign.Subject) sign.Statement {
	t.Helper()
	p := must(sign.Provenance(sign.ProvenanceOptions{
		BuildType: "https://slipway.dev/build/v1", Builder: "https://github.com/acme/orders/.github/workflows/ship.yml@refs/heads/main",
		Source: "git+https://github.com/acme/orders", Ref: "refs/heads/main", Revision: strings.Repeat("ab", 20),
		External:  map[string]any{"platforms": []string{"linux/amd64"}},
		Materials: []sign.Material{{Name: "go", Digest: map[string]string{"sha256": strings.Repeat("0", 64)}}},
	}))(t)
	return sign.Statement{PredicateType: sign.PredicateProvenance, Predicate: p, For: subs}
}

// wantFault checks an error's kind and code, and that it is one line without
// secrets.
func wantFault(t *testing.T, err error, kind fault.Kind, code string, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", code)
	}
	var e *fault.Error
	if !asFault(err, &e) {
		t.Fatalf("%v (%T) is no fault", err, err)
	}
	if e.Kind != kind || e.Code != code {
		t.Fatalf("it is %s %s, want %s %s: %v", e.Kind, e.Code, kind, code, err)
	}
	text := err.Error()
	if strings.Contains(text, "\n") {
		t.Errorf("more than one line: %q", text)
	}
	for _, s := range says {
		if !strings.Contains(text, s) {
			t.Errorf("%q does not say %q", text, s)
		}
	}
	secretFree(t, err)
}

func secretFree(t *testing.T, v any) {
	t.Helper()
	data, _ := json.Marshal(v)
	for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%s %q %x", v, v, v), string(data)} {
		for _, secret := range []string{plantedPassword, plantedToken, fmt.Sprintf("%x", plantedPassword), strings.Trim(fmt.Sprintf("%d", []byte(plantedPassword)), "[]")} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is in %.300s", text)
			}
		}
	}
}

const plantedToken = "pl4nted-t0ken"

// manifest reads what a tag holds, as bytes.
func (p *place) manifest(t *testing.T, ref name.Reference) []byte {
	t.Helper()
	return must(remote.Get(ref, p.remote()...))(t).Manifest
}

func sigTag(sub sign.Subject) name.Tag { return besideTag(sub, ".sig") }
func attTag(sub sign.Subject) name.Tag { return besideTag(sub, ".att") }

func besideTag(sub sign.Subject, suffix string) name.Tag {
	return sub.Digest.Context().Tag(strings.Replace(sub.Digest.DigestStr(), ":", "-", 1) + suffix)
}

// layers counts what a tag holds.
func (p *place) layers(t *testing.T, tag name.Tag) int {
	t.Helper()
	m := must(v1.ParseManifest(bytes.NewReader(p.manifest(t, tag))))(t)
	return len(m.Layers)
}

// rewrite changes what a tag holds, layer by layer, as someone who can write
// to the registry could.
func (p *place) rewrite(t *testing.T, from, to name.Tag, change func(content []byte, notes map[string]string) ([]byte, map[string]string)) {
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
		data, notes := change(data, d.Annotations)
		out = must(mutate.Append(out, mutate.Addendum{Layer: rawLayer(data, d), Annotations: notes, MediaType: d.MediaType}))(t)
	}
	if err := remote.Write(to, out, p.remote()...); err != nil {
		t.Fatal(err)
	}
}

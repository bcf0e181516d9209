package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the registry in memory logs rejected uploads
	goleak.VerifyTestMain(m,
		// Distribution provides no way to stop the goroutine of its event queue.
		goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"),
		goleak.Cleanup(func(code int) {
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			os.Exit(code)
		}))
}

// The requests of a push or a pull.
const (
	ping         = "GET /v2/"
	headBlob     = "HEAD blob"
	postUpload   = "POST upload"
	patchUpload  = "PATCH upload"
	putBlob      = "PUT blob"
	putManifest  = "PUT manifest"
	headManifest = "HEAD manifest"
	getManifest  = "GET manifest"
	getBlob      = "GET blob"
	token        = "GET token"
)

// step returns the constant for a request.
func step(r *http.Request) string {
	p := r.URL.Path
	switch {
	case p == "/token":
		return token
	case p == "/v2/":
		return ping
	case strings.Contains(p, "/blobs/uploads/") && r.Method == http.MethodPut:
		return putBlob
	case strings.Contains(p, "/blobs/uploads/"):
		return r.Method + " upload"
	case strings.Contains(p, "/blobs/"):
		return r.Method + " blob"
	case strings.Contains(p, "/manifests/"):
		return r.Method + " manifest"
	}
	return r.Method + " " + p
}

// fail handles a request instead of the registry, or changes its response.
type fail func(p *proxy, w http.ResponseWriter, r *http.Request)

// proxy is a proxy in front of a real registry. It injects faults that a real
// registry cannot be made to show.
type proxy struct {
	*httptest.Server
	next http.Handler
	down chan struct{} // closed when the test ends, to release stalled requests

	mu    sync.Mutex
	rules []rule
	seen  map[string]int
}

// rule injects a fault into the next requests of one step.
type rule struct {
	step  string
	times int // the number of requests; negative for all
	fail  fail
}

// handlers returns the registries that the tests run against: with -short only the one
// that answers from memory.
func handlers() map[string]func(*testing.T) http.Handler {
	if testing.Short() {
		return map[string]func(*testing.T) http.Handler{"memory": memory}
	}
	return map[string]func(*testing.T) http.Handler{
		"memory":       memory,
		"distribution": distribution,
	}
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

func newProxy(t *testing.T, next http.Handler, rules ...rule) *proxy {
	t.Helper()
	p := &proxy{next: next, rules: rules, seen: map[string]int{}, down: make(chan struct{})}
	p.Server = httptest.NewUnstartedServer(p)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Start()
	t.Cleanup(func() { close(p.down); p.Close() })
	return p
}

func (p *proxy) host() string { return p.Listener.Addr().String() }

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := p.pick(step(r)); f != nil {
		f(p, w, r)
		return
	}
	p.next.ServeHTTP(w, r)
}

// pick counts the request and returns the fault for it, or nil.
func (p *proxy) pick(step string) fail {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[step]++
	for i := range p.rules {
		if r := &p.rules[i]; r.step == step && r.times != 0 {
			r.times--
			return r.fail
		}
	}
	return nil
}

// set replaces the rules and resets the counts.
func (p *proxy) set(rules ...rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.seen = rules, map[string]int{}
}

func (p *proxy) count(step string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[step]
}

// respond sends a status, headers in pairs, and a body.
func respond(status int, body string, header ...string) fail {
	return func(_ *proxy, w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// errorBody returns the body of an error response in the form of the OCI
// distribution specification.
func errorBody(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// reset reads the beginning of the request and closes the connection with a TCP
// reset.
func reset(p *proxy, w http.ResponseWriter, r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, 10)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// cutUpload passes only the first half of the body to the registry, which accepts
// it.
func cutUpload(p *proxy, w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	data = data[:len(data)/2]
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	p.next.ServeHTTP(w, r)
}

// cutResponse sends the first half of the registry's response and closes the
// connection.
func cutResponse(p *proxy, w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	p.next.ServeHTTP(rec, r)
	writeHeader(w, rec)
	_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

// writeHeader writes the status and the headers of a recorded response.
func writeHeader(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), rec.Header())
	w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
	w.WriteHeader(rec.Code)
}

// stall never responds.
func stall(p *proxy, _ http.ResponseWriter, r *http.Request) { p.hold(r) }

// stallReading reads the first bytes of the request and then stalls.
func stallReading(p *proxy, _ http.ResponseWriter, r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, 10)
	p.hold(r)
}

func (p *proxy) hold(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-p.down:
	}
	panic(http.ErrAbortHandler)
}

// doneButReset lets the registry process the request and loses the response.
func doneButReset(p *proxy, w http.ResponseWriter, r *http.Request) {
	p.next.ServeHTTP(httptest.NewRecorder(), r)
	reset(p, w, r)
}

// quick is a backoff that hardly waits.
var quick = remote.Backoff{Duration: time.Millisecond, Factor: 1, Steps: 5}

func client(t *testing.T, o registry.Options) *registry.Client {
	t.Helper()
	if o.Backoff.Steps == 0 {
		o.Backoff = quick
	}
	c, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
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

// newIndex returns an index with random images for two platforms, each with two
// layers of the size.
func newIndex(t *testing.T, size int64) image.Image {
	t.Helper()
	return image.Image{Index: must(random.Index(size, 2, 2))(t)}
}

// newSingle returns a random image without an index.
func newSingle(t *testing.T, size, layers int64) image.Image {
	t.Helper()
	return image.Image{Single: must(random.Image(size, layers))(t)}
}

func push(t *testing.T, c *registry.Client, host, repo string, img image.Image, dir cache.Dir, tags ...string) (registry.PushResult, error) {
	t.Helper()
	return pushWith(t.Context(), t, c, host, repo, img, dir, tags...)
}

func pushWith(ctx context.Context, t *testing.T, c *registry.Client, host, repo string, img image.Image, dir cache.Dir, tags ...string) (registry.PushResult, error) {
	t.Helper()
	r := must(c.Repository(host + "/" + repo))(t)
	o := registry.PushOptions{Image: img, Repository: r, Cache: dir}
	for _, tag := range tags {
		o.Tags = append(o.Tags, must(c.Tag(r, tag))(t))
	}
	return c.Push(ctx, o)
}

// pullDigest pulls and validates the complete image or index at a reference, and
// returns its digest.
func pullDigest(t *testing.T, rt http.RoundTripper, ref string) v1.Hash {
	t.Helper()
	desc, err := remote.Get(must(name.ParseReference(ref))(t), remote.WithTransport(rt), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatalf("pulling %s: %v", ref, err)
	}
	if desc.MediaType.IsIndex() {
		err = validate.Index(must(desc.ImageIndex())(t))
	} else {
		err = validate.Image(must(desc.Image())(t))
	}
	if err != nil {
		t.Errorf("%s is incomplete: %v", ref, err)
	}
	return desc.Digest
}

// tagDigests checks that every tag of the repository points at a complete image,
// and returns the digests by tag. It removes the rules of the proxy.
func tagDigests(t *testing.T, p *proxy, repo string) map[string]v1.Hash {
	t.Helper()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	p.set()
	r := must(name.NewRepository(p.host() + "/" + repo))(t)
	tags, err := remote.List(r, remote.WithTransport(tr), remote.WithContext(t.Context()))
	if err != nil && !strings.Contains(err.Error(), "NAME_UNKNOWN") {
		t.Fatal(err)
	}
	digests := map[string]v1.Hash{}
	for _, tag := range tags {
		digests[tag] = pullDigest(t, tr, r.Tag(tag).Name())
	}
	return digests
}

// wantPushed checks that the result of a push matches the contents of the registry.
func wantPushed(t *testing.T, p *proxy, repo string, img image.Image, r registry.PushResult, tags ...string) {
	t.Helper()
	want := must(img.Artifact().Digest())(t)
	if r.Digest != want.String() || r.Reference != p.host()+"/"+repo+"@"+want.String() {
		t.Errorf("result has digest %s and reference %s, want digest %s", r.Digest, r.Reference, want)
	}
	if !slices.Equal(r.Tags, tags) {
		t.Errorf("result has tags %v, want %v", r.Tags, tags)
	}
	have := tagDigests(t, p, repo)
	for _, tag := range tags {
		if have[tag] != want {
			t.Errorf("tag %s points at %s, want %s", tag, have[tag], want)
		}
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	if got := pullDigest(t, tr, r.Reference); got != want {
		t.Errorf("the registry holds %s, want %s", got, want)
	}
}

// events records progress events.
type events struct {
	mu  sync.Mutex
	all []progress.Event
}

func (e *events) Emit(ev progress.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprintf("%+v", e.all)
}

// wantOneLine checks that an error is on one line and contains the parts.
func wantOneLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("got no error")
		return
	}
	if strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("more than one line: %q", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
}

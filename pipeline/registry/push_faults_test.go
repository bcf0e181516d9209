package registry_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// A push succeeds after a transient fault in any of its steps.
func TestPushRetriesTransientFaults(t *testing.T) {
	type fault struct {
		name  string
		steps []string
		fail  fail
		times []int
		stall time.Duration
	}
	all := pushSteps()
	faults := []fault{
		{name: "500", steps: all, fail: respond(500, "")},
		{name: "500 with a diagnosis", steps: all, fail: respond(500, errorBody("INTERNAL", "storage is unreachable"))},
		{name: "502", steps: all, fail: respond(502, "<html>bad gateway</html>")},
		{name: "503", steps: all, fail: respond(503, errorBody("UNAVAILABLE", "starting"))},
		{name: "503 with Retry-After", steps: []string{patchUpload, putManifest}, fail: respond(503, "", "Retry-After", "1"), times: []int{1}},
		{name: "504", steps: []string{putBlob}, fail: respond(504, "")},
		{name: "429", steps: all, fail: respond(429, errorBody("TOOMANYREQUESTS", "slow down"))},
		{name: "429 with Retry-After", steps: []string{headBlob, patchUpload, putManifest, ping}, fail: respond(429, "", "Retry-After", "1"), times: []int{1}},
		{name: "reset", steps: all, fail: reset},
		{name: "done but reset", steps: []string{postUpload, patchUpload, putBlob, putManifest}, fail: doneButReset},
		{name: "upload cut off", steps: []string{patchUpload}, fail: cutUpload},
		{name: "stall", steps: []string{postUpload, patchUpload, putManifest, headManifest}, fail: stall, times: []int{1}, stall: 3 * time.Second},
		{name: "stall mid-upload", steps: []string{patchUpload}, fail: stallReading, times: []int{1}, stall: 3 * time.Second},
		{name: "error body cut off", steps: []string{putBlob, putManifest}, fail: func(p *proxy, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(500)
			_, _ = io.WriteString(w, `{"errors":[{"code":`)
			panic(http.ErrAbortHandler)
		}},
	}
	for backend, handler := range handlers() {
		for _, f := range faults {
			if f.times == nil {
				f.times = []int{1, 3}
				if backend == "distribution" {
					f.times = []int{3}
				}
			}
			for _, at := range f.steps {
				for _, times := range f.times {
					t.Run(fmt.Sprintf("%s/%s/%s/%d times", backend, f.name, at, times), func(t *testing.T) {
						t.Parallel()
						p := newProxy(t, handler(t), rule{at, times, f.fail})
						c := client(t, registry.Options{Stall: f.stall})
						size := int64(2000)
						if f.name == "stall mid-upload" {
							size = 8 << 20 // more than the buffers of the sockets
						}
						img := newIndex(t, size)
						r, err := push(t, c, p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1", "latest")
						if err != nil {
							t.Fatal(err)
						}
						if n := p.count(at); n <= times {
							t.Errorf("%s was sent %d times, want a retry after %d faults", at, n, times)
						}
						wantPushed(t, p, "acme/orders", img, r, "v1", "latest")
					})
				}
			}
		}
	}
}

func pushSteps() []string {
	return []string{ping, headBlob, postUpload, patchUpload, putBlob, putManifest, headManifest}
}

// A permanent fault gives an error on one line with a code and a fix, and every
// tag still points at a complete image.
func TestPushReportsPermanentFaults(t *testing.T) {
	all := pushSteps()
	for _, tt := range []struct {
		name     string
		steps    []string
		fail     fail
		code     string
		contains []string // of the error
		stall    time.Duration
		tries    int // how often the step may be tried; 0 is any number
	}{
		{name: "500", steps: all, fail: respond(500, ""), code: "registry.unavailable", contains: []string{"500", "retry later"}},
		{name: "502", steps: all, fail: respond(502, "<html>\n<p>bad\ngateway</html>"), code: "registry.unavailable", contains: []string{"502"}},
		{name: "503", steps: all, fail: respond(503, errorBody("UNAVAILABLE", "in\nmaintenance")), code: "registry.unavailable", contains: []string{"503"}},
		{name: "429", steps: all, fail: respond(429, errorBody("TOOMANYREQUESTS", "slow")), code: "registry.rate-limited", contains: []string{"429", "later"}},
		{name: "401", steps: all[1:], fail: respond(401, errorBody("UNAUTHORIZED", "who are you")), code: "registry.unauthorized", contains: []string{"docker login", "SLIPWAY_REGISTRY_PASSWORD"}},
		{name: "403", steps: []string{ping, postUpload, patchUpload, putBlob, putManifest}, fail: respond(403, errorBody("DENIED", "no push rights")), code: "registry.forbidden", contains: []string{"no push rights", "acme/orders"}},
		{name: "404", steps: []string{postUpload, putManifest}, fail: respond(404, errorBody("NAME_UNKNOWN", "no such project")), code: "registry.not-found", contains: []string{"no such project", "create"}},
		{name: "413", steps: []string{postUpload, patchUpload, putBlob, putManifest}, fail: respond(413, "<html>"), code: "registry.too-large", contains: []string{"too large", "client_max_body_size"}, tries: 1},
		{name: "413 with a code", steps: []string{putManifest}, fail: respond(413, errorBody("SIZE_INVALID", "manifest too big")), code: "registry.too-large", contains: []string{"manifest too big"}, tries: 1},
		{name: "quota as 413", steps: []string{putBlob}, fail: respond(413, errorBody("DENIED", "quota exceeded")), code: "registry.quota"},
		{name: "507", steps: []string{putBlob}, fail: respond(507, ""), code: "registry.quota", contains: []string{"quota"}},
		{name: "quota as 403", steps: []string{postUpload, putManifest}, fail: respond(403, errorBody("DENIED", "Quota exceeded: 10 GiB")), code: "registry.quota", contains: []string{"10 GiB", "raise"}},
		{name: "quota as 412", steps: []string{putManifest}, fail: respond(412, errorBody("PRECONDITION", "adding 3 MiB of storage resource, which when updated to current usage will exceed the configured upper limit of quota")), code: "registry.quota"},
		{name: "405", steps: []string{postUpload}, fail: respond(405, errorBody("UNSUPPORTED", "read-only")), code: "registry.refused", contains: []string{"405", "read-only"}, tries: 1},
		{name: "reset", steps: all, fail: reset, code: "registry.unreachable", contains: []string{"reach"}},
		{name: "stall", steps: []string{patchUpload, putManifest}, fail: stall, code: "registry.unreachable", contains: []string{"stalled"}, stall: 200 * time.Millisecond},
		{name: "always cut", steps: []string{patchUpload}, fail: cutUpload, code: "registry.refused", contains: []string{"DIGEST"}},
		{name: "no location", steps: []string{postUpload}, fail: respond(202, ""), code: "registry.unreachable", contains: []string{"Location"}},
	} {
		for _, at := range tt.steps {
			t.Run(tt.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				p := newProxy(t, memory(t))
				dir := cache.Dir(t.TempDir())
				old := newSingle(t, 100, 1)
				if _, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", old, dir, "latest"); err != nil {
					t.Fatal(err)
				}
				p.set(rule{at, -1, tt.fail})
				c := client(t, registry.Options{Stall: tt.stall, Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 3}})
				// For a single image the registry in memory accepts a manifest without
				// its layers, so the test notices a tag that is set too early.
				_, err := push(t, c, p.host(), "acme/orders", newSingle(t, 2000, 3), dir, "v1", "latest")
				wantFailed(t, err, tt.code)
				wantOneLine(t, err, append(tt.contains, p.host(), "acme/orders")...)
				if n := p.count(at); tt.tries != 0 && n > tt.tries*6 {
					t.Errorf("%s was sent %d times although a retry cannot succeed", at, n)
				}
				have := tagDigests(t, p, "acme/orders")
				if want := must(old.Single.Digest())(t); have["latest"] != want {
					t.Errorf("tag latest points at %s, want the earlier image %s", have["latest"], want)
				}
				if _, ok := have["v1"]; ok {
					t.Error("tag v1 exists after a failed push")
				}
			})
		}
	}
}

// What is too large once is too large again, also if the code in the body is one after
// which a retry usually helps.
func TestPushDoesNotRetryWhatIsTooLarge(t *testing.T) {
	p := newProxy(t, memory(t), rule{putManifest, -1, respond(413, errorBody("SIZE_INVALID", "manifest too big"))})
	_, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", newSingle(t, 10, 1), cache.Dir(t.TempDir()), "v1")
	wantFailed(t, err, "registry.too-large")
	if n := p.count(putManifest); n != 1 {
		t.Errorf("the manifest was sent %d times", n)
	}
}

// wantFailed checks that err is a [fault.Failed] error with the code and, unless
// the registry gives no reason, with a fix.
func wantFailed(t *testing.T, err error, code string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Fatalf("error %v (%T) has no code, want %s", err, err, code)
	}
	if f.Kind != fault.Failed || f.Code != code {
		t.Errorf("error is %s %s, want %s %s: %v", f.Kind, f.Code, fault.Failed, code, err)
	}
	if f.Fix == "" && code != "registry.refused" {
		t.Errorf("error %s has no fix: %v", code, err)
	}
}

// If the registry reports another digest for a manifest, the push fails and sets
// no tag.
func TestPushRejectsADigestMismatch(t *testing.T) {
	wrongDigest := func(p *proxy, w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		p.next.ServeHTTP(rec, r)
		rec.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
		writeHeader(w, rec)
	}
	p := newProxy(t, memory(t), rule{putManifest, -1, wrongDigest})
	_, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", newSingle(t, 100, 1), cache.Dir(t.TempDir()), "v1")
	wantFailed(t, err, "registry.digest")
	wantOneLine(t, err, p.host(), "acme/orders", strings.Repeat("0", 64))
	if have := tagDigests(t, p, "acme/orders"); len(have) != 0 {
		t.Errorf("the failed push set the tags %v", have)
	}
}

// The error has a different fix for an unreachable registry, for one that serves
// plain HTTP, and for one with a certificate of an unknown authority.
func TestPushExplainsConnections(t *testing.T) {
	tlsServer := httptest.NewUnstartedServer(memory(t))
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0)
	tlsServer.StartTLS()
	t.Cleanup(tlsServer.Close)
	plain := newProxy(t, memory(t))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedAddr := free.Addr().String()
	free.Close()

	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tlsServer.Certificate().Raw})
	ca := filepath.Join(testkit.Tree(t, map[string]string{"ca.pem": string(certificate)}), "ca.pem")

	tlsAddr := tlsServer.Listener.Addr().String()
	for _, tt := range []struct {
		name, host, to string
		options        registry.Options
		contains       []string // of the error; nil if the push succeeds
	}{
		{"refused", closedAddr, "", registry.Options{}, []string{"connection refused", "can be reached"}},
		{"refused, by name", "registry.example.com", closedAddr, registry.Options{}, []string{"connection refused", "can be reached"}},
		{"plain HTTP, by name", "registry.example.com", plain.host(), registry.Options{}, []string{"plain HTTP", "registry.insecure"}},
		{"plain HTTP, allowed", "registry.example.com", plain.host(), registry.Options{Settings: config.Registry{Insecure: []string{"registry.example.com"}}}, nil},
		{"unknown authority, loopback", tlsAddr, "", registry.Options{}, []string{"x509", "registry.ca"}},
		{"unknown authority, by name", "example.com", tlsAddr, registry.Options{}, []string{"x509", "registry.ca"}},
		{"known authority, by name", "example.com", tlsAddr, registry.Options{Settings: config.Registry{CA: ca}}, nil},
		{"known authority, loopback", tlsAddr, "", registry.Options{Settings: config.Registry{CA: ca}}, nil},
		{"known authority, other name", "registry.example.org", tlsAddr, registry.Options{Settings: config.Registry{CA: ca}}, []string{"x509", "registry.example.org"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Backoff = remote.Backoff{Duration: time.Millisecond, Steps: 2}
			c := client(t, tt.options)
			c.Resolve(map[string]string{tt.host + ":443": tt.to, tt.host + ":80": tt.to})
			r, err := push(t, c, tt.host, "acme/orders", newSingle(t, 100, 1), cache.Dir(t.TempDir()), "v1")
			if tt.contains == nil {
				if err != nil || r.Digest == "" {
					t.Fatalf("%+v, %v", r, err)
				}
				return
			}
			wantFailed(t, err, "registry.unreachable")
			wantOneLine(t, err, append(tt.contains, tt.host, "acme/orders")...)
		})
	}
}

func TestNewRejectsBadAuthorities(t *testing.T) {
	empty := filepath.Join(testkit.Tree(t, map[string]string{"empty.pem": "not a certificate\n"}), "empty.pem")
	for _, file := range []string{empty, empty + ".missing", t.TempDir()} {
		_, err := registry.New(registry.Options{Settings: config.Registry{CA: file}})
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Input || f.Code != "registry.ca" {
			t.Errorf("%s: got %v", file, err)
		}
		wantOneLine(t, err, file)
	}
}

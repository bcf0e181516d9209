package registry_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// A fault that passes ends in the right image, whichever step it hits.
func TestPushSurvivesPassingFaults(t *testing.T) {
	type fault struct {
		name  string
		steps []string
		fail  fail
		times []int
		stall time.Duration
	}
	all := []string{ping, headBlob, postUpload, patchUpload, putBlob, putManifest, headManifest}
	faults := []fault{
		{name: "500", steps: all, fail: answer(500, "")},
		{name: "500 with a diagnosis", steps: all, fail: answer(500, diagnosis("INTERNAL", "storage is away"))},
		{name: "502", steps: all, fail: answer(502, "<html>bad gateway</html>")},
		{name: "503", steps: all, fail: answer(503, diagnosis("UNAVAILABLE", "starting"))},
		{name: "503 with Retry-After", steps: []string{patchUpload, putManifest}, fail: answer(503, "", "Retry-After", "1"), times: []int{1}},
		{name: "504", steps: []string{putBlob}, fail: answer(504, "")},
		{name: "429", steps: all, fail: answer(429, diagnosis("TOOMANYREQUESTS", "slow down"))},
		{name: "429 with Retry-After", steps: []string{headBlob, patchUpload, putManifest, ping}, fail: answer(429, "", "Retry-After", "1"), times: []int{1}},
		{name: "reset", steps: all, fail: reset},
		{name: "done but reset", steps: []string{postUpload, patchUpload, putBlob, putManifest}, fail: doneButReset},
		{name: "upload cut", steps: []string{patchUpload}, fail: cutUpload},
		{name: "stall", steps: []string{postUpload, patchUpload, putManifest, headManifest}, fail: stall, times: []int{1}, stall: 3 * time.Second},
		{name: "stall mid-upload", steps: []string{patchUpload}, fail: stallReading, times: []int{1}, stall: 3 * time.Second},
		{name: "error body cut", steps: []string{putBlob, putManifest}, fail: func(p *proxy, w http.ResponseWriter, r *http.Request) {
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
							size = 8 << 20 // more than the sockets hold
						}
						img := anIndex(t, size)
						r, err := push(t, c, p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1", "latest")
						if err != nil {
							t.Fatal(err)
						}
						if n := p.count(at); n <= times {
							t.Errorf("%s was tried %d times, the fault was not met", at, n)
						}
						wantPushed(t, p, "acme/orders", img, r, "v1", "latest")
					})
				}
			}
		}
	}
}

// A fault that stays gives one line with a code and what to do, and leaves
// every tag on a whole image.
func TestPushGivesUpClearly(t *testing.T) {
	all := []string{ping, headBlob, postUpload, patchUpload, putBlob, putManifest, headManifest}
	for _, tt := range []struct {
		name  string
		steps []string
		fail  fail
		code  string
		says  []string
		stall time.Duration
		tries int // how often the step is tried; 0: any number
	}{
		{name: "500", steps: all, fail: answer(500, ""), code: "registry.unavailable", says: []string{"500", "try again"}},
		{name: "502", steps: all, fail: answer(502, "<html>\n<p>bad\ngateway</html>"), code: "registry.unavailable", says: []string{"502"}},
		{name: "503", steps: all, fail: answer(503, diagnosis("UNAVAILABLE", "in\nmaintenance")), code: "registry.unavailable", says: []string{"503"}},
		{name: "429", steps: all, fail: answer(429, diagnosis("TOOMANYREQUESTS", "slow")), code: "registry.rate-limited", says: []string{"429", "later"}},
		{name: "401", steps: all[1:], fail: answer(401, diagnosis("UNAUTHORIZED", "who are you")), code: "registry.unauthorized", says: []string{"docker login", "SLIPWAY_REGISTRY_PASSWORD"}},
		{name: "403", steps: []string{ping, postUpload, patchUpload, putBlob, putManifest}, fail: answer(403, diagnosis("DENIED", "no push rights")), code: "registry.forbidden", says: []string{"no push rights", "acme/orders"}},
		{name: "404", steps: []string{postUpload, putManifest}, fail: answer(404, diagnosis("NAME_UNKNOWN", "no such project")), code: "registry.not-found", says: []string{"no such project", "create"}},
		{name: "413", steps: []string{patchUpload, putBlob}, fail: answer(413, ""), code: "registry.quota", says: []string{"quota"}},
		{name: "507", steps: []string{putBlob}, fail: answer(507, ""), code: "registry.quota", says: []string{"quota"}},
		{name: "quota as 403", steps: []string{postUpload, putManifest}, fail: answer(403, diagnosis("DENIED", "Quota exceeded: 10 GiB")), code: "registry.quota", says: []string{"10 GiB", "raise"}},
		{name: "quota as 412", steps: []string{putManifest}, fail: answer(412, diagnosis("PRECONDITION", "adding 3 MiB of storage resource, which when updated to current usage will exceed the configured upper limit of quota")), code: "registry.quota"},
		{name: "405", steps: []string{postUpload}, fail: answer(405, diagnosis("UNSUPPORTED", "read-only")), code: "registry.refused", says: []string{"405", "read-only"}, tries: 1},
		{name: "reset", steps: all, fail: reset, code: "registry.unreachable", says: []string{"reach"}},
		{name: "stall", steps: []string{patchUpload, putManifest}, fail: stall, code: "registry.unreachable", says: []string{"stood still"}, stall: 200 * time.Millisecond},
		{name: "always cut", steps: []string{patchUpload}, fail: cutUpload, code: "registry.refused", says: []string{"DIGEST"}},
		{name: "no location", steps: []string{postUpload}, fail: answer(202, ""), code: "registry.unreachable", says: []string{"Location"}},
	} {
		for _, at := range tt.steps {
			t.Run(tt.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				p := newProxy(t, memory(t))
				dir := cache.Dir(t.TempDir())
				old := aSingle(t, 100, 1)
				if _, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", old, dir, "latest"); err != nil {
					t.Fatal(err)
				}
				p.set(rule{at, -1, tt.fail})
				c := client(t, registry.Options{Stall: tt.stall, Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 3}})
				// A single image: the registry in memory takes its manifest without
				// its layers, so a tag set too early would show.
				_, err := push(t, c, p.host(), "acme/orders", aSingle(t, 2000, 3), dir, "v1", "latest")
				wantFault(t, err, fault.Failed, tt.code)
				oneLine(t, err, append(tt.says, p.host(), "acme/orders")...)
				if n := p.count(at); tt.tries != 0 && n > tt.tries*6 {
					t.Errorf("%s was tried %d times though no try can mend it", at, n)
				}
				have := whole(t, p, "acme/orders")
				if want := must(old.Single.Digest())(t); have["latest"] != want {
					t.Errorf("latest points at %s, want the image before %s", have["latest"], want)
				}
				if _, ok := have["v1"]; ok {
					t.Error("v1 exists after a failed push")
				}
			})
		}
	}
}

func wantFault(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Fatalf("error %v (%T) has no code, want %s", err, err, code)
	}
	if f.Kind != kind || f.Code != code {
		t.Errorf("error is %s %s, want %s %s: %v", f.Kind, f.Code, kind, code, err)
	}
	if f.Fix == "" && code != "registry.refused" {
		t.Errorf("error %s says nothing about what to do: %v", code, err)
	}
}

// A manifest stored under another digest is noticed, and no tag is set.
func TestPushRefusesALyingRegistry(t *testing.T) {
	lie := func(p *proxy, w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		p.next.ServeHTTP(rec, r)
		rec.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
		head(w, rec)
	}
	p := newProxy(t, memory(t), rule{putManifest, -1, lie})
	_, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", aSingle(t, 100, 1), cache.Dir(t.TempDir()), "v1")
	wantFault(t, err, fault.Failed, "registry.digest")
	oneLine(t, err, p.host(), "acme/orders", strings.Repeat("0", 64))
	if have := whole(t, p, "acme/orders"); len(have) != 0 {
		t.Errorf("tags %v were set", have)
	}
}

// Pushing the same again sends nothing but questions.
func TestPushAgainSendsNothing(t *testing.T) {
	for backend, handler := range handlers() {
		t.Run(backend, func(t *testing.T) {
			p := newProxy(t, handler(t))
			c, dir, img := client(t, registry.Options{}), cache.Dir(t.TempDir()), anIndex(t, 2000)
			first, err := push(t, c, p.host(), "acme/orders", img, dir, "v1", "latest")
			if err != nil {
				t.Fatal(err)
			}
			if first.Unchanged || first.Sent != 6 || first.Bytes == 0 {
				t.Errorf("first push: %+v, want four layers and two configurations sent", first)
			}
			p.set()
			again, err := push(t, c, p.host(), "acme/orders", img, dir, "v1", "latest")
			if err != nil {
				t.Fatal(err)
			}
			if !again.Unchanged || again.Sent+again.Mounted+again.Bytes != 0 || again.Digest != first.Digest {
				t.Errorf("second push: %+v, want unchanged", again)
			}
			for _, s := range []string{headBlob, postUpload, patchUpload, putBlob, putManifest} {
				if n := p.count(s); n != 0 {
					t.Errorf("second push: %d x %s", n, s)
				}
			}
			more, err := push(t, c, p.host(), "acme/orders", img, dir, "v2")
			if err != nil {
				t.Fatal(err)
			}
			if more.Unchanged || more.Sent != 0 {
				t.Errorf("push of a new tag: %+v, want nothing sent and something changed", more)
			}
			wantPushed(t, p, "acme/orders", img, more, "v2")
		})
	}
}

// Blobs that exist are not sent though the image is new.
func TestPushSendsOnlyNewBlobs(t *testing.T) {
	p := newProxy(t, distribution(t))
	c, dir, img := client(t, registry.Options{}), cache.Dir(t.TempDir()), anIndex(t, 2000)
	if _, err := push(t, c, p.host(), "acme/orders", img, dir); err != nil {
		t.Fatal(err)
	}
	manifest := must(img.Index.IndexManifest())(t)
	one := must(img.Index.Image(manifest.Manifests[0].Digest))(t)
	more := aSingle(t, 2000, 1).Single
	next := appendLayer(t, one, more)
	r, err := push(t, c, p.host(), "acme/orders", next, dir, "v2")
	if err != nil {
		t.Fatal(err)
	}
	if r.Existing != 2 || r.Sent != 2 {
		t.Errorf("%+v, want two layers there, one layer and the configuration sent", r)
	}
	wantPushed(t, p, "acme/orders", next, r, "v2")
}

// Layers that another repository of the registry holds are taken over.
func TestPushMountsAcrossRepositories(t *testing.T) {
	p := newProxy(t, distribution(t))
	c, dir, img := client(t, registry.Options{}), cache.Dir(t.TempDir()), anIndex(t, 2000)
	if _, err := push(t, c, p.host(), "acme/orders", img, dir); err != nil {
		t.Fatal(err)
	}
	r, err := push(t, c, p.host(), "acme/payments", img, dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if r.Mounted != 4 || r.Sent != 2 {
		t.Errorf("%+v, want four layers mounted and two configurations sent", r)
	}
	wantPushed(t, p, "acme/payments", img, r, "v1")

	t.Run("which has lost them", func(t *testing.T) {
		p := newProxy(t, distribution(t))
		lost := cache.Dir(t.TempDir())
		// The memory is of another registry: nothing is where it says.
		for _, h := range layerDigests(t, img) {
			if err := lost.Store([]string{"acme/gone"}, "mounts", strings.ReplaceAll(p.host(), ":", "_"), h.Hex+".json"); err != nil {
				t.Fatal(err)
			}
		}
		r, err := push(t, c, p.host(), "acme/orders", img, lost, "v1")
		if err != nil {
			t.Fatal(err)
		}
		if r.Mounted != 0 || r.Sent != 6 {
			t.Errorf("%+v, want everything sent", r)
		}
		wantPushed(t, p, "acme/orders", img, r, "v1")
	})
	t.Run("which these credentials do not reach", func(t *testing.T) {
		const password = "hunter2"
		inner := distribution(t)
		gate := newTokens(password)
		p := newProxy(t, gate.wrap(inner))
		gate.deny("acme/orders:pull")
		gate.realm = p.URL + "/token"
		keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, none))(t)
		c := client(t, registry.Options{Keychain: keychain})
		remembered := cache.Dir(t.TempDir())
		for _, h := range layerDigests(t, img) {
			if err := remembered.Store([]string{"acme/orders"}, "mounts", strings.ReplaceAll(p.host(), ":", "_"), h.Hex+".json"); err != nil {
				t.Fatal(err)
			}
		}
		r, err := push(t, c, p.host(), "acme/payments", img, remembered, "v1")
		if err != nil {
			t.Fatal(err)
		}
		if r.Sent != 6 {
			t.Errorf("%+v, want everything sent", r)
		}
	})
}

// Ending the run ends the push at once, with nothing left running.
func TestPushStopsWhenTheRunEnds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		at      string
		fail    func(cancel context.CancelFunc) fail
		backoff remote.Backoff
	}{
		{name: "mid-upload", at: patchUpload, fail: func(cancel context.CancelFunc) fail {
			return func(p *proxy, w http.ResponseWriter, r *http.Request) { cancel(); stallReading(p, w, r) }
		}},
		{name: "at the manifest", at: putManifest, fail: func(cancel context.CancelFunc) fail {
			return func(p *proxy, w http.ResponseWriter, r *http.Request) { cancel(); stall(p, w, r) }
		}},
		{name: "waiting as Retry-After says", at: headBlob, fail: func(cancel context.CancelFunc) fail {
			return func(p *proxy, w http.ResponseWriter, r *http.Request) {
				answer(429, "", "Retry-After", "3600")(p, w, r)
				cancel()
			}
		}},
		{name: "waiting for the next try", at: headBlob, backoff: remote.Backoff{Duration: time.Hour, Steps: 5}, fail: func(cancel context.CancelFunc) fail {
			return func(p *proxy, w http.ResponseWriter, r *http.Request) {
				answer(500, "")(p, w, r)
				cancel()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaks := goleak.IgnoreCurrent()
			func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p := &proxy{next: memory(t), seen: map[string]int{}, down: make(chan struct{}), rules: []rule{{tt.at, -1, tt.fail(cancel)}}}
				p.Server = httptest.NewUnstartedServer(p)
				p.Config.ErrorLog = log.New(io.Discard, "", 0)
				p.Start()
				defer p.Close()
				defer close(p.down)
				c := must(registry.New(registry.Options{Backoff: tt.backoff}))(t)
				defer c.Close()
				_, err := pushWith(ctx, t, c, p.host(), "acme/orders", anIndex(t, 4<<20), cache.Dir(t.TempDir()), "v1")
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
			}()
			goleak.VerifyNone(t, leaks)
		})
	}
}

// A registry nobody listens at, that speaks another protocol, or whose
// certificate nobody signed, each get their own advice.
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
	nobody := free.Addr().String()
	free.Close()

	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tlsServer.Certificate().Raw}))

	tlsAddr := tlsServer.Listener.Addr().String()
	for _, tt := range []struct {
		name, host, to string
		options        registry.Options
		says           []string // of the error; none: it works
	}{
		{"refused", nobody, "", registry.Options{}, []string{"connection refused", "can be reached"}},
		{"refused, by name", "registry.example.com", nobody, registry.Options{}, []string{"connection refused", "can be reached"}},
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
			r, err := push(t, c, tt.host, "acme/orders", aSingle(t, 100, 1), cache.Dir(t.TempDir()), "v1")
			if tt.says == nil {
				if err != nil || r.Digest == "" {
					t.Fatalf("%+v, %v", r, err)
				}
				return
			}
			wantFault(t, err, fault.Failed, "registry.unreachable")
			oneLine(t, err, append(tt.says, tt.host, "acme/orders")...)
		})
	}
}

func TestNewRefusesBadAuthorities(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	writeFile(t, empty, []byte("not a certificate\n"))
	for _, file := range []string{empty, empty + ".missing", t.TempDir()} {
		_, err := registry.New(registry.Options{Settings: config.Registry{CA: file}})
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Input || f.Code != "registry.ca" {
			t.Errorf("%s: got %v", file, err)
		}
		oneLine(t, err, file)
	}
}

// What a registry is told in confidence never comes back in an error or in
// progress.
func TestPushKeepsSecrets(t *testing.T) {
	const password, signature = "pl4nted-p4ssw0rd", "pl4nted-s1gnature"
	secretURL := "http://127.0.0.1:1/v2/x?sig=" + signature + "&_state=" + signature
	for _, tt := range []struct {
		name string
		rule rule
	}{
		{"refused", rule{postUpload, -1, answer(403, diagnosis("DENIED", "no"))}},
		{"refused with a signed URL", rule{postUpload, -1, answer(403, diagnosis("DENIED", "blocked at "+secretURL+" by policy"))}},
		{"reset", rule{patchUpload, -1, reset}},
		{"upload elsewhere, with a signature", rule{postUpload, -1, answer(202, "", "Location", secretURL)}},
		{"redirect with a signature", rule{headBlob, -1, answer(307, "", "Location", secretURL)}},
		{"redirect of the manifest", rule{putManifest, -1, answer(307, "", "Location", secretURL)}},
		{"location that is none", rule{postUpload, -1, answer(202, "", "Location", "http://[::1"+signature)}},
		{"endless redirect", rule{headManifest, -1, func(p *proxy, w http.ResponseWriter, r *http.Request) {
			answer(307, "", "Location", r.URL.Path+"?sig="+signature)(p, w, r)
		}}},
		{"stall", rule{putBlob, -1, stall}},
		{"token without a token", rule{token, -1, answer(200, `{"refresh_token":"`+signature+`"}`)}},
		{"token that is not JSON", rule{token, -1, answer(200, signature)}},
		{"token refused", rule{token, -1, answer(401, diagnosis("UNAUTHORIZED", "no"))}},
		{"token away", rule{token, -1, answer(503, "")}},
		{"token elsewhere", rule{token, -1, answer(307, "", "Location", secretURL)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gate := newTokens(password)
			p := newProxy(t, gate.wrap(memory(t)), tt.rule)
			gate.realm = p.URL + "/token"
			keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, none))(t)
			c := client(t, registry.Options{Keychain: keychain, Stall: 200 * time.Millisecond, Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 2}})
			var seen events
			_, err := pushWith(progress.With(t.Context(), &seen, "push"), t, c, p.host(), "acme/orders", aSingle(t, 100, 1), cache.Dir(t.TempDir()), "v1")
			if err == nil {
				t.Fatal("the push worked")
			}
			oneLine(t, err, p.host(), "acme/orders")
			for _, secret := range []string{password, signature, gate.issued()} {
				if secret != "" && (strings.Contains(err.Error(), secret) || strings.Contains(seen.text(), secret)) {
					t.Errorf("%q is in\n%v\n%s", secret, err, seen.text())
				}
			}
		})
	}
}

// Credentials are used, and a token that ends in the middle of an upload is
// renewed and the upload sent again, whole.
func TestPushWithCredentials(t *testing.T) {
	const password = "s3cret"
	t.Run("basic", func(t *testing.T) {
		inner := memory(t)
		p := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, pw, _ := r.BasicAuth(); u != "me" || pw != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				answer(401, diagnosis("UNAUTHORIZED", "authentication required"))(nil, w, r)
				return
			}
			inner.ServeHTTP(w, r)
		}))
		img := anIndex(t, 2000)
		_, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1")
		wantFault(t, err, fault.Failed, "registry.unauthorized")
		keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, none))(t)
		r, err := push(t, client(t, registry.Options{Keychain: keychain}), p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1")
		if err != nil || r.Sent != 6 {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	for _, at := range []string{headBlob, postUpload, patchUpload, putBlob, putManifest} {
		t.Run("token ends at "+at, func(t *testing.T) {
			gate := newTokens(password)
			inner := memory(t)
			expired := func(p *proxy, w http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 10)
				gate.renew()
				gate.wrap(inner).ServeHTTP(w, r)
			}
			p := newProxy(t, gate.wrap(inner), rule{at, 1, expired})
			gate.realm = p.URL + "/token"
			keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, none))(t)
			img := aSingle(t, 1<<20, 2)
			r, err := push(t, client(t, registry.Options{Keychain: keychain}), p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1")
			if err != nil {
				t.Fatal(err)
			}
			gate.open() // reading back needs no token
			wantPushed(t, p, "acme/orders", img, r, "v1")
		})
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

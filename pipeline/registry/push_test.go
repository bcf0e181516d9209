package registry_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// A second push of the same image sends no blob and no manifest.
func TestPushAgainSendsNothing(t *testing.T) {
	for backend, handler := range handlers() {
		t.Run(backend, func(t *testing.T) {
			p := newProxy(t, handler(t))
			c, dir, img := client(t, registry.Options{}), cache.Dir(t.TempDir()), newIndex(t, 2000)
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
					t.Errorf("second push: %d requests of %s, want 0", n, s)
				}
			}
			more, err := push(t, c, p.host(), "acme/orders", img, dir, "v2")
			if err != nil {
				t.Fatal(err)
			}
			if more.Unchanged || more.Sent != 0 {
				t.Errorf("push of a new tag: %+v, want a change without any blob sent", more)
			}
			wantPushed(t, p, "acme/orders", img, more, "v2")
		})
	}
}

// A push of a new image does not send blobs that exist in the repository.
func TestPushSendsOnlyNewBlobs(t *testing.T) {
	p := newProxy(t, distribution(t))
	c, dir, img := client(t, registry.Options{}), cache.Dir(t.TempDir()), newIndex(t, 2000)
	if _, err := push(t, c, p.host(), "acme/orders", img, dir); err != nil {
		t.Fatal(err)
	}
	manifest := must(img.Index.IndexManifest())(t)
	one := must(img.Index.Image(manifest.Manifests[0].Digest))(t)
	more := newSingle(t, 2000, 1).Single
	next := appendLayer(t, one, more)
	r, err := push(t, c, p.host(), "acme/orders", next, dir, "v2")
	if err != nil {
		t.Fatal(err)
	}
	if r.Existing != 2 || r.Sent != 2 {
		t.Errorf("%+v, want two existing layers, and one layer and the configuration sent", r)
	}
	wantPushed(t, p, "acme/orders", next, r, "v2")
}

// rememberMounts returns a cache that records the layers of img in a repository
// of the registry at host.
func rememberMounts(t *testing.T, img image.Image, host, repo string) cache.Dir {
	t.Helper()
	dir := cache.Dir(t.TempDir())
	for _, h := range layerDigests(t, img) {
		if err := dir.Store([]string{repo}, "mounts", strings.ReplaceAll(host, ":", "_"), h.Hex+".json"); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A push mounts layers from another repository of the registry.
func TestPushMountsAcrossRepositories(t *testing.T) {
	p := newProxy(t, distribution(t))
	c, dir, img := client(t, registry.Options{}), cache.Dir(t.TempDir()), newIndex(t, 2000)
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

	t.Run("recorded layers no longer exist", func(t *testing.T) {
		p := newProxy(t, distribution(t))
		r, err := push(t, c, p.host(), "acme/orders", img, rememberMounts(t, img, p.host(), "acme/gone"), "v1")
		if err != nil {
			t.Fatal(err)
		}
		if r.Mounted != 0 || r.Sent != 6 {
			t.Errorf("%+v, want everything sent", r)
		}
		wantPushed(t, p, "acme/orders", img, r, "v1")
	})
	t.Run("credentials cannot read the other repository", func(t *testing.T) {
		const password = "hunter2"
		inner := distribution(t)
		gate := newTokens(password)
		p := newProxy(t, gate.wrap(inner))
		gate.deny("acme/orders:pull")
		gate.realm = p.URL + "/token"
		keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, noEnv))(t)
		c := client(t, registry.Options{Keychain: keychain})
		r, err := push(t, c, p.host(), "acme/payments", img, rememberMounts(t, img, p.host(), "acme/orders"), "v1")
		if err != nil {
			t.Fatal(err)
		}
		if r.Sent != 6 {
			t.Errorf("%+v, want everything sent", r)
		}
	})
}

// A push stops at once when its context is cancelled, and leaves no goroutine
// behind.
func TestPushStopsWhenCancelled(t *testing.T) {
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
		{name: "waiting for Retry-After", at: headBlob, fail: func(cancel context.CancelFunc) fail {
			return func(p *proxy, w http.ResponseWriter, r *http.Request) {
				respond(429, "", "Retry-After", "3600")(p, w, r)
				cancel()
			}
		}},
		{name: "waiting for the next attempt", at: headBlob, backoff: remote.Backoff{Duration: time.Hour, Steps: 5}, fail: func(cancel context.CancelFunc) fail {
			return func(p *proxy, w http.ResponseWriter, r *http.Request) {
				respond(500, "")(p, w, r)
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
				_, err := pushWith(ctx, t, c, p.host(), "acme/orders", newIndex(t, 4<<20), cache.Dir(t.TempDir()), "v1")
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
			}()
			goleak.VerifyNone(t, leaks)
		})
	}
}

package registry_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

var (
	amd64   = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64   = v1.Platform{OS: "linux", Architecture: "arm64"}
	arm64v8 = v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	armv7   = v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
)

// newBase returns an index with an image and an attestation for each platform,
// as public base images have.
func newBase(t *testing.T, platforms ...v1.Platform) v1.ImageIndex {
	t.Helper()
	idx := v1.ImageIndex(empty.Index)
	for _, p := range platforms {
		img := must(random.Image(500, 1))(t)
		idx = mutate.AppendManifests(idx,
			mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}},
			mutate.IndexAddendum{Add: must(random.Image(10, 1))(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	}
	return idx
}

// put pushes an image or index with the library and resets the counts of p.
func put(t *testing.T, p *proxy, ref string, what remote.Taggable) {
	t.Helper()
	r := must(name.ParseReference(p.host() + "/" + ref))(t)
	if err := remote.Push(r, what, remote.WithTransport(client(t, registry.Options{}).Transport())); err != nil {
		t.Fatal(err)
	}
	p.set()
}

func TestBaseSelectsThePlatform(t *testing.T) {
	p := newProxy(t, distribution(t))
	idx := newBase(t, amd64, arm64v8, armv7)
	put(t, p, "base:1", idx)
	single := must(random.Image(100, 1))(t)
	put(t, p, "single:1", single)
	c := client(t, registry.Options{})
	manifest := must(idx.IndexManifest())(t)
	for i, platform := range []v1.Platform{amd64, arm64v8, armv7} {
		b, err := c.Base(t.Context(), p.host()+"/base:1", platform)
		if err != nil {
			t.Fatal(err)
		}
		if want := must(idx.Digest())(t); b.Digest != want {
			t.Errorf("%s: digest %s, want the digest of the index, %s", platform, b.Digest, want)
		}
		if got, want := must(b.Image.Digest())(t), manifest.Manifests[2*i].Digest; got != want {
			t.Errorf("%s: image %s, want %s", platform, got, want)
		}
		if b.Name != p.host()+"/base:1" {
			t.Errorf("name is %s", b.Name)
		}
		if err := validate.Image(b.Image); err != nil {
			t.Error(err)
		}
	}
	if b, err := c.Base(t.Context(), p.host()+"/base:1", arm64); err != nil || must(b.Image.Digest())(t) != manifest.Manifests[2].Digest {
		t.Errorf("arm64 without a variant: %v", err)
	}
	b, err := c.Base(t.Context(), p.host()+"/single:1", amd64)
	if err != nil || b.Digest != must(single.Digest())(t) {
		t.Errorf("an image without an index: %+v, %v", b, err)
	}
	_, err = c.Base(t.Context(), p.host()+"/base:1", v1.Platform{OS: "linux", Architecture: "s390x"})
	testkit.WantInput(t, err, "image.base-platform")
	wantOneLine(t, err, "linux/s390x", "linux/amd64, linux/arm64/v8, linux/arm/v7")
	if strings.Contains(err.Error(), "unknown") {
		t.Errorf("the error lists attestations as platforms: %v", err)
	}
}

// through returns a client that pulls from origin through the mirrors.
func through(t *testing.T, origin *proxy, mirrors ...string) *registry.Client {
	t.Helper()
	return client(t, registry.Options{Settings: config.Registry{Mirrors: map[string][]string{origin.host(): mirrors}}})
}

func TestBaseTriesMirrorsInOrder(t *testing.T) {
	idx := newBase(t, amd64)
	want := must(idx.Digest())(t)
	free := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	closedAddr := free.Addr().String()
	free.Close()
	for _, tt := range []struct {
		name   string
		rules  []rule // of the first mirror
		lacks  bool   // the first mirror does not have the image
		down   bool   // the first mirror is unreachable
		used   bool   // the image comes from the first mirror
		second bool   // the second mirror works
	}{
		{name: "first mirror works", used: true, second: true},
		{name: "first mirror lacks the image", lacks: true, second: true},
		{name: "first mirror fails", rules: []rule{{getManifest, -1, respond(500, "")}}, second: true},
		{name: "first mirror denies access", rules: []rule{{getManifest, -1, respond(403, "")}}, second: true},
		{name: "first mirror denies the ping", rules: []rule{{ping, -1, respond(401, "")}}, second: true, used: true},
		{name: "first mirror cuts off responses", rules: []rule{{getManifest, -1, cutResponse}}, second: true},
		{name: "first mirror cuts off one response", rules: []rule{{getManifest, 1, cutResponse}}, second: true, used: true},
		{name: "first mirror is unreachable", down: true, second: true},
		{name: "all mirrors fail", lacks: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, second, origin := newProxy(t, memory(t)), newProxy(t, memory(t)), newProxy(t, memory(t))
			put(t, origin, "library/base:1", idx)
			put(t, second, "hub/library/base:1", idx)
			if !tt.lacks {
				put(t, first, "library/base:1", idx)
			}
			first.set(tt.rules...)
			if !tt.second {
				second.set(rule{getManifest, -1, respond(500, "")})
			}
			at := first.host()
			if tt.down {
				at = closedAddr
			}
			c := through(t, origin, at, second.host()+"/hub/")
			b, err := c.Base(t.Context(), origin.host()+"/library/base:1", amd64)
			if err != nil {
				t.Fatal(err)
			}
			if b.Digest != want {
				t.Errorf("digest %s, want %s", b.Digest, want)
			}
			if b.Name != origin.host()+"/library/base:1" {
				t.Errorf("name is %s, want the name without the mirror", b.Name)
			}
			if err := validate.Image(b.Image); err != nil {
				t.Error(err)
			}
			if tt.used == (second.count(getManifest) > 0) {
				t.Errorf("the second mirror received %d requests", second.count(getManifest))
			}
			if tt.second == (origin.count(getManifest) > 0) {
				t.Errorf("the registry itself received %d requests", origin.count(getManifest))
			}
		})
	}
}

// If a mirror returns another image than the digest requires, the image comes
// from the registry itself.
func TestBaseChecksTheDigestOfAMirror(t *testing.T) {
	idx := newBase(t, amd64)
	want := must(idx.Digest())(t)
	mirror, origin := newProxy(t, memory(t)), newProxy(t, memory(t))
	put(t, mirror, "base:1", newBase(t, amd64))
	put(t, origin, "base:1", idx)
	mirror.set(rule{getManifest, -1, func(p *proxy, w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/v2/base/manifests/1"
		p.next.ServeHTTP(w, r)
	}})
	b, err := through(t, origin, mirror.host()).Base(t.Context(), origin.host()+"/base@"+want.String(), amd64)
	if err != nil || b.Digest != want {
		t.Errorf("got %+v, %v, want digest %s", b, err, want)
	}
}

// The mirrors of AnyHost are used only if the registry has no mirrors.
func TestBaseUsesTheMirrorOfAllRegistries(t *testing.T) {
	idx := newBase(t, amd64)
	want := must(idx.Digest())(t)
	all, own, origin := newProxy(t, memory(t)), newProxy(t, memory(t)), newProxy(t, memory(t))
	put(t, all, "base:1", idx)
	put(t, own, "base:1", idx)
	for _, tt := range []struct {
		mirrors map[string][]string
		used    *proxy
	}{
		{map[string][]string{registry.AnyHost: {all.host()}}, all},
		{map[string][]string{registry.AnyHost: {all.host()}, origin.host(): {own.host()}}, own},
	} {
		before := tt.used.count(getManifest)
		b, err := client(t, registry.Options{Settings: config.Registry{Mirrors: tt.mirrors}}).Base(t.Context(), origin.host()+"/base:1", amd64)
		if err != nil || b.Digest != want || tt.used.count(getManifest) == before || origin.count(getManifest) > 0 {
			t.Errorf("%v: %v, %v; the registry itself received %d requests", tt.mirrors, b.Digest, err, origin.count(getManifest))
		}
	}
}

func TestBaseRejectsAMalformedMirror(t *testing.T) {
	c := client(t, registry.Options{Settings: config.Registry{Mirrors: map[string][]string{"docker.io": {"https://mirror example"}}}})
	_, err := c.Base(t.Context(), "alpine", amd64)
	testkit.WantInput(t, err, "registry.mirror")
	wantOneLine(t, err, "mirror example")
}

func TestBaseFaults(t *testing.T) {
	idx := newBase(t, amd64)
	for _, tt := range []struct {
		name string
		rule rule
		code string // empty if the pull succeeds
	}{
		{"500 three times", rule{getManifest, 3, respond(500, errorBody("INTERNAL", "x"))}, ""},
		{"reset twice", rule{getManifest, 2, reset}, ""},
		{"blob 503 twice", rule{getBlob, 2, respond(503, "")}, ""},
		{"cut off twice", rule{getManifest, 2, cutResponse}, ""},
		{"cut off always", rule{getManifest, -1, cutResponse}, "registry.unreachable"},
		{"500 always", rule{getManifest, -1, respond(500, "")}, "registry.unavailable"},
		{"404", rule{getManifest, -1, respond(404, errorBody("MANIFEST_UNKNOWN", "no"))}, "registry.not-found"},
		{"401", rule{getManifest, -1, respond(401, "")}, "registry.unauthorized"},
		{"429", rule{getManifest, -1, respond(429, "")}, "registry.rate-limited"},
		{"another manifest", rule{getManifest, -1, respond(200, "{}", "Content-Type", "application/vnd.oci.image.index.v1+json")}, "image.base-platform"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProxy(t, memory(t))
			put(t, p, "base:1", idx)
			p.set(tt.rule)
			b, err := client(t, registry.Options{}).Base(t.Context(), p.host()+"/base:1", amd64)
			if tt.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := validate.Image(b.Image); err != nil {
					t.Error(err)
				}
				return
			}
			if fault.CodeOf(err) != tt.code {
				t.Errorf("got %s: %v, want %s", fault.CodeOf(err), err, tt.code)
			}
			wantOneLine(t, err, p.host(), "base")
			// net/http replaces an idle connection that breaks. That is not an attempt.
			if n := p.count(getManifest); n > 2*quick.Steps {
				t.Errorf("%d requests for %d attempts", n, quick.Steps)
			}
		})
	}
	t.Run("context is cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newProxy(t, memory(t), rule{getManifest, -1, func(p *proxy, w http.ResponseWriter, r *http.Request) { cancel(); stall(p, w, r) }})
		_, err := client(t, registry.Options{}).Base(ctx, p.host()+"/base:1", amd64)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// Open resolves a tag once. It returns the images of an index without the
// attestations, or the single image.
func TestOpenResolvesTheDigest(t *testing.T) {
	p := newProxy(t, distribution(t))
	idx := newBase(t, amd64, arm64v8)
	put(t, p, "open:1", idx)
	single := must(random.Image(100, 1))(t)
	put(t, p, "single:1", single)
	put(t, p, "empty:1", empty.Index)
	c := client(t, registry.Options{})
	r, err := c.Open(t.Context(), p.host()+"/open:1")
	if err != nil {
		t.Fatal(err)
	}
	if want := p.host() + "/open@" + must(idx.Digest())(t).String(); r.Reference.Name() != want || len(r.Platforms) != 2 {
		t.Errorf("got %s with %d images, want %s with 2", r.Reference, len(r.Platforms), want)
	}
	for i, platform := range []v1.Platform{amd64, arm64v8} {
		got := r.Platforms[i]
		if !got.Platform.Equals(platform) || got.Reference.DigestStr() != must(got.Image.Digest())(t).String() {
			t.Errorf("got %s %s", got.Platform, got.Reference)
		}
		if err := validate.Image(got.Image); err != nil {
			t.Error(err)
		}
	}
	if r, err := c.Open(t.Context(), p.host()+"/single:1"); err != nil || len(r.Platforms) != 1 || r.Platforms[0].Reference != r.Reference {
		t.Errorf("a single image: %+v, %v", r, err)
	}
	for reference, code := range map[string]string{"empty:1": "registry.no-image", "absent:1": "registry.not-found"} {
		if _, err := c.Open(t.Context(), p.host()+"/"+reference); fault.CodeOf(err) != code {
			t.Errorf("%s: %v (%s), want %s", reference, err, fault.CodeOf(err), code)
		}
	}
}

// Requests with Options are not retried. Their callers retry, and retries of
// retries would take minutes.
func TestOptionsDoNotRetry(t *testing.T) {
	var requests atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			requests.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	ref := must(name.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/a:1"))(t)
	if _, err := remote.Get(ref, client(t, registry.Options{}).Options(t.Context())...); err == nil || requests.Load() != 1 {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
}

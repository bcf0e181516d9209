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

// aBase is an index with an image and an attestation for each platform, as
// public bases have.
func aBase(t *testing.T, platforms ...v1.Platform) v1.ImageIndex {
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
	idx := aBase(t, amd64, arm64v8, armv7)
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
			t.Errorf("%s: digest %s, want the index's, %s", platform, b.Digest, want)
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
	wantFault(t, err, fault.Input, "image.base-platform")
	oneLine(t, err, "linux/s390x", "it has linux/amd64, linux/arm64/v8, linux/arm/v7")
	if strings.Contains(err.Error(), "unknown") {
		t.Errorf("attestations are offered as platforms: %v", err)
	}
}

func TestBaseThroughMirrors(t *testing.T) {
	idx := aBase(t, amd64)
	want := must(idx.Digest())(t)
	wrong := aBase(t, amd64)
	free := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	nobody := free.Addr().String()
	free.Close()
	for _, tt := range []struct {
		name    string
		first   []rule
		lacks   bool
		down    bool
		used    bool // the first mirror's image is taken
		another bool // the second mirror answers
	}{
		{name: "mirror answers", used: true, another: true},
		{name: "mirror lacks it", lacks: true, another: true},
		{name: "mirror fails", first: []rule{{getManifest, -1, answer(500, "")}}, another: true},
		{name: "mirror refuses", first: []rule{{getManifest, -1, answer(403, "")}}, another: true},
		{name: "mirror refuses at the door", first: []rule{{ping, -1, answer(401, "")}}, another: true, used: true},
		{name: "mirror cuts", first: []rule{{getManifest, -1, cutAnswer}}, another: true},
		{name: "mirror cuts once", first: []rule{{getManifest, 1, cutAnswer}}, another: true, used: true},
		{name: "mirror is down", down: true, another: true},
		{name: "all mirrors fail", lacks: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, second, origin := newProxy(t, memory(t)), newProxy(t, memory(t)), newProxy(t, memory(t))
			put(t, origin, "library/base:1", idx)
			put(t, second, "hub/library/base:1", idx)
			if !tt.lacks {
				put(t, first, "library/base:1", idx)
			}
			first.set(tt.first...)
			if !tt.another {
				second.set(rule{getManifest, -1, answer(500, "")})
			}
			at := first.host()
			if tt.down {
				at = nobody
			}
			c := client(t, registry.Options{Settings: config.Registry{Mirrors: map[string][]string{origin.host(): {at, second.host() + "/hub/"}}}})
			b, err := c.Base(t.Context(), origin.host()+"/library/base:1", amd64)
			if err != nil {
				t.Fatal(err)
			}
			if b.Digest != want {
				t.Errorf("digest %s, want %s", b.Digest, want)
			}
			if b.Name != origin.host()+"/library/base:1" {
				t.Errorf("name is %s; a mirror must not show", b.Name)
			}
			if err := validate.Image(b.Image); err != nil {
				t.Error(err)
			}
			if tt.used == (second.count(getManifest) > 0) {
				t.Errorf("the second mirror was asked %d times", second.count(getManifest))
			}
			if tt.another == (origin.count(getManifest) > 0) {
				t.Errorf("the registry itself was asked %d times", origin.count(getManifest))
			}
		})
	}
	t.Run("a mirror with another image", func(t *testing.T) {
		first, origin := newProxy(t, memory(t)), newProxy(t, memory(t))
		put(t, first, "base:1", wrong)
		put(t, origin, "base:1", idx)
		// By digest it is not believed.
		first.set(rule{getManifest, -1, func(p *proxy, w httpWriter, r *httpRequest) {
			r.URL.Path = "/v2/base/manifests/1"
			p.next.ServeHTTP(w, r)
		}})
		c := client(t, registry.Options{Settings: config.Registry{Mirrors: map[string][]string{origin.host(): {first.host()}}}})
		b, err := c.Base(t.Context(), origin.host()+"/base@"+want.String(), amd64)
		if err != nil || b.Digest != want {
			t.Errorf("%+v, %v", b, err)
		}
	})
	t.Run("a mirror of all registries", func(t *testing.T) {
		all, own, origin := newProxy(t, memory(t)), newProxy(t, memory(t)), newProxy(t, memory(t))
		put(t, all, "base:1", idx)
		put(t, own, "base:1", idx)
		for _, tt := range []struct {
			mirrors map[string][]string
			asked   *proxy
		}{
			{map[string][]string{registry.AnyHost: {all.host()}}, all},
			{map[string][]string{registry.AnyHost: {all.host()}, origin.host(): {own.host()}}, own},
		} {
			before := tt.asked.count(getManifest)
			b, err := client(t, registry.Options{Settings: config.Registry{Mirrors: tt.mirrors}}).Base(t.Context(), origin.host()+"/base:1", amd64)
			if err != nil || b.Digest != want || tt.asked.count(getManifest) == before || origin.count(getManifest) > 0 {
				t.Errorf("%v: %v, %v; the registry itself was asked %d times", tt.mirrors, b.Digest, err, origin.count(getManifest))
			}
		}
	})
	t.Run("a mirror that is none", func(t *testing.T) {
		c := client(t, registry.Options{Settings: config.Registry{Mirrors: map[string][]string{"docker.io": {"https://mirror example"}}}})
		_, err := c.Base(t.Context(), "alpine", amd64)
		wantFault(t, err, fault.Input, "registry.mirror")
		oneLine(t, err, "mirror example")
	})
}

func TestBaseFaults(t *testing.T) {
	idx := aBase(t, amd64)
	for _, tt := range []struct {
		name string
		rule rule
		code string // empty: it works
	}{
		{"500 thrice", rule{getManifest, 3, answer(500, diagnosis("INTERNAL", "x"))}, ""},
		{"reset twice", rule{getManifest, 2, reset}, ""},
		{"blob 503 twice", rule{getBlob, 2, answer(503, "")}, ""},
		{"cut twice", rule{getManifest, 2, cutAnswer}, ""},
		{"cut for ever", rule{getManifest, -1, cutAnswer}, "registry.unreachable"},
		{"500 for ever", rule{getManifest, -1, answer(500, "")}, "registry.unavailable"},
		{"404", rule{getManifest, -1, answer(404, diagnosis("MANIFEST_UNKNOWN", "no"))}, "registry.not-found"},
		{"401", rule{getManifest, -1, answer(401, "")}, "registry.unauthorized"},
		{"429", rule{getManifest, -1, answer(429, "")}, "registry.rate-limited"},
		{"another manifest", rule{getManifest, -1, answer(200, "{}", "Content-Type", "application/vnd.oci.image.index.v1+json")}, "image.base-platform"},
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
			oneLine(t, err, p.host(), "base")
			if n := p.count(getManifest); n > 2*quick.Steps { // a connection that breaks while idle is replaced without being a try
				t.Errorf("%d requests for %d tries", n, quick.Steps)
			}
		})
	}
	t.Run("the run ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newProxy(t, memory(t), rule{getManifest, -1, func(p *proxy, w httpWriter, r *httpRequest) { cancel(); stall(p, w, r) }})
		_, err := client(t, registry.Options{}).Base(ctx, p.host()+"/base:1", amd64)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// TestOpenFixesTheDigest: a tag is resolved once, an index gives the images of
// its platforms and leaves attestations out, a single image gives itself.
func TestOpenFixesTheDigest(t *testing.T) {
	p := newProxy(t, distribution(t))
	idx := aBase(t, amd64, arm64v8)
	put(t, p, "open:1", idx)
	single := must(random.Image(100, 1))(t)
	put(t, p, "single:1", single)
	put(t, p, "none:1", empty.Index)
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
	for reference, code := range map[string]string{"none:1": "registry.no-image", "absent:1": "registry.not-found"} {
		if _, err := c.Open(t.Context(), p.host()+"/"+reference); fault.CodeOf(err) != code {
			t.Errorf("%s: %v (%s), want %s", reference, err, fault.CodeOf(err), code)
		}
	}
}

// TestOptionsTryOnce: who uses them tries again itself, and tries on top of
// tries would keep a run waiting for minutes.
func TestOptionsTryOnce(t *testing.T) {
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

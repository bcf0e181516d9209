package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

func TestTagsAndRepositories(t *testing.T) {
	c := client(t, registry.Options{Settings: config.Registry{Insecure: []string{"plain.example"}}})
	repo := must(c.Repository("ghcr.io/acme/orders"))(t)
	for tag, ok := range map[string]bool{
		"v1.0.0": true, "latest": true, "A_b-c.d": true, strings.Repeat("a", 128): true,
		"": false, strings.Repeat("a", 129): false, "a b": false, "a:b": false, "a/b": false, "a@b": false, "ü": false, "a\n": false, "-a": false, ".a": false,
	} {
		got, err := c.Tag(repo, tag)
		if (err == nil) != ok {
			t.Errorf("tag %q: %v", tag, err)
		}
		if ok && got.Name() != "ghcr.io/acme/orders:"+tag {
			t.Errorf("tag %q was parsed as %s", tag, got.Name())
		}
		if !ok {
			testkit.WantInput(t, err, "reference.malformed")
		}
	}
	for s, ok := range map[string]bool{
		"ghcr.io/acme/orders": true, "acme/orders": true, "127.0.0.1:5000/x": true, "plain.example/x": true,
		"": false, "ghcr.io/acme/orders:v1": false, "ghcr.io/acme/Orders": false, "ghcr.io/": false, "ghcr.io/a b": false,
		"https://ghcr.io/acme/orders": false, "ghcr.io/acme/orders@sha256:" + strings.Repeat("a", 64): false, strings.Repeat("a", 2000): false, "ghcr.io//x": false,
	} {
		if _, err := c.Repository(s); (err == nil) != ok {
			t.Errorf("repository %q: %v", s, err)
		}
	}
	if s := must(c.Repository("plain.example/x"))(t).Scheme(); s != "http" {
		t.Errorf("the scheme of plain.example is %s, want http", s)
	}
	if s := must(c.Repository("tls.example/x"))(t).Scheme(); s != "https" {
		t.Errorf("the scheme of tls.example is %s, want https", s)
	}
}

// FuzzReference checks that parsing does not panic, that errors are input errors
// on one line, and that an accepted reference is parsed to the same reference
// after it is written out.
func FuzzReference(f *testing.F) {
	for _, s := range []string{
		"alpine", "alpine:3.22", "ghcr.io/acme/orders:v1", "localhost:5000/x", "127.0.0.1:5077/a/b@sha256:" + strings.Repeat("0", 64),
		"[::1]:5000/x", "a:b:c", "/", ":", "@", "x@sha256:zz", "ghcr.io/acme/orders@sha512:" + strings.Repeat("a", 128), "A/b", "ghcr.io/..", "x:\x00", "ü/ä", "user:pw@host/x", "a//b", "host:99999999/x",
	} {
		f.Add(s, "v1")
	}
	f.Add("alpine", "a/b")
	f.Add("alpine", "../x@y:z")
	c, err := registry.New(registry.Options{Settings: config.Registry{Insecure: []string{"localhost:5000"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s, tag string) {
		rejected := func(err error) bool {
			var input *fault.Error
			if err != nil && (!errors.As(err, &input) || input.Kind != fault.Input) {
				t.Errorf("%q, %q: %v is not an input error", s, tag, err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
				t.Errorf("%q, %q: the error contains control characters: %q", s, tag, err)
			}
			return err != nil
		}
		if ref, err := c.Reference(s); !rejected(err) {
			again, err := c.Reference(ref.Name())
			if err != nil || again.Name() != ref.Name() {
				t.Errorf("reference %q is parsed as %q, and that as %v, %v", s, ref.Name(), again, err)
			}
		}
		repo, err := c.Repository(s)
		if rejected(err) {
			return
		}
		if again, err := c.Repository(repo.Name()); err != nil || again.Name() != repo.Name() {
			t.Errorf("repository %q is parsed as %q, and that as %v, %v", s, repo.Name(), again, err)
		}
		if tg, err := c.Tag(repo, tag); !rejected(err) {
			again, err := name.NewTag(tg.Name(), name.StrictValidation)
			if err != nil || again.TagStr() != tag || again.Context().Name() != repo.Name() {
				t.Errorf("tag %q in %q is parsed as %v, %v", tag, repo.Name(), again, err)
			}
		}
	})
}

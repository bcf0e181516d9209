package registry_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// Passwords, tokens and signatures do not appear in errors or progress events.
func TestPushKeepsSecrets(t *testing.T) {
	const password, signature = "pl4nted-p4ssw0rd", "pl4nted-s1gnature"
	secretURL := "http://127.0.0.1:1/v2/x?sig=" + signature + "&_state=" + signature
	for _, tt := range []struct {
		name string
		rule rule
	}{
		{"denied", rule{postUpload, -1, respond(403, errorBody("DENIED", "no"))}},
		{"denied with a signed URL", rule{postUpload, -1, respond(403, errorBody("DENIED", "blocked at "+secretURL+" by policy"))}},
		{"reset", rule{patchUpload, -1, reset}},
		{"upload to another host, with a signature", rule{postUpload, -1, respond(202, "", "Location", secretURL)}},
		{"redirect with a signature", rule{headBlob, -1, respond(307, "", "Location", secretURL)}},
		{"redirect of the manifest", rule{putManifest, -1, respond(307, "", "Location", secretURL)}},
		{"malformed location", rule{postUpload, -1, respond(202, "", "Location", "http://[::1"+signature)}},
		{"endless redirect", rule{headManifest, -1, func(p *proxy, w http.ResponseWriter, r *http.Request) {
			respond(307, "", "Location", r.URL.Path+"?sig="+signature)(p, w, r)
		}}},
		{"stall", rule{putBlob, -1, stall}},
		{"token response without a token", rule{token, -1, respond(200, `{"refresh_token":"`+signature+`"}`)}},
		{"token response that is not JSON", rule{token, -1, respond(200, signature)}},
		{"token denied", rule{token, -1, respond(401, errorBody("UNAUTHORIZED", "no"))}},
		{"token service unavailable", rule{token, -1, respond(503, "")}},
		{"token service redirects", rule{token, -1, respond(307, "", "Location", secretURL)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gate := newTokens(password)
			p := newProxy(t, gate.wrap(memory(t)), tt.rule)
			gate.realm = p.URL + "/token"
			keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, noEnv))(t)
			c := client(t, registry.Options{Keychain: keychain, Stall: 200 * time.Millisecond, Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 2}})
			var seen events
			_, err := pushWith(progress.With(t.Context(), &seen, "push"), t, c, p.host(), "acme/orders", newSingle(t, 100, 1), cache.Dir(t.TempDir()), "v1")
			if err == nil {
				t.Fatal("the push succeeded")
			}
			wantOneLine(t, err, p.host(), "acme/orders")
			for _, secret := range []string{password, signature, gate.issued()} {
				if secret != "" && (strings.Contains(err.Error(), secret) || strings.Contains(seen.text(), secret)) {
					t.Errorf("the error or the progress contains %q:\n%v\n%s", secret, err, seen.text())
				}
			}
		})
	}
}

// A push uses credentials. If a token expires during an upload, the push gets a
// new token and sends the complete upload again.
func TestPushWithCredentials(t *testing.T) {
	const password = "s3cret"
	t.Run("basic", func(t *testing.T) {
		inner := memory(t)
		p := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, pw, _ := r.BasicAuth(); u != "me" || pw != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				respond(401, errorBody("UNAUTHORIZED", "authentication required"))(nil, w, r)
				return
			}
			inner.ServeHTTP(w, r)
		}))
		img := newIndex(t, 2000)
		_, err := push(t, client(t, registry.Options{}), p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1")
		wantFailed(t, err, "registry.unauthorized")
		keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, noEnv))(t)
		r, err := push(t, client(t, registry.Options{Keychain: keychain}), p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1")
		if err != nil || r.Sent != 6 {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	for _, at := range []string{headBlob, postUpload, patchUpload, putBlob, putManifest} {
		t.Run("token expires at "+at, func(t *testing.T) {
			gate := newTokens(password)
			inner := memory(t)
			expired := func(p *proxy, w http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 10)
				gate.expire()
				gate.wrap(inner).ServeHTTP(w, r)
			}
			p := newProxy(t, gate.wrap(inner), rule{at, 1, expired})
			gate.realm = p.URL + "/token"
			keychain := must(registry.Keychain(p.host(), registry.Credentials{Username: "me", Password: password}, noEnv))(t)
			img := newSingle(t, 1<<20, 2)
			r, err := push(t, client(t, registry.Options{Keychain: keychain}), p.host(), "acme/orders", img, cache.Dir(t.TempDir()), "v1")
			if err != nil {
				t.Fatal(err)
			}
			gate.disable() // wantPushed has no credentials
			wantPushed(t, p, "acme/orders", img, r, "v1")
		})
	}
}

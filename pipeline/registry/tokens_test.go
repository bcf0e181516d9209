package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/slipway-ci/slipway/pipeline/image"
)

// tokens is a token service, and a handler that requires its tokens
// (https://distribution.github.io/distribution/spec/auth/token/).
type tokens struct {
	realm, password string

	mu       sync.Mutex
	n        int
	denied   []string // scopes, as repository:action, to which it responds with 403
	disabled bool     // requests need no token
}

func newTokens(password string) *tokens { return &tokens{password: password, n: 1} }

// issued returns the valid token.
func (k *tokens) issued() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("t0ken-%d-t0ken", k.n)
}

// expire invalidates all tokens issued so far.
func (k *tokens) expire() { k.mu.Lock(); defer k.mu.Unlock(); k.n++ }

// disable permits requests without a token.
func (k *tokens) disable() { k.mu.Lock(); defer k.mu.Unlock(); k.disabled = true }

func (k *tokens) deny(scope string) { k.denied = append(k.denied, scope) }

func (k *tokens) isDisabled() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.disabled }

// wrap requires a token for every request to next, and serves /token.
func (k *tokens) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			k.issue(w, r)
			return
		}
		if !k.isDisabled() && r.Header.Get("Authorization") != "Bearer "+k.issued() {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, k.realm))
			respond(401, errorBody("UNAUTHORIZED", "authentication required"))(nil, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (k *tokens) issue(w http.ResponseWriter, r *http.Request) {
	if u, p, _ := r.BasicAuth(); u != "me" || p != k.password {
		respond(401, errorBody("UNAUTHORIZED", "wrong password"))(nil, w, r)
		return
	}
	for scope := range strings.FieldsSeq(strings.Join(r.URL.Query()["scope"], " ")) {
		if slices.Contains(k.denied, strings.TrimPrefix(scope, "repository:")) {
			respond(403, errorBody("DENIED", "requested access to the resource is denied"))(nil, w, r)
			return
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"token": k.issued()})
}

// noEnv is an environment without variables.
func noEnv(string) string { return "" }

// layerDigests returns the digests of the layers of all images of an index.
func layerDigests(t *testing.T, img image.Image) []v1.Hash {
	t.Helper()
	var all []v1.Hash
	for _, d := range must(img.Index.IndexManifest())(t).Manifests {
		for _, l := range must(must(img.Index.Image(d.Digest))(t).Layers())(t) {
			all = append(all, must(l.Digest())(t))
		}
	}
	return all
}

// appendLayer returns base with the first layer of more on top.
func appendLayer(t *testing.T, base, more v1.Image) image.Image {
	t.Helper()
	return image.Image{Single: must(mutate.AppendLayers(base, must(more.Layers())(t)[0]))(t)}
}

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

// tokens is a token service as registries use them, and the check at their
// door (https://distribution.github.io/distribution/spec/auth/token/).
type tokens struct {
	realm, password string

	mu     sync.Mutex
	n      int
	denied []string // scopes, as repository:action, that make it answer 403
	free   bool
}

func newTokens(password string) *tokens { return &tokens{password: password, n: 1} }

func (k *tokens) issued() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("t0ken-%d-t0ken", k.n)
}

// renew makes all tokens issued so far worthless.
func (k *tokens) renew() { k.mu.Lock(); defer k.mu.Unlock(); k.n++ }

func (k *tokens) open() { k.mu.Lock(); defer k.mu.Unlock(); k.free = true }

func (k *tokens) deny(scope string) { k.denied = append(k.denied, scope) }

func (k *tokens) opened() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.free }

func (k *tokens) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			k.issue(w, r)
			return
		}
		if !k.opened() && r.Header.Get("Authorization") != "Bearer "+k.issued() {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, k.realm))
			answer(401, diagnosis("UNAUTHORIZED", "authentication required"))(nil, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (k *tokens) issue(w http.ResponseWriter, r *http.Request) {
	if u, p, _ := r.BasicAuth(); u != "me" || p != k.password {
		answer(401, diagnosis("UNAUTHORIZED", "wrong password"))(nil, w, r)
		return
	}
	for scope := range strings.FieldsSeq(strings.Join(r.URL.Query()["scope"], " ")) {
		if slices.Contains(k.denied, strings.TrimPrefix(scope, "repository:")) {
			answer(403, diagnosis("DENIED", "requested access to the resource is denied"))(nil, w, r)
			return
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"token": k.issued()})
}

// none is an environment without a variable.
func none(string) string { return "" }

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

// appendLayer puts the first layer of more on an image.
func appendLayer(t *testing.T, base, more v1.Image) image.Image {
	t.Helper()
	return image.Image{Single: must(mutate.AppendLayers(base, must(more.Layers())(t)[0]))(t)}
}

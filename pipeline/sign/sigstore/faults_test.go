package sigstore_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// Several processes that sign the same image at the same time do not lose
// signatures or attestations.
func TestConcurrentSigners(t *testing.T) {
	for backend, handler := range registries() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			p := newRepo(t, handler(t))
			pairs := []pair{keyPair(t, "a"), keyPair(t, "b"), keyPair(t, "c")}
			var signers []sign.Signer
			for _, k := range pairs {
				signers = append(signers, k.signer(t))
			}
			for range 10 {
				subs := p.pushImage(t)
				var wg sync.WaitGroup
				errs := make([]error, 2*len(signers))
				for i, s := range signers {
					wg.Go(func() {
						_, errs[2*i] = sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Remote: p.remote(), Backoff: quick})
					})
					wg.Go(func() {
						_, errs[2*i+1] = sigstore.Attest(t.Context(), sign.AttestOptions{Statements: []sign.Statement{sbomStatement(subs...)}, Signer: s, Remote: p.remote(), Backoff: quick})
					})
				}
				wg.Wait()
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				for _, k := range pairs {
					policy := k.trust()
					policy.Attestations = []string{"sbom"}
					if _, err := p.verify(t, subs[0], policy); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// If another process signs between the read and the write of a signer, both
// signatures are kept. If another process overwrites a signature, the signer writes
// it again.
func TestConcurrentWrites(t *testing.T) {
	a, b := keyPair(t, "a"), keyPair(t, "b")
	for _, at := range []string{"before", "after"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			p := newRepo(t, memory(t))
			subs := p.pushImage(t)
			var done atomic.Bool
			p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				write := r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".sig")
				upload := r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/uploads/")
				now := at == "before" && upload || at == "after" && write
				if !now || !done.CompareAndSwap(false, true) {
					return false
				}
				if at == "before" {
					p.sign(t, b.signer(t), subs) //nolint:contextcheck // it uses the context of the test
					return false
				}
				p.next.ServeHTTP(w, r)
				// Simulate a process that has read the tag before this write.
				remove, _ := http.NewRequestWithContext(r.Context(), http.MethodDelete, r.URL.String(), nil)
				p.next.ServeHTTP(httptest.NewRecorder(), remove)
				return true
			})
			p.sign(t, a.signer(t), subs)
			want := []pair{a, b}
			if at == "after" {
				want = want[:1]
			}
			for _, k := range want {
				if _, err := p.verify(t, subs[0], k.trust()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// If the registry fails, signing and verifying fail with an error of the registry.
func TestRegistryFaults(t *testing.T) {
	keys := keyPair(t, "cosign")
	fail := func(status int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			return true
		}
	}
	for _, tt := range []struct {
		name string
		fail func(http.ResponseWriter, *http.Request) bool
		code string
	}{
		{"500", fail(500), "registry.unavailable"},
		{"503", fail(503), "registry.unavailable"},
		{"429", fail(429), "registry.rate-limited"},
		{"401", fail(401), "registry.unauthorized"},
		{"403", fail(403), "registry.forbidden"},
		{"413", fail(413), "registry.too-large"},
		{"418", fail(418), "registry.refused"},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "5000")
			w.WriteHeader(200)
			_, _ = io.WriteString(w, `{"schemaVersion":`)
			panic(http.ErrAbortHandler)
		}, "registry.unreachable"},
		{"reset", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }, "registry.unreachable"},
	} {
		for _, at := range []string{"image", ".sig", ".att", "blob"} {
			t.Run(tt.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				p := newRepo(t, memory(t))
				subs := p.pushImage(t)
				s := keys.signer(t)
				p.sign(t, s, subs)
				p.attest(t, s, sbomStatement(subs...))
				policy := keys.trust()
				policy.Attestations = []string{"sbom"}
				p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
					matches := strings.HasSuffix(r.URL.Path, at) || at == "image" && strings.Contains(r.URL.Path, "/manifests/sha256:") || at == "blob" && strings.Contains(r.URL.Path, "/blobs/")
					return matches && tt.fail(w, r)
				})
				r, err := p.verify(t, subs[0], policy)
				wantFault(t, err, fault.Failed, tt.code, p.Listener.Addr().String())
				if r.Passed {
					t.Error("the result has Passed set")
				}
				_, err = sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Remote: p.remote(), Backoff: quick})
				if at != ".att" {
					wantFault(t, err, fault.Failed, tt.code, p.Listener.Addr().String())
				}
			})
		}
	}
}

// Requests that fail for a transient reason are retried.
func TestTransientFaults(t *testing.T) {
	t.Parallel()
	keys := keyPair(t, "cosign")
	for backend, handler := range registries() {
		p := newRepo(t, handler(t))
		subs := p.pushImage(t)
		seen := map[string]bool{}
		var mu sync.Mutex
		p.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if !strings.Contains(r.URL.Path, ".sig") && !strings.Contains(r.URL.Path, "/uploads/") {
				return false
			}
			key := r.Method + strings.Split(r.URL.Path, "/uploads/")[0]
			if seen[key] {
				return false
			}
			seen[key] = true
			w.WriteHeader(502)
			return true
		})
		// A write needs several requests, each of which fails once.
		backoff := remote.Backoff{Duration: time.Millisecond, Steps: 10}
		must(sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: keys.signer(t), Remote: p.remote(), Backoff: backoff}))(t)
		if _, err := p.verify(t, subs[0], keys.trust()); err != nil {
			t.Errorf("%s: %v", backend, err)
		}
		if len(seen) < 3 {
			t.Errorf("%s: faults were injected only into %v", backend, seen)
		}
	}
}

// Signing and verifying stop at once when the context is cancelled.
func TestCancelled(t *testing.T) {
	t.Parallel()
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	keys := keyPair(t, "cosign")
	s := keys.signer(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	})
	_, err := sigstore.Sign(ctx, sign.Options{Subjects: subs, Signer: s, Remote: p.remote()})
	if !errors.Is(err, context.Canceled) || fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("signing returned %v", err)
	}
	_, err = sigstore.Verify(ctx, sign.VerifyOptions{Reference: subs[0].Digest, Policy: keys.trust(), Remote: p.remote()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("verifying returned %v", err)
	}
}

package embedded

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// Option is an option of a server.
type Option func(*guard)

// Guarded protects a registry from other users of this machine and from web pages in a
// browser: it can be written only with [Server.Credential], which no other process knows.
// Everyone on this machine can read it, because the nodes of a cluster must.
func Guarded() Option { return func(g *guard) { g.credential = rand.Text() } }

// guard decides which requests a registry answers.
type guard struct{ credential string }

func newGuard(options []Option) guard {
	var g guard
	for _, o := range options {
		o(&g)
	}
	return g
}

// protect returns a handler that passes on the requests that are allowed.
func (g guard) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !local(r.Host):
			// A web page can make a browser connect here under the name of its own
			// server (DNS rebinding). The name of this registry is an IP address.
			refuse(w, http.StatusMisdirectedRequest, "DENIED", "this registry does not have the name in the header Host")
		case g.credential != "" && r.Method != http.MethodGet && r.Method != http.MethodHead &&
			subtle.ConstantTimeCompare([]byte(r.Header.Get(registry.CredentialHeader)), []byte(g.credential)) != 1:
			refuse(w, http.StatusForbidden, "DENIED", "only slipway can write to its embedded registry")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// refuse answers with an error in the format of the OCI distribution specification.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors": [{"code": %q, "message": %q}]}`, code, message)
}

// local reports whether the header Host of a request names an address, or localhost.
func local(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// identityPath is the path of a request with which a process proves that it has the key
// of this machine and serves the data in a folder.
const identityPath = "/slipway/identity"

const (
	challengeHeader = "Slipway-Challenge"
	proofHeader     = "Slipway-Proof"
)

// proof returns what a server on address answers to a challenge. It covers the address, so
// that another program cannot pass on the challenge to a registry and its answer back.
func proof(challenge, address, dir string) (string, error) {
	key, err := cache.MachineKey("embedded registry")
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%q %q %q", challenge, address, dir)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// identify answers a challenge.
func identify(w http.ResponseWriter, r *http.Request, dir string) {
	address, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if address == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	answer, err := proof(r.Header.Get(challengeHeader), address.String(), dir)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set(proofHeader, answer)
	w.WriteHeader(http.StatusOK)
}

// serves reports whether a slipway process of this user serves the data in dir on addr.
// It must prove that it has the key of this machine, which other users cannot read.
func serves(ctx context.Context, addr, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	challenge := rand.Text()
	want, err := proof(challenge, addr, dir)
	if err != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+identityPath, http.NoBody)
	if err != nil {
		return false
	}
	req.Header.Set(challengeHeader, challenge)
	resp, err := roundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return subtle.ConstantTimeCompare([]byte(resp.Header.Get(proofHeader)), []byte(want)) == 1
}

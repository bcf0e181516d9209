package embedded_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
)

func guarded(t *testing.T, dir string, port int) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), dir, port, embedded.Guarded())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

// send returns the status of a request.
func send(t *testing.T, method, url, host, credential string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if credential != "" {
		req.Header.Set(registry.CredentialHeader, credential)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestHostHeader: a web page that makes a browser connect to the registry under the name
// of its own server cannot read or write.
func TestHostHeader(t *testing.T) {
	s := guarded(t, t.TempDir(), 0)
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"127.0.0.1:" + port: 200, "localhost:" + port: 200, "[::1]:" + port: 200, "127.0.0.1": 200, "10.0.0.1:" + port: 200,
		"evil.example:" + port: 421, "evil.example": 421, "localhost.evil.example:" + port: 421, "127.0.0.1.evil.example": 421, "1.2.3.4.5": 421,
	} {
		if got := send(t, http.MethodGet, "http://"+s.Addr+"/v2/", host, ""); got != want {
			t.Errorf("Host %s: status %d, want %d", host, got, want)
		}
	}
}

// TestOnlySlipwayWrites: no other program of this machine writes to a guarded registry.
func TestOnlySlipwayWrites(t *testing.T) {
	s := guarded(t, t.TempDir(), 0)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, "FOO"} {
		path := "http://" + s.Addr + "/v2/acme/hello/blobs/uploads/"
		for _, credential := range []string{"", "x", strings.ToLower(s.Credential)} {
			if got := send(t, method, path, "", credential); got != http.StatusForbidden {
				t.Errorf("%s with the credential %q: status %d", method, credential, got)
			}
		}
	}
	if got := send(t, http.MethodPost, "http://"+s.Addr+"/v2/acme/hello/blobs/uploads/", "", s.Credential); got != http.StatusAccepted {
		t.Errorf("with the credential: status %d", got)
	}
	if got := send(t, http.MethodGet, "http://"+s.Addr+"/v2/_catalog", "", ""); got != http.StatusOK {
		t.Errorf("reading: status %d", got)
	}
}

// TestSquatter: a program that uses the port of the registry is not taken for it, even if
// it answers as the registry does or passes requests on to it.
func TestSquatter(t *testing.T) {
	dir := t.TempDir()
	genuine := guarded(t, dir, 0)
	target, err := url.Parse("http://" + genuine.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for name, handler := range map[string]http.Handler{
		"the header": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(embedded.Header, dir) }),
		"a proxy":    httputil.NewSingleHostReverseProxy(target),
	} {
		squatter := httptest.NewServer(handler)
		t.Cleanup(squatter.Close)
		if s, err := embedded.Start(t.Context(), dir, portOf(t, squatter.Listener.Addr().String()), embedded.Guarded()); err == nil {
			t.Errorf("%s: the registry is taken to be at %s", name, s.Name)
		}
	}
	if s, err := embedded.Start(t.Context(), dir, portOf(t, genuine.Addr), embedded.Guarded()); err != nil || s.Name != genuine.Addr {
		t.Errorf("the registry itself is not found: %v", err)
	}
}

package embedded_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Distribution provides no way to stop the goroutine of its event queue.
		goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

func start(t *testing.T, dir string, port int) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), dir, port)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, s *embedded.Server) {
	t.Helper()
	if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func transport(t *testing.T) remote.Option {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return remote.WithTransport(tr)
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// After a restart on the same port, the registry still has what was pushed.
func TestDataSurvivesARestart(t *testing.T) {
	dir, rt := t.TempDir(), transport(t)
	s := start(t, dir, 0)
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(s.Addr + "/acme/orders:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, rt); err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	if _, err := remote.Head(ref, rt); err == nil {
		t.Fatal("the server still responds after Close")
	}
	s = start(t, dir, portOf(t, s.Addr))
	defer stop(t, s)
	got, err := remote.Image(ref, rt)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := got.Digest(); err != nil || d != want {
		t.Errorf("digest %s, %v, want %s", d, err, want)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
}

// A second slipway process uses the server of the first if the data is the same.
func TestSecondStartUsesTheFirst(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, 0)
	defer stop(t, first)
	second := start(t, dir, portOf(t, first.Addr))
	if second.Addr != first.Addr {
		t.Errorf("second listens on %s, want %s", second.Addr, first.Addr)
	}
	stop(t, second) // must not stop the server of the first
	third := start(t, dir, portOf(t, first.Addr))
	stop(t, third)

	_, err := embedded.Start(t.Context(), t.TempDir(), portOf(t, first.Addr)) // with other data
	testkit.WantInput(t, err, "registry.port")
	if err := second.Wait(t.Context()); fault.CodeOf(err) != "registry.port" {
		t.Errorf("Wait for the server of another process: got %v, want the error registry.port", err)
	}
}

func TestStartRejectsAUsedPort(t *testing.T) {
	foreign := httptest.NewServer(http.NotFoundHandler())
	defer foreign.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() { // closes every connection, as a server of another protocol would
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for _, addr := range []string{foreign.Listener.Addr().String(), silent.Addr().String()} {
		_, err := embedded.Start(t.Context(), t.TempDir(), portOf(t, addr))
		testkit.WantInput(t, err, "registry.port")
	}
}

// The registry has no accounts, so other machines must not be able to reach it.
func TestOnlyThisMachineReachesIt(t *testing.T) {
	s := start(t, t.TempDir(), 0)
	defer stop(t, s)
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil || host != "127.0.0.1" {
		t.Fatalf("listens on %s, %v", s.Addr, err)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		tried++
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), port), time.Second); err == nil {
			_ = c.Close()
			t.Errorf("the registry is reachable on %s", ip.IP)
		}
	}
	t.Logf("tried %d addresses of this machine", tried)
}

// Wait closes the server when its context is cancelled.
func TestWaitEndsWithItsContext(t *testing.T) {
	s := start(t, t.TempDir(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); err != nil {
		t.Error(err)
	}
	if c, err := net.DialTimeout("tcp", s.Addr, time.Second); err == nil {
		_ = c.Close()
		t.Error("the server still accepts connections")
	}
}

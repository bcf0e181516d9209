package embedded_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

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

func share(t *testing.T, dir string) *embedded.Server {
	t.Helper()
	s, err := embedded.Share(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write pushes a random image to a registry and returns its reference by digest.
func write(t *testing.T, addr string, rt remote.Option) name.Digest {
	t.Helper()
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(addr + "/acme/orders@" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, rt); err != nil {
		t.Fatal(err)
	}
	return ref
}

// wantImage checks that a registry has an image.
func wantImage(t *testing.T, addr string, ref name.Digest, rt remote.Option) {
	t.Helper()
	there, err := name.NewDigest(addr + "/acme/orders@" + ref.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(there, rt)
	if err == nil {
		err = validate.Image(img)
	}
	if err != nil {
		t.Errorf("%s: %v", there, err)
	}
}

// A second run with the same data has the names of the first, but works without it. When
// the first ends, the second listens on its address. The same goes for a third.
func TestRunsShareTheData(t *testing.T) {
	dir, rt := t.TempDir(), transport(t)
	first, second, third := share(t, dir), share(t, dir), share(t, dir)
	defer stop(t, third)
	for _, s := range []*embedded.Server{second, third} {
		if s.Name != first.Name || s.Addr == first.Addr {
			t.Errorf("the name is %s and the address %s; those of the first are %s and %s", s.Name, s.Addr, first.Name, first.Addr)
		}
	}
	inFirst, inSecond := write(t, first.Addr, rt), write(t, second.Addr, rt)
	wantImage(t, first.Addr, inSecond, rt)
	stop(t, first)
	wantImage(t, second.Addr, inFirst, rt)
	wantListening(t, second.Name, func() { wantImage(t, second.Name, inSecond, rt) })
	stop(t, second)
	wantListening(t, third.Name, func() { wantImage(t, third.Name, inFirst, rt) })
	wantImage(t, third.Addr, inSecond, rt)
}

// wantListening calls f when addr accepts connections, which can take a moment after the
// process that listened there has ended.
func wantListening(t *testing.T, addr string, f func()) {
	t.Helper()
	for t.Context().Err() == nil {
		var d net.Dialer
		if c, err := d.DialContext(t.Context(), "tcp", addr); err == nil {
			_ = c.Close()
			f()
			return
		}
		runtime.Gosched()
	}
}

// Two runs that push at the same time, to two servers with the same data, do not disturb
// each other.
func TestRunsPushAtTheSameTime(t *testing.T) {
	dir, rt := t.TempDir(), transport(t)
	first, second := share(t, dir), share(t, dir)
	defer stop(t, first)
	defer stop(t, second)
	img, err := random.Image(200_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	var runs errgroup.Group
	for _, s := range []*embedded.Server{first, second} {
		for _, tag := range []string{"a", "b"} {
			runs.Go(func() error {
				ref, err := name.ParseReference(s.Addr + "/acme/orders:" + tag)
				if err != nil {
					return err
				}
				return remote.Write(ref, img, rt)
			})
		}
	}
	if err := runs.Wait(); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(first.Addr + "/acme/orders@" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	wantImage(t, first.Addr, ref, rt)
	wantImage(t, second.Addr, ref, rt)
}

// A run whose ports other programs use, for example the registry of another cache, has
// another port: first one of its own, which is always the same, and then any.
func TestRunAvoidsUsedPorts(t *testing.T) {
	dir := t.TempDir()
	own := embedded.Host(embedded.Ports(dir)[1])
	if own != embedded.Host(embedded.Ports(dir)[1]) || own == embedded.Host(embedded.Ports(t.TempDir())[1]) {
		t.Errorf("the second port is %s, want one that depends on the folder alone", own)
	}
	other := share(t, t.TempDir()) // has the default port, unless another program has that
	defer stop(t, other)
	s := share(t, dir)
	if s.Name != own || s.Addr != own {
		t.Errorf("the name is %s and the address %s, want %s", s.Name, s.Addr, own)
	}
	if names := s.Names(dir); len(names) != 1 || names[0] != own {
		t.Errorf("the names are %v; the default port is that of another program", names)
	}
	stop(t, s)

	foreign, err := net.Listen("tcp", own)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	go func() { // closes every connection, as a server of another protocol would
		for {
			c, err := foreign.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	s = share(t, dir)
	defer stop(t, s)
	if s.Addr == own || s.Name != s.Addr {
		t.Errorf("the name is %s and the address %s, want a free port", s.Name, s.Addr)
	}
	rt := transport(t)
	wantImage(t, s.Name, write(t, s.Addr, rt), rt)
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

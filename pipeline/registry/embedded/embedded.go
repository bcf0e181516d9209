// Package embedded is an image registry inside the slipway process, so that the
// whole pipeline runs on a machine that can reach no other registry. It is CNCF
// Distribution (https://distribution.github.io/distribution/). It listens on
// 127.0.0.1 only and has no accounts: it is for one user on one machine. A guarded
// registry can be written only by the process that serves it, see [Guarded].
//
// The package promises no compatibility to programs other than slipway.
package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the driver registers itself
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Port is the default port of the registry. It is fixed, so that references of
// one run are valid in the next.
const Port = 5077

// Ports returns the ports on which the registry with the data in dir listens: Port and,
// if another program uses that, one that is computed from dir. Therefore two registries
// on one machine have different second ports, which do not change from run to run.
func Ports(dir string) []int {
	const first, number = 20000, 10000 // below the ports that systems give to clients
	sum := sha256.Sum256([]byte(dir))
	return []int{Port, first + int(binary.BigEndian.Uint32(sum[:4])%number)}
}

// Host returns the host:port of the registry on a port of this machine.
func Host(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Header is a header of every response of this registry. Its value is the folder
// with the data.
const Header = "Slipway-Registry"

// Server is a running registry.
type Server struct {
	// Addr is the host:port that this process listens on.
	Addr string
	// Name is the host:port for references. It differs from Addr while another process
	// serves the same data on it.
	Name string
	// Credential is what the header [registry.CredentialHeader] of a request must have to
	// write to a guarded registry. It is empty if the registry is not guarded.
	Credential string

	http      *http.Server
	stop      func() error
	listeners errgroup.Group // the goroutines that serve
	cancel    context.CancelFunc
	own       bool // false if another process serves the registry
}

// Start serves the registry with the data in dir on 127.0.0.1:port. Port 0 is any
// free port. If another slipway process already serves the same data on that
// port, Start returns its address. It returns a [fault.Input] error if another
// program uses the port or dir cannot be created.
func Start(ctx context.Context, dir string, port int, options ...Option) (*Server, error) {
	dir, err := prepare(dir)
	if err != nil {
		return nil, err
	}
	ln, err := listen(ctx, port)
	if err == nil {
		return serve(dir, ln, options) //nolint:contextcheck // the registry runs longer than the call that starts it
	}
	if serves(ctx, Host(port), dir) {
		return &Server{Addr: Host(port), Name: Host(port)}, nil
	}
	return nil, fault.Inputf("registry.port", "starting the embedded registry: %w", err).
		WithFix("stop the program that uses port %d, or choose another with --port", port)
}

// Share serves the registry for one run, on [Ports]. It never fails because of a port:
//
//   - If another process serves the same data, the run gets a server on a free port, but
//     Name is the address of the other one. So it does not depend on that process, which
//     may end at any time. If it does, this server listens on Name too.
//   - If other programs use all ports, any free one is used.
//
// It returns a [fault.Input] error if dir cannot be created.
func Share(ctx context.Context, dir string, options ...Option) (*Server, error) {
	dir, err := prepare(dir)
	if err != nil {
		return nil, err
	}
	for _, port := range Ports(dir) {
		if ln, err := listen(ctx, port); err == nil {
			return serve(dir, ln, options) //nolint:contextcheck // the registry runs longer than the call that starts it
		}
		if !serves(ctx, Host(port), dir) {
			continue
		}
		s, err := serveAnywhere(ctx, dir, options)
		if err == nil {
			s.Name = Host(port)
			s.inherit(ctx, dir)
		}
		return s, err
	}
	return serveAnywhere(ctx, dir, options)
}

// Names returns the addresses in references that stand for this registry: Name, and the
// later ones of [Ports], which belong to it although it does not listen on them.
func (s *Server) Names(dir string) []string {
	names := []string{s.Name}
	ports := Ports(dir)
	for i, port := range ports {
		if Host(port) == s.Name {
			for _, later := range ports[i+1:] {
				names = append(names, Host(later))
			}
		}
	}
	return names
}

func prepare(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("resolving the registry's folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fault.Inputf("cache.unusable", "creating the folder of the embedded registry: %w", err)
	}
	return dir, nil
}

func listen(ctx context.Context, port int) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", Host(port))
}

func serveAnywhere(ctx context.Context, dir string, options []Option) (*Server, error) {
	ln, err := listen(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("starting the embedded registry: %w", err)
	}
	return serve(dir, ln, options) //nolint:contextcheck // as in Start
}

// serve serves the data in dir on ln.
func serve(dir string, ln net.Listener, options []Option) (*Server, error) {
	closing := make(chan struct{})
	handler, stop, err := newHandler(dir, closing)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	g := newGuard(options)
	s := &Server{
		Credential: g.credential,
		Addr:       ln.Addr().String(), Name: ln.Addr().String(),
		http: &http.Server{Handler: g.protect(handler), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)},
		stop: stop, own: true, cancel: func() {},
	}
	s.http.RegisterOnShutdown(func() { close(closing) })
	s.listeners.Go(func() error { return s.http.Serve(ln) })
	return s, nil
}

// inherit makes the server also listen on Name once the process that does so has ended.
func (s *Server) inherit(ctx context.Context, dir string) {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.listeners.Go(func() error {
		for ctx.Err() == nil {
			ended := awaitEnd(ctx, s.Name, dir)
			var lc net.ListenConfig
			if ln, err := lc.Listen(ctx, "tcp", s.Name); err == nil {
				return s.http.Serve(ln)
			}
			if !ended {
				break
			}
		}
		return http.ErrServerClosed // another program uses the address, or the run has ended
	})
}

// Close stops the server after the requests in progress, or when ctx ends. It
// keeps the data. It does nothing if another process serves the registry.
func (s *Server) Close(ctx context.Context) error {
	if !s.own {
		return nil
	}
	s.cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if serveErr := s.listeners.Wait(); !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return errors.Join(err, s.stop())
}

// Wait blocks until ctx ends and then closes the server. It returns a
// [fault.Input] error at once if another process serves the registry.
func (s *Server) Wait(ctx context.Context) error {
	if !s.own {
		return fault.Inputf("registry.port", "another slipway process already serves this registry on %s", s.Addr)
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return s.Close(stop)
}

// endPath is the path of a request that the registry answers when it closes.
const endPath = "/slipway/end"

// newHandler returns the handler of the registry. closing is closed when the server stops
// to listen.
func newHandler(dir string, closing <-chan struct{}) (h http.Handler, stop func() error, err error) {
	// Distribution logs every request through the global logger, and panics if
	// it cannot use the configuration.
	logrus.SetOutput(io.Discard)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("starting the embedded registry: %v", p)
		}
	}()
	c := &configuration.Configuration{
		Version: configuration.CurrentVersion,
		Storage: configuration.Storage{
			"filesystem":  {"rootdirectory": dir},
			"delete":      {"enabled": true},
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	app := handlers.NewApp(context.Background(), c)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(Header, dir)
		if r.URL.Path == identityPath {
			identify(w, r, dir)
			return
		}
		if r.URL.Path == endPath {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-closing:
			case <-r.Context().Done():
			}
			return
		}
		app.ServeHTTP(w, r)
	}), app.Shutdown, nil
}

// awaitEnd waits until the process that serves the data in dir on addr stops to listen,
// or until ctx ends. It returns false at once if there is no such process.
func awaitEnd(ctx context.Context, addr, dir string) bool {
	resp, err := get(ctx, addr, endPath)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get(Header) != dir {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body) // if the process is killed, this is an error
	return true
}

func get(ctx context.Context, addr, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return roundTrip(req)
}

// roundTrip sends a request on a transport of its own, which leaves no connection open.
func roundTrip(req *http.Request) (*http.Response, error) {
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}

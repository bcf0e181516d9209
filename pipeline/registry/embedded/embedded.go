// Package embedded is an image registry inside the slipway process, so that the
// whole pipeline runs on a machine that can reach no other registry. It is CNCF
// Distribution (https://distribution.github.io/distribution/). It listens on
// 127.0.0.1 only and has no accounts: it is for one user on one machine.
//
// The package promises no compatibility to programs other than slipway.
package embedded

import (
	"context"
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

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Port is the default port of the registry. It is fixed, so that references of
// one run are valid in the next.
const Port = 5077

// Header is a header of every response of this registry. Its value is the folder
// with the data.
const Header = "Slipway-Registry"

// Server is a running registry.
type Server struct {
	Addr string // host:port to push to and pull from
	http *http.Server
	stop func() error
	done chan error
	own  bool // false if another process serves the registry
}

// Start serves the registry with the data in dir on 127.0.0.1:port. Port 0 is any
// free port. If another slipway process already serves the same data on that
// port, Start returns its address. It returns a [fault.Input] error if another
// program uses the port or dir cannot be created.
func Start(ctx context.Context, dir string, port int) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolving the registry's folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Inputf("cache.unusable", "creating the folder of the embedded registry: %w", err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		if serves(ctx, addr, dir) {
			return &Server{Addr: addr}, nil
		}
		return nil, fault.Inputf("registry.port", "starting the embedded registry: %w", err).
			WithFix("stop the program that uses port %d, or push to another registry with --repository", port)
	}
	handler, stop, err := newHandler(dir) //nolint:contextcheck // the registry runs longer than the call that starts it
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s := &Server{
		Addr: ln.Addr().String(),
		http: &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)},
		stop: stop,
		done: make(chan error, 1),
		own:  true,
	}
	go func() { s.done <- s.http.Serve(ln) }()
	return s, nil
}

// Close stops the server after the requests in progress, or when ctx ends. It
// keeps the data. It does nothing if another process serves the registry.
func (s *Server) Close(ctx context.Context) error {
	if !s.own {
		return nil
	}
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if serveErr := <-s.done; !errors.Is(serveErr, http.ErrServerClosed) {
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

func newHandler(dir string) (h http.Handler, stop func() error, err error) {
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
		app.ServeHTTP(w, r)
	}), app.Shutdown, nil
}

// serves reports whether a slipway process serves the data in dir on addr.
func serves(ctx context.Context, addr, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", http.NoBody)
	if err != nil {
		return false
	}
	// A separate transport without keep-alive leaves no connection open.
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.Header.Get(Header) == dir
}

// Package embedded is a registry inside slipway, so that the whole pipeline
// runs on a machine that reaches none. It is CNCF Distribution, listens on
// 127.0.0.1 alone and keeps its data under the user's cache folder. It has no
// accounts: it is for one user on one machine.
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

// Port is where the registry listens unless told otherwise. It is fixed, so
// that the references of one run are good for the next.
const Port = 5077

// Header marks the answers of this registry.
const Header = "Slipway-Registry"

// Server is a running registry.
type Server struct {
	Addr string // host:port to push to and pull from
	http *http.Server
	stop func() error
	done chan error
	mine bool
}

// Start serves the registry whose data is in dir on 127.0.0.1:port; port 0
// takes any free one. When another slipway already serves the same data there,
// that one is used. It returns a [fault.Input] error when the port is taken by
// something else or dir cannot be written.
func Start(ctx context.Context, dir string, port int) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolving the registry's folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.Inputf("cache.unusable", "making the registry's folder: %w", err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		if serves(ctx, addr, dir) {
			return &Server{Addr: addr}, nil
		}
		return nil, fault.Inputf("registry.port", "starting the embedded registry: %w", err).
			WithFix("free port %d, or push elsewhere with --repository", port)
	}
	handler, stop, err := newHandler(dir) //nolint:contextcheck // the registry outlives the call that starts it
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s := &Server{
		Addr: ln.Addr().String(),
		http: &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)},
		stop: stop,
		done: make(chan error, 1),
		mine: true,
	}
	go func() { s.done <- s.http.Serve(ln) }()
	return s, nil
}

// Close ends the server after the requests under way; data stays.
func (s *Server) Close(ctx context.Context) error {
	if !s.mine {
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

// Wait blocks until the server ends or ctx does.
func (s *Server) Wait(ctx context.Context) error {
	if !s.mine {
		return fault.Inputf("registry.port", "another slipway already serves this registry on %s", s.Addr)
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return s.Close(stop)
}

func newHandler(dir string) (h http.Handler, stop func() error, err error) {
	// Distribution logs every request through the global logger, and panics on
	// a configuration it cannot use.
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

// serves reports whether a registry of ours with the same data answers.
func serves(ctx context.Context, addr, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v2/", http.NoBody)
	if err != nil {
		return false
	}
	// A connection of its own, so that none is left open afterwards.
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.Header.Get(Header) == dir
}

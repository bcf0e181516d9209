// Package standin contains simulated payment and inventory services, for tests and for
// development. They store everything in memory and fail on request.
package standin

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxBodyBytes      = 1 << 20
	maxHeaderBytes    = 32 << 10
	readHeaderTimeout = 5 * time.Second
	shutdownTimeout   = 5 * time.Second
)

// Faults makes a simulated service slow or makes its requests fail. The zero value has
// no effect.
type Faults struct {
	// Latency is the delay of every response.
	Latency time.Duration
	// Rate is the fraction of requests, from 0 to 1, that fail with status 503.
	Rate float64

	before, after atomic.Int64
	gate          atomic.Pointer[Gate]
}

// DefineFaults defines flags for faults and returns a function that applies them after they
// were parsed.
func DefineFaults(flags *flag.FlagSet) func(*Faults) {
	latency := flags.Duration("latency", 0, "`delay` of every response")
	failRate := flags.Float64("fail-rate", 0, "`fraction` of requests, from 0 to 1, that fail with status 503")
	failFirst := flags.Int64("fail-first", 0, "`number` of requests at the beginning that fail with status 503")
	return func(f *Faults) {
		f.Latency, f.Rate = *latency, *failRate
		f.FailBefore(*failFirst)
	}
}

// FailBefore makes the next n requests fail with status 503, without any effect.
func (f *Faults) FailBefore(n int64) { f.before.Store(n) }

// FailAfter makes the next n requests take effect and then fail with status 503, as if
// the response was lost.
func (f *Faults) FailAfter(n int64) { f.after.Store(n) }

// Gate blocks requests until it is opened.
type Gate struct {
	arrived chan struct{}
	opened  chan struct{}
	open    func()
}

// Hold makes all requests wait until the returned Gate is opened.
func (f *Faults) Hold() *Gate {
	g := &Gate{arrived: make(chan struct{}, 1), opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	f.gate.Store(g)
	return g
}

// Arrived returns a channel that receives a value when the first request waits.
func (g *Gate) Arrived() <-chan struct{} { return g.arrived }

// Open lets all waiting and later requests continue.
func (g *Gate) Open() { g.open() }

// wrap returns a handler that applies the faults to next.
func (f *Faults) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.pause(r.Context()) {
			return
		}
		if take(&f.before) || rand.Float64() < f.Rate { //nolint:gosec // the random number need not be secure
			unavailable(w)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		if take(&f.after) {
			next.ServeHTTP(discard{http.Header{}}, r)
			unavailable(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// pause waits as configured and reports whether the client is still connected.
func (f *Faults) pause(ctx context.Context) bool {
	if g := f.gate.Load(); g != nil {
		select {
		case g.arrived <- struct{}{}:
		default:
		}
		select {
		case <-g.opened:
		case <-ctx.Done():
			return false
		}
	}
	if f.Latency <= 0 {
		return true
	}
	timer := time.NewTimer(f.Latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// take decrements n, unless it is zero, and reports whether it did.
func take(n *atomic.Int64) bool {
	for {
		v := n.Load()
		if v <= 0 {
			return false
		}
		if n.CompareAndSwap(v, v-1) {
			return true
		}
	}
}

// discard is an http.ResponseWriter that discards the response.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func unavailable(w http.ResponseWriter) {
	reply(w, http.StatusServiceUnavailable, map[string]string{"error": "injected failure"})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only if the client has disconnected
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return false
	}
	return true
}

// Serve serves requests on the listener until ctx is done, and then finishes open
// requests. It closes the listener.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: readHeaderTimeout, MaxHeaderBytes: maxHeaderBytes}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(stopCtx)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Package serve assembles the order service from its parts, runs it and shuts it down.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/gateway"
	"github.com/slipway-ci/slipway/sample-app/internal/health"
	"github.com/slipway-ci/slipway/sample-app/internal/httpapi"
	"github.com/slipway-ci/slipway/sample-app/internal/metrics"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/postgres"
	"github.com/slipway-ci/slipway/sample-app/internal/reload"
	"github.com/slipway-ci/slipway/sample-app/internal/telemetry"
)

const (
	readHeaderTimeout = 5 * time.Second
	maxHeaderBytes    = 32 << 10
	// stopTimeout is the maximum duration of the shutdown after the last request has
	// been finished.
	stopTimeout = 2 * time.Second
	// flushTimeout is the maximum duration of sending the last telemetry, if
	// shutdown.timeout permits it.
	flushTimeout = 5 * time.Second
	// firstRetry and lastRetry are the minimum and maximum delay between attempts to
	// reach the database at the start.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Service is an order service. Create it with New and call Run once.
type Service struct {
	cfg     config.Config
	live    Live
	follow  []func(context.Context) // what follows files until the service stops
	config  *reload.Value[config.Config]
	log     *zap.Logger
	health  *health.Health
	store   *postgres.Store
	orders  *order.Service
	metrics *metrics.Metrics
	sends   *telemetry.Telemetry

	api, monitor server

	// lifetime is done when all requests must stop immediately. The closers run after
	// that.
	lifetime context.Context //nolint:containedctx // it belongs to the service and not to a request
	abort    context.CancelFunc
	closers  []func()
}

// server is an http.Server with the listener it serves on.
type server struct {
	*http.Server
	listener net.Listener
}

// Live is what can change while the service runs.
type Live struct {
	// Level is the level of the log.
	Level zap.AtomicLevel
	// File is the configuration file, and Load reads and validates the configuration. If
	// Load is nil, the configuration does not change.
	File string
	Load func() (config.Config, error)
	// Version is that of the service, for telemetry.
	Version string
}

// New returns a Service whose listeners are already open. It does not connect to any
// dependency. It uses the values of ctx but ignores its cancellation. The error names the
// invalid setting.
func New(ctx context.Context, cfg config.Config, log *zap.Logger, live Live) (_ *Service, err error) {
	lifetime, abort := context.WithCancel(context.WithoutCancel(ctx))
	s := &Service{cfg: cfg, live: live, log: log, metrics: metrics.New(), lifetime: lifetime, abort: abort}
	defer func() {
		if err != nil {
			abort()
			s.close()
			if s.sends != nil {
				_ = s.sends.Shutdown(lifetime) // nothing was recorded yet
			}
		}
	}()

	if err := s.startTelemetry(ctx); err != nil {
		return nil, err
	}
	s.followConfig()
	if err := s.openStore(lifetime); err != nil {
		return nil, err
	}
	opts := order.Options{
		Store:         s.store,
		Recorder:      s.metrics,
		Log:           log,
		SettleTimeout: cfg.Server.RequestTimeout.Duration,
	}
	if t := s.sends.Tracers(); t != nil {
		opts.Tracer = t.Tracer("github.com/slipway-ci/slipway/sample-app/internal/order")
	}
	checks := []health.Check{{Name: "postgres", Required: true, Probe: s.store.Ping}}
	if !cfg.Redis.URL.Empty() {
		c, err := s.openCache()
		if err != nil {
			return nil, err
		}
		opts.Cache = c
		checks = append(checks, health.Check{Name: "redis", Probe: c.Ping})
	}
	if !cfg.Payment.URL.Empty() {
		p := gateway.NewPayment(s.upstream("payment", cfg.Payment))
		s.closers = append(s.closers, p.Close)
		s.metrics.Queue("payment", p.Waiting)
		opts.Payment = p
	}
	if !cfg.Inventory.URL.Empty() {
		i := gateway.NewInventory(s.upstream("inventory", cfg.Inventory))
		s.closers = append(s.closers, i.Close)
		s.metrics.Queue("inventory", i.Waiting)
		opts.Inventory = i
	}
	s.orders = order.NewService(lifetime, opts)
	s.health = health.New(cfg.Health.Timeout.Duration, log, checks...)
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// listen opens the listeners, so that an address that is in use is an error
// immediately.
func (s *Service) listen(ctx context.Context) error {
	var listen net.ListenConfig
	scrape, err := listen.Listen(ctx, "tcp", s.cfg.Server.MetricsListen)
	if err != nil {
		return fmt.Errorf("server.metrics_listen: %w", err)
	}
	api, err := listen.Listen(ctx, "tcp", s.cfg.Server.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("server.listen: %w", err), scrape.Close())
	}

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.Handle("/log/level", s.live.Level) // needs no more rights than the metrics and the probes
	s.monitor = server{s.httpServer(mux), scrape}
	//nolint:contextcheck // each request has its own
	s.api = server{s.httpServer(httpapi.New(httpapi.Options{
		Tracing:        s.tracing(),
		Orders:         s.orders,
		Health:         s.health,
		Log:            s.log,
		Observe:        s.metrics.Request,
		RequestTimeout: s.cfg.Server.RequestTimeout.Duration,
		MaxBodyBytes:   s.cfg.Server.MaxBodyBytes,
		MaxInFlight:    s.cfg.Server.MaxInFlight,
		Features:       s.features,
	})), api}
	s.api.ConnState = s.metrics.ConnState
	return nil
}

func (s *Service) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ReadTimeout:       s.cfg.Server.ReadTimeout.Duration,
		WriteTimeout:      s.cfg.Server.WriteTimeout.Duration,
		IdleTimeout:       s.cfg.Server.IdleTimeout.Duration,
		ErrorLog:          zap.NewStdLog(s.log.Named("http")),
		BaseContext:       func(net.Listener) context.Context { return s.lifetime },
	}
}

// Addr returns the address of the API, as HOST:PORT.
func (s *Service) Addr() string { return s.api.listener.Addr().String() }

// MetricsAddr returns the address of the Prometheus endpoint, as HOST:PORT.
func (s *Service) MetricsAddr() string { return s.monitor.listener.Addr().String() }

// Run serves requests until ctx is done, and then shuts down. First the readiness probe
// fails, then the service drains, finishes open requests, closes the pools, sends the last
// telemetry, and finally stops the metrics endpoint. Run returns an error if a listener failed or if it had to
// abort requests or leave connections open.
func (s *Service) Run(ctx context.Context) error {
	failed := make(chan error, 2)
	var servers, background sync.WaitGroup
	for _, srv := range []server{s.api, s.monitor} {
		servers.Go(func() {
			if err := srv.Serve(srv.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve on %s: %w", srv.listener.Addr(), err)
			}
		})
	}
	s.log.Info("listening", zap.String("addr", s.Addr()), zap.String("metrics_addr", s.MetricsAddr()),
		zap.Stringer("database", s.cfg.Database.URL), zap.Stringer("redis", s.cfg.Redis.URL),
		zap.Stringer("payment", s.cfg.Payment.URL), zap.Stringer("inventory", s.cfg.Inventory.URL))

	working, rest := context.WithCancel(context.WithoutCancel(ctx))
	defer rest()
	background.Go(func() { s.work(working) })
	for _, follow := range s.follow {
		background.Go(func() { follow(working) })
	}

	var err error
	select {
	case err = <-failed:
		s.log.Error("cannot continue to serve", zap.Error(err))
	case <-ctx.Done():
	}
	started := time.Now()
	err = errors.Join(err, s.finishRequests(ctx, failed, rest))
	background.Wait()
	s.abort()
	err = errors.Join(err, s.closeAll(context.WithoutCancel(ctx), started.Add(s.cfg.Shutdown.Timeout.Duration)))
	servers.Wait()
	s.log.Info("stopped", zap.Duration("duration_ms", time.Since(started)), zap.Bool("clean", err == nil))
	return err
}

// work prepares the database, and then recovers unfinished orders until ctx is done.
func (s *Service) work(ctx context.Context) {
	if err := s.prepare(ctx); err != nil {
		return // prepare fails only when ctx is done
	}
	s.health.Start()
	s.log.Info("started")
	ticker := time.NewTicker(s.cfg.Orders.RecoveryInterval.Duration)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if _, err := s.orders.Recover(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("recovery stopped early", zap.Error(err))
		}
	}
}

// prepare migrates the database. It retries until ctx is done, because the pods of the
// service and the database can start in any order. Exiting instead would only add the
// increasing delay with which the kubelet restarts containers.
func (s *Service) prepare(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstRetry, lastRetry
	_, err := backoff.Retry(ctx, func() (int, error) {
		if err := s.store.Ping(ctx); err != nil {
			return 0, err
		}
		applied, err := s.store.Migrate(ctx)
		if err == nil {
			s.log.Info("database is up to date", zap.Int("migrations_applied", applied))
		}
		return applied, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, next time.Duration) {
		s.log.Warn("database is not ready, retrying", zap.Duration("retry_in_ms", next), zap.Error(err))
	}))
	return err
}

// finishRequests makes the service unready, continues to serve requests for the drain
// delay, and then waits for open requests.
func (s *Service) finishRequests(ctx context.Context, failed <-chan error, rest context.CancelFunc) error {
	limit := s.cfg.Shutdown.Timeout.Duration
	// The limit includes the steps that follow after the requests.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit-min(stopTimeout, limit/10))
	defer cancel()

	s.health.Drain()
	delay := s.cfg.Shutdown.DrainDelay.Duration
	s.log.Info("draining", zap.Duration("delay_ms", delay))
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var err error
	select {
	case <-timer.C:
	case err = <-failed: // without a listener there are no more requests
	}

	rest()
	s.log.Info("finishing open requests")
	if stopErr := s.api.Shutdown(ctx); stopErr != nil {
		stopErr = fmt.Errorf("requests were still running after %s and have been aborted; increase shutdown.timeout or decrease server.request_timeout: %w", limit, stopErr)
		// The connections are closed first. Otherwise some of the aborted requests
		// would still send a response.
		err = errors.Join(err, stopErr, s.api.Close())
		s.abort()
	}
	return err
}

// closeAll closes the pools, sends the last telemetry, and then closes the metrics endpoint,
// so that Prometheus can scrape the metrics until the end.
// All of this ends before the deadline.
func (s *Service) closeAll(parent context.Context, deadline time.Time) error {
	reserve := min(stopTimeout, s.cfg.Shutdown.Timeout.Duration/10) / 4
	ctx, cancel := context.WithDeadline(parent, earlier(time.Now().Add(stopTimeout), deadline.Add(-2*reserve)))
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.close()
	}()
	var err error
	select {
	case <-closed:
	case <-ctx.Done():
		err = errors.New("connections were still open near the end of the shutdown and have not been closed")
	}
	sending, stop := context.WithDeadline(parent, earlier(time.Now().Add(flushTimeout), deadline.Add(-reserve)))
	defer stop()
	s.sendLast(sending)
	ending, end := context.WithDeadline(parent, deadline)
	defer end()
	return errors.Join(err, s.monitor.Shutdown(ending))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// close runs the closers in reverse order.
func (s *Service) close() {
	for _, f := range slices.Backward(s.closers) {
		f()
	}
}

package serve

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/cache"
	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/gateway"
	"github.com/slipway-ci/slipway/sample-app/internal/httpapi"
	"github.com/slipway-ci/slipway/sample-app/internal/postgres"
	"github.com/slipway-ci/slipway/sample-app/internal/telemetry"
)

// startTelemetry prepares to send traces and metrics, if the configuration asks for it.
func (s *Service) startTelemetry(ctx context.Context) (err error) {
	s.sends, err = telemetry.Start(ctx, telemetry.Configured(s.cfg, s.live.Version, s.metrics, s.log))
	return err
}

// sendLast sends the telemetry of the last requests until ctx is done. That the collector
// does not take it is no failure of the service.
func (s *Service) sendLast(ctx context.Context) {
	started := time.Now()
	if err := s.sends.Shutdown(ctx); err != nil {
		s.log.Warn("the last telemetry could not be sent", zap.Duration("duration_ms", time.Since(started)), zap.Error(err))
	}
}

// tracing returns what adds spans to requests, or nil.
func (s *Service) tracing() *httpapi.Tracing {
	if s.sends.Tracers() == nil {
		return nil
	}
	return &httpapi.Tracing{Tracers: s.sends.Tracers(), Propagator: s.sends.Propagator()}
}

func (s *Service) openStore(lifetime context.Context) (err error) {
	s.store, err = postgres.Open(lifetime, postgres.Options{
		URL:             s.cfg.Database.URL.Reveal(),
		Password:        s.followPassword("database", s.cfg.Database.PasswordFile, func() { s.store.Renew() }),
		MaxConns:        s.cfg.Database.MaxConns,
		MinIdleConns:    s.cfg.Database.MinIdleConns,
		MaxConnLifetime: s.cfg.Database.MaxConnLifetime.Duration,
		QueryTimeout:    s.cfg.Database.QueryTimeout.Duration,
		Observe:         s.metrics.Query,
		Tracers:         s.sends.Tracers(),
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, s.store.Close)
	s.metrics.Pool(s.store.Stat)
	return nil
}

func (s *Service) openCache() (*cache.Cache, error) {
	c, err := cache.Open(cache.Options{
		URL:        s.cfg.Redis.URL.Reveal(),
		Password:   s.followPassword("redis", s.cfg.Redis.PasswordFile, func() {}),
		PoolSize:   s.cfg.Redis.PoolSize,
		MaxRetries: s.cfg.Redis.MaxRetries,
		TTL:        s.cfg.Redis.TTL.Duration,
		Timeout:    s.cfg.Redis.Timeout.Duration,
		KeyPrefix:  s.cfg.Redis.KeyPrefix,
		Tracers:    s.sends.Tracers(),
	})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() { _ = c.Close() })
	return c, nil
}

// upstream converts the settings of a service that orders depend on.
func (s *Service) upstream(name string, u config.Upstream) gateway.Options {
	return gateway.Options{
		URL:           u.URL.Reveal(),
		Timeout:       u.Timeout.Duration,
		Retries:       u.Retries,
		RetryInterval: u.RetryInterval.Duration,
		MaxConcurrent: u.MaxConcurrent,
		Trace:         s.sends.Transport(name),
	}
}

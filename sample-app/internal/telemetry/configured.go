package telemetry

import (
	"go.opentelemetry.io/otel"
	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/metrics"
)

// Configured returns the options for a service with this configuration, whose metrics are
// sent and which counts in them what was sent.
func Configured(cfg config.Config, version string, m *metrics.Metrics, log *zap.Logger) Options {
	return Options{
		Endpoint:        cfg.OTLP.Endpoint.Reveal(),
		Service:         cfg.OTLP.ServiceName,
		Version:         version,
		Environment:     cfg.App.Environment,
		SampleRatio:     cfg.OTLP.SampleRatio,
		Timeout:         cfg.OTLP.Timeout.Duration,
		Retry:           cfg.OTLP.Retry.Duration,
		MetricsInterval: cfg.OTLP.MetricsInterval.Duration,
		Gatherer:        m.Gatherer(),
		Count:           m.Telemetry,
		Log:             log,
	}
}

// LogErrors logs the errors that the SDK cannot return. It has one handler for them in the
// whole process.
func LogErrors(log *zap.Logger) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry", zap.Error(err)) }))
}

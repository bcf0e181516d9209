package httpapi

import (
	"strings"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Tracing adds a span to every request except those of probes. The trace continues that of
// the client, if there is one.
type Tracing struct {
	Service    string
	Tracers    trace.TracerProvider
	Propagator propagation.TextMapPropagator
}

func (t *Tracing) middleware() gin.HandlerFunc {
	return otelgin.Middleware(t.Service,
		otelgin.WithTracerProvider(t.Tracers),
		otelgin.WithPropagators(t.Propagator),
		// The metrics of the service have the same numbers already.
		otelgin.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelgin.WithGinFilter(func(c *gin.Context) bool { return !strings.HasPrefix(c.FullPath(), "/health/") }),
	)
}

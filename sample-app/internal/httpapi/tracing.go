package httpapi

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Tracing adds a span to every request except those of probes. The trace continues that of
// the client, if there is one.
type Tracing struct {
	Tracers    trace.TracerProvider
	Propagator propagation.TextMapPropagator
}

// middleware returns a handler that begins the spans, with attributes according to the
// semantic conventions (https://opentelemetry.io/docs/specs/semconv/http/http-spans/). It
// collects them only for traces that are recorded: the middleware of OpenTelemetry collects
// them for all, which costs more than the rest of the telemetry.
func (t *Tracing) middleware() gin.HandlerFunc {
	tracer := t.Tracers.Tracer("github.com/slipway-ci/slipway/sample-app/internal/httpapi")
	return func(c *gin.Context) {
		route := c.FullPath()
		if strings.HasPrefix(route, "/health/") {
			return
		}
		original := c.Request
		defer func() { c.Request = original }()
		ctx := t.Propagator.Extract(original.Context(), propagation.HeaderCarrier(original.Header))
		ctx, span := tracer.Start(ctx, spanName(original.Method, route), trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		c.Request = original.WithContext(ctx)
		c.Next()
		if !span.IsRecording() {
			return
		}
		status, method := c.Writer.Status(), original.Method
		if route == "" {
			method = "_OTHER" // the value for unknown methods
		}
		span.SetAttributes(
			semconv.HTTPRequestMethodKey.String(method),
			semconv.HTTPRoute(route),
			semconv.URLPath(original.URL.Path),
			semconv.UserAgentOriginal(original.UserAgent()),
			semconv.HTTPResponseStatusCode(status),
			semconv.HTTPResponseBodySize(max(c.Writer.Size(), 0)),
		)
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
	}
}

// spanName returns the name of the span of a request. Clients choose methods and paths, so
// unknown ones share one name.
func spanName(method, route string) string {
	if route == "" {
		return "unmatched"
	}
	return method + " " + route
}

package telemetry

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
)

// Transport returns a function that adds a span to every request to the named service, and
// the trace context to its headers. It returns nil if nothing is sent.
func (t *Telemetry) Transport(peer string) func(http.RoundTripper) http.RoundTripper {
	if t.tracers == nil {
		return nil
	}
	return func(next http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(next, append(t.options(),
			// The path contains IDs, and a name must not.
			otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + peer }))...)
	}
}

// Handler returns a handler that adds a span to every request that next serves, except those
// for which skip returns true. The name of the span is the pattern of the route.
func (t *Telemetry) Handler(next http.Handler, skip func(*http.Request) bool) http.Handler {
	if t.tracers == nil {
		return next
	}
	return otelhttp.NewHandler(next, "", append(t.options(),
		otelhttp.WithFilter(func(r *http.Request) bool { return !skip(r) }))...)
}

func (t *Telemetry) options() []otelhttp.Option {
	return []otelhttp.Option{
		otelhttp.WithTracerProvider(t.tracers),
		otelhttp.WithPropagators(t.Propagator()),
		otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()), // the services count their requests themselves
	}
}

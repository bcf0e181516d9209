package telemetry

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Transport returns a function that adds a span to every request to the named service, and
// the trace context to its headers. It returns nil if nothing is sent.
func (t *Telemetry) Transport(peer string) func(http.RoundTripper) http.RoundTripper {
	if t.tracers == nil {
		return nil
	}
	return func(next http.RoundTripper) http.RoundTripper {
		recorded := otelhttp.NewTransport(next, append(t.options(),
			// The path contains IDs, and a name must not.
			otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + peer }))...)
		return quietTransport{recorded: recorded, next: next, propagator: t.Propagator()}
	}
}

// quietTransport adds only headers to requests whose trace is not recorded. The instrumented
// transport would wrap their bodies, which then need a further write to the connection.
type quietTransport struct {
	recorded, next http.RoundTripper
	propagator     propagation.TextMapPropagator
}

// RoundTrip implements http.RoundTripper.
func (q quietTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !ignored(trace.SpanFromContext(r.Context())) {
		return q.recorded.RoundTrip(r)
	}
	r = r.Clone(r.Context())                                              // a transport must not change the request
	q.propagator.Inject(r.Context(), propagation.HeaderCarrier(r.Header)) //nolint:contextcheck // the clone has the same context
	return q.next.RoundTrip(r)
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

// Package trace sends a run's spans to an OpenTelemetry collector, where the
// environment names one. Dagger does so for every command it runs, and then
// shows the spans in its terminal view.
//
// Only the program starts it. Everything else finds the tracer in its context:
//
//	trace.SpanFromContext(ctx).TracerProvider().Tracer(name).Start(ctx, "lint")
package trace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

const (
	scope = "github.com/slipway-ci/slipway"
	// flushLimit is the longest a run waits at its end for the collector.
	flushLimit = 2 * time.Second
	// liveDelay is how old a span is at most when Dagger hears of it; the same
	// as NearlyImmediate in github.com/dagger/otel-go.
	liveDelay = 100 * time.Millisecond
	// retryLimit bounds the tries of one batch; with the batch that is under
	// way when a run ends and the last one it stays within flushLimit.
	retryLimit = time.Second
)

// Stop ends the root span and sends what is left, for at most two seconds and
// also when the run's context was cancelled. cause is the run's error: it
// becomes the status of the root span. The error says that spans were lost; it
// never holds a header, and is no reason to fail a run.
type Stop func(cause error) error

// Start opens the root span "slipway command" and returns a context that holds
// it. The environment says where spans go, how and under which parent:
//
//   - OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_EXPORTER_OTLP_ variables,
//     also as OTEL_EXPORTER_OTLP_TRACES_;
//     see https://opentelemetry.io/docs/specs/otel/protocol/exporter/
//   - OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER (otlp, the default, or none),
//     OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; see
//     https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
//   - TRACEPARENT, TRACESTATE and BAGGAGE, ignored where malformed; see
//     https://opentelemetry.io/docs/specs/otel/context/env-carriers/
//   - OTEL_EXPORTER_OTLP_TRACES_LIVE, of Dagger: spans are also sent when they
//     start; see LiveSpanProcessor in https://github.com/dagger/otel-go
//
// Without an endpoint it does nothing: the context is ctx itself. That is also
// so with an error, which tells what in the environment is wrong. Stop is
// never nil. A collector that is away is no error.
func Start(ctx context.Context, command, version string) (context.Context, Stop, error) {
	idle := func(error) error { return nil }
	if !wanted() {
		return ctx, idle, nil
	}
	mute()
	e, err := newExporter(ctx)
	if err != nil {
		return ctx, idle, fmt.Errorf("sending spans: %w", err)
	}
	ctx, stop := begin(ctx, e, command, version)
	return ctx, stop, nil
}

// wanted reports whether there is somewhere to send spans to.
func wanted() bool {
	return !strings.EqualFold(setting("OTEL_SDK_DISABLED"), "true") &&
		setting("OTEL_TRACES_EXPORTER") != "none" &&
		otlp("ENDPOINT") != ""
}

// otlp reads an exporter's variable; the one for traces wins.
func otlp(name string) string {
	if v := setting("OTEL_EXPORTER_OTLP_TRACES_" + name); v != "" {
		return v
	}
	return setting("OTEL_EXPORTER_OTLP_" + name)
}

func setting(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// mute silences OpenTelemetry's own log. It goes to standard error, in the
// middle of the live view, and quotes headers that it could not parse.
func mute() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	otel.SetLogger(zero(otel.SetLogger))
}

// zero is the zero value of what f takes. The zero logger drops everything; its
// package is OpenTelemetry's dependency and need not become ours.
func zero[T any](func(T)) (z T) { return z }

func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	// The console exporter is refused as well: standard output is the report's.
	if name := setting("OTEL_TRACES_EXPORTER"); name != "" && name != "otlp" {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER %q is not otlp or none", name)
	}
	// Not autoexport: it cannot shorten the retries, which by default outlast
	// the flush whenever the collector is away.
	const first, longest = 100 * time.Millisecond, 400 * time.Millisecond
	switch protocol := otlp("PROTOCOL"); protocol {
	case "", "http/protobuf", "http": // the last is Dagger's
		return otlptracehttp.New(ctx, otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: first, MaxInterval: longest, MaxElapsedTime: retryLimit,
		}))
	case "grpc":
		return otlptracegrpc.New(ctx, otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: first, MaxInterval: longest, MaxElapsedTime: retryLimit,
		}))
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL %q is not http/protobuf or grpc", protocol)
	}
}

// begin is Start once it is known where spans go.
func begin(ctx context.Context, e sdktrace.SpanExporter, command, version string) (context.Context, Stop) {
	out := newDelivery(e)
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(processor(out)),
		sdktrace.WithResource(describe(ctx, version)),
	)
	ctx, root := provider.Tracer(scope).Start(parent(ctx), "slipway "+command) //nolint:spancheck // Stop ends it
	return ctx, func(cause error) error {                                      //nolint:spancheck // the caller stops it
		if cause != nil {
			line, _, _ := strings.Cut(cause.Error(), "\n")
			root.SetStatus(codes.Error, line)
		}
		root.End()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
		defer cancel()
		// The batch processor gives up waiting at the limit but goes on
		// exporting; this ends that too.
		context.AfterFunc(ctx, out.abandon)
		err := provider.Shutdown(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("sending spans: the collector did not take them within %s", flushLimit)
		case err != nil:
			return fmt.Errorf("sending spans: %w", err)
		}
		return out.failure()
	}
}

// processor batches spans on their way out.
func processor(e sdktrace.SpanExporter) sdktrace.SpanProcessor {
	if setting("OTEL_EXPORTER_OTLP_TRACES_LIVE") == "" {
		return sdktrace.NewBatchSpanProcessor(e)
	}
	return live{sdktrace.NewBatchSpanProcessor(e, sdktrace.WithBatchTimeout(liveDelay))}
}

// describe says who sends the spans. What the environment says comes last and
// so wins; parts of it that are malformed are left out.
func describe(ctx context.Context, version string) *resource.Resource {
	r, _ := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("slipway"), semconv.ServiceVersion(version)),
		resource.WithFromEnv(),
	)
	return r
}

// parent adds the caller's span and baggage to ctx.
func parent(ctx context.Context) context.Context {
	carrier := propagation.MapCarrier{}
	for _, name := range []string{"traceparent", "tracestate", "baggage"} {
		if v := setting(strings.ToUpper(name)); v != "" {
			carrier[name] = v
		}
	}
	w3c := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	return w3c.Extract(ctx, carrier)
}

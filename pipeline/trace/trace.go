// Package trace sends the spans of a run to an OpenTelemetry collector, if the
// environment contains the address of one. Dagger sets it for every command that it
// runs, and shows the spans in its terminal view.
//
// Only the slipway program calls [Start]. All other code gets the tracer from its
// context:
//
//	trace.SpanFromContext(ctx).TracerProvider().Tracer(name).Start(ctx, "lint")
//
// The package promises no compatibility to programs other than slipway.
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
	// flushLimit is how long a run waits for the collector at its end.
	flushLimit = 2 * time.Second
	// liveDelay is the maximum delay after which a span is sent in live mode. It is the
	// same as NearlyImmediate in github.com/dagger/otel-go.
	liveDelay = 100 * time.Millisecond
	// retryLimit is how long a batch is retried. At the end of a run there may be two
	// batches, the one that is being sent and the last one, which together must not
	// exceed flushLimit.
	retryLimit = time.Second
)

// Stop ends the root span and sends the remaining spans. It takes at most two seconds,
// and sends them even if the context of the run is cancelled. The cause is the error
// of the run and becomes the status of the root span.
//
// Stop returns an error if spans were lost. The error does not contain a header, and
// should not fail the run.
type Stop func(cause error) error

// Start starts the root span "slipway COMMAND" and returns a context that contains it.
// The environment configures the collector, the exporter and the parent span:
//
//   - OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_EXPORTER_OTLP_ variables,
//     also as OTEL_EXPORTER_OTLP_TRACES_;
//     see https://opentelemetry.io/docs/specs/otel/protocol/exporter/
//   - OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER (otlp, the default, or none),
//     OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; see
//     https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
//   - TRACEPARENT, TRACESTATE and BAGGAGE, which are ignored if they are malformed; see
//     https://opentelemetry.io/docs/specs/otel/context/env-carriers/
//   - OTEL_EXPORTER_OTLP_TRACES_LIVE, which Dagger sets: spans are also sent when
//     they start; see LiveSpanProcessor in https://github.com/dagger/otel-go
//
// Without an endpoint, Start does nothing and returns ctx. If the environment is
// invalid, it returns ctx and an error. An unreachable collector is not an error.
// The returned Stop is never nil.
func Start(ctx context.Context, command, version string) (context.Context, Stop, error) {
	idle := func(error) error { return nil }
	if !enabled() {
		return ctx, idle, nil
	}
	silenceLog()
	e, err := newExporter(ctx)
	if err != nil {
		return ctx, idle, fmt.Errorf("sending spans: %w", err)
	}
	ctx, stop := begin(ctx, e, command, version)
	return ctx, stop, nil
}

// enabled reports whether the environment contains an endpoint and does not disable
// traces.
func enabled() bool {
	return !strings.EqualFold(setting("OTEL_SDK_DISABLED"), "true") &&
		setting("OTEL_TRACES_EXPORTER") != "none" &&
		otlp("ENDPOINT") != ""
}

// otlp returns a setting of the exporter. The variable for traces takes precedence
// over the general one.
func otlp(name string) string {
	if v := setting("OTEL_EXPORTER_OTLP_TRACES_" + name); v != "" {
		return v
	}
	return setting("OTEL_EXPORTER_OTLP_" + name)
}

// setting returns a variable without surrounding spaces.
func setting(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// silenceLog disables the log of OpenTelemetry. It is written to standard error, where
// it would disturb the live view, and contains headers that could not be parsed.
func silenceLog() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	otel.SetLogger(zeroArgument(otel.SetLogger))
}

// zeroArgument returns the zero value of the argument of f. The zero logger discards
// everything. With this function its package, a dependency of OpenTelemetry, is not
// imported.
func zeroArgument[T any](func(T)) (z T) { return z }

// newExporter returns the exporter that the environment selects.
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	// The console exporter is not supported, because standard output is for the report.
	if name := setting("OTEL_TRACES_EXPORTER"); name != "" && name != "otlp" {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER %q is not otlp or none", name)
	}
	// The package autoexport is not used, because it cannot limit the retries. By
	// default they take longer than flushLimit if the collector is unreachable.
	const first, longest = 100 * time.Millisecond, 400 * time.Millisecond
	switch protocol := otlp("PROTOCOL"); protocol {
	case "", "http/protobuf", "http": // Dagger sets http
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

// begin starts the root span and sends spans to the exporter.
func begin(ctx context.Context, e sdktrace.SpanExporter, command, version string) (context.Context, Stop) {
	out := newDelivery(e)
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(processor(out)),
		sdktrace.WithResource(describe(ctx, version)),
	)
	ctx, root := provider.Tracer(scope).Start(parent(ctx), "slipway "+command) //nolint:spancheck // the returned Stop ends it
	return ctx, func(cause error) error {                                      //nolint:spancheck // the caller calls Stop
		if cause != nil {
			line, _, _ := strings.Cut(cause.Error(), "\n")
			root.SetStatus(codes.Error, line)
		}
		root.End()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
		defer cancel()
		// After the limit, the batch processor stops waiting but continues to export.
		// Abandoning the delivery ends the export, too.
		context.AfterFunc(ctx, out.abandon)
		err := provider.Shutdown(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("sending spans: the collector did not accept them within %s", flushLimit)
		case err != nil:
			return fmt.Errorf("sending spans: %w", err)
		}
		return out.failure()
	}
}

// processor returns a processor that sends spans in batches.
func processor(e sdktrace.SpanExporter) sdktrace.SpanProcessor {
	if setting("OTEL_EXPORTER_OTLP_TRACES_LIVE") == "" {
		return sdktrace.NewBatchSpanProcessor(e)
	}
	return live{sdktrace.NewBatchSpanProcessor(e, sdktrace.WithBatchTimeout(liveDelay))}
}

// describe returns the resource that describes slipway. The environment overrides the
// defaults. Malformed parts of it are ignored.
func describe(ctx context.Context, version string) *resource.Resource {
	r, _ := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("slipway"), semconv.ServiceVersion(version)),
		resource.WithFromEnv(),
	)
	return r
}

// parent returns ctx with the span and the baggage of the caller.
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

// Package telemetry sends traces and metrics to an OpenTelemetry collector with OTLP over
// gRPC. Nothing that is wrong with the collector affects requests: what cannot be sent is
// counted and dropped.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// batchSize is the maximum number of spans in a request, and batchDelay how long a span
	// waits for others.
	batchSize  = 512
	batchDelay = 5 * time.Second
	// maxQueue is the maximum number of spans that wait to be sent. Further spans are
	// dropped.
	maxQueue = 4 * batchSize
	// firstRetry and lastRetry are the minimum and maximum delay between two attempts to
	// send the same data.
	firstRetry = time.Second
	lastRetry  = 10 * time.Second
	// maxValue is the maximum length of the value of an attribute. Clients choose some values,
	// and a batch that is larger than 4 MiB is refused as a whole.
	maxValue = 512
)

// Signals and results, as Options.Count gets them.
const (
	Spans   = "spans"
	Metrics = "metrics"

	Sent    = "sent"
	Failed  = "failed"
	Dropped = "dropped"
)

// Options configure telemetry.
type Options struct {
	// Endpoint is the http:// or https:// URL of the collector. If it is empty, nothing is
	// sent.
	Endpoint string
	// Service, Version and Environment describe what sends the telemetry.
	Service, Version, Environment string
	// SampleRatio is the fraction of traces, from 0 to 1, that are recorded. It applies to
	// requests whose sender has not decided about it.
	SampleRatio float64
	// Timeout is the maximum duration of each attempt to send data.
	Timeout time.Duration
	// Retry is how long the same data is sent again after failures that can pass.
	Retry time.Duration
	// MetricsInterval is the time between two exports of metrics. With 0, metrics are not
	// sent.
	MetricsInterval time.Duration
	// Gatherer returns the metrics. Nil means that there are none.
	Gatherer prometheus.Gatherer
	// Count is called with a signal, a result, and a number of spans or of exports of
	// metrics. It can be nil.
	Count func(signal, result string, n int)
	// Log gets one line when telemetry stops to arrive, and one when it arrives again.
	Log *zap.Logger
}

// Telemetry sends traces and metrics until it is shut down.
type Telemetry struct {
	tracers trace.TracerProvider
	// shutdown sends what is left; abort ends what is being sent.
	shutdown []func(context.Context) error
	abort    context.CancelFunc
}

// Start returns a Telemetry. It does not connect to the collector, which can start later
// than the service.
func Start(ctx context.Context, o Options) (_ *Telemetry, err error) {
	if o.Endpoint == "" {
		return &Telemetry{abort: func() {}}, nil
	}
	if o.Count == nil {
		o.Count = func(string, string, int) {}
	}
	about, err := describe(ctx, o)
	if err != nil {
		return nil, err
	}
	lifetime, abort := context.WithCancel(context.WithoutCancel(ctx))
	t := &Telemetry{abort: abort}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Shutdown(ctx))
		}
	}()
	spans, err := startSpans(ctx, lifetime, o)
	if err != nil {
		return nil, fmt.Errorf("prepare to send traces: %w", err)
	}
	tracers := sdktrace.NewTracerProvider(
		sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(rootSampler{sdktrace.TraceIDRatioBased(o.SampleRatio)})),
		sdktrace.WithSpanProcessor(spans),
		sdktrace.WithRawSpanLimits(limits()),
	)
	t.tracers, t.shutdown = quiet{tracers}, append(t.shutdown, tracers.Shutdown)
	if o.MetricsInterval <= 0 || o.Gatherer == nil {
		return t, nil
	}
	reader, err := startMetrics(ctx, lifetime, o)
	if err != nil {
		return nil, fmt.Errorf("prepare to send metrics: %w", err)
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithResource(about), sdkmetric.WithReader(reader))
	t.shutdown = append(t.shutdown, meters.Shutdown)
	return t, nil
}

// Tracers returns the source of tracers, or nil if nothing is sent, so that nothing needs to
// be instrumented.
func (t *Telemetry) Tracers() trace.TracerProvider { return t.tracers }

// Propagator returns what reads and writes trace contexts in headers: W3C Trace Context and
// Baggage.
func (t *Telemetry) Propagator() propagation.TextMapPropagator {
	return propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
}

// Shutdown sends what is left until ctx is done, and then drops it. Call it after the last
// span has ended and before the process exits. It returns the error of ctx if something was
// dropped because of it.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	defer t.abort()
	// The SDK would leave its goroutines behind when its context ends. So only the requests
	// to the collector end then, and the rest follows at once.
	defer context.AfterFunc(ctx, t.abort)()
	failures := make([]error, len(t.shutdown), len(t.shutdown)+1)
	var wait sync.WaitGroup
	for i, shutdown := range t.shutdown {
		wait.Go(func() { failures[i] = shutdown(context.WithoutCancel(ctx)) })
	}
	wait.Wait()
	return errors.Join(append(failures, ctx.Err())...)
}

// describe returns the attributes of the process. The arguments and the owner of the process
// are not among them: the first can contain anything, and an image without /etc/passwd does
// not know the second.
func describe(ctx context.Context, o Options) (*resource.Resource, error) {
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithOSType(), resource.WithContainerID(),
		resource.WithProcessPID(), resource.WithProcessExecutableName(), resource.WithProcessRuntimeName(),
		resource.WithProcessRuntimeVersion(),
		resource.WithAttributes(semconv.ServiceVersion(o.Version), semconv.DeploymentEnvironmentNameKey.String(o.Environment)),
		resource.WithFromEnv(), // OTEL_RESOURCE_ATTRIBUTES adds to what the service knows
		resource.WithAttributes(semconv.ServiceName(cmp.Or(o.Service, "order-service"))),
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("describe the process for telemetry: %w", err)
	}
	return about, nil
}

// startSpans returns a processor that sends spans in batches.
func startSpans(ctx, lifetime context.Context, o Options) (sdktrace.SpanProcessor, error) {
	exporter, err := otlptrace.New(ctx, otlptracegrpc.NewClient(
		otlptracegrpc.WithEndpointURL(o.Endpoint),
		otlptracegrpc.WithTimeout(max(o.Timeout, o.Retry)),
		otlptracegrpc.WithDialOption(limitAttempts(o.Timeout), reconnect()),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: o.Retry > 0, InitialInterval: firstRetry, MaxInterval: lastRetry, MaxElapsedTime: o.Retry,
		}),
	))
	if err != nil {
		return nil, err
	}
	counted := &spanExporter{SpanExporter: exporter, observer: newObserver(lifetime, Spans, o)}
	return &boundedProcessor{exporter: counted, SpanProcessor: sdktrace.NewBatchSpanProcessor(counted,
		sdktrace.WithMaxExportBatchSize(batchSize),
		sdktrace.WithBatchTimeout(batchDelay),
		sdktrace.WithExportTimeout(max(o.Timeout, o.Retry)),
		sdktrace.WithMaxQueueSize(maxQueue), // boundedProcessor never lets it become full
	)}, nil
}

// startMetrics returns a reader that sends all metrics of the Prometheus endpoint, so that
// both ways show the same numbers.
func startMetrics(ctx, lifetime context.Context, o Options) (sdkmetric.Reader, error) {
	exporter, err := otlpmetricgrpc.New(ctx,
		otlpmetricgrpc.WithEndpointURL(o.Endpoint),
		otlpmetricgrpc.WithTimeout(o.Timeout),
		otlpmetricgrpc.WithDialOption(reconnect()),
		// The next export has newer values, so nothing is gained by sending old ones again.
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{Enabled: false}),
	)
	if err != nil {
		return nil, err
	}
	return sdkmetric.NewPeriodicReader(&metricExporter{Exporter: exporter, observer: newObserver(lifetime, Metrics, o)},
		sdkmetric.WithInterval(o.MetricsInterval),
		sdkmetric.WithTimeout(o.Timeout),
		sdkmetric.WithProducer(exemplarProducer{bridge.NewMetricProducer(bridge.WithGatherer(o.Gatherer))}),
	), nil
}

// limits returns the limits of spans.
func limits() sdktrace.SpanLimits {
	l := sdktrace.NewSpanLimits()
	l.AttributeValueLengthLimit = maxValue
	return l
}

// reconnect tries to connect again soon. By default, gRPC waits for up to two minutes, which
// is longer than data are sent again.
func reconnect() grpc.DialOption {
	delay := backoff.DefaultConfig
	delay.MaxDelay = lastRetry
	return grpc.WithConnectParams(grpc.ConnectParams{Backoff: delay, MinConnectTimeout: lastRetry})
}

// limitAttempts limits the duration of each attempt, because the exporter's own limit
// includes its retries.
func limitAttempts(timeout time.Duration) grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return invoke(ctx, method, req, reply, conn, opts...)
	})
}

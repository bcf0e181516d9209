package telemetry

import (
	"context"
	"sync"
	"sync/atomic"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// rootSampler decides about traces that begin here. A call of a database or of another
// service that belongs to no request begins none: these are health checks and the upkeep of
// pools.
type rootSampler struct{ sdktrace.Sampler }

// ShouldSample implements sdktrace.Sampler.
func (s rootSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind == trace.SpanKindClient {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	}
	return s.Sampler.ShouldSample(p)
}

// observer counts what was sent and what was not, and logs when that changes. It is used
// instead of the handler of errors of the SDK, which is one for the whole process.
type observer struct {
	lifetime context.Context //nolint:containedctx // it belongs to the process and not to a call
	signal   string
	count    func(signal, result string, n int)
	log      *zap.Logger

	mu   sync.Mutex
	lost int // since the first failure that no success has followed
}

func newObserver(lifetime context.Context, signal string, o Options) *observer {
	return &observer{lifetime: lifetime, signal: signal, count: o.Count, log: o.Log}
}

// send calls export, which must end when the lifetime ends, and observes its result. n is the
// number of spans or exports.
func (o *observer) send(ctx context.Context, n int, export func(context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(o.lifetime, cancel)() //nolint:contextcheck // both contexts can end it
	err := export(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.count(o.signal, Failed, n)
		if o.lost == 0 && o.lifetime.Err() == nil { // Shutdown says what happens after that
			o.log.Warn("telemetry cannot be sent; the service goes on without it", zap.String("signal", o.signal), zap.Error(err))
		}
		o.lost += n
		return
	}
	o.count(o.signal, Sent, n)
	if o.lost > 0 {
		o.log.Info("telemetry is sent again", zap.String("signal", o.signal), zap.Int("lost", o.lost))
		o.lost = 0
	}
}

// spanExporter is an exporter of spans that never fails for the processor.
type spanExporter struct {
	sdktrace.SpanExporter
	*observer
	waiting atomic.Int64
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	valid := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		valid[i] = validSpan{span}
	}
	e.send(ctx, len(spans), func(ctx context.Context) error { return e.SpanExporter.ExportSpans(ctx, valid) })
	e.waiting.Add(-int64(len(spans)))
	return nil
}

// boundedProcessor drops spans when too many wait to be sent, as the SDK's processor does,
// but it counts them.
type boundedProcessor struct {
	sdktrace.SpanProcessor
	exporter *spanExporter
}

// OnEnd implements sdktrace.SpanProcessor.
func (p *boundedProcessor) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if p.exporter.waiting.Add(1) > maxQueue {
		p.exporter.waiting.Add(-1)
		p.exporter.count(Spans, Dropped, 1)
		return
	}
	p.SpanProcessor.OnEnd(span)
}

// metricExporter is an exporter of metrics that never fails for the reader.
type metricExporter struct {
	sdkmetric.Exporter
	*observer
}

// Export implements sdkmetric.Exporter.
func (e *metricExporter) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	e.send(ctx, 1, func(ctx context.Context) error { return e.Exporter.Export(ctx, data) })
	return nil
}

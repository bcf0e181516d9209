package trace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// live also sends a span when it starts, without an end, so that it can be
// shown while it runs.
type live struct{ sdktrace.SpanProcessor }

// OnStart sends the span as it is now: by the time the batch goes out it may
// have ended, and would then be sent twice as ended.
func (l live) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	l.OnEnd(tracetest.SpanStubFromReadOnlySpan(s).Snapshot())
}

// delivery is an exporter that keeps its failures to itself and can be told to
// give up.
type delivery struct {
	sdktrace.SpanExporter
	given   context.Context // done once abandoned
	abandon context.CancelFunc

	mu   sync.Mutex
	lost error // of the last batch that was not delivered
}

func newDelivery(e sdktrace.SpanExporter) *delivery {
	d := &delivery{SpanExporter: e}
	d.given, d.abandon = context.WithCancel(context.Background()) //nolint:gosec // Stop abandons it
	return d
}

// ExportSpans never fails: the batch processor would hand the error to
// OpenTelemetry's global handler.
func (d *delivery) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.given, cancel)() //nolint:contextcheck // it ends with either of two contexts
	if err := d.SpanExporter.ExportSpans(ctx, spans); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.lost = err
	}
	return nil
}

// failure says that spans were lost. Of the cause it tells only what the
// network said: a collector's answer may quote the headers it was sent.
func (d *delivery) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost == nil {
		return nil
	}
	if op, ok := errors.AsType[*net.OpError](d.lost); ok {
		return fmt.Errorf("sending spans: %w", op)
	}
	return errors.New("sending spans: the collector did not take them")
}

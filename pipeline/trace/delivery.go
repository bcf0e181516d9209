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

// live is a processor that also sends spans when they start, without an end, so that
// they can be shown while they run.
type live struct{ sdktrace.SpanProcessor }

// OnStart sends a copy of the span, because the span may have ended when the batch is
// sent, and would be sent twice with its end.
func (l live) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	l.OnEnd(tracetest.SpanStubFromReadOnlySpan(s).Snapshot())
}

// delivery is an exporter that stores errors instead of returning them, and that can
// be abandoned.
type delivery struct {
	sdktrace.SpanExporter
	abandoned context.Context // done after the call of abandon
	abandon   context.CancelFunc

	mu   sync.Mutex
	lost error // error of the last batch that was not delivered
}

func newDelivery(e sdktrace.SpanExporter) *delivery {
	d := &delivery{SpanExporter: e}
	d.abandoned, d.abandon = context.WithCancel(context.Background()) //nolint:gosec // Stop calls abandon
	return d
}

// ExportSpans exports spans. It stores an error and returns nil, because the batch
// processor would pass the error to the global handler of OpenTelemetry.
func (d *delivery) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.abandoned, cancel)() //nolint:contextcheck // the export ends with ctx or d.abandoned
	if err := d.SpanExporter.ExportSpans(ctx, spans); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.lost = err
	}
	return nil
}

// failure returns an error if spans were lost. It contains the cause only if that is a
// network error, because the answer of a collector may contain the headers of the
// request.
func (d *delivery) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost == nil {
		return nil
	}
	if op, ok := errors.AsType[*net.OpError](d.lost); ok {
		return fmt.Errorf("sending spans: %w", op)
	}
	return errors.New("sending spans: the collector did not accept them")
}

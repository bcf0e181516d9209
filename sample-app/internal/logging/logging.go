// Package logging creates the service's logger.
package logging

import (
	"context"
	"io"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger that writes each entry as one line of JSON with the keys level,
// ts (ISO 8601), caller and msg and, from level error, stacktrace. With console, it writes
// lines that people can read instead. Durations are in milliseconds. The level can be
// changed with the returned AtomicLevel. No entries are dropped by sampling.
func New(w io.Writer, level zapcore.Level, console bool) (*zap.Logger, zap.AtomicLevel) {
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "ts"
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = func(d time.Duration, e zapcore.PrimitiveArrayEncoder) {
		e.AppendFloat64(float64(d) / float64(time.Millisecond))
	}
	atomic := zap.NewAtomicLevelAt(level)
	encoder := zapcore.NewJSONEncoder(enc)
	if console {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), atomic)
	return zap.New(core, zap.AddCaller(), zap.AddStacktrace(zapcore.ErrorLevel)), atomic
}

// Trace returns a field that adds trace_id and span_id to an entry, or nothing if ctx belongs
// to no trace. It adds them also if the trace is not recorded, because the logs of a request
// belong together in every service that it reaches.
func Trace(ctx context.Context) zap.Field {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return zap.Skip()
	}
	return zap.Inline(ids{span})
}

// ids are the IDs of a span in an entry.
type ids struct{ trace.SpanContext }

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (i ids) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("trace_id", i.TraceID().String())
	e.AddString("span_id", i.SpanID().String())
	return nil
}

// Package logging makes the service's logger.
package logging

import (
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a logger that writes one JSON object a line: level, ts (ISO 8601),
// caller, msg, and the stack at error and above. Durations are milliseconds. Its level follows the returned
// AtomicLevel. Nothing is sampled away.
func New(w io.Writer, level zapcore.Level) (*zap.Logger, zap.AtomicLevel) {
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "ts"
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = func(d time.Duration, e zapcore.PrimitiveArrayEncoder) {
		e.AppendFloat64(float64(d) / float64(time.Millisecond))
	}
	atomic := zap.NewAtomicLevelAt(level)
	core := zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), atomic)
	return zap.New(core, zap.AddCaller(), zap.AddStacktrace(zapcore.ErrorLevel)), atomic
}

package logging_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/slipway-ci/slipway/sample-app/internal/logging"
)

func TestLinesAreJSON(t *testing.T) {
	var out bytes.Buffer
	log, level := logging.New(&out, zapcore.InfoLevel, false)
	log.Debug("not yet")
	level.SetLevel(zapcore.DebugLevel)
	log.Debug("detail")
	log.Error("broken")
	log.Info("timed", zap.Duration("took_ms", 1500*time.Microsecond))

	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[2], `"took_ms":1.5`) {
		t.Fatalf("lines: %q", lines)
	}
	for i, want := range []struct {
		level, msg string
		stack      bool
	}{{"debug", "detail", false}, {"error", "broken", true}} {
		var got map[string]string
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		if got["level"] != want.level || got["msg"] != want.msg || (got["stacktrace"] != "") != want.stack {
			t.Errorf("line %v, want %+v", got, want)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000Z0700", got["ts"]); err != nil {
			t.Errorf("ts: %v", err)
		}
		if !strings.HasPrefix(got["caller"], "logging/logging_test.go:") {
			t.Errorf("caller %q", got["caller"])
		}
	}
}

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	log, _ := logging.New(&out, zapcore.InfoLevel, true)
	log.Info("started", zap.Int("migrations", 3))
	fields := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\t")
	if len(fields) != 5 || fields[1] != "INFO" || fields[3] != "started" || fields[4] != `{"migrations": 3}` {
		t.Errorf("line %q", out.String())
	}
}

func TestTrace(t *testing.T) {
	var out bytes.Buffer
	log, _ := logging.New(&out, zapcore.InfoLevel, false)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0x4b, 15: 0x36}, SpanID: trace.SpanID{1},
	}))
	log.Info("inside", logging.Trace(ctx))
	log.Info("outside", logging.Trace(t.Context()))
	lines := strings.Split(out.String(), "\n")
	if !strings.HasSuffix(lines[0], `"trace_id":"4b000000000000000000000000000036","span_id":"0100000000000000"}`) || strings.Contains(lines[1], "trace_id") {
		t.Errorf("lines: %q", lines)
	}
}

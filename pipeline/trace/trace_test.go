package trace

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/baggage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	pb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

// child makes the test binary a program that traces one span, because
// OpenTelemetry keeps the standard error it found when it was loaded.
const child = "SLIPWAY_TEST_TRACE"

func TestMain(m *testing.M) {
	if os.Getenv(child) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	ctx, stop, err := Start(context.Background(), "ship", "v1")
	_, span := trace.SpanFromContext(ctx).TracerProvider().Tracer("test").Start(ctx, "lint")
	span.End()
	fmt.Println(err, stop(nil))
}

// received is a span with what stands around it in a request.
type received struct {
	*pb.Span
	resource map[string]string
	scope    string
	header   http.Header
}

// receive starts an OTLP/HTTP collector and points the environment at it.
func receive(t *testing.T) <-chan received {
	t.Helper()
	spans := make(chan received, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		data, err := io.ReadAll(body)
		var request collector.ExportTraceServiceRequest
		if err = errors.Join(err, proto.Unmarshal(data, &request)); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		for _, of := range request.GetResourceSpans() {
			resource := map[string]string{}
			for _, kv := range of.GetResource().GetAttributes() {
				resource[kv.GetKey()] = kv.GetValue().GetStringValue()
			}
			for _, in := range of.GetScopeSpans() {
				for _, s := range in.GetSpans() {
					spans <- received{s, resource, in.GetScope().GetName(), r.Header}
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	environment(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)
	return spans
}

// environment sets variables; those the tests were started with do not count.
func environment(t *testing.T, set ...string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); ours(name) {
			t.Setenv(name, "")
		}
	}
	for _, kv := range set {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
}

func ours(name string) bool {
	return strings.HasPrefix(name, "OTEL_") || name == "TRACEPARENT" || name == "TRACESTATE" || name == "BAGGAGE"
}

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

func TestSpans(t *testing.T) {
	tests := []struct {
		name    string
		env     []string
		cause   error
		parent  string // of the root span
		state   string
		service string
		version string
		status  string
		baggage string
		header  string
	}{
		{name: "root"},
		{name: "parent", env: []string{"TRACEPARENT=00-" + traceID + "-" + spanID + "-01", "TRACESTATE=a=b", "BAGGAGE=run=7"}, parent: spanID, state: "a=b", baggage: "7"},
		{name: "malformed parent", env: []string{"TRACEPARENT=00-nonsense-01", "TRACESTATE==,", "BAGGAGE=%%%"}},
		{name: "parent of zeros", env: []string{"TRACEPARENT=00-" + strings.Repeat("0", 32) + "-" + spanID + "-01"}},
		{name: "gzip", env: []string{"OTEL_EXPORTER_OTLP_COMPRESSION=gzip"}},
		{name: "Dagger's name of the protocol", env: []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}},
		{name: "names of the environment", env: []string{"OTEL_SERVICE_NAME=orders", "OTEL_RESOURCE_ATTRIBUTES=service.version=v9,service.name=x"}, service: "orders", version: "v9"},
		{name: "headers", env: []string{"OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20x"}, header: "Bearer x"},
		{name: "failed", cause: errors.New("lint: 1 finding\nmore"), status: "lint: 1 finding"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spans := receive(t)
			for _, kv := range tt.env {
				name, value, _ := strings.Cut(kv, "=")
				t.Setenv(name, value)
			}
			// Ctrl-C must not lose the spans.
			ctx, cancel := context.WithCancel(t.Context())
			ctx, stop, err := Start(ctx, "ship", "v1")
			if err != nil {
				t.Fatal(err)
			}
			if got := baggage.FromContext(ctx).Member("run").Value(); got != tt.baggage {
				t.Errorf("baggage %q, want %q", got, tt.baggage)
			}
			_, stage := trace.SpanFromContext(ctx).TracerProvider().Tracer("test").Start(ctx, "lint")
			stage.End()
			cancel()
			if err := stop(tt.cause); err != nil {
				t.Fatal(err)
			}
			lint, root := <-spans, <-spans
			if lint.GetName() != "lint" || root.GetName() != "slipway ship" || len(spans) > 0 {
				t.Fatalf("got %q, %q and %d more", lint.GetName(), root.GetName(), len(spans))
			}
			if !bytes.Equal(lint.GetParentSpanId(), root.GetSpanId()) || !bytes.Equal(lint.GetTraceId(), root.GetTraceId()) {
				t.Errorf("lint is not under the root: %v, %v", lint, root)
			}
			if got := hex.EncodeToString(root.GetParentSpanId()); got != tt.parent {
				t.Errorf("root's parent is %q, want %q", got, tt.parent)
			}
			if got := hex.EncodeToString(root.GetTraceId()); (got == traceID) != (tt.parent != "") {
				t.Errorf("root's trace is %s", got)
			}
			if got := root.GetTraceState(); got != tt.state {
				t.Errorf("trace state %q, want %q", got, tt.state)
			}
			if want := or(tt.service, "slipway"); root.resource["service.name"] != want {
				t.Errorf("service %q, want %q", root.resource["service.name"], want)
			}
			if want := or(tt.version, "v1"); root.resource["service.version"] != want {
				t.Errorf("version %q, want %q", root.resource["service.version"], want)
			}
			if got := root.header.Get("Authorization"); got != tt.header {
				t.Errorf("header %q, want %q", got, tt.header)
			}
			if got := root.GetStatus().GetMessage(); got != tt.status || (root.GetStatus().GetCode() == pb.Status_STATUS_CODE_ERROR) != (tt.status != "") {
				t.Errorf("status %v, want %q", root.GetStatus(), tt.status)
			}
		})
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// In live mode a span is there before it ends, and once more when it has.
func TestLive(t *testing.T) {
	spans := receive(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_LIVE", "1")
	_, stop, err := Start(t.Context(), "ship", "v1")
	if err != nil {
		t.Fatal(err)
	}
	var started received
	select {
	case started = <-spans:
	case <-time.After(20 * time.Second): // only when it will never come
		_ = stop(nil)
		t.Fatal("the span was not sent before it ended")
	}
	if started.GetName() != "slipway ship" || started.GetEndTimeUnixNano() != 0 || started.GetStartTimeUnixNano() == 0 {
		t.Errorf("started as %v", started)
	}
	if started.scope != scope || started.resource["service.name"] != "slipway" {
		t.Errorf("started in %q of %v", started.scope, started.resource)
	}
	if err := stop(nil); err != nil {
		t.Error(err)
	}
	ended := <-spans
	if !bytes.Equal(ended.GetSpanId(), started.GetSpanId()) || ended.GetEndTimeUnixNano() == 0 || len(spans) > 0 {
		t.Errorf("ended as %v, and %d more", ended, len(spans))
	}
}

func TestNothing(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"
	tests := []struct {
		name string
		env  []string
		err  string
	}{
		{name: "nothing set"},
		{name: "only a parent", env: []string{"TRACEPARENT=00-" + traceID + "-" + spanID + "-01"}},
		{name: "empty endpoint", env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT= "}},
		{name: "disabled", env: []string{endpoint, "OTEL_SDK_DISABLED=TRUE"}},
		{name: "no exporter", env: []string{endpoint, "OTEL_TRACES_EXPORTER=none"}},
		{name: "console", env: []string{endpoint, "OTEL_TRACES_EXPORTER=console"}, err: `sending spans: OTEL_TRACES_EXPORTER "console" is not otlp or none`},
		{name: "unknown protocol", env: []string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=http/json"}, err: `sending spans: OTEL_EXPORTER_OTLP_PROTOCOL "http/json" is not http/protobuf or grpc`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			environment(t, tt.env...)
			before := t.Context()
			ctx, stop, err := Start(before, "ship", "v1")
			if ctx != before {
				t.Errorf("the context is another: %v", ctx)
			}
			if got := fmt.Sprint(err); got != or(tt.err, "<nil>") {
				t.Errorf("error %s, want %q", got, tt.err)
			}
			if err := stop(errors.New("failed")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A collector that cannot be used leaves no word on standard error and its
// headers nowhere.
func TestSilent(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "bad token "+r.Header.Get("Authorization"), http.StatusUnauthorized)
	}))
	defer refusing.Close()
	const away, headers = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS=authorization=hunter2"
	tests := []struct {
		name string
		env  []string
		out  string
	}{
		{"unreachable", []string{away, headers}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"unreachable by grpc", []string{away, headers, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, "<nil> sending spans: the collector did not take them\n"},
		{"unreachable and live", []string{away, headers, "OTEL_EXPORTER_OTLP_TRACES_LIVE=1"}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"refused", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + refusing.URL, headers}, "<nil> sending spans: the collector did not take them\n"},
		{"malformed headers", []string{away, "OTEL_EXPORTER_OTLP_HEADERS=hunter2,a=%hunter2"}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"malformed settings", []string{away, "OTEL_RESOURCE_ATTRIBUTES=hunter2", "OTEL_TRACES_SAMPLER=hunter2", "BAGGAGE=%%%", "OTEL_EXPORTER_OTLP_TIMEOUT=x"}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			for _, kv := range os.Environ() {
				if name, _, _ := strings.Cut(kv, "="); !ours(name) {
					cmd.Env = append(cmd.Env, kv)
				}
			}
			cmd.Env = append(slices.Concat(cmd.Env, tt.env), child+"=1")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
			if stderr.Len() > 0 || stdout.String() != tt.out {
				t.Errorf("standard error %q, errors %q, want %q", &stderr, &stdout, tt.out)
			}
		})
	}
}

// stuck is a collector that takes spans and never answers.
type stuck struct{}

func (stuck) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stuck) Shutdown(context.Context) error { return nil }

// The clock is synctest's: the two seconds are exact and take no time.
func TestStuck(t *testing.T) {
	environment(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, stop := begin(t.Context(), stuck{}, "ship", "v1")
		err := stop(nil)
		if took := time.Since(start); took != flushLimit {
			t.Errorf("stopped after %s, want %s", took, flushLimit)
		}
		if want := "sending spans: the collector did not take them within 2s"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		synctest.Wait() // the bubble ends in a panic if an export is still under way
	})
}

package trace

import (
	"bytes"
	"cmp"
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

// child is the variable that makes the test binary a program that sends one span. A
// test of its standard error needs a process, because OpenTelemetry stores the
// standard error when the process starts.
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

// received is a span with the resource, the scope and the header of its request.
type received struct {
	*pb.Span
	resource map[string]string
	scope    string
	header   http.Header
}

// receive starts an OTLP/HTTP collector and sets the endpoint to it.
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

// environment sets variables and clears all others that affect traces.
func environment(t *testing.T, set ...string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); affectsTraces(name) {
			t.Setenv(name, "")
		}
	}
	for _, kv := range set {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
}

// affectsTraces reports whether a variable affects traces.
func affectsTraces(name string) bool {
	return strings.HasPrefix(name, "OTEL_") || name == "TRACEPARENT" || name == "TRACESTATE" || name == "BAGGAGE"
}

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

// spanCase is an environment and the spans that are expected for it.
type spanCase struct {
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
}

func spanCases() []spanCase {
	return []spanCase{
		{name: "root"},
		{name: "parent", env: []string{"TRACEPARENT=00-" + traceID + "-" + spanID + "-01", "TRACESTATE=a=b", "BAGGAGE=run=7"}, parent: spanID, state: "a=b", baggage: "7"},
		{name: "malformed parent", env: []string{"TRACEPARENT=00-nonsense-01", "TRACESTATE==,", "BAGGAGE=%%%"}},
		{name: "parent of zeros", env: []string{"TRACEPARENT=00-" + strings.Repeat("0", 32) + "-" + spanID + "-01"}},
		{name: "gzip", env: []string{"OTEL_EXPORTER_OTLP_COMPRESSION=gzip"}},
		{name: "Dagger's name of the protocol", env: []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}},
		{name: "resource in the environment", env: []string{"OTEL_SERVICE_NAME=orders", "OTEL_RESOURCE_ATTRIBUTES=service.version=v9,service.name=x"}, service: "orders", version: "v9"},
		{name: "headers", env: []string{"OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20x"}, header: "Bearer x"},
		{name: "failed", cause: errors.New("lint: 1 finding\nmore"), status: "lint: 1 finding"},
	}
}

func TestSpans(t *testing.T) {
	for _, tt := range spanCases() {
		t.Run(tt.name, func(t *testing.T) {
			spans := receive(t)
			for _, kv := range tt.env {
				name, value, _ := strings.Cut(kv, "=")
				t.Setenv(name, value)
			}
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
			cancel() // as by Ctrl-C, which must not lose the spans
			if err := stop(tt.cause); err != nil {
				t.Fatal(err)
			}
			lint, root := <-spans, <-spans
			if lint.GetName() != "lint" || root.GetName() != "slipway ship" || len(spans) > 0 {
				t.Fatalf("got %q, %q and %d more", lint.GetName(), root.GetName(), len(spans))
			}
			if !bytes.Equal(lint.GetParentSpanId(), root.GetSpanId()) || !bytes.Equal(lint.GetTraceId(), root.GetTraceId()) {
				t.Errorf("lint is not a child of the root span: %v, %v", lint, root)
			}
			checkRoot(t, root, tt)
		})
	}
}

// checkRoot compares the root span with what is expected.
func checkRoot(t *testing.T, root received, want spanCase) {
	t.Helper()
	if got := hex.EncodeToString(root.GetParentSpanId()); got != want.parent {
		t.Errorf("parent %q, want %q", got, want.parent)
	}
	if got := hex.EncodeToString(root.GetTraceId()); (got == traceID) != (want.parent != "") {
		t.Errorf("trace %s with parent %q", got, want.parent)
	}
	if got := root.GetTraceState(); got != want.state {
		t.Errorf("trace state %q, want %q", got, want.state)
	}
	if service := cmp.Or(want.service, "slipway"); root.resource["service.name"] != service {
		t.Errorf("service %q, want %q", root.resource["service.name"], service)
	}
	if version := cmp.Or(want.version, "v1"); root.resource["service.version"] != version {
		t.Errorf("version %q, want %q", root.resource["service.version"], version)
	}
	if got := root.header.Get("Authorization"); got != want.header {
		t.Errorf("header %q, want %q", got, want.header)
	}
	if got := root.GetStatus().GetMessage(); got != want.status || (root.GetStatus().GetCode() == pb.Status_STATUS_CODE_ERROR) != (want.status != "") {
		t.Errorf("status %v, want %q", root.GetStatus(), want.status)
	}
}

// In live mode, a span is sent when it starts and again when it ends.
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
	case <-time.After(20 * time.Second): // fails only if the span is never sent
		_ = stop(nil)
		t.Fatal("the span was not sent when it started")
	}
	if started.GetName() != "slipway ship" || started.GetEndTimeUnixNano() != 0 || started.GetStartTimeUnixNano() == 0 {
		t.Errorf("got started span %v", started)
	}
	if started.scope != scope || started.resource["service.name"] != "slipway" {
		t.Errorf("got started span with scope %q and resource %v", started.scope, started.resource)
	}
	if err := stop(nil); err != nil {
		t.Error(err)
	}
	ended := <-spans
	if !bytes.Equal(ended.GetSpanId(), started.GetSpanId()) || ended.GetEndTimeUnixNano() == 0 || len(spans) > 0 {
		t.Errorf("got ended span %v and %d more", ended, len(spans))
	}
}

func TestDisabled(t *testing.T) {
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
				t.Errorf("got context %v, want the original one", ctx)
			}
			if got := fmt.Sprint(err); got != cmp.Or(tt.err, "<nil>") {
				t.Errorf("error %s, want %q", got, tt.err)
			}
			if err := stop(errors.New("failed")); err != nil {
				t.Error(err)
			}
		})
	}
}

// If the collector does not accept spans, nothing is written to standard error and
// the error contains no headers.
func TestErrorsAreNotLogged(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "bad token "+r.Header.Get("Authorization"), http.StatusUnauthorized)
	}))
	defer refusing.Close()
	const unreachable, headers = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS=authorization=hunter2"
	tests := []struct {
		name string
		env  []string
		out  string
	}{
		{"unreachable", []string{unreachable, headers}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"unreachable by grpc", []string{unreachable, headers, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, "<nil> sending spans: the collector did not accept them\n"},
		{"unreachable and live", []string{unreachable, headers, "OTEL_EXPORTER_OTLP_TRACES_LIVE=1"}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"refused", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + refusing.URL, headers}, "<nil> sending spans: the collector did not accept them\n"},
		{"malformed headers", []string{unreachable, "OTEL_EXPORTER_OTLP_HEADERS=hunter2,a=%hunter2"}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"malformed settings", []string{unreachable, "OTEL_RESOURCE_ATTRIBUTES=hunter2", "OTEL_TRACES_SAMPLER=hunter2", "BAGGAGE=%%%", "OTEL_EXPORTER_OTLP_TIMEOUT=x"}, "<nil> sending spans: dial tcp 127.0.0.1:1: connect: connection refused\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			for _, kv := range os.Environ() {
				if name, _, _ := strings.Cut(kv, "="); !affectsTraces(name) {
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
				t.Errorf("standard error %q, standard output %q, want %q", &stderr, &stdout, tt.out)
			}
		})
	}
}

// stuckExporter is a fake exporter for a collector that never answers.
type stuckExporter struct{}

func (stuckExporter) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stuckExporter) Shutdown(context.Context) error { return nil }

// With the clock of synctest, the two seconds are exact and take no time.
func TestUnresponsiveCollector(t *testing.T) {
	environment(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, stop := begin(t.Context(), stuckExporter{}, "ship", "v1")
		err := stop(nil)
		if took := time.Since(start); took != flushLimit {
			t.Errorf("stopped after %s, want %s", took, flushLimit)
		}
		if want := "sending spans: the collector did not accept them within 2s"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		synctest.Wait() // synctest panics if an export is still running
	})
}

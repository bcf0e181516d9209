package telemetry_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/slipway-ci/slipway/sample-app/internal/telemetry"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// counts is how much was sent, failed or dropped, by signal and result.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(signal, result string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[signal+" "+result] += n
}

func (c *counts) get() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// started starts telemetry for the endpoint. Retries are off unless change sets them.
func started(t *testing.T, endpoint string, change func(*telemetry.Options)) (*telemetry.Telemetry, *counts, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	c := &counts{n: map[string]int{}}
	o := telemetry.Options{
		Endpoint: endpoint, Service: "shop", Version: "1.2.3", Environment: "staging", SampleRatio: 1,
		Timeout: testenv.Patience, Count: c.add, Log: zap.New(core),
	}
	if change != nil {
		change(&o)
	}
	sends, err := telemetry.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return sends, c, logs
}

func spans(sends *telemetry.Telemetry, n int) {
	tracer := sends.Tracers().Tracer("test")
	for range n {
		_, span := tracer.Start(context.Background(), "work")
		span.End()
	}
}

func TestShutdownSendsWhatIsLeft(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=shop-0,service.name=other")
	collector := testenv.NewCollector(t)
	registry := prometheus.NewRegistry()
	sold := prometheus.NewCounter(prometheus.CounterOpts{Name: "sold_total"})
	registry.MustRegister(sold)
	sends, c, logs := started(t, collector.URL(), func(o *telemetry.Options) { o.Gatherer, o.MetricsInterval = registry, time.Hour })
	spans(sends, 1000)
	sold.Add(7)
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	arrived := collector.Spans()
	if len(arrived) != 1000 || collector.Sum("sold_total") != 7 {
		t.Errorf("%d spans and %v sold have arrived", len(arrived), collector.Sum("sold_total"))
	}
	if got := c.get(); got["spans sent"] != 1000 || got["metrics sent"] != 1 || len(got) != 2 {
		t.Errorf("counted: %v", got)
	}
	for key, want := range map[string]string{
		"service.name": "shop", "service.version": "1.2.3", "deployment.environment.name": "staging", "k8s.pod.name": "shop-0",
		"host.name": "", "os.type": "linux", "process.pid": "", "process.runtime.name": "go", "telemetry.sdk.language": "go",
	} {
		if got := arrived[0].Resource[key]; got == "" || want != "" && got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if logs.Len() > 0 {
		t.Errorf("logged: %v", logs.All())
	}
}

// TestCollectorAway shows that spans are counted when nobody takes them, that the log has
// one line about it, and that a shutdown does not wait longer than it may.
func TestCollectorAway(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // nobody listens there now
		t.Fatal(err)
	}
	sends, c, logs := started(t, "http://"+l.Addr().String(), nil)
	spans(sends, 1024) // two batches are sent at once
	testenv.Eventually(t, "two batches have failed", func() bool { return c.get()["spans failed"] == 1024 })
	if got := logs.FilterMessage("telemetry cannot be sent; the service goes on without it").Len(); got != 1 || logs.Len() != 1 {
		t.Errorf("logged: %v", logs.All())
	}

	waiting, _, _ := started(t, "http://"+l.Addr().String(), func(o *telemetry.Options) { o.Retry = time.Hour })
	spans(waiting, 1)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := waiting.Shutdown(over); !errors.Is(err, context.Canceled) {
		t.Errorf("a shutdown without time returns %v", err)
	}
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSlowCollector shows that a collector that does not answer delays nobody, and that
// what is dropped is counted.
func TestSlowCollector(t *testing.T) {
	collector := testenv.NewCollector(t)
	collector.Hold()
	sends, c, logs := started(t, collector.URL(), nil)
	const total = 5000
	spans(sends, total)
	dropped := c.get()["spans dropped"]
	if dropped != total-2048 {
		t.Errorf("%d spans were dropped, want all above 2048", dropped)
	}
	collector.Answer()
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.get(); got["spans sent"]+got["spans dropped"] != total || len(collector.Spans()) != got["spans sent"] {
		t.Errorf("counted: %v, arrived: %d", got, len(collector.Spans()))
	}
	if logs.Len() > 0 {
		t.Errorf("logged: %v", logs.All())
	}
}

// TestCollectorComesBack shows that what can be sent again is not lost.
func TestCollectorComesBack(t *testing.T) {
	collector := testenv.NewCollector(t)
	collector.Refuse(1)
	sends, c, _ := started(t, collector.URL(), func(o *telemetry.Options) { o.Retry = testenv.Patience })
	spans(sends, 512)
	testenv.Eventually(t, "the batch has arrived", func() bool { return len(collector.Spans()) == 512 })
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.get(); got["spans sent"] != 512 || len(got) != 1 {
		t.Errorf("counted: %v", got)
	}
}

// TestQueueHasRoomAgain shows that the limit is one for what waits, and not for all spans.
func TestQueueHasRoomAgain(t *testing.T) {
	collector := testenv.NewCollector(t)
	sends, c, _ := started(t, collector.URL(), nil)
	for sent := 1024; sent <= 4096; sent += 1024 {
		spans(sends, 1024)
		testenv.Eventually(t, "two batches were sent", func() bool { return c.get()["spans sent"] == sent })
	}
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.get(); len(got) != 1 {
		t.Errorf("counted: %v", got)
	}
}

func TestSampling(t *testing.T) {
	collector := testenv.NewCollector(t)
	sends, _, _ := started(t, collector.URL(), nil)
	tracer := sends.Tracers().Tracer("test")
	_, upkeep := tracer.Start(t.Context(), "ping", trace.WithSpanKind(trace.SpanKindClient))
	if upkeep.SpanContext().IsSampled() {
		t.Error("a call of a database without a request begins a trace")
	}
	refused := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true})
	_, child := tracer.Start(trace.ContextWithRemoteSpanContext(t.Context(), refused), "work")
	if child.SpanContext().IsSampled() {
		t.Error("the decision of the sender is not respected")
	}
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	never, _, _ := started(t, collector.URL(), func(o *telemetry.Options) { o.SampleRatio = 0 })
	asked := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true, TraceFlags: trace.FlagsSampled,
	})
	_, wanted := never.Tracers().Tracer("test").Start(trace.ContextWithRemoteSpanContext(t.Context(), asked), "work")
	wanted.End()
	spans(never, 100)
	if err := never.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(collector.Spans()); got != 1 {
		t.Errorf("%d spans have arrived, want only the one that the sender asked for", got)
	}
}

// TestHTTP shows that a request is one trace in client and server.
func TestHTTP(t *testing.T) {
	collector := testenv.NewCollector(t)
	sends, _, _ := started(t, collector.URL(), nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewServer(sends.Handler(mux, func(r *http.Request) bool { return r.URL.Path == "/health" }))
	defer server.Close()
	direct := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: sends.Transport("shop")(direct)}
	ctx, request := sends.Tracers().Tracer("test").Start(t.Context(), "request")
	for _, path := range []string{"/items/7", "/health"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	request.End()
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := request.SpanContext().TraceID()
	names := map[string]int{}
	for _, span := range collector.Spans() {
		if trace.TraceID(span.GetTraceId()) != id {
			t.Errorf("%s belongs to another trace", span.GetName())
		}
		names[span.GetName()]++
	}
	if want := map[string]int{"request": 1, "GET shop": 2, "GET /items/{id}": 1}; !maps.Equal(names, want) {
		t.Errorf("spans: %v, want %v", names, want)
	}
}

// TestTextsOfClients shows that no client can make the spans of others get lost, with text
// that is not valid or very long.
func TestTextsOfClients(t *testing.T) {
	collector := testenv.NewCollector(t)
	sends, c, _ := started(t, collector.URL(), nil)
	_, span := sends.Tracers().Tracer("test").Start(t.Context(), "a\xff")
	span.SetAttributes(attribute.String("agent", "b\xff"), attribute.String("path", strings.Repeat("/", 1<<20)))
	span.RecordError(errors.New("c\xff"))
	span.SetStatus(codes.Error, "d\xff")
	span.End()
	spans(sends, 10)
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	arrived := collector.Spans()
	if len(arrived) != 11 || c.get()["spans sent"] != 11 {
		t.Fatalf("%d spans have arrived: %v", len(arrived), c.get())
	}
	if first := arrived[0]; first.GetName() != "a\uFFFD" || first.Attributes["agent"] != "b\uFFFD" || len(first.Attributes["path"]) != 512 || first.GetStatus().GetMessage() != "d\uFFFD" {
		t.Errorf("the span is %v", first)
	}
}

// TestContextIsPassedOn shows that the services behind this one learn that a trace is not
// recorded, so that they do not begin one of their own.
func TestContextIsPassedOn(t *testing.T) {
	collector := testenv.NewCollector(t)
	sends, _, _ := started(t, collector.URL(), func(o *telemetry.Options) { o.SampleRatio = 0 })
	var header string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { header = r.Header.Get("Traceparent") }))
	defer server.Close()
	ctx, span := sends.Tracers().Tracer("test").Start(t.Context(), "request")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := sends.Transport("shop")(&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if want := "00-" + span.SpanContext().TraceID().String() + "-" + span.SpanContext().SpanID().String() + "-00"; header != want || req.Header.Get("Traceparent") != "" {
		t.Errorf("the header is %q, want %q", header, want)
	}
	if err := sends.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsSentWithoutAnEndpoint(t *testing.T) {
	sends, c, _ := started(t, "", nil)
	handler := http.NewServeMux()
	if sends.Tracers() != nil || sends.Transport("shop") != nil || sends.Handler(handler, nil) != http.Handler(handler) {
		t.Error("something is instrumented")
	}
	if err := sends.Shutdown(t.Context()); err != nil || len(c.get()) > 0 {
		t.Errorf("shutdown: %v, counted: %v", err, c.get())
	}
}

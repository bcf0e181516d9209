package serve_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/telemetry"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// traced makes a service send its telemetry to the collector, with simulated upstreams that
// do so too. The returned function must be called when the service has stopped.
func traced(t *testing.T, f *fixture, cfg *config.Config, collector *testenv.Collector) (stop func()) {
	t.Helper()
	cfg.OTLP.Endpoint, cfg.OTLP.SampleRatio = config.NewURL(collector.URL()), 1
	var stops []func()
	for name, upstream := range map[string]struct {
		handler http.Handler
		url     *config.URL
	}{"payment": {f.payment, &cfg.Payment.URL}, "inventory": {f.inventory, &cfg.Inventory.URL}} {
		sends, err := telemetry.Start(t.Context(), telemetry.Options{
			Endpoint: collector.URL(), Service: name, SampleRatio: 1, Timeout: testenv.Patience, Log: zap.NewNop(),
		})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(sends.Handler(upstream.handler, func(*http.Request) bool { return false }))
		*upstream.url = config.NewURL(server.URL)
		stops = append(stops, func() {
			server.Close()
			if err := sends.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// TestTraceOfAnOrder follows one order through the order service, its databases, payment and
// inventory, and finds the logs and the metrics that belong to it.
func TestTraceOfAnOrder(t *testing.T) {
	collector := testenv.NewCollector(t)
	core, logs := observer.New(zapcore.InfoLevel)
	var stopUpstreams func()
	f := started(t, func(f *fixture, cfg *config.Config) {
		f.log = zap.New(core)
		f.live.Version = "1.2.3"
		stopUpstreams = traced(t, f, cfg, collector)
	})
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	o := f.order(http.StatusCreated, http.MethodPost, "/api/orders", newOrder, "Traceparent", "00-"+id+"-00f067aa0ba902b7-01")
	if status, _ := f.do(http.MethodGet, "/health/ready", ""); status != http.StatusOK {
		t.Errorf("readiness: %d", status)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	stopUpstreams()

	checkSpans(t, collector.Spans(), id, o)
	lines := map[string]bool{}
	for _, entry := range logs.All() {
		if entry.ContextMap()["trace_id"] == id {
			lines[entry.Message] = true
		}
	}
	if !lines["request"] || !lines["order settled"] || len(lines) != 2 {
		t.Errorf("log entries of the trace: %v", lines)
	}
	if got := collector.Sum("http_requests_total"); got != 1 {
		t.Errorf("%v requests were counted", got)
	}
	for _, metric := range []string{"http_request_duration_seconds", "db_query_duration_seconds", "order_amount_dollars"} {
		found := false
		for _, exemplar := range collector.Exemplars(metric) {
			found = found || hex.EncodeToString(exemplar) == id
		}
		if !found {
			t.Errorf("%s does not lead to the trace", metric)
		}
	}
}

// checkSpans checks the spans of the trace in which the order was created.
func checkSpans(t *testing.T, all []testenv.Span, id string, created order.Order) {
	t.Helper()
	byID := map[string]testenv.Span{}
	var spans []testenv.Span
	for _, span := range all {
		if hex.EncodeToString(span.GetTraceId()) == id {
			byID[string(span.GetSpanId())] = span
			spans = append(spans, span)
		} else if span.GetKind() == tracepb.Span_SPAN_KIND_SERVER {
			t.Errorf("another request was traced: %s", span.GetName())
		}
	}
	// Each span, its service and the span that it belongs to.
	for _, want := range []struct{ service, name, parent string }{
		{"order-service", "POST /api/orders", ""},
		{"order-service", "insert_order", "POST /api/orders"},
		{"order-service", "INSERT", "insert_order"},
		{"order-service", "settle order", "POST /api/orders"},
		{"order-service", "POST inventory", "settle order"},
		{"inventory", "POST /reservations", "POST inventory"},
		{"order-service", "POST payment", "settle order"},
		{"payment", "POST /payments", "POST payment"},
		{"order-service", "settle_order", "settle order"},
		{"order-service", "UPDATE", "settle_order"},
		{"order-service", "evalsha", "settle order"},
	} {
		found := false
		for _, span := range spans {
			parent := byID[string(span.GetParentSpanId())]
			if span.GetName() == want.name && span.Resource["service.name"] == want.service && (want.parent == "" || parent.GetName() == want.parent) {
				found = true
			}
		}
		if !found {
			t.Errorf("there is no span %+v", want)
		}
	}
	for _, span := range spans {
		switch span.GetName() {
		case "POST /api/orders":
			if span.Attributes["order.id"] != created.ID.String() || !strings.Contains(span.Attributes["order.amount"], "25") || span.Resource["service.version"] != "1.2.3" {
				t.Errorf("the span of the request has %v and %v", span.Attributes, span.Resource)
			}
		case "insert_order":
			if span.Attributes["db.system"] != "postgresql" || span.Attributes["db.operation"] != "insert_order" {
				t.Errorf("the span of the database has %v", span.Attributes)
			}
		}
		for key, value := range span.Attributes {
			if strings.Contains(value, "c-1") {
				t.Errorf("%s of %s has the value of a parameter: %s", key, span.GetName(), value)
			}
		}
	}
}

// TestErrorsAreRecorded shows that the span of a failed call has the error.
func TestErrorsAreRecorded(t *testing.T) {
	collector := testenv.NewCollector(t)
	var stopUpstreams func()
	f := started(t, func(f *fixture, cfg *config.Config) { stopUpstreams = traced(t, f, cfg, collector) })
	f.postgres.Down()
	if status, _ := f.do(http.MethodPost, "/api/orders", newOrder); status != http.StatusServiceUnavailable {
		t.Errorf("without a database: %d", status)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	stopUpstreams()
	failed := map[string]bool{}
	for _, span := range collector.Spans() {
		if span.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR && len(span.GetEvents()) > 0 {
			failed[span.GetName()] = true
		}
	}
	if !failed["POST /api/orders"] || !failed["insert_order"] {
		t.Errorf("spans with an error: %v", failed)
	}
}

// TestNothingIsLostWhenTheServiceStops stops the service under load: no request fails, and
// the spans, metrics and log entries of all requests arrive.
func TestNothingIsLostWhenTheServiceStops(t *testing.T) {
	collector := testenv.NewCollector(t)
	core, logs := observer.New(zapcore.InfoLevel)
	var stopUpstreams func()
	f := started(t, func(f *fixture, cfg *config.Config) {
		f.log = zap.New(core)
		// Every client has time to see that the service is not ready.
		cfg.Shutdown.DrainDelay = config.Duration{Duration: 2 * time.Second}
		stopUpstreams = traced(t, f, cfg, collector)
	})
	var mu sync.Mutex
	answered := map[int]int{}
	var workers sync.WaitGroup
	var leave atomic.Bool
	for range 4 {
		workers.Go(func() {
			for !leave.Load() {
				status, _, err := f.try(http.MethodPost, f.url+"/api/orders", strings.Replace(newOrder, "book", rand.Text(), 1))
				if err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				mu.Lock()
				answered[status]++
				mu.Unlock()
			}
		})
	}
	testenv.Eventually(t, "some orders", func() bool { return logs.FilterMessage("request").Len() > 50 })
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	// Like a load balancer, the clients leave when the service is not ready any more.
	testenv.Eventually(t, "the service to be unready", func() bool {
		status, _, err := f.try(http.MethodGet, f.url+"/health/ready", "")
		return err != nil || status != http.StatusOK
	})
	leave.Store(true)
	workers.Wait()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	stopUpstreams()
	total := answered[http.StatusCreated]
	if total < 50 || len(answered) != 1 {
		t.Fatalf("answered: %v", answered)
	}
	requests, payments := 0, 0
	for _, span := range collector.Spans() {
		switch span.GetName() {
		case "POST /api/orders":
			requests++
		case "POST /payments":
			payments++
		}
	}
	lines := logs.FilterMessage("request").Len()
	if requests != total || payments != total || lines != total || int(collector.Sum("http_requests_total")) != total {
		t.Errorf("%d orders, but %d spans of requests, %d of payments, %d log entries and %v counted", total, requests, payments, lines, collector.Sum("http_requests_total"))
	}
}

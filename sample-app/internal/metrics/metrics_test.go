package metrics_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/slipway-ci/slipway/sample-app/internal/metrics"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

func TestMetrics(t *testing.T) {
	m := metrics.New()
	m.Request(t.Context(), "GET", "/api/orders", 200, 3*time.Millisecond)
	m.Request(t.Context(), "GET", "/api/orders", 200, 3*time.Millisecond)
	m.Query(t.Context(), "get_order", time.Millisecond)
	m.ConnState(nil, http.StateNew)
	m.ConnState(nil, http.StateNew)
	m.ConnState(nil, http.StateActive)
	m.ConnState(nil, http.StateClosed)
	m.OrderCreated(t.Context(), order.Order{Status: order.StatusConfirmed, Total: order.Money{Amount: 12345, Currency: "USD"}})
	m.OrderCreated(t.Context(), order.Order{Status: order.StatusConfirmed, Total: order.Money{Amount: 1, Currency: "EUR"}})
	m.OrderCreated(t.Context(), order.Order{Status: order.StatusRejected, Total: order.Money{Amount: 1, Currency: "USD"}})
	m.PaymentFailed(t.Context(), "payment_declined")
	depth := int64(4)
	m.Queue("payment", func() int64 { return depth })
	depth = 7

	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	for _, want := range []string{
		`http_requests_total{endpoint="/api/orders",method="GET",status="200"} 2`,
		`http_request_duration_seconds_bucket{endpoint="/api/orders",method="GET",status="200",le="0.001"} 0`,
		`http_request_duration_seconds_bucket{endpoint="/api/orders",method="GET",status="200",le="0.005"} 2`,
		`http_request_duration_seconds_bucket{endpoint="/api/orders",method="GET",status="200",le="5"} 2`,
		`db_query_duration_seconds_count{query="get_order"} 1`,
		`active_connections 1`,
		`orders_created_total{status="confirmed"} 2`,
		`orders_created_total{status="rejected"} 1`,
		`order_amount_dollars_sum 123.45`,
		`order_amount_dollars_count 1`,
		`payments_failed_total{reason="payment_declined"} 1`,
		`queue_depth{queue="payment"} 7`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
}

// TestExemplars shows that metrics lead to traces, but only to those that are recorded.
func TestExemplars(t *testing.T) {
	m := metrics.New()
	in := func(id byte, flags trace.TraceFlags) context.Context {
		return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{id}, SpanID: trace.SpanID{1}, TraceFlags: flags,
		}))
	}
	m.Request(in(0xaa, trace.FlagsSampled), "GET", "/api/orders", 200, 3*time.Millisecond)
	m.Request(in(0xbb, 0), "GET", "/api/orders", 200, 3*time.Millisecond)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, req)
	for _, want := range []string{
		`http_requests_total{endpoint="/api/orders",method="GET",status="200"} 2.0 # {`,
		`http_request_duration_seconds_bucket{endpoint="/api/orders",method="GET",status="200",le="0.005"} 2 # {`,
		`trace_id="aa000000000000000000000000000000"`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(w.Body.String(), `trace_id="bb`) {
		t.Error("a metric leads to a trace that was not recorded")
	}
}

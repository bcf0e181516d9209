package metrics_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/sample-app/internal/metrics"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

func TestMetrics(t *testing.T) {
	m := metrics.New()
	m.Request("GET", "/api/orders", 200, 3*time.Millisecond)
	m.Request("GET", "/api/orders", 200, 3*time.Millisecond)
	m.Query("get_order", time.Millisecond)
	m.ConnState(nil, http.StateNew)
	m.ConnState(nil, http.StateNew)
	m.ConnState(nil, http.StateActive)
	m.ConnState(nil, http.StateClosed)
	m.OrderCreated(order.Order{Status: order.StatusConfirmed, Total: order.Money{Amount: 12345, Currency: "USD"}})
	m.OrderCreated(order.Order{Status: order.StatusConfirmed, Total: order.Money{Amount: 1, Currency: "EUR"}})
	m.OrderCreated(order.Order{Status: order.StatusRejected, Total: order.Money{Amount: 1, Currency: "USD"}})
	m.PaymentFailed("payment_declined")
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

// Package metrics contains the service's Prometheus metrics.
package metrics

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Metrics is a set of metrics with its own registry, so that several services can run
// in one process. It is an order.Recorder and safe for concurrent use.
type Metrics struct {
	registry       *prometheus.Registry
	requests       *prometheus.CounterVec
	duration       *prometheus.HistogramVec
	connections    prometheus.Gauge
	orders         *prometheus.CounterVec
	amount         prometheus.Histogram
	paymentsFailed *prometheus.CounterVec
	query          *prometheus.HistogramVec
	reloads        *prometheus.CounterVec
	reloaded       *prometheus.GaugeVec
	telemetry      *prometheus.CounterVec
}

var latencyBuckets = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5} //nolint:gochecknoglobals // Go has no constant slices

// New returns Metrics that include those of the Go runtime and of the process.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total",
			Help: "Number of HTTP requests, by method, route and status.",
		}, []string{"method", "endpoint", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "http_request_duration_seconds",
			Help:    "Duration of HTTP requests in seconds, by method, route and status.",
			Buckets: latencyBuckets,
		}, []string{"method", "endpoint", "status"}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "active_connections",
			Help: "Number of open client connections to the API, including idle ones.",
		}),
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orders_created_total",
			Help: "Number of settled orders, by status.",
		}, []string{"status"}),
		amount: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "order_amount_dollars",
			Help:    "Total amount of confirmed orders in USD. Orders in other currencies are not included.",
			Buckets: []float64{10, 50, 100, 200, 500, 1000, 5000},
		}),
		paymentsFailed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "payments_failed_total",
			Help: "Number of payments that were declined or failed, by reason.",
		}, []string{"reason"}),
		query: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "db_query_duration_seconds",
			Help:    "Duration of database calls in seconds, by call.",
			Buckets: latencyBuckets,
		}, []string{"query"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "config_reloads_total",
			Help: "Number of times that a file was read again after a change, by file and result.",
		}, []string{"file", "result"}),
		reloaded: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "config_last_reload_successful",
			Help: "Whether the newest content of a file is used (1), or the one before it because the newest is invalid (0).",
		}, []string{"file"}),
		telemetry: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "telemetry_exported_total",
			Help: "Number of spans, and of exports of metrics, for the collector, by result: sent, failed, or dropped because too many were waiting.",
		}, []string{"signal", "result"}),
	}
	m.registry.MustRegister(
		m.requests, m.duration, m.connections, m.orders, m.amount, m.paymentsFailed, m.query, m.reloads, m.reloaded, m.telemetry,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Handler returns a handler that serves the metrics. Exemplars are part of the OpenMetrics
// format only, which Prometheus asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, EnableOpenMetrics: true})
}

// Gatherer returns the metrics to whom sends them elsewhere.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Telemetry counts spans or exports of metrics for the collector.
func (m *Metrics) Telemetry(signal, result string, n int) {
	m.telemetry.WithLabelValues(signal, result).Add(float64(n))
}

// observe observes a value, with the trace of ctx as its exemplar if the trace is recorded.
func observe(ctx context.Context, o prometheus.Observer, value float64) {
	if labels := exemplar(ctx); labels != nil {
		if e, ok := o.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(value, labels)
			return
		}
	}
	o.Observe(value)
}

// increase adds one, with the trace of ctx as its exemplar if the trace is recorded.
func increase(ctx context.Context, c prometheus.Counter) {
	if labels := exemplar(ctx); labels != nil {
		if e, ok := c.(prometheus.ExemplarAdder); ok {
			e.AddWithExemplar(1, labels)
			return
		}
	}
	c.Inc()
}

// exemplar returns the labels that lead to the trace of ctx, or nil if it is not recorded.
func exemplar(ctx context.Context) prometheus.Labels {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsSampled() {
		return nil
	}
	return prometheus.Labels{"trace_id": span.TraceID().String(), "span_id": span.SpanID().String()}
}

// Request records a request. path must be the pattern of the route and not the path
// of the request, because otherwise clients could create any number of time series.
func (m *Metrics) Request(ctx context.Context, method, path string, status int, took time.Duration) {
	code := strconv.Itoa(status)
	increase(ctx, m.requests.WithLabelValues(method, path, code))
	observe(ctx, m.duration.WithLabelValues(method, path, code), took.Seconds())
}

// ConnState counts connections. Use it as ConnState of an http.Server.
func (m *Metrics) ConnState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		m.connections.Inc()
	case http.StateClosed, http.StateHijacked:
		m.connections.Dec()
	case http.StateActive, http.StateIdle:
	}
}

// Query records a database call with its name and duration.
func (m *Metrics) Query(ctx context.Context, query string, took time.Duration) {
	observe(ctx, m.query.WithLabelValues(query), took.Seconds())
}

// OrderCreated implements order.Recorder.
func (m *Metrics) OrderCreated(ctx context.Context, o order.Order) {
	increase(ctx, m.orders.WithLabelValues(string(o.Status)))
	if o.Status == order.StatusConfirmed && o.Total.Currency == "USD" {
		observe(ctx, m.amount, float64(o.Total.Amount)/100)
	}
}

// PaymentFailed implements order.Recorder.
func (m *Metrics) PaymentFailed(ctx context.Context, reason string) {
	increase(ctx, m.paymentsFailed.WithLabelValues(reason))
}

// Reload records that a file was read again after a change, and whether its content is used.
func (m *Metrics) Reload(file string, ok bool) {
	result, value := "failed", 0.0
	if ok {
		result, value = "ok", 1
	}
	m.reloads.WithLabelValues(file, result).Inc()
	m.reloaded.WithLabelValues(file).Set(value)
}

// Queue adds a metric for the number of requests that wait for the named upstream.
func (m *Metrics) Queue(name string, depth func() int64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "queue_depth",
		Help:        "Number of requests that are waiting to be sent to an upstream.",
		ConstLabels: prometheus.Labels{"queue": name},
	}, func() float64 { return float64(depth()) }))
}

// Pool adds metrics for the connections of the database pool.
func (m *Metrics) Pool(stat func() *pgxpool.Stat) {
	for state, value := range map[string]func(*pgxpool.Stat) int32{
		"idle":     (*pgxpool.Stat).IdleConns,
		"acquired": (*pgxpool.Stat).AcquiredConns,
		"max":      (*pgxpool.Stat).MaxConns,
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "db_connections",
			Help:        "Number of connections in the database pool, by state.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(value(stat())) }))
	}
}

package testenv

import (
	"context"
	"net"
	"sync"
	"testing"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Collector is a simulated OpenTelemetry collector, which keeps what it gets.
type Collector struct {
	collectortrace.UnimplementedTraceServiceServer

	address string
	open    chan struct{} // closed while requests are answered

	mu      sync.Mutex
	refuse  int // number of requests to refuse
	spans   []Span
	metrics map[string]*metricspb.Metric
}

// Span is a span with the attributes of its process.
type Span struct {
	*tracepb.Span
	// Attributes are those of the span, and Resource those of the process.
	Attributes, Resource map[string]string
}

// NewCollector returns a Collector on 127.0.0.1, which is stopped at the end of the test.
func NewCollector(t *testing.T) *Collector {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{address: l.Addr().String(), open: make(chan struct{}), metrics: map[string]*metricspb.Metric{}}
	server := grpc.NewServer()
	collectortrace.RegisterTraceServiceServer(server, c)
	collectormetrics.RegisterMetricsServiceServer(server, metricsService{collector: c})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	c.Answer()
	return c
}

// URL returns the URL of the Collector.
func (c *Collector) URL() string { return "http://" + c.address }

// Hold makes all requests wait until Answer is called or their client gives up.
func (c *Collector) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = make(chan struct{})
}

// Answer answers all requests that wait, and the following ones.
func (c *Collector) Answer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.open)
}

// Refuse refuses the next n requests with a status after which they can be sent again.
func (c *Collector) Refuse(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = n
}

// Spans returns all spans so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Sum returns the newest value of a counter, or the newest number of observations of a
// histogram, over all its attributes.
func (c *Collector) Sum(name string) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0.0
	for _, p := range c.metrics[name].GetSum().GetDataPoints() {
		sum += p.GetAsDouble() + float64(p.GetAsInt())
	}
	for _, p := range c.metrics[name].GetHistogram().GetDataPoints() {
		sum += float64(p.GetCount())
	}
	return sum
}

// Exemplars returns the trace IDs of the exemplars of a histogram, in bytes.
func (c *Collector) Exemplars(name string) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids [][]byte
	for _, p := range c.metrics[name].GetHistogram().GetDataPoints() {
		for _, e := range p.GetExemplars() {
			ids = append(ids, e.GetTraceId())
		}
	}
	return ids
}

func (c *Collector) wait(ctx context.Context) error {
	c.mu.Lock()
	open, refused := c.open, c.refuse > 0
	c.refuse = max(c.refuse-1, 0)
	c.mu.Unlock()
	if refused {
		return status.Error(codes.Unavailable, "refused by the test")
	}
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Export implements the service for traces.
func (c *Collector) Export(ctx context.Context, r *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range r.GetResourceSpans() {
		about := texts(process.GetResource().GetAttributes())
		for _, scope := range process.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, Span{Span: span, Attributes: texts(span.GetAttributes()), Resource: about})
			}
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

// metricsService is the service for metrics.
type metricsService struct {
	collectormetrics.UnimplementedMetricsServiceServer

	collector *Collector
}

// Export implements the service for metrics.
func (s metricsService) Export(ctx context.Context, r *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	if err := s.collector.wait(ctx); err != nil {
		return nil, err
	}
	s.collector.mu.Lock()
	defer s.collector.mu.Unlock()
	for _, process := range r.GetResourceMetrics() {
		for _, scope := range process.GetScopeMetrics() {
			for _, metric := range scope.GetMetrics() {
				s.collector.metrics[metric.GetName()] = metric
			}
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

// texts returns attributes as texts.
func texts(attributes []*commonpb.KeyValue) map[string]string {
	out := make(map[string]string, len(attributes))
	for _, a := range attributes {
		value := a.GetValue().GetStringValue()
		if value == "" {
			value = a.GetValue().String()
		}
		out[a.GetKey()] = value
	}
	return out
}

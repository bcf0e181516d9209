package telemetry

import (
	"context"
	"encoding/hex"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// exemplarProducer decodes the IDs in exemplars. The bridge from Prometheus passes them on as
// hexadecimal text, but OTLP has them as bytes, and a collector refuses IDs of any other
// length.
type exemplarProducer struct{ sdkmetric.Producer }

// Produce implements sdkmetric.Producer.
func (p exemplarProducer) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	scopes, err := p.Producer.Produce(ctx)
	for i := range scopes {
		for _, metric := range scopes[i].Metrics {
			switch data := metric.Data.(type) {
			case metricdata.Sum[float64]:
				for _, point := range data.DataPoints {
					decode(point.Exemplars)
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					decode(point.Exemplars)
				}
			}
		}
	}
	return scopes, err
}

// decode decodes the IDs of exemplars in place.
func decode(exemplars []metricdata.Exemplar[float64]) {
	for i := range exemplars {
		exemplars[i].TraceID = decodeID(exemplars[i].TraceID)
		exemplars[i].SpanID = decodeID(exemplars[i].SpanID)
	}
}

// decodeID returns an ID in bytes. It returns nil if the ID is not hexadecimal.
func decodeID(id []byte) []byte {
	decoded, err := hex.DecodeString(string(id))
	if err != nil {
		return nil
	}
	return decoded
}

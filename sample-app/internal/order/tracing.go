package order

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Attributes of spans.
const (
	attributeID       = attribute.Key("order.id")
	attributeAmount   = attribute.Key("order.amount") // in units of the currency, for example dollars
	attributeCurrency = attribute.Key("order.currency")
	attributeStatus   = attribute.Key("order.status")
	attributeReason   = attribute.Key("order.reason")
)

// describe adds what an order is to the span of ctx, so that its trace can be found by the
// ID of the order.
func describe(ctx context.Context, o Order) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attributeID.String(o.ID.String()),
		attributeAmount.Float64(float64(o.Total.Amount)/100),
		attributeCurrency.String(o.Total.Currency),
		attributeStatus.String(string(o.Status)),
	)
	if o.Reason != "" {
		span.SetAttributes(attributeReason.String(o.Reason))
	}
}

// fail records an error in the span of ctx.
func fail(ctx context.Context, err error) {
	span := trace.SpanFromContext(ctx)
	span.RecordError(err)
	span.SetStatus(codes.Error, err.Error())
}

package telemetry

import (
	"slices"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// validSpan is a span whose texts are valid UTF-8. Clients choose some of them, and one that
// is not valid would make the export of all spans fail.
type validSpan struct{ sdktrace.ReadOnlySpan }

// Name implements sdktrace.ReadOnlySpan.
func (s validSpan) Name() string { return valid(s.ReadOnlySpan.Name()) }

// Attributes implements sdktrace.ReadOnlySpan.
func (s validSpan) Attributes() []attribute.KeyValue {
	return validAttributes(s.ReadOnlySpan.Attributes())
}

// Events implements sdktrace.ReadOnlySpan.
func (s validSpan) Events() []sdktrace.Event {
	events := slices.Clone(s.ReadOnlySpan.Events())
	for i := range events {
		events[i].Name, events[i].Attributes = valid(events[i].Name), validAttributes(events[i].Attributes)
	}
	return events
}

// Status implements sdktrace.ReadOnlySpan.
func (s validSpan) Status() sdktrace.Status {
	status := s.ReadOnlySpan.Status()
	status.Description = valid(status.Description)
	return status
}

// validAttributes returns the attributes with valid texts.
func validAttributes(all []attribute.KeyValue) []attribute.KeyValue {
	for i, a := range all {
		if a.Value.Type() == attribute.STRING && !utf8.ValidString(a.Value.AsString()) {
			all = slices.Clone(all)
			all[i].Value = attribute.StringValue(valid(a.Value.AsString()))
		}
	}
	return all
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

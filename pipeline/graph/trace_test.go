package graph_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// TestSpan checks that each step has a span below that of the run, with its outcome.
func TestSpan(t *testing.T) {
	type span struct{ Name, Outcome, Summary, Status string }
	tests := []struct {
		name      string
		out       graph.Outcome
		err       error
		cancelled bool
		want      span
	}{
		{name: "passed", out: graph.Outcome{Kind: progress.Passed, Summary: "no findings"}, want: span{"lint", "passed", "no findings", ""}},
		{name: "unchanged", out: graph.Outcome{Kind: progress.Unchanged, Summary: "no findings"}, want: span{"lint", "unchanged", "no findings", ""}},
		{name: "skipped", out: graph.Outcome{Kind: progress.Skipped, Summary: "lint is off"}, want: span{"lint", "skipped", "lint is off", ""}},
		{name: "failed", err: errors.New("1 finding\nmain.go:1"), want: span{"lint", "failed", "1 finding", "1 finding"}},
		{name: "cancelled", cancelled: true, want: span{"lint", "cancelled", "interrupted", ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			recorder := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctx, root := provider.Tracer("test").Start(ctx, "slipway lint")
			if tt.cancelled {
				cancel()
			}
			_, _ = graph.Run(ctx, &sink{}, []graph.Step{{Name: "lint", Run: func(context.Context) (graph.Outcome, error) { return tt.out, tt.err }}})
			ended := recorder.Ended()
			if len(ended) != 1 || ended[0].Parent().SpanID() != root.SpanContext().SpanID() {
				t.Fatalf("got %v, want one span under the root", ended)
			}
			got := span{Name: ended[0].Name(), Status: ended[0].Status().Description}
			for _, a := range ended[0].Attributes() {
				switch a.Key {
				case "slipway.outcome":
					got.Outcome = a.Value.AsString()
				case "slipway.summary":
					got.Summary = a.Value.AsString()
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if failed := ended[0].Status().Code == codes.Error; failed != (tt.err != nil) {
				t.Errorf("status %v", ended[0].Status())
			}
		})
	}
}

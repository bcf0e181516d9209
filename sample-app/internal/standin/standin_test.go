package standin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/sample-app/internal/standin"
)

func TestResponses(t *testing.T) {
	tests := []struct {
		name, method, path, body string
		want                     int
		wantBody                 string
	}{
		{name: "approve", method: "POST", path: "/payments", body: `{"id":"a","amount":10,"currency":"EUR"}`, want: 200, wantBody: "approved"},
		{name: "decline", method: "POST", path: "/payments", body: `{"id":"b","amount":11,"currency":"EUR"}`, want: 200, wantBody: "declined"},
		{name: "show", method: "GET", path: "/payments/a", want: 200, wantBody: "approved"},
		{name: "unknown payment", method: "GET", path: "/payments/x", want: 404},
		{name: "payment without id", method: "POST", path: "/payments", body: `{"amount":1}`, want: 400},
		{name: "unknown field", method: "POST", path: "/payments", body: `{"id":"c","amout":1}`, want: 400},
		{name: "reserve", method: "POST", path: "/reservations", body: `{"id":"a","items":[{"sku":"x","quantity":2}]}`, want: 201},
		{name: "repeated request", method: "POST", path: "/reservations", body: `{"id":"a","items":[{"sku":"x","quantity":2}]}`, want: 200},
		{name: "too much", method: "POST", path: "/reservations", body: `{"id":"b","items":[{"sku":"y","quantity":1},{"sku":"x","quantity":2}]}`, want: 409},
		{name: "all or nothing", method: "GET", path: "/stock/y", want: 200, wantBody: `"left":3`},
		{name: "negative quantity", method: "POST", path: "/reservations", body: `{"id":"c","items":[{"sku":"x","quantity":-1}]}`, want: 400},
		{name: "nothing to reserve", method: "POST", path: "/reservations", body: `{"id":"c"}`, want: 400},
		{name: "not JSON", method: "POST", path: "/reservations", body: `{`, want: 400},
		{name: "health", method: "GET", path: "/health/live", want: 200},
	}
	payment, inventory := standin.NewPayment(10), standin.NewInventory(3, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			handler := http.Handler(inventory)
			if strings.HasPrefix(tt.path, "/payments") {
				handler = payment
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, strings.NewReader(tt.body)))
			if w.Code != tt.want || !strings.Contains(w.Body.String(), tt.wantBody) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tt.want, tt.wantBody)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	p := standin.NewPayment(10)
	p.Rate, p.Latency = 1, time.Millisecond
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/payments/a", http.NoBody))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d with a failure rate of 1", w.Code)
	}
	p.Latency = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/payments/a", http.NoBody))
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- standin.Serve(ctx, l, standin.NewPayment(1)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/health/live", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := standin.Serve(t.Context(), l, nil); err == nil {
		t.Error("a closed listener must be an error")
	}
}

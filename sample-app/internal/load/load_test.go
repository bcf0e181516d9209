package load_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/sample-app/internal/load"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReport(t *testing.T) {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"status":"rejected"}`)
		default:
			if r.URL.Path != "/shop/api/orders" {
				t.Errorf("path %s", r.URL.Path)
			}
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"status":"confirmed"}`)
		}
	}))
	defer server.Close()
	got, err := load.Run(t.Context(), load.Options{URL: server.URL + "/shop", Rate: 1e6, Requests: 100, Timeout: testenv.Patience})
	if err != nil {
		t.Fatal(err)
	}
	if got.Orders["confirmed"] != 98 || got.Orders["rejected"] != 1 || got.Failed != 1 || len(got.Latencies) != 100 {
		t.Errorf("report: %+v", got)
	}
	for _, want := range []string{"100 requests: 98 confirmed, 1 rejected, 1 failed in ", "503 Service Unavailable: busy"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	if got.Quantile(0) > got.Quantile(0.5) || got.Quantile(0.5) > got.Quantile(1) {
		t.Error("the latencies are not in order")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cancel() }))
	defer server.Close()
	got, err := load.Run(ctx, load.Options{URL: server.URL, Rate: 0.01, Requests: 2, Timeout: time.Hour})
	if err != nil || len(got.Latencies) != 1 {
		t.Errorf("%d requests, %v", len(got.Latencies), err)
	}
}

// TestConcurrency shows that no more requests than permitted are sent at the same time.
func TestConcurrency(t *testing.T) {
	var open, most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now := open.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{}`)
		open.Add(-1)
	}))
	defer server.Close()
	got, err := load.Run(t.Context(), load.Options{URL: server.URL, Concurrency: 3, Requests: 200, Timeout: testenv.Patience})
	if err != nil || got.Orders["without a status"] != 200 || most.Load() > 3 {
		t.Errorf("%d at the same time, %+v, %v", most.Load(), got.Orders, err)
	}
	if _, err := load.Run(t.Context(), load.Options{URL: server.URL, Requests: 1}); err == nil {
		t.Error("neither a rate nor a concurrency is accepted")
	}
}

package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/slipway-ci/slipway/sample-app/internal/health"
)

var errDown = errors.New("dial tcp 10.0.0.7:5432: connection refused")

func check(name string, required bool, err error) health.Check {
	return health.Check{Name: name, Required: required, Probe: func(context.Context) error { return err }}
}

func request(t *testing.T, probe http.HandlerFunc) (int, health.Report) {
	t.Helper()
	w := httptest.NewRecorder()
	probe(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	if strings.Contains(w.Body.String(), "10.0.0.7") {
		t.Errorf("the response contains an address: %s", w.Body)
	}
	var report health.Report
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	return w.Code, report
}

func TestReady(t *testing.T) {
	hangs := health.Check{Name: "db", Required: true, Probe: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	tests := []struct {
		name     string
		checks   []health.Check
		started  bool
		draining bool
		want     int
		status   health.Status
		dbError  string
	}{
		{name: "not started", want: 503, status: health.StatusStarting},
		{name: "no dependencies", started: true, want: 200, status: health.StatusOK},
		{name: "all available", started: true, checks: []health.Check{check("db", true, nil), check("cache", false, nil)}, want: 200, status: health.StatusOK},
		{name: "optional dependency unavailable", started: true, checks: []health.Check{check("db", true, nil), check("cache", false, errDown)}, want: 200, status: health.StatusDegraded},
		{name: "required dependency unavailable", started: true, checks: []health.Check{check("db", true, errDown), check("cache", false, nil)}, want: 503, status: health.StatusUnavailable, dbError: "unreachable"},
		{name: "both unavailable, required first", started: true, checks: []health.Check{check("db", true, errDown), check("cache", false, errDown)}, want: 503, status: health.StatusUnavailable, dbError: "unreachable"},
		{name: "both unavailable, optional first", started: true, checks: []health.Check{check("cache", false, errDown), check("db", true, errDown)}, want: 503, status: health.StatusUnavailable, dbError: "unreachable"},
		{name: "required dependency hangs", started: true, checks: []health.Check{hangs}, want: 503, status: health.StatusUnavailable, dbError: "timeout"},
		{name: "draining", started: true, draining: true, checks: []health.Check{check("db", true, nil)}, want: 503, status: health.StatusDraining},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := health.New(10*time.Millisecond, zap.NewNop(), tt.checks...)
			if tt.started {
				h.Start()
			}
			if tt.draining {
				h.Drain()
			}
			code, report := request(t, h.Ready)
			if code != tt.want || report.Status != tt.status || report.Checks["db"].Error != tt.dbError {
				t.Errorf("%d %+v, want %d %s with error %q", code, report, tt.want, tt.status, tt.dbError)
			}
		})
	}
}

func TestLiveAndStartupCheckNoDependency(t *testing.T) {
	h := health.New(time.Second, zap.NewNop(), check("db", true, errDown))
	if code, _ := request(t, h.Live); code != 200 {
		t.Errorf("live before start: %d", code)
	}
	if code, report := request(t, h.Startup); code != 503 || report.Status != health.StatusStarting {
		t.Errorf("startup before start: %d %+v", code, report)
	}
	h.Start()
	h.Drain()
	for name, probe := range map[string]http.HandlerFunc{"live": h.Live, "startup": h.Startup} {
		if code, _ := request(t, probe); code != 200 {
			t.Errorf("%s while draining without a database: %d", name, code)
		}
	}
}

func TestOnlyChangesAreLogged(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	var err error
	h := health.New(time.Second, zap.New(core), health.Check{Name: "db", Probe: func(context.Context) error { return err }})
	h.Start()
	for _, err = range []error{nil, errDown, errDown, errDown, nil, nil} {
		request(t, h.Ready)
	}
	var got []string
	for _, entry := range logs.All() {
		got = append(got, entry.Message)
	}
	if strings.Join(got, ", ") != "dependency stopped answering, dependency answers again" {
		t.Errorf("logged %q", got)
	}
}

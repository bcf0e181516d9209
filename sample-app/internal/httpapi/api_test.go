package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/slipway-ci/slipway/sample-app/internal/health"
	"github.com/slipway-ci/slipway/sample-app/internal/httpapi"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

const body = `{"customer_id":"c-1","currency":"EUR","items":[{"sku":"book","quantity":2,"unit_price":1250}]}`

// orders is an httpapi.Orders with fixed results.
type orders struct {
	order   order.Order
	created bool
	more    bool
	err     error
	panics  any
}

func (o orders) result() (order.Order, error) {
	if o.panics != nil {
		panic(o.panics)
	}
	return o.order, o.err
}

func (o orders) Create(_ context.Context, d order.Draft, _ string) (order.Order, bool, error) {
	got, err := o.result()
	got.Items, got.Total = d.Items, d.Total()
	return got, o.created, err
}

func (o orders) Get(context.Context, uuid.UUID) (order.Order, error)    { return o.result() }
func (o orders) Cancel(context.Context, uuid.UUID) (order.Order, error) { return o.result() }
func (o orders) List(context.Context, uuid.UUID, int) ([]order.Order, bool, error) {
	got, err := o.result()
	if got.ID == uuid.Nil {
		return nil, o.more, err
	}
	return []order.Order{got}, o.more, err
}

type observed struct {
	method, path string
	status       int
}

type fixture struct {
	http.Handler
	health *health.Health
	logs   *observer.ObservedLogs
	seen   []observed

	features httpapi.Features
}

// newAPI returns the API of a service that has started.
func newAPI(o orders) *fixture {
	f := newStartingAPI(o)
	f.health.Start()
	return f
}

func newStartingAPI(o orders) *fixture {
	core, logs := observer.New(zap.DebugLevel)
	f := &fixture{health: health.New(time.Second, zap.NewNop()), logs: logs}
	f.Handler = httpapi.New(httpapi.Options{
		Orders: o, Health: f.health, Log: zap.New(core),
		Observe: func(_ context.Context, method, path string, status int, _ time.Duration) {
			f.seen = append(f.seen, observed{method, path, status})
		},
		RequestTimeout: time.Minute, MaxBodyBytes: 2048, MaxInFlight: 1,
		Features: func() httpapi.Features { return f.features },
	})
	return f
}

func (f *fixture) do(t *testing.T, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	for pair := range slices.Chunk(header, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

// wantProblem checks that the response is a problem (RFC 9457) with the status.
func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, detail string) {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		Errors              []order.FieldError
	}
	if w.Code != status || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%d %s %s, want a problem with status %d", w.Code, w.Header().Get("Content-Type"), w.Body, status)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Type != "about:blank" || p.Status != status || p.Title == "" || !strings.Contains(w.Body.String(), detail) {
		t.Errorf("problem %s, want status %d and %q", w.Body, status, detail)
	}
}

func TestCreateResponses(t *testing.T) {
	id := uuid.New()
	tests := []struct {
		name   string
		orders orders
		want   int
	}{
		{"new", orders{order: order.Order{ID: id, Status: order.StatusConfirmed}, created: true}, 201},
		{"new but rejected", orders{order: order.Order{ID: id, Status: order.StatusRejected}, created: true}, 201},
		{"existing", orders{order: order.Order{ID: id, Status: order.StatusConfirmed}}, 200},
		{"unfinished", orders{order: order.Order{ID: id, Status: order.StatusPending}, created: true}, 202},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newAPI(tt.orders).do(t, http.MethodPost, "/api/orders", body)
			var got order.Order
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if w.Code != tt.want || got.ID != id || got.Total != (order.Money{Amount: 2500, Currency: "EUR"}) {
				t.Errorf("%d %+v, want %d", w.Code, got, tt.want)
			}
			if got := w.Header().Get("Location"); got != "/api/orders/"+id.String() {
				t.Errorf("location %q", got)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	const post, get = http.MethodPost, http.MethodGet
	tests := []struct {
		name, method, path, body string
		header                   []string
		want                     int
		detail                   string
	}{
		{name: "no body", method: post, path: "/api/orders", want: 400, detail: "body ends"},
		{name: "truncated", method: post, path: "/api/orders", body: body[:40], want: 400, detail: "body ends"},
		{name: "not JSON", method: post, path: "/api/orders", body: "hello", want: 400, detail: "invalid character"},
		{name: "unknown field", method: post, path: "/api/orders", body: `{"customer":"x"}`, want: 400, detail: "customer"},
		{name: "wrong type", method: post, path: "/api/orders", body: `{"customer_id":7}`, want: 400, detail: "customer_id must not be a JSON number"},
		{name: "array", method: post, path: "/api/orders", body: `[]`, want: 400, detail: "the body must not be a JSON array"},
		{name: "fraction of a cent", method: post, path: "/api/orders", body: strings.Replace(body, "1250", "12.50", 1), want: 400, detail: "unit_price"},
		{name: "two objects", method: post, path: "/api/orders", body: body + body, want: 400, detail: "after the JSON object"},
		{name: "too large", method: post, path: "/api/orders", body: `{"customer_id":"` + strings.Repeat("x", 4096) + `"}`, want: 413, detail: "2048 bytes"},
		{name: "other content type", method: post, path: "/api/orders", body: body, header: []string{"Content-Type", "text/plain"}, want: 415, detail: "application/json"},
		{name: "invalid", method: post, path: "/api/orders", body: strings.Replace(body, `"quantity":2`, `"quantity":0`, 1), want: 422, detail: `"pointer":"/items/0/quantity"`},
		{name: "empty key", method: post, path: "/api/orders", body: body, header: []string{"Idempotency-Key", ""}, want: 400, detail: "Idempotency-Key"},
		{name: "long key", method: post, path: "/api/orders", body: body, header: []string{"Idempotency-Key", strings.Repeat("k", 256)}, want: 400, detail: "Idempotency-Key"},
		{name: "invalid id", method: get, path: "/api/orders/1", want: 404, detail: "the order does not exist"},
		{name: "id in another format", method: get, path: "/api/orders/%7B0198c7a0-0000-7000-8000-000000000000%7D", want: 404, detail: "the order does not exist"},
		{name: "cancel with an invalid id", method: post, path: "/api/orders/1/cancel", want: 404, detail: "the order does not exist"},
		{name: "limit 0", method: get, path: "/api/orders?limit=0", want: 400, detail: "limit"},
		{name: "limit too high", method: get, path: "/api/orders?limit=101", want: 400, detail: "limit"},
		{name: "limit not a number", method: get, path: "/api/orders?limit=x", want: 400, detail: "limit"},
		{name: "cursor not base64", method: get, path: "/api/orders?cursor=%21", want: 400, detail: "cursor"},
		{name: "cursor too short", method: get, path: "/api/orders?cursor=AAAA", want: 400, detail: "cursor"},
		{name: "unknown path", method: get, path: "/api/nothing", want: 404, detail: "this path does not exist"},
		{name: "unsupported method", method: http.MethodDelete, path: "/api/orders", want: 405, detail: "Allow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantProblem(t, newAPI(orders{}).do(t, tt.method, tt.path, tt.body, tt.header...), tt.want, tt.detail)
		})
	}
}

func TestErrorsBecomeProblems(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.7:5432: refused")
	tests := []struct {
		err    error
		want   int
		logged bool
	}{
		{order.ErrNotFound, 404, false},
		{order.ErrIdempotencyMismatch, 422, false},
		{order.ErrNotCancellable, 409, false},
		{order.ErrStale, 409, false},
		{secret, 503, true},
		{context.Canceled, 503, true}, // not because of the client
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			api := newAPI(orders{err: fmt.Errorf("do it: %w", tt.err)})
			for _, path := range []string{"/api/orders", "/api/orders/" + uuid.NewString() + "/cancel"} {
				w := api.do(t, http.MethodPost, path, body)
				wantProblem(t, w, tt.want, "")
				if strings.Contains(w.Body.String(), "10.0.0.7") {
					t.Errorf("the response contains the internal error: %s", w.Body)
				}
			}
			for _, path := range []string{"/api/orders", "/api/orders/" + uuid.NewString()} {
				wantProblem(t, api.do(t, http.MethodGet, path, ""), tt.want, "")
			}
			if logged := api.logs.FilterLevelExact(zapcore.ErrorLevel).Len() > 0; logged != tt.logged {
				t.Errorf("logged as error: %v, want %v", logged, tt.logged)
			}
		})
	}
}

func TestDisconnectedClientIsNotAnError(t *testing.T) {
	api := newAPI(orders{err: context.Canceled})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/orders", http.NoBody))
	if n := api.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 0 {
		t.Errorf("%d errors logged", n)
	}
	if api.seen[0].status != 499 {
		t.Errorf("observed %+v", api.seen)
	}
}

func TestList(t *testing.T) {
	w := newAPI(orders{}).do(t, http.MethodGet, "/api/orders", "")
	if got := w.Body.String(); got != `{"orders":[]}` {
		t.Errorf("empty list is %s", got)
	}
	api := newAPI(orders{order: order.Order{ID: uuid.New()}, more: true})
	w = api.do(t, http.MethodGet, "/api/orders?limit=1", "")
	var got struct {
		Next string `json:"next_cursor"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Next == "" {
		t.Fatalf("list %s, error %v", w.Body, err)
	}
	if w := api.do(t, http.MethodGet, "/api/orders?cursor="+got.Next, ""); w.Code != http.StatusOK {
		t.Errorf("next page: %d %s", w.Code, w.Body)
	}
}

func TestPanicHasStatus500(t *testing.T) {
	api := newAPI(orders{panics: "boom"})
	wantProblem(t, api.do(t, http.MethodGet, "/api/orders", ""), 500, "bug")
	if n := api.logs.FilterMessage("handler panicked").Len(); n != 1 {
		t.Errorf("%d panics logged", n)
	}
	// The panic has released the slot of the request.
	wantProblem(t, api.do(t, http.MethodGet, "/api/orders", ""), 500, "bug")

	defer func() {
		if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // it must be this value, not wrapped
			t.Errorf("recovered %v", v)
		}
	}()
	newAPI(orders{panics: http.ErrAbortHandler}).do(t, http.MethodGet, "/api/orders", "")
}

func TestRequestsAreRejectedBeforeStart(t *testing.T) {
	api := newStartingAPI(orders{})
	w := api.do(t, http.MethodGet, "/api/orders", "")
	wantProblem(t, w, 503, "starting")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	for path, want := range map[string]int{"/health/live": 200, "/health/startup": 503, "/health/ready": 503} {
		if w := api.do(t, http.MethodGet, path, ""); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func TestDrainingAsksClientsToReconnect(t *testing.T) {
	api := newAPI(orders{})
	if w := api.do(t, http.MethodGet, "/api/orders", ""); w.Header().Get("Connection") != "" {
		t.Errorf("the client was asked to close the connection")
	}
	api.health.Drain()
	if w := api.do(t, http.MethodGet, "/api/orders", ""); w.Code != 200 || w.Header().Get("Connection") != "close" {
		t.Errorf("while draining: %d, Connection %q", w.Code, w.Header().Get("Connection"))
	}
}

func TestRequestsAreObservedByRoute(t *testing.T) {
	api := newAPI(orders{order: order.Order{ID: uuid.New()}})
	api.do(t, http.MethodGet, "/api/orders/"+uuid.NewString(), "")
	api.do(t, "BREW", "/made/up", "")
	api.do(t, http.MethodGet, "/health/ready", "")
	want := []observed{{"GET", "/api/orders/:id", 200}, {"other", "unmatched", 404}}
	if fmt.Sprint(api.seen) != fmt.Sprint(want) {
		t.Errorf("observed %v, want %v", api.seen, want)
	}
}

func TestRequestID(t *testing.T) {
	api := newAPI(orders{})
	if got := api.do(t, http.MethodGet, "/health/live", "", "X-Request-ID", "mine").Header().Get("X-Request-ID"); got != "mine" {
		t.Errorf("request ID %q, want the client's", got)
	}
	for _, bad := range []string{"", "a\nb", strings.Repeat("x", 129)} {
		got := api.do(t, http.MethodGet, "/health/live", "", "X-Request-ID", bad).Header().Get("X-Request-ID")
		if _, err := uuid.Parse(got); err != nil {
			t.Errorf("request ID %q instead of %q", got, bad)
		}
	}
}

func FuzzCreateOrder(f *testing.F) {
	for _, seed := range []string{
		body, "", "null", "{}", "[]", `{"items":[{}]}`, body + body, body[:30],
		`{"customer_id":"x","currency":"EUR","items":[{"sku":"a","quantity":9223372036854775807,"unit_price":-1}]}`,
		`{"items":null,"currency":"\u0000"}`, strings.Repeat("[", 2000), "\xff", `{"CUSTOMER_ID":"x"}`,
	} {
		f.Add(seed, "key")
	}
	f.Add(body, "")
	f.Add(body, "\x00")
	api := newAPI(orders{order: order.Order{ID: uuid.New(), Status: order.StatusConfirmed}, created: true})
	f.Fuzz(func(t *testing.T, body, key string) {
		w := api.do(t, http.MethodPost, "/api/orders", body, "Idempotency-Key", key)
		switch w.Code {
		case 201:
			var o order.Order
			if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil || o.Total.Amount < 0 || len(o.Items) == 0 {
				t.Errorf("accepted %q as %+v, error %v", body, o, err)
			}
		case 400, 413, 422:
			wantProblem(t, w, w.Code, "")
		default:
			t.Errorf("%d %s", w.Code, w.Body)
		}
		api.seen = nil
		api.logs.TakeAll()
	})
}

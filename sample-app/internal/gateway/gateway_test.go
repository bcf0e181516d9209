package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/sample-app/internal/gateway"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/standin"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

func options(t *testing.T, h http.Handler) gateway.Options {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return gateway.Options{
		URL: srv.URL + "/", Timeout: testenv.Patience, Retries: 2, RetryInterval: time.Millisecond, MaxConcurrent: 8,
	}
}

func payment(t *testing.T, o gateway.Options) *gateway.Payment {
	t.Helper()
	p := gateway.NewPayment(o)
	t.Cleanup(p.Close)
	return p
}

func inventory(t *testing.T, o gateway.Options) *gateway.Inventory {
	t.Helper()
	i := gateway.NewInventory(o)
	t.Cleanup(i.Close)
	return i
}

func newOrder(amount int64) order.Order {
	return order.Order{
		ID: uuid.New(), Items: []order.Item{{SKU: "book", Quantity: 3, UnitPrice: amount / 3}},
		Total: order.Money{Amount: amount, Currency: "EUR"},
	}
}

func TestPayment(t *testing.T) {
	service := standin.NewPayment(300)
	client := payment(t, options(t, service))
	cheap, expensive := newOrder(300), newOrder(303)
	for range 2 { // all calls are idempotent
		if err := client.Charge(t.Context(), cheap); err != nil {
			t.Errorf("charge within the limit: %v", err)
		}
		if err := client.Charge(t.Context(), expensive); !errors.Is(err, order.ErrDeclined) {
			t.Errorf("charge above the limit: %v", err)
		}
	}
	if n := service.Approved(); n != 1 {
		t.Errorf("%d payments approved, want 1", n)
	}
	for range 2 {
		if err := client.Refund(t.Context(), cheap.ID); err != nil {
			t.Errorf("refund: %v", err)
		}
	}
	if err := client.Charge(t.Context(), cheap); !errors.Is(err, order.ErrDeclined) {
		t.Errorf("charge after refund: %v", err)
	}
	if n := service.Approved(); n != 0 {
		t.Errorf("%d payments approved after refund", n)
	}
}

func TestInventory(t *testing.T) {
	service := standin.NewInventory(0, map[string]int{"book": 5})
	client := inventory(t, options(t, service))
	first, second := newOrder(9), newOrder(9)
	for range 2 {
		if err := client.Reserve(t.Context(), first); err != nil {
			t.Errorf("reserve: %v", err)
		}
	}
	if n := service.Stock("book"); n != 2 {
		t.Errorf("%d books left, want 2", n)
	}
	if err := client.Reserve(t.Context(), second); !errors.Is(err, order.ErrOutOfStock) {
		t.Errorf("reserve more than the stock: %v", err)
	}
	for range 2 {
		if err := client.Release(t.Context(), first.ID); err != nil {
			t.Errorf("release: %v", err)
		}
	}
	if n := service.Stock("book"); n != 5 {
		t.Errorf("%d books after release, want 5", n)
	}
	if err := client.Reserve(t.Context(), first); !errors.Is(err, order.ErrOutOfStock) {
		t.Errorf("late reservation after release: %v", err)
	}
}

func TestRetriesAreBounded(t *testing.T) {
	tests := []struct {
		name          string
		before, after int64
		wantStatus    int
		wantApproved  int
	}{
		{name: "no failure", wantApproved: 1},
		{name: "as many failures as retries", before: 2, wantApproved: 1},
		{name: "one failure more than retries", before: 3, wantStatus: http.StatusServiceUnavailable},
		{name: "response lost, charged once", after: 2, wantApproved: 1},
		{name: "all responses lost", after: 3, wantStatus: http.StatusServiceUnavailable, wantApproved: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			service := standin.NewPayment(1000)
			service.FailBefore(tt.before)
			service.FailAfter(tt.after)
			err := payment(t, options(t, service)).Charge(t.Context(), newOrder(9))
			var status *gateway.StatusError
			if errors.As(err, &status) != (tt.wantStatus != 0) {
				t.Fatalf("error %v, want status %d", err, tt.wantStatus)
			}
			if status != nil && status.Code != tt.wantStatus {
				t.Errorf("status %d, want %d", status.Code, tt.wantStatus)
			}
			if n := service.Approved(); n != tt.wantApproved {
				t.Errorf("%d payments approved, want %d", n, tt.wantApproved)
			}
		})
	}
}

func TestRetryableStatuses(t *testing.T) {
	for status, wantAttempts := range map[int]int{
		http.StatusBadRequest: 1, http.StatusNotFound: 1, http.StatusUnprocessableEntity: 1,
		http.StatusTooManyRequests: 3, http.StatusInternalServerError: 3, http.StatusBadGateway: 3,
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			var (
				mu   sync.Mutex
				keys []string
			)
			client := payment(t, options(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				keys = append(keys, r.Header.Get("Idempotency-Key"))
				mu.Unlock()
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(status)
			})))
			if err := client.Charge(t.Context(), newOrder(9)); err == nil {
				t.Error("no error")
			}
			if len(keys) != wantAttempts {
				t.Errorf("%d attempts, want %d", len(keys), wantAttempts)
			}
			if keys[0] == "" || len(slices.Compact(keys)) != 1 {
				t.Errorf("idempotency keys %q, want the same each time", keys)
			}
		})
	}
}

func TestInvalidResponseIsAnError(t *testing.T) {
	for _, body := range []string{"", "<html>", `{"status":"perhaps"}`} {
		client := payment(t, options(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(body))
		})))
		if err := client.Charge(t.Context(), newOrder(9)); err == nil || errors.Is(err, order.ErrDeclined) {
			t.Errorf("response %q: error %v", body, err)
		}
	}
}

func TestAttemptsEndAtTheirTimeout(t *testing.T) {
	service := standin.NewPayment(1000)
	gate := service.Hold()
	defer gate.Open()
	opts := options(t, service)
	opts.Timeout, opts.Retries = 20*time.Millisecond, 1
	err := payment(t, opts).Charge(t.Context(), newOrder(9))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	service := standin.NewPayment(1000)
	gate := service.Hold()
	defer gate.Open()
	client := payment(t, options(t, service))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gate.Arrived()
		cancel()
	}()
	if err := client.Charge(ctx, newOrder(9)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestConcurrencyIsLimited(t *testing.T) {
	service := standin.NewPayment(1000)
	opts := options(t, service)
	gate := service.Hold()
	defer gate.Open()
	opts.MaxConcurrent = 2
	client := payment(t, opts)
	const calls = 5
	errs := make([]error, calls)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() { errs[i] = client.Charge(t.Context(), newOrder(9)) })
	}
	testenv.Eventually(t, "the other calls wait", func() bool { return client.Waiting() == calls-2 })

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Charge(ctx, newOrder(9)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	gate.Open()
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if n := client.Waiting(); n != 0 {
		t.Errorf("%d calls still wait", n)
	}
}

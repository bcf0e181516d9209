package order_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/gateway"
	"github.com/slipway-ci/slipway/sample-app/internal/metrics"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/postgres"
	"github.com/slipway-ci/slipway/sample-app/internal/standin"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

const stock = 10

// always is a number of failures that no test exceeds.
const always = 1 << 30

// fixture is a service with its dependencies.
type fixture struct {
	*order.Service
	database  string
	payment   *standin.Payment
	inventory *standin.Inventory
}

// newFixture returns a service with a real database. Its simulated payment service declines
// amounts above 5000, and its inventory has a fixed stock of every article.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{database: testenv.Postgres(t), payment: standin.NewPayment(5000), inventory: standin.NewInventory(stock, nil)}
	store, err := postgres.Open(t.Context(), postgres.Options{URL: f.database, MaxConns: 4, QueryTimeout: testenv.Patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	upstream := func(h http.Handler) gateway.Options {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return gateway.Options{URL: srv.URL, Timeout: testenv.Patience, Retries: 1, RetryInterval: time.Millisecond, MaxConcurrent: 4}
	}
	payment, inventory := gateway.NewPayment(upstream(f.payment)), gateway.NewInventory(upstream(f.inventory))
	t.Cleanup(payment.Close)
	t.Cleanup(inventory.Close)
	f.Service = order.NewService(t.Context(), order.Options{
		Store: store, Inventory: inventory, Payment: payment,
		Recorder: metrics.New(), Log: zap.NewNop(), SettleTimeout: testenv.Patience,
	})
	return f
}

// expireHolds ends the holds of all unfinished orders, as if their replicas had died.
func (f *fixture) expireHolds(t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.database)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), "UPDATE orders SET held_until = now() - interval '1 second' WHERE held_until IS NOT NULL")
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) create(t *testing.T, d order.Draft, key string) order.Order {
	t.Helper()
	o, _, err := f.Create(t.Context(), d, key)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// expect checks an order, the payments and the stock.
func (f *fixture) expect(t *testing.T, o order.Order, status order.Status, reason string, approved, left int) {
	t.Helper()
	if o.Status != status || o.Reason != reason {
		t.Errorf("order is %s (%s), want %s (%s)", o.Status, o.Reason, status, reason)
	}
	if stored, err := f.Get(context.Background(), o.ID); err != nil || stored.Status != status {
		t.Errorf("stored order is %s, want %s (error %v)", stored.Status, status, err)
	}
	if n := f.payment.Approved(); n != approved {
		t.Errorf("%d payments approved, want %d", n, approved)
	}
	if n := f.inventory.Stock("book"); n != left {
		t.Errorf("%d books left, want %d", n, left)
	}
}

func books(quantity int, price int64) order.Draft {
	return order.Draft{CustomerID: "c-1", Currency: "EUR", Items: []order.Item{{SKU: "book", Quantity: quantity, UnitPrice: price}}}
}

func TestCreateLeavesMoneyAndStockConsistent(t *testing.T) {
	tests := []struct {
		name     string
		draft    order.Draft
		inject   func(*fixture)
		status   order.Status
		reason   string
		approved int
		left     int
	}{
		{name: "confirmed", draft: books(2, 100), status: order.StatusConfirmed, approved: 1, left: stock - 2},
		{name: "out of stock", draft: books(stock+1, 1), status: order.StatusRejected, reason: order.ReasonOutOfStock, left: stock},
		{name: "declined", draft: books(1, 5001), status: order.StatusRejected, reason: order.ReasonPaymentDeclined, left: stock},
		{
			name: "one failed attempt", draft: books(2, 100), inject: func(f *fixture) { f.payment.FailBefore(1); f.inventory.FailBefore(1) },
			status: order.StatusConfirmed, approved: 1, left: stock - 2,
		},
		{
			name: "lost responses", draft: books(2, 100), inject: func(f *fixture) { f.payment.FailAfter(1); f.inventory.FailAfter(1) },
			status: order.StatusConfirmed, approved: 1, left: stock - 2,
		},
		{
			name: "charge fails but took effect", draft: books(2, 100), inject: func(f *fixture) { f.payment.FailAfter(2) },
			status: order.StatusRejected, reason: order.ReasonPaymentUnavailable, left: stock,
		},
		{
			name: "reserve fails but took effect", draft: books(2, 100), inject: func(f *fixture) { f.inventory.FailAfter(2) },
			status: order.StatusRejected, reason: order.ReasonInventoryUnavailable, left: stock,
		},
		{
			name: "payment unavailable", draft: books(2, 100), inject: func(f *fixture) { f.payment.FailBefore(always) },
			status: order.StatusPending, left: stock - 2,
		},
		{
			name: "inventory unavailable", draft: books(2, 100), inject: func(f *fixture) { f.inventory.FailBefore(always) },
			status: order.StatusPending, left: stock,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			if tt.inject != nil {
				tt.inject(f)
			}
			f.expect(t, f.create(t, tt.draft, ""), tt.status, tt.reason, tt.approved, tt.left)
		})
	}
}

func TestUnfinishedOrdersAreRecovered(t *testing.T) {
	f := newFixture(t)
	f.payment.FailBefore(always)
	o := f.create(t, books(2, 100), "")
	f.payment.FailBefore(0)
	if n, err := f.Recover(t.Context()); n != 0 || err != nil {
		t.Fatalf("recovered %d orders that were still held, error %v", n, err)
	}
	f.expireHolds(t)
	if n, err := f.Recover(t.Context()); n != 1 || err != nil {
		t.Fatalf("recovered %d orders, error %v", n, err)
	}
	o, err := f.Get(t.Context(), o.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.expect(t, o, order.StatusConfirmed, "", 1, stock-2)
}

func TestRepeatedRequestFinishesOrderOfDeadReplica(t *testing.T) {
	f := newFixture(t)
	f.payment.FailBefore(always)
	first := f.create(t, books(2, 100), "key")
	f.payment.FailBefore(0)

	second := f.create(t, books(2, 100), "key")
	if second.ID != first.ID || second.Status != order.StatusPending {
		t.Fatalf("held order: %+v", second)
	}
	f.expireHolds(t)
	third := f.create(t, books(2, 100), "key")
	if third.ID != first.ID {
		t.Errorf("order %s, want %s", third.ID, first.ID)
	}
	f.expect(t, third, order.StatusConfirmed, "", 1, stock-2)
}

func TestCancel(t *testing.T) {
	f := newFixture(t)
	o := f.create(t, books(2, 100), "")
	for range 2 { // cancelling twice is not an error
		cancelled, err := f.Cancel(t.Context(), o.ID)
		if err != nil {
			t.Fatal(err)
		}
		f.expect(t, cancelled, order.StatusCancelled, "", 0, stock)
	}
	rejected := f.create(t, books(stock+1, 1), "")
	if _, err := f.Cancel(t.Context(), rejected.ID); !errors.Is(err, order.ErrNotCancellable) {
		t.Errorf("cancel of a rejected order: %v", err)
	}
	if _, err := f.Cancel(t.Context(), uuid.New()); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("cancel of an unknown order: %v", err)
	}
}

func TestInterruptedCancelIsFinished(t *testing.T) {
	f := newFixture(t)
	o := f.create(t, books(2, 100), "")
	f.inventory.FailBefore(always)
	cancelling, err := f.Cancel(t.Context(), o.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.expect(t, cancelling, order.StatusCancelling, "", 0, stock-2)
	f.inventory.FailBefore(0)
	f.expireHolds(t)
	if n, err := f.Recover(t.Context()); n != 1 || err != nil {
		t.Fatalf("recovered %d orders, error %v", n, err)
	}
	o, err = f.Get(t.Context(), o.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.expect(t, o, order.StatusCancelled, "", 0, stock)
}

func TestDisconnectedClientDoesNotStopItsOrder(t *testing.T) {
	f := newFixture(t)
	gate := f.payment.Hold()
	ctx, disconnect := context.WithCancel(t.Context())
	go func() {
		<-gate.Arrived()
		disconnect()
		gate.Open()
	}()
	o, _, err := f.Create(ctx, books(2, 100), "")
	if err != nil {
		t.Fatal(err)
	}
	f.expect(t, o, order.StatusConfirmed, "", 1, stock-2)
}

func TestStepsWithoutAnUpstreamAreSkipped(t *testing.T) {
	f := newFixture(t)
	f.Payment, f.Inventory = nil, nil
	o := f.create(t, books(stock+1, 9999), "")
	f.expect(t, o, order.StatusConfirmed, "", 0, stock)
	cancelled, err := f.Cancel(t.Context(), o.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.expect(t, cancelled, order.StatusCancelled, "", 0, stock)
}

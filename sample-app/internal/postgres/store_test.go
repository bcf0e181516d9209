package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/postgres"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// Durations of holds: free has ended already, held lasts longer than the test.
const (
	free = -time.Second
	held = time.Hour
)

func open(t *testing.T, address string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{URL: address, MaxConns: 4, QueryTimeout: testenv.Patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func migrated(t *testing.T) *postgres.Store {
	t.Helper()
	s := open(t, testenv.Postgres(t))
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func draft(t *testing.T) order.Order {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return order.Order{
		ID: id, CustomerID: "c-1", Status: order.StatusPending,
		Items: []order.Item{{SKU: "z", Quantity: 2, UnitPrice: 150}, {SKU: "a", Quantity: 1, UnitPrice: 1}},
		Total: order.Money{Amount: 301, Currency: "EUR"},
	}
}

func insert(t *testing.T, s *postgres.Store, hold time.Duration) order.Order {
	t.Helper()
	o, created, err := s.Insert(t.Context(), draft(t), "", []byte("f"), hold)
	if err != nil || !created {
		t.Fatalf("created %v, error %v", created, err)
	}
	return o
}

func TestReplicasMigrateConcurrently(t *testing.T) {
	address := testenv.Postgres(t)
	const replicas = 6
	applied := make([]int, replicas)
	errs := make([]error, replicas)
	var wg sync.WaitGroup
	for i := range replicas {
		s := open(t, address)
		wg.Go(func() { applied[i], errs[i] = s.Migrate(t.Context()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	slices.Sort(applied)
	if first, last := applied[replicas-2], applied[replicas-1]; first != 0 || last == 0 {
		t.Errorf("migrations applied by each replica: %v, want all by one", applied)
	}
}

func TestGetReturnsTheStoredOrder(t *testing.T) {
	s := migrated(t)
	want := insert(t, s, held)
	got, err := s.Get(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Version != 1 || got.Items[0].SKU != "z" || got.CreatedAt.IsZero() {
		t.Errorf("unexpected order %+v", got)
	}
	if _, err := s.Get(t.Context(), uuid.New()); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("unknown order: %v", err)
	}
}

func TestOneKeyCreatesOneOrder(t *testing.T) {
	s := migrated(t)
	const clients = 16
	ids := make([]uuid.UUID, clients)
	created := make([]bool, clients)
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		o := draft(t)
		wg.Go(func() {
			var stored order.Order
			stored, created[i], errs[i] = s.Insert(t.Context(), o, "key", []byte("same"), held)
			ids[i] = stored.ID
			if len(stored.Items) != len(o.Items) {
				errs[i] = errors.Join(errs[i], fmt.Errorf("%d items", len(stored.Items)))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) })
	if n := len(slices.Compact(ids)); n != 1 {
		t.Errorf("%d different orders for one key", n)
	}
	if n := len(slices.DeleteFunc(created, func(b bool) bool { return !b })); n != 1 {
		t.Errorf("created is true for %d clients, want 1", n)
	}
	if _, _, err := s.Insert(t.Context(), draft(t), "key", []byte("other"), held); !errors.Is(err, order.ErrIdempotencyMismatch) {
		t.Errorf("other order under the same key: %v", err)
	}
}

func TestPagesContainEveryOrderOnce(t *testing.T) {
	s := migrated(t)
	var want []uuid.UUID
	for range 5 {
		want = append(want, insert(t, s, held).ID)
	}
	slices.Reverse(want)
	var got []uuid.UUID
	before := uuid.Nil
	for {
		orders, err := s.List(t.Context(), before, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(orders) == 0 {
			break
		}
		for _, o := range orders {
			got = append(got, o.ID)
			if len(o.Items) != 2 {
				t.Errorf("order without its items: %+v", o)
			}
		}
		before = got[len(got)-1]
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestChangesNeedTheCurrentVersion(t *testing.T) {
	s := migrated(t)
	o := insert(t, s, held)
	if _, err := s.Settle(t.Context(), o.ID, o.Version+1, order.StatusConfirmed, ""); !errors.Is(err, order.ErrStale) {
		t.Errorf("settle with a wrong version: %v", err)
	}
	if _, err := s.BeginCancel(t.Context(), o.ID, o.Version, held); !errors.Is(err, order.ErrStale) {
		t.Errorf("cancel of a pending order: %v", err)
	}
	confirmed, err := s.Settle(t.Context(), o.ID, o.Version, order.StatusConfirmed, "")
	if err != nil || confirmed.Status != order.StatusConfirmed || confirmed.Version != 2 || len(confirmed.Items) != 2 {
		t.Fatalf("settled %+v, error %v", confirmed, err)
	}
	if _, err := s.BeginCancel(t.Context(), o.ID, o.Version, held); !errors.Is(err, order.ErrStale) {
		t.Errorf("cancel with an old version: %v", err)
	}
	cancelling, err := s.BeginCancel(t.Context(), o.ID, confirmed.Version, held)
	if err != nil || cancelling.Status != order.StatusCancelling {
		t.Fatalf("cancelling %+v, error %v", cancelling, err)
	}
}

func TestClaimIgnoresHeldOrders(t *testing.T) {
	s := migrated(t)
	working := insert(t, s, held)
	abandoned := insert(t, s, free)
	settled := insert(t, s, free)
	if _, err := s.Settle(t.Context(), settled.ID, settled.Version, order.StatusRejected, "x"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uuid.UUID{working.ID, settled.ID} {
		if _, err := s.Claim(t.Context(), id, held); !errors.Is(err, order.ErrNotFound) {
			t.Errorf("claim of order %s: %v", id, err)
		}
	}
	claimed, err := s.Claim(t.Context(), uuid.Nil, held)
	if err != nil || claimed.ID != abandoned.ID || claimed.Version != abandoned.Version+1 {
		t.Errorf("claimed %+v, error %v", claimed, err)
	}
	if _, err := s.Claim(t.Context(), uuid.Nil, held); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("claimed twice: %v", err)
	}
	// The replica that has lost the order gets an error.
	if _, err := s.Settle(t.Context(), abandoned.ID, abandoned.Version, order.StatusConfirmed, ""); !errors.Is(err, order.ErrStale) {
		t.Errorf("settle after losing the order: %v", err)
	}
}

func TestReplicasClaimDifferentOrders(t *testing.T) {
	s := migrated(t)
	const n = 8
	for range n {
		insert(t, s, free)
	}
	ids := make([]uuid.UUID, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			// Claim skips rows that are locked, so a single call may find no order
			// although there is one.
			for {
				o, err := s.Claim(t.Context(), uuid.Nil, held)
				if !errors.Is(err, order.ErrNotFound) {
					ids[i], errs[i] = o.ID, err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) })
	if got := len(slices.Compact(ids)); got != n {
		t.Errorf("%d different orders claimed, want %d", got, n)
	}
}

func TestQueriesEndAtTheirTimeout(t *testing.T) {
	address := testenv.Postgres(t)
	s := open(t, address)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE orders"); err != nil {
		t.Fatal(err)
	}
	observed := make(chan string, 1)
	impatient, err := postgres.Open(t.Context(), postgres.Options{
		URL: address, MaxConns: 2, QueryTimeout: 50 * time.Millisecond,
		Observe: func(_ context.Context, query string, _ time.Duration) { observed <- query },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	if _, err := impatient.Get(t.Context(), uuid.New()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("query behind a lock: %v", err)
	}
	if got := <-observed; got != "get_order" {
		t.Errorf("observed %q", got)
	}
}

func TestErrorsDoNotContainThePassword(t *testing.T) {
	const secret = "s3cr3t-p4ss"
	proxy, address := testenv.NewProxy(t, testenv.Postgres(t))
	proxy.Down()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("test", secret)
	s := open(t, u.String())
	_, migrateErr := s.Migrate(t.Context())
	_, badURL := postgres.Open(t.Context(), postgres.Options{URL: u.String() + "&sslmode=nonsense"})
	for name, err := range map[string]error{"ping": s.Ping(t.Context()), "migrate": migrateErr, "bad url": badURL} {
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPasswordRotates changes the password of a role before the store knows it. A call that
// is refused is tried again with the new password, and connections are replaced.
func TestPasswordRotates(t *testing.T) {
	database := testenv.Postgres(t)
	if _, err := open(t, database).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	address, change := testenv.Role(t, database, "one")
	var logins atomic.Int64
	var password atomic.Value
	password.Store("one")
	s, err := postgres.Open(t.Context(), postgres.Options{
		URL: address, MaxConns: 4, QueryTimeout: testenv.Patience,
		Password: func() string { logins.Add(1); return password.Load().(string) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	read := func() error {
		_, err := s.Get(t.Context(), uuid.New())
		return err
	}
	if err := read(); !errors.Is(err, order.ErrNotFound) {
		t.Fatal(err)
	}
	change("two")
	if err := read(); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("with a connection from before: %v", err)
	}
	s.Renew()
	before := logins.Load()
	done := make(chan error, 1)
	go func() { done <- read() }()
	testenv.Eventually(t, "a login that is refused, and another one", func() bool { return logins.Load() >= before+2 })
	password.Store("two")
	if err := <-done; !errors.Is(err, order.ErrNotFound) {
		t.Errorf("after the password was changed: %v", err)
	}
}

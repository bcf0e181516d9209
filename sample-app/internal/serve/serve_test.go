package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/serve"
	"github.com/slipway-ci/slipway/sample-app/internal/standin"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

const (
	stock    = 100
	newOrder = `{"customer_id":"c-1","currency":"USD","items":[{"sku":"book","quantity":2,"unit_price":1250}]}`
)

// fixture is a running service with real databases behind proxies, and with simulated
// upstreams.
type fixture struct {
	t         *testing.T
	url       string
	metrics   string
	database  string
	postgres  *testenv.Proxy
	redis     *testenv.Proxy
	payment   *standin.Payment
	inventory *standin.Inventory
	live      serve.Live
	log       *zap.Logger
	client    *http.Client

	terminate context.CancelFunc // like SIGTERM
	stopped   chan error
}

// start starts a service, which runs until the end of the test. Before that it calls
// prepare, if it is not nil, to change the fixture and the configuration.
func start(t *testing.T, prepare func(*fixture, *config.Config)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, database: testenv.Postgres(t), client: &http.Client{Transport: &http.Transport{}, Timeout: 2 * testenv.Patience},
		live: serve.Live{Level: zap.NewAtomicLevel()}, log: zap.NewNop(),
		payment: standin.NewPayment(1_000_000), inventory: standin.NewInventory(stock, nil), stopped: make(chan error, 1),
	}
	redisURL, prefix := testenv.Redis(t)
	cfg := config.Default()
	var address string
	f.postgres, address = testenv.NewProxy(t, f.database)
	cfg.Database.URL, cfg.Database.MaxConns = config.NewURL(address), 6
	f.redis, address = testenv.NewProxy(t, redisURL)
	cfg.Redis.URL, cfg.Redis.KeyPrefix = config.NewURL(address), prefix
	payment, inventory := httptest.NewServer(f.payment), httptest.NewServer(f.inventory)
	t.Cleanup(payment.Close)
	t.Cleanup(inventory.Close)
	cfg.Payment.URL, cfg.Inventory.URL = config.NewURL(payment.URL), config.NewURL(inventory.URL)
	cfg.Server.Listen, cfg.Server.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Health.Timeout = config.Duration{Duration: testenv.Patience}
	cfg.Redis.Timeout = config.Duration{Duration: testenv.Patience}
	cfg.Shutdown.DrainDelay = config.Duration{}
	if prepare != nil {
		prepare(f, &cfg)
	}

	service, err := serve.New(t.Context(), cfg, f.log, f.live)
	if err != nil {
		t.Fatal(err)
	}
	f.url, f.metrics = "http://"+service.Addr(), "http://"+service.MetricsAddr()
	ctx, terminate := context.WithCancel(context.Background())
	f.terminate = terminate
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.stopped <- service.Run(ctx)
	}()
	t.Cleanup(func() {
		terminate()
		<-done
		f.client.CloseIdleConnections()
	})
	return f
}

// started starts a service and waits until it has started.
func started(t *testing.T, prepare func(*fixture, *config.Config)) *fixture {
	t.Helper()
	f := start(t, prepare)
	f.eventually("/health/startup", http.StatusOK)
	return f
}

// try sends a request and returns the status and the body of the response.
func (f *fixture) try(method, url, body string, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(f.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), errors.Join(err, resp.Body.Close())
}

func (f *fixture) do(method, path, body string, header ...string) (int, string) {
	f.t.Helper()
	status, response, err := f.try(method, f.url+path, body, header...)
	if err != nil {
		f.t.Fatal(err)
	}
	return status, response
}

// order sends a request and decodes the order in the response.
func (f *fixture) order(want int, method, path, body string, header ...string) order.Order {
	f.t.Helper()
	status, response := f.do(method, path, body, header...)
	if status != want {
		f.t.Fatalf("%s %s: %d %s, want %d", method, path, status, response, want)
	}
	var o order.Order
	if err := json.Unmarshal([]byte(response), &o); err != nil {
		f.t.Fatal(err)
	}
	return o
}

func (f *fixture) eventually(path string, want int) {
	f.t.Helper()
	testenv.Eventually(f.t, path+" responds with "+http.StatusText(want), func() bool {
		status, _, err := f.try(http.MethodGet, f.url+path, "")
		return err == nil && status == want
	})
}

func (f *fixture) stop() error {
	f.t.Helper()
	f.terminate()
	select {
	case err := <-f.stopped:
		return err
	case <-time.After(testenv.Patience):
		f.t.Fatal("the service does not stop")
		return nil
	}
}

func (f *fixture) sql(statement string, args ...any) {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.database)
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = conn.Exec(f.t.Context(), statement, args...)
	if err := errors.Join(err, conn.Close(f.t.Context())); err != nil {
		f.t.Fatal(err)
	}
}

func TestCreateReadAndCancel(t *testing.T) {
	f := started(t, nil)
	o := f.order(201, http.MethodPost, "/api/orders", newOrder)
	if o.Status != order.StatusConfirmed || o.Total != (order.Money{Amount: 2500, Currency: "USD"}) {
		t.Fatalf("created %+v", o)
	}
	if got := f.payment.Status(o.ID.String()); got != standin.PaymentApproved {
		t.Errorf("payment is %q", got)
	}
	path := "/api/orders/" + o.ID.String()
	if got := f.order(200, http.MethodGet, path, ""); got.Status != order.StatusConfirmed || len(got.Items) != 1 {
		t.Errorf("read %+v", got)
	}
	status, list := f.do(http.MethodGet, "/api/orders?limit=1", "")
	if status != 200 || !strings.Contains(list, o.ID.String()) || strings.Contains(list, "next_cursor") {
		t.Errorf("list: %d %s", status, list)
	}
	if got := f.order(200, http.MethodPost, path+"/cancel", ""); got.Status != order.StatusCancelled {
		t.Errorf("cancelled %+v", got)
	}
	if got := f.order(200, http.MethodGet, path, ""); got.Status != order.StatusCancelled {
		t.Errorf("read after cancel: %s", got.Status)
	}
	if payment, left := f.payment.Approved(), f.inventory.Stock("book"); payment != 0 || left != stock {
		t.Errorf("after cancel: %d payments, %d books", payment, left)
	}

	_, scraped, err := f.try(http.MethodGet, f.metrics+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`http_requests_total{endpoint="/api/orders",method="POST",status="201"} 1`,
		`http_request_duration_seconds_count{endpoint="/api/orders/:id",method="GET",status="200"} 2`,
		`orders_created_total{status="confirmed"} 1`,
		`order_amount_dollars_sum 25`,
		`db_query_duration_seconds_count{query="insert_order"} 1`,
		`db_connections{state="max"} 6`,
		`queue_depth{queue="payment"} 0`,
		`active_connections 1`,
	} {
		if !strings.Contains(scraped, "\n"+want+"\n") {
			t.Errorf("missing metric: %s", want)
		}
	}
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestPagesOverHTTP(t *testing.T) {
	f := started(t, nil)
	var want, got []string
	for range 5 {
		want = append([]string{f.order(201, http.MethodPost, "/api/orders", newOrder).ID.String()}, want...)
	}
	for path := "/api/orders?limit=2"; path != ""; {
		_, body := f.do(http.MethodGet, path, "")
		var page struct {
			Orders []order.Order `json:"orders"`
			Next   string        `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Orders {
			got = append(got, o.ID.String())
		}
		path = ""
		if page.Next != "" {
			path = "/api/orders?limit=2&cursor=" + page.Next
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestIdempotencyKey(t *testing.T) {
	f := started(t, nil)
	key := []string{"Idempotency-Key", "k-1"}
	first := f.order(201, http.MethodPost, "/api/orders", newOrder, key...)
	again := f.order(200, http.MethodPost, "/api/orders", " "+newOrder, key...)
	if again.ID != first.ID {
		t.Errorf("order %s, want %s", again.ID, first.ID)
	}
	other := strings.Replace(newOrder, "1250", "1251", 1)
	if status, body := f.do(http.MethodPost, "/api/orders", other, key...); status != 422 {
		t.Errorf("other order under the same key: %d %s", status, body)
	}
	if n := f.payment.Approved(); n != 1 {
		t.Errorf("%d payments, want 1", n)
	}
}

func TestConcurrentDuplicatesCreateOneOrder(t *testing.T) {
	f := started(t, nil)
	const clients = 20
	ids := make([]string, clients)
	statuses := make([]int, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			status, body, err := f.try(http.MethodPost, f.url+"/api/orders", newOrder, "Idempotency-Key", "k")
			var o order.Order
			if err := errors.Join(err, json.Unmarshal([]byte(body), &o)); err != nil {
				t.Error(err)
			}
			statuses[i], ids[i] = status, o.ID.String()
		})
	}
	wg.Wait()
	created := 0
	for i := range clients {
		if ids[i] != ids[0] {
			t.Errorf("different orders %s and %s", ids[i], ids[0])
		}
		switch statuses[i] {
		case 201:
			created++
		case 200, 202:
		default:
			t.Errorf("status %d", statuses[i])
		}
	}
	if payments, left := f.payment.Approved(), f.inventory.Stock("book"); created != 1 || payments != 1 || left != stock-2 {
		t.Errorf("%d created, %d payments, %d books left", created, payments, left)
	}
}

func TestReadsComeFromTheCache(t *testing.T) {
	f := started(t, nil)
	o := f.order(201, http.MethodPost, "/api/orders", newOrder)
	path := "/api/orders/" + o.ID.String()
	// The service does not notice a change in the database while the order is in the
	// cache.
	f.sql("UPDATE orders SET reason = 'changed' WHERE id = $1", o.ID)
	if got := f.order(200, http.MethodGet, path, ""); got.Reason != "" {
		t.Error("the order was not read from the cache")
	}
	f.redis.Down()
	if got := f.order(200, http.MethodGet, path, ""); got.Reason != "changed" {
		t.Error("the order was not read from the database")
	}
}

func TestServiceWorksWithoutRedis(t *testing.T) {
	f := started(t, nil)
	f.redis.Down()
	o := f.order(201, http.MethodPost, "/api/orders", newOrder)
	f.order(200, http.MethodGet, "/api/orders/"+o.ID.String(), "")
	status, body := f.do(http.MethodGet, "/health/ready", "")
	if status != 200 || !strings.Contains(body, `"status":"degraded"`) || !strings.Contains(body, `"redis":{"status":"unavailable"`) {
		t.Errorf("ready without Redis: %d %s", status, body)
	}
	f.redis.Up()
	testenv.Eventually(t, "readiness is no longer degraded", func() bool {
		_, body := f.do(http.MethodGet, "/health/ready", "")
		return strings.Contains(body, `"status":"ok","checks"`)
	})
}

func TestStartWaitsForPostgres(t *testing.T) {
	f := start(t, func(f *fixture, _ *config.Config) { f.postgres.Down() })
	for path, want := range map[string]int{"/health/startup": 503, "/health/ready": 503, "/health/live": 200, "/api/orders": 503} {
		if status, body := f.do(http.MethodGet, path, ""); status != want {
			t.Errorf("%s without Postgres: %d %s, want %d", path, status, body, want)
		}
	}
	f.postgres.Up()
	f.eventually("/health/startup", 200)
	f.eventually("/health/ready", 200)

	// A later outage of Postgres only makes the service unready.
	f.postgres.Down()
	f.eventually("/health/ready", 503)
	for path, want := range map[string]int{"/health/startup": 200, "/health/live": 200, "/api/orders": 503} {
		if status, body := f.do(http.MethodGet, path, ""); status != want {
			t.Errorf("%s after losing Postgres: %d %s, want %d", path, status, body, want)
		}
	}
}

func TestStopWhileWaitingForPostgres(t *testing.T) {
	f := start(t, func(f *fixture, _ *config.Config) { f.postgres.Down() })
	f.eventually("/health/live", 200)
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestAbandonedOrdersAreRecoveredInTheBackground(t *testing.T) {
	f := started(t, func(f *fixture, cfg *config.Config) {
		f.payment.FailBefore(1 << 30)
		cfg.Payment.Retries = 0
		cfg.Orders.RecoveryInterval = config.Duration{Duration: 10 * time.Millisecond}
	})
	o := f.order(202, http.MethodPost, "/api/orders", newOrder)
	f.payment.FailBefore(0)
	f.sql("UPDATE orders SET held_until = now() - interval '1 second'")
	testenv.Eventually(t, "the order is confirmed", func() bool {
		return f.order(200, http.MethodGet, "/api/orders/"+o.ID.String(), "").Status == order.StatusConfirmed
	})
}

func TestRequestsInFlightAreLimited(t *testing.T) {
	f := started(t, func(_ *fixture, cfg *config.Config) { cfg.Server.MaxInFlight = 1 })
	gate := f.payment.Hold()
	defer gate.Open() // in case the test fails
	responded := make(chan int, 1)
	go func() {
		status, _, _ := f.try(http.MethodPost, f.url+"/api/orders", newOrder)
		responded <- status
	}()
	<-gate.Arrived()
	if status, body := f.do(http.MethodGet, "/api/orders", ""); status != 503 || !strings.Contains(body, "busy") {
		t.Errorf("second request: %d %s", status, body)
	}
	if status, _ := f.do(http.MethodGet, "/health/ready", ""); status != 200 {
		t.Errorf("ready while busy: %d", status)
	}
	gate.Open()
	if status := <-responded; status != 201 {
		t.Errorf("first request: %d", status)
	}
}

func TestOpenRequestIsFinishedBeforeTheEnd(t *testing.T) {
	f := started(t, nil)
	gate := f.payment.Hold()
	defer gate.Open() // in case the test fails
	type response struct {
		status int
		body   string
		err    error
	}
	responded := make(chan response, 1)
	go func() {
		status, body, err := f.try(http.MethodPost, f.url+"/api/orders", newOrder)
		responded <- response{status, body, err}
	}()
	<-gate.Arrived()
	f.terminate()
	testenv.Eventually(t, "new connections are refused", func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(f.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	// The metrics endpoint is still available, so that Prometheus can scrape the last
	// requests.
	if status, _, err := f.try(http.MethodGet, f.metrics+"/metrics", ""); status != 200 || err != nil {
		t.Errorf("metrics during shutdown: %d, error %v", status, err)
	}
	gate.Open()
	if got := <-responded; got.err != nil || got.status != 201 || !strings.Contains(got.body, "confirmed") {
		t.Errorf("open request: %+v", got)
	}
	if err := f.stop(); err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsAtItsTimeout(t *testing.T) {
	f := started(t, func(_ *fixture, cfg *config.Config) {
		cfg.Shutdown.Timeout = config.Duration{Duration: 200 * time.Millisecond}
	})
	gate := f.payment.Hold()
	defer gate.Open()
	aborted := make(chan error, 1)
	go func() {
		_, _, err := f.try(http.MethodPost, f.url+"/api/orders", newOrder)
		aborted <- err
	}()
	<-gate.Arrived()
	if err := f.stop(); err == nil || !strings.Contains(err.Error(), "shutdown.timeout") {
		t.Errorf("error %v", err)
	}
	if err := <-aborted; err == nil {
		t.Error("a request that did not finish before the timeout got a response")
	}
}

func TestNewNamesTheInvalidSetting(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, change := range map[string]func(*config.Config){
		"server.listen":         func(c *config.Config) { c.Server.Listen = taken.Addr().String() },
		"server.metrics_listen": func(c *config.Config) { c.Server.MetricsListen = taken.Addr().String() },
		"database url":          func(c *config.Config) { c.Database.URL = config.NewURL("postgres://h/d?sslmode=x") },
		"redis url":             func(c *config.Config) { c.Redis.URL = config.NewURL("redis://h/x") },
	} {
		cfg := config.Default()
		cfg.Server.Listen, cfg.Server.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
		cfg.Database.URL = config.NewURL("postgres://localhost/none")
		cfg.Redis.URL = config.NewURL("redis://localhost/0")
		change(&cfg)
		if _, err := serve.New(t.Context(), cfg, zap.NewNop(), serve.Live{Level: zap.NewAtomicLevel()}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestBodySizeIsLimited(t *testing.T) {
	f := started(t, func(_ *fixture, cfg *config.Config) { cfg.Server.MaxBodyBytes = 1000 })
	large := `{"customer_id":"` + strings.Repeat("x", 2000)
	if status, body := f.do(http.MethodPost, "/api/orders", large); status != 413 {
		t.Errorf("%d %s", status, body)
	}
}

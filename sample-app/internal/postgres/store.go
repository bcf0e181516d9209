// Package postgres stores orders in PostgreSQL.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/exaring/otelpgx"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Options configure a Store.
type Options struct {
	// URL is a postgres:// URL.
	URL string
	// Password returns the password for a new connection. If it is nil, that of the URL is
	// used.
	Password func() string
	// MaxConns is the maximum number of connections in the pool.
	MaxConns int32
	// MinIdleConns is the number of idle connections that the pool keeps ready.
	MinIdleConns int32
	// MaxConnLifetime is how long a connection is used, plus up to a tenth of that.
	// The default is one hour.
	MaxConnLifetime time.Duration
	// QueryTimeout is the maximum duration of each call.
	QueryTimeout time.Duration
	// Observe is called after each call, with its name and duration. It can be nil.
	Observe func(ctx context.Context, query string, took time.Duration)
	// Tracers is the source of tracers. If it is nil, calls are not traced.
	Tracers trace.TracerProvider
}

const (
	// invalidPassword is the code of a refused password
	// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
	invalidPassword = "28P01"
	// firstRetry and lastRetry are the minimum and maximum delay between two logins.
	firstRetry = 20 * time.Millisecond
	lastRetry  = 200 * time.Millisecond
)

// Store is an order.Store in PostgreSQL. It is safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	opts   Options
	tracer trace.Tracer
}

// Open returns a Store. It does not connect to the database; connections are opened when
// they are first needed, so the database can start later than the service. Open returns
// an error if the URL is invalid.
func Open(ctx context.Context, o Options) (*Store, error) {
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	cfg.MaxConns = o.MaxConns
	cfg.MinIdleConns = o.MinIdleConns
	cfg.MaxConnLifetime = cmp.Or(o.MaxConnLifetime, time.Hour)
	cfg.MaxConnLifetimeJitter = cfg.MaxConnLifetime / 10 // otherwise all connections would be replaced at the same time
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.ConnConfig.ConnectTimeout = o.QueryTimeout
	if o.Password != nil {
		cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			c.Password = o.Password()
			return nil
		}
	}
	tracer := noop.NewTracerProvider().Tracer("")
	if o.Tracers != nil {
		tracer = o.Tracers.Tracer("github.com/slipway-ci/slipway/sample-app/internal/postgres")
		cfg.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(o.Tracers),
			otelpgx.WithMeterProvider(metricnoop.NewMeterProvider())) // Observe has the same numbers
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return &Store{pool: pool, opts: o, tracer: tracer}, nil
}

// Close waits for running queries and closes all connections.
func (s *Store) Close() { s.pool.Close() }

// Renew replaces all connections: idle ones at once, and those in use when they are
// released. Use it after the password has changed.
func (s *Store) Renew() { s.pool.Reset() }

// Ping returns nil if the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	return nil
}

// Stat returns the current statistics of the pool.
func (s *Store) Stat() *pgxpool.Stat { return s.pool.Stat() }

// run executes one call with a timeout and measures its duration.
func (s *Store) run(ctx context.Context, query string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.QueryTimeout)
	defer cancel()
	ctx, span := s.begin(ctx, query)
	defer span.End()
	start := time.Now()
	err := s.retryLogin(ctx, f)
	if s.opts.Observe != nil {
		s.opts.Observe(ctx, query, time.Since(start))
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return order.ErrNotFound
	}
	if !errors.Is(err, order.ErrStale) && !errors.Is(err, order.ErrIdempotencyMismatch) { // answers, not failures
		span.RecordError(err)
		span.SetStatus(codes.Error, query+" failed")
	}
	return fmt.Errorf("%s: %w", query, err)
}

// begin begins a span in a trace that is recorded.
func (s *Store) begin(ctx context.Context, query string) (context.Context, trace.Span) {
	if span := trace.SpanFromContext(ctx); !span.IsRecording() {
		return ctx, span
	}
	//nolint:spancheck // run ends it
	return s.tracer.Start(ctx, query, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("db.system", "postgresql"), attribute.String("db.operation", query)))
}

// retryLogin calls f again as long as the database refuses the password, because a password
// that rotates can change in the database a moment before it changes in its file. A call
// that was refused has done nothing.
func (s *Store) retryLogin(ctx context.Context, f func(context.Context) error) error {
	if s.opts.Password == nil {
		return f(ctx)
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstRetry, lastRetry
	var last error // of f, because the error of Retry can be that of ctx
	_, _ = backoff.Retry(ctx, func() (struct{}, error) {
		last = f(ctx)
		if refusal, ok := errors.AsType[*pgconn.PgError](last); ok && refusal.Code == invalidPassword {
			return struct{}{}, last
		}
		return struct{}{}, backoff.Permanent(last)
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0))
	return last
}

const columns = `id, customer_id, status, reason, total, currency, version, created_at, updated_at`

// scan reads a row of these columns.
func scan(row pgx.CollectableRow) (order.Order, error) {
	var o order.Order
	err := row.Scan(&o.ID, &o.CustomerID, &o.Status, &o.Reason, &o.Total.Amount, &o.Total.Currency,
		&o.Version, &o.CreatedAt, &o.UpdatedAt)
	o.CreatedAt, o.UpdatedAt = o.CreatedAt.UTC(), o.UpdatedAt.UTC()
	return o, err
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// one runs a query for a single order. It returns pgx.ErrNoRows if there is none.
func one(ctx context.Context, q querier, sql string, args ...any) (order.Order, error) {
	orders, err := many(ctx, q, sql, args...)
	if err != nil {
		return order.Order{}, err
	}
	if len(orders) == 0 {
		return order.Order{}, pgx.ErrNoRows
	}
	return orders[0], nil
}

// many runs a query for orders, and a second query for their items.
func many(ctx context.Context, q querier, sql string, args ...any) ([]order.Order, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	orders, err := pgx.CollectRows(rows, scan)
	if err != nil || len(orders) == 0 {
		return nil, err
	}
	ids := make([]uuid.UUID, len(orders))
	at := make(map[uuid.UUID]*order.Order, len(orders))
	for i := range orders {
		ids[i] = orders[i].ID
		at[ids[i]] = &orders[i]
	}
	rows, err = q.Query(ctx, `SELECT order_id, sku, quantity, unit_price FROM order_items
		WHERE order_id = ANY($1) ORDER BY order_id, line`, ids)
	if err != nil {
		return nil, err
	}
	var (
		id   uuid.UUID
		item order.Item
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &item.SKU, &item.Quantity, &item.UnitPrice}, func() error {
		at[id].Items = append(at[id].Items, item)
		return nil
	})
	return orders, err
}

// Insert implements order.Store. If two replicas insert the same key at the same time,
// the unique index serializes them: one inserts the order, and the other one waits for
// the commit and then reads the order.
func (s *Store) Insert(ctx context.Context, o order.Order, key string, fingerprint []byte, hold time.Duration) (stored order.Order, created bool, err error) {
	err = s.run(ctx, "insert_order", func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			stored, created, err = insert(ctx, tx, o, key, fingerprint, hold)
			return err
		})
	})
	return stored, created, err
}

func insert(ctx context.Context, tx pgx.Tx, o order.Order, key string, fingerprint []byte, hold time.Duration) (order.Order, bool, error) {
	rows, err := tx.Query(ctx, `INSERT INTO orders (id, customer_id, status, reason, total, currency, idempotency_key, fingerprint, held_until)
		VALUES ($1, $2, $3, $4, $5, $6, NULLIF($7, ''), $8, now() + $9::interval)
		ON CONFLICT (idempotency_key) DO NOTHING
		RETURNING `+columns,
		o.ID, o.CustomerID, o.Status, o.Reason, o.Total.Amount, o.Total.Currency, key, fingerprint, hold)
	if err != nil {
		return order.Order{}, false, err
	}
	stored, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		stored, err = existing(ctx, tx, key, fingerprint)
		return stored, false, err
	}
	if err != nil {
		return order.Order{}, false, err
	}
	n := len(o.Items)
	lines, skus := make([]int, n), make([]string, n)
	quantities, prices := make([]int, n), make([]int64, n)
	for i, item := range o.Items {
		lines[i], skus[i], quantities[i], prices[i] = i+1, item.SKU, item.Quantity, item.UnitPrice
	}
	_, err = tx.Exec(ctx, `INSERT INTO order_items (order_id, line, sku, quantity, unit_price)
		SELECT $1, * FROM unnest($2::int[], $3::text[], $4::int[], $5::bigint[])`,
		stored.ID, lines, skus, quantities, prices)
	stored.Items = o.Items
	return stored, true, err
}

// existing returns the order that has the key.
func existing(ctx context.Context, tx pgx.Tx, key string, fingerprint []byte) (order.Order, error) {
	o, err := one(ctx, tx, `SELECT `+columns+` FROM orders WHERE idempotency_key = $1 AND fingerprint = $2`, key, fingerprint)
	if errors.Is(err, pgx.ErrNoRows) {
		// The key exists, because the insert failed, so the content is different.
		return order.Order{}, order.ErrIdempotencyMismatch
	}
	return o, err
}

// Get implements order.Store.
func (s *Store) Get(ctx context.Context, id uuid.UUID) (o order.Order, err error) {
	err = s.run(ctx, "get_order", func(ctx context.Context) error {
		o, err = one(ctx, s.pool, `SELECT `+columns+` FROM orders WHERE id = $1`, id)
		return err
	})
	return o, err
}

// List implements order.Store.
func (s *Store) List(ctx context.Context, before uuid.UUID, limit int) (orders []order.Order, err error) {
	if before == uuid.Nil {
		before = uuid.Max
	}
	err = s.run(ctx, "list_orders", func(ctx context.Context) error {
		orders, err = many(ctx, s.pool, `SELECT `+columns+` FROM orders WHERE id < $1 ORDER BY id DESC LIMIT $2`, before, limit)
		return err
	})
	return orders, err
}

// BeginCancel implements order.Store.
func (s *Store) BeginCancel(ctx context.Context, id uuid.UUID, version int64, hold time.Duration) (o order.Order, err error) {
	err = s.run(ctx, "begin_cancel", func(ctx context.Context) error {
		o, err = one(ctx, s.pool, `UPDATE orders
			SET status = 'cancelling', version = version + 1, updated_at = now(), held_until = now() + $3::interval
			WHERE id = $1 AND version = $2 AND status = 'confirmed'
			RETURNING `+columns, id, version, hold)
		return stale(err)
	})
	return o, err
}

// Claim implements order.Store. Replicas that claim orders at the same time get
// different orders, because each one skips the rows that others have locked.
func (s *Store) Claim(ctx context.Context, id uuid.UUID, hold time.Duration) (o order.Order, err error) {
	err = s.run(ctx, "claim_order", func(ctx context.Context) error {
		o, err = one(ctx, s.pool, `UPDATE orders
			SET version = version + 1, updated_at = now(), held_until = now() + $2::interval
			WHERE id = (
				SELECT id FROM orders
				WHERE status IN ('pending', 'cancelling') AND held_until < now() AND ($1::uuid = '00000000-0000-0000-0000-000000000000' OR id = $1)
				ORDER BY held_until LIMIT 1 FOR UPDATE SKIP LOCKED)
			RETURNING `+columns, id, hold)
		return err
	})
	return o, err
}

// Settle implements order.Store.
func (s *Store) Settle(ctx context.Context, id uuid.UUID, version int64, status order.Status, reason string) (o order.Order, err error) {
	err = s.run(ctx, "settle_order", func(ctx context.Context) error {
		o, err = one(ctx, s.pool, `UPDATE orders
			SET status = $3, reason = $4, version = version + 1, updated_at = now(), held_until = NULL
			WHERE id = $1 AND version = $2
			RETURNING `+columns, id, version, status, reason)
		return stale(err)
	})
	return o, err
}

// stale returns order.ErrStale if an update matched no row.
func stale(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return order.ErrStale
	}
	return err
}

// Package cache stores copies of orders in Redis.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.opentelemetry.io/otel/trace"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Options configure a Cache.
type Options struct {
	// URL is a redis:// or rediss:// URL.
	URL string
	// Password returns the password for a new connection. If it is nil, that of the URL is
	// used.
	Password func() string
	// PoolSize is the maximum number of connections.
	PoolSize int
	// MaxRetries is how often a failed operation is repeated.
	MaxRetries int
	// TTL is how long an order stays in the cache.
	TTL time.Duration
	// Timeout is the maximum duration of each operation.
	Timeout time.Duration
	// KeyPrefix is the prefix of all keys.
	KeyPrefix string
	// Tracers is the source of tracers. If it is nil, operations are not traced.
	Tracers trace.TracerProvider
}

// Cache is an order.Cache in Redis. It is safe for concurrent use.
type Cache struct {
	client *redis.Client
	put    *redis.Script
	opts   Options
}

// putNewer stores an order, unless the cache contains a newer version of it. With a
// plain SET, a slow reader could overwrite the newer version of a writer with the
// older one that it has read before.
const putNewer = `
local present = redis.call('HGET', KEYS[1], 'version')
if present and tonumber(present) > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'order', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
`

// maxLifetime is how long a connection is used if the password can change.
const maxLifetime = 15 * time.Minute

// Open returns a Cache. It does not connect to Redis; connections are opened when
// they are first needed. It returns an error if the URL is invalid.
func Open(o Options) (*Cache, error) {
	opts, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("redis url: %w", err)
	}
	if user := opts.Username; o.Password != nil {
		opts.CredentialsProvider = func() (string, string) { return user, o.Password() }
		// A connection that is in use stays open; this replaces it before long.
		opts.ConnMaxLifetime = maxLifetime
	}
	opts.PoolSize = o.PoolSize
	opts.ContextTimeoutEnabled = true // otherwise deadlines of contexts are ignored
	opts.DialTimeout = o.Timeout
	opts.ReadTimeout = o.Timeout
	opts.WriteTimeout = o.Timeout
	// If Redis fails, the order is read from the database. By default there are no
	// retries, which would only delay this.
	opts.MaxRetries = o.MaxRetries
	if o.MaxRetries == 0 {
		opts.MaxRetries = -1 // 0 stands for the default of the library
	}
	opts.DialerRetries = 1
	// Only Redis Enterprise sends these notifications, and enabling them costs one
	// round trip for each connection.
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(opts)
	if o.Tracers != nil {
		err := redisotel.InstrumentTracing(client, redisotel.WithTracerProvider(o.Tracers),
			redisotel.WithDBStatement(false), // it contains whole orders
			redisotel.WithCallerEnabled(false))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("trace redis: %w", err), client.Close())
		}
	}
	return &Cache{client: client, put: redis.NewScript(putNewer), opts: o}, nil
}

// Close closes all connections.
func (c *Cache) Close() error {
	if err := c.client.Close(); err != nil {
		return fmt.Errorf("close redis: %w", err)
	}
	return nil
}

// Ping returns nil if Redis answers.
func (c *Cache) Ping(ctx context.Context) error {
	if err := c.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping redis: %w", err)
	}
	return nil
}

// Get implements order.Cache. It returns order.ErrNotFound if the order is not in the
// cache.
func (c *Cache) Get(ctx context.Context, id uuid.UUID) (order.Order, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	raw, err := c.client.HGet(ctx, c.key(id), "order").Bytes()
	if errors.Is(err, redis.Nil) {
		return order.Order{}, order.ErrNotFound
	}
	if err != nil {
		return order.Order{}, fmt.Errorf("read order from redis: %w", err)
	}
	var o order.Order
	if err := json.Unmarshal(raw, &o); err != nil {
		return order.Order{}, fmt.Errorf("read order from redis: %w", err)
	}
	return o, nil
}

// Put implements order.Cache.
func (c *Cache) Put(ctx context.Context, o order.Order) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write order to redis: %w", err)
	}
	err = c.put.Run(ctx, c.client, []string{c.key(o.ID)}, o.Version, raw, c.opts.TTL.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("write order to redis: %w", err)
	}
	return nil
}

func (c *Cache) key(id uuid.UUID) string { return c.opts.KeyPrefix + id.String() }

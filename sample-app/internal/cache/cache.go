// Package cache keeps copies of orders in Redis.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Options configure a Cache.
type Options struct {
	// URL is a redis:// or rediss:// URL.
	URL string
	// PoolSize is the number of connections.
	PoolSize int
	// TTL is how long an order is kept.
	TTL time.Duration
	// Timeout bounds each operation.
	Timeout time.Duration
	// KeyPrefix precedes every key.
	KeyPrefix string
}

// Cache is an order.Cache.
type Cache struct {
	client *redis.Client
	put    *redis.Script
	opts   Options
}

// putNewer stores version and data in a hash unless a newer version is there.
// A plain SET would let a slow reader put back what a writer has just replaced.
const putNewer = `
local present = redis.call('HGET', KEYS[1], 'version')
if present and tonumber(present) > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'order', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
`

// Open returns a Cache without connecting yet.
func Open(o Options) (*Cache, error) {
	opts, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("redis url: %w", err)
	}
	opts.PoolSize = o.PoolSize
	opts.ContextTimeoutEnabled = true // or contexts would not bound anything
	opts.DialTimeout = o.Timeout
	opts.ReadTimeout = o.Timeout
	opts.WriteTimeout = o.Timeout
	// The fallback is the database: trying again here only adds to the wait.
	opts.MaxRetries = -1
	opts.DialerRetries = 1
	// Only Redis Enterprise sends these; asking costs a round trip a connection.
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &Cache{client: redis.NewClient(opts), put: redis.NewScript(putNewer), opts: o}, nil
}

// Close closes every connection.
func (c *Cache) Close() error {
	if err := c.client.Close(); err != nil {
		return fmt.Errorf("close redis: %w", err)
	}
	return nil
}

// Ping reports whether Redis answers.
func (c *Cache) Ping(ctx context.Context) error {
	if err := c.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping redis: %w", err)
	}
	return nil
}

// Get implements order.Cache.
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

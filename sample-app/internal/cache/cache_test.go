package cache_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/slipway-ci/slipway/sample-app/internal/cache"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

func open(t *testing.T, address, prefix string) *cache.Cache {
	t.Helper()
	c, err := cache.Open(cache.Options{URL: address, PoolSize: 4, TTL: time.Hour, Timeout: testenv.Patience, KeyPrefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func raw(t *testing.T, address string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestANewerVersionIsNeverReplacedByAnOlderOne(t *testing.T) {
	address, prefix := testenv.Redis(t)
	c := open(t, address, prefix)
	id := uuid.New()
	if _, err := c.Get(t.Context(), id); !errors.Is(err, order.ErrNotFound) {
		t.Fatalf("empty cache: %v", err)
	}
	for _, step := range []struct {
		put  order.Order
		want order.Status
	}{
		{order.Order{ID: id, Version: 1, Status: order.StatusPending}, order.StatusPending},
		{order.Order{ID: id, Version: 2, Status: order.StatusConfirmed}, order.StatusConfirmed},
		{order.Order{ID: id, Version: 1, Status: order.StatusPending}, order.StatusConfirmed},
		// Versions are compared as numbers: as strings, 10 would be less than 2.
		{order.Order{ID: id, Version: 10, Status: order.StatusCancelled}, order.StatusCancelled},
	} {
		if err := c.Put(t.Context(), step.put); err != nil {
			t.Fatal(err)
		}
		got, err := c.Get(t.Context(), id)
		if err != nil || got.Status != step.want {
			t.Errorf("after version %d: %+v, error %v, want %s", step.put.Version, got, err, step.want)
		}
	}
}

func TestOrdersExpire(t *testing.T) {
	address, prefix := testenv.Redis(t)
	c := open(t, address, prefix)
	id := uuid.New()
	if err := c.Put(t.Context(), order.Order{ID: id, Version: 1}); err != nil {
		t.Fatal(err)
	}
	ttl, err := raw(t, address).TTL(t.Context(), prefix+id.String()).Result()
	if err != nil || ttl <= 0 || ttl > time.Hour {
		t.Errorf("time to live %s, error %v", ttl, err)
	}
}

func TestDamagedEntryIsAnError(t *testing.T) {
	address, prefix := testenv.Redis(t)
	c := open(t, address, prefix)
	id := uuid.New()
	key := prefix + id.String()
	client := raw(t, address)
	if err := client.HSet(t.Context(), key, "version", 1, "order", "{").Err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Del(t.Context(), key) })
	if _, err := c.Get(t.Context(), id); err == nil || errors.Is(err, order.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestRedisOutage(t *testing.T) {
	address, prefix := testenv.Redis(t)
	proxy, through := testenv.NewProxy(t, address)
	c := open(t, through, prefix)
	o := order.Order{ID: uuid.New(), Version: 1, Status: order.StatusConfirmed}
	if err := errors.Join(c.Ping(t.Context()), c.Put(t.Context(), o)); err != nil {
		t.Fatal(err)
	}
	proxy.Down()
	_, getErr := c.Get(t.Context(), o.ID)
	for name, err := range map[string]error{"get": getErr, "put": c.Put(t.Context(), o), "ping": c.Ping(t.Context())} {
		if err == nil || errors.Is(err, order.ErrNotFound) {
			t.Errorf("%s without Redis: %v", name, err)
		}
	}
	proxy.Up()
	testenv.Eventually(t, "the cache works again", func() bool {
		got, err := c.Get(t.Context(), o.ID)
		return err == nil && got.Status == o.Status
	})
}

func TestOpenRejectsBadURL(t *testing.T) {
	if _, err := cache.Open(cache.Options{URL: "redis://host/notanumber"}); err == nil {
		t.Error("no error")
	}
}

// TestPasswordRotates: a new connection uses the password of that moment.
func TestPasswordRotates(t *testing.T) {
	address, prefix := testenv.Redis(t)
	user := "user-" + strings.Trim(strings.ReplaceAll(prefix, ":", "-"), "-")
	admin := raw(t, address)
	set := func(password string) {
		t.Helper()
		if err := admin.Do(t.Context(), "ACL", "SETUSER", user, "reset", "on", ">"+password, "~*", "+@all").Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("one")
	t.Cleanup(func() { _ = admin.Do(context.Background(), "ACL", "DELUSER", user).Err() })
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "the password at the start")
	password := "one"
	var mu sync.Mutex
	c, err := cache.Open(cache.Options{
		URL: u.String(), PoolSize: 4, TTL: time.Hour, Timeout: testenv.Patience, KeyPrefix: prefix,
		Password: func() string { mu.Lock(); defer mu.Unlock(); return password },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	set("two")
	if err := admin.Do(t.Context(), "CLIENT", "KILL", "USER", user).Err(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	password = "two"
	mu.Unlock()
	testenv.Eventually(t, "a connection with the new password", func() bool { return c.Ping(t.Context()) == nil })
}

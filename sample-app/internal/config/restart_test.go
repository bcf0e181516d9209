package config

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
)

func TestNeedsRestart(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"nothing":        {func(*Config) {}, nil},
		"level":          {func(c *Config) { c.Log.Level = Level{zapcore.DebugLevel} }, nil},
		"features":       {func(c *Config) { c.Features.NewCheckout, c.Features.ExperimentalUI = true, true }, nil},
		"password":       {func(c *Config) { c.Database.URL = NewURL("postgres://app:other@db/orders") }, nil},
		"host":           {func(c *Config) { c.Database.URL = NewURL("postgres://app:old@elsewhere/orders") }, []string{"database.url"}},
		"port":           {func(c *Config) { c.Server.Listen = ":9999" }, []string{"server.listen"}},
		"several":        {func(c *Config) { c.Log.Format, c.Redis.TTL = "console", Duration{time.Hour} }, []string{"log.format", "redis.ttl"}},
		"list of limits": {func(c *Config) { c.Payment.Retries, c.Inventory.MaxConcurrent = 1, 1 }, []string{"payment.retries", "inventory.max_concurrent"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := Default()
			before.Database.URL = NewURL("postgres://app:old@db/orders")
			after := before
			tt.change(&after)
			if got := NeedsRestart(before, after); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

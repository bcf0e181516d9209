package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
)

// EnvVar is an environment variable that overrides a key of the configuration file.
type EnvVar struct {
	Name string
	// Key is the key that it overrides, or a description of what it overrides.
	Key string
	// Secret reports whether the value is secret, so that it must come from a
	// Secret and not from a ConfigMap.
	Secret bool
	set    func(*Config, string) error
}

// EnvVars returns all environment variables that Read and Load use. A variable with
// an empty value is treated as not set.
func EnvVars() []EnvVar {
	return []EnvVar{
		{Name: "LOG_LEVEL", Key: "log.level", set: func(c *Config, v string) error {
			level, err := zapcore.ParseLevel(v)
			c.Log.Level = Level{level}
			return err
		}},
		{Name: "LOG_FORMAT", Key: "log.format", set: text(func(c *Config) *string { return &c.Log.Format })},
		{Name: "APP_ENVIRONMENT", Key: "app.environment", set: text(func(c *Config) *string { return &c.App.Environment })},
		{Name: "APP_SERVER_LISTEN", Key: "server.listen", set: text(func(c *Config) *string { return &c.Server.Listen })},
		{Name: "APP_SERVER_METRICS_LISTEN", Key: "server.metrics_listen", set: text(func(c *Config) *string { return &c.Server.MetricsListen })},
		{Name: "DATABASE_URL", Key: "database.url", Secret: true, set: func(c *Config, v string) error {
			c.Database.URL = NewURL(v)
			return nil
		}},
		{Name: "DATABASE_PASSWORD", Key: "the password in database.url", Secret: true, set: func(c *Config, v string) error {
			return setPassword(&c.Database.URL, v)
		}},
		{Name: "DB_PASSWORD_FILE", Key: "database.password_file", set: text(func(c *Config) *string { return &c.Database.PasswordFile })},
		{Name: "DATABASE_PASSWORD_FILE", Key: "database.password_file", set: text(func(c *Config) *string { return &c.Database.PasswordFile })},
		{Name: "DATABASE_MAX_CONNS", Key: "database.max_conns", set: func(c *Config, v string) error {
			n, err := strconv.ParseInt(v, 10, 32)
			if err != nil {
				return fmt.Errorf("%q is not a whole number", v)
			}
			c.Database.MaxConns = int32(n)
			return nil
		}},
		{Name: "REDIS_URL", Key: "redis.url", Secret: true, set: func(c *Config, v string) error {
			c.Redis.URL = NewURL(v)
			return nil
		}},
		{Name: "REDIS_PASSWORD", Key: "the password in redis.url", Secret: true, set: func(c *Config, v string) error {
			return setPassword(&c.Redis.URL, v)
		}},
		{Name: "REDIS_PASSWORD_FILE", Key: "redis.password_file", set: text(func(c *Config) *string { return &c.Redis.PasswordFile })},
		{Name: "PAYMENT_URL", Key: "payment.url", set: func(c *Config, v string) error {
			c.Payment.URL = NewURL(v)
			return nil
		}},
		{Name: "INVENTORY_URL", Key: "inventory.url", set: func(c *Config, v string) error {
			c.Inventory.URL = NewURL(v)
			return nil
		}},
		{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Key: "otlp.endpoint", set: func(c *Config, v string) error {
			c.OTLP.Endpoint = NewURL(v)
			return nil
		}},
		{Name: "OTEL_SERVICE_NAME", Key: "otlp.service_name", set: text(func(c *Config) *string { return &c.OTLP.ServiceName })},
		{Name: "OTEL_TRACES_SAMPLER_ARG", Key: "otlp.sample_ratio", set: func(c *Config, v string) error {
			ratio, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return fmt.Errorf("%q is not a number from 0 to 1", v)
			}
			c.OTLP.SampleRatio = ratio
			return nil
		}},
		{Name: "SHUTDOWN_DRAIN_DELAY", Key: "shutdown.drain_delay", set: func(c *Config, v string) error {
			return setDuration(&c.Shutdown.DrainDelay, v)
		}},
		{Name: "SHUTDOWN_TIMEOUT", Key: "shutdown.timeout", set: func(c *Config, v string) error {
			return setDuration(&c.Shutdown.Timeout, v)
		}},
	}
}

// text returns a function that sets a key that is a text.
func text(key func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*key(c) = v
		return nil
	}
}

// applyEnv applies the environment variables to cfg.
func applyEnv(cfg *Config, lookup func(string) (string, bool)) error {
	for _, env := range EnvVars() {
		value, _ := lookup(env.Name)
		if value == "" {
			continue
		}
		if err := env.set(cfg, value); err != nil {
			return fmt.Errorf("environment variable %s: %w", env.Name, err)
		}
	}
	return nil
}

// readPasswords sets the passwords in the URLs to the contents of the password
// files.
func readPasswords(cfg *Config) error {
	for _, p := range []struct {
		key, path string
		url       *URL
	}{
		{"database.password_file", cfg.Database.PasswordFile, &cfg.Database.URL},
		{"redis.password_file", cfg.Redis.PasswordFile, &cfg.Redis.URL},
	} {
		if p.path == "" {
			continue
		}
		password, err := ReadPassword(p.path)
		if err == nil {
			err = setPassword(p.url, password)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.key, err)
		}
	}
	return nil
}

// ReadPassword returns the content of a password file without the line break at its end.
// A file that is empty is an error.
func ReadPassword(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return "", err
	}
	// The line break at the end of the file is not part of the password.
	password := strings.TrimRight(string(raw), "\r\n")
	if password == "" {
		return "", fmt.Errorf("the file %s is empty", path)
	}
	return password, nil
}

func setPassword(u *URL, password string) error {
	if u.Empty() {
		return errors.New("there is no URL for this password: set the URL, too")
	}
	with, err := u.withPassword(password)
	if err != nil {
		return err
	}
	*u = with
	return nil
}

func setDuration(d *Duration, v string) error {
	parsed, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 250ms, 30s or 5m", v)
	}
	d.Duration = parsed
	return nil
}

// Package config loads the order service's settings: built-in defaults, then a
// YAML file, then environment variables, each overriding the one before.
//
// Unknown keys are errors that name their line, and no error or log line ever
// repeats a value that may hold a password.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"
)

// DefaultPath is where the image expects the file. It may be absent; a file
// named explicitly may not.
const DefaultPath = "/etc/app/config.yaml"

// maxFileBytes bounds what Load reads. A Kubernetes ConfigMap holds 1 MiB.
const maxFileBytes = 1 << 20

// Config is everything the service can be told.
type Config struct {
	Log       Log      `yaml:"log"`
	Server    Server   `yaml:"server"`
	Health    Health   `yaml:"health"`
	Database  Database `yaml:"database"`
	Redis     Redis    `yaml:"redis"`
	Payment   Upstream `yaml:"payment"`
	Inventory Upstream `yaml:"inventory"`
	Orders    Orders   `yaml:"orders"`
	Shutdown  Shutdown `yaml:"shutdown"`
}

// Log configures logging.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level zapcore.Level `yaml:"level"`
}

// Server configures the API listener and the metrics listener.
type Server struct {
	// Listen is the API's and the probes' address. Default ":8080".
	Listen string `yaml:"listen"`
	// MetricsListen is the Prometheus endpoint's address. Default ":9090".
	MetricsListen string `yaml:"metrics_listen"`
	// ReadTimeout bounds reading a whole request. Default 30s.
	ReadTimeout Duration `yaml:"read_timeout"`
	// WriteTimeout bounds answering a request. Default 30s.
	WriteTimeout Duration `yaml:"write_timeout"`
	// IdleTimeout closes unused keep-alive connections. Default 75s, which is
	// longer than ingress-nginx keeps its own (60s), so that the proxy and
	// never the server closes first.
	IdleTimeout Duration `yaml:"idle_timeout"`
	// RequestTimeout bounds the work behind a request. Default 25s; it must be
	// below WriteTimeout or the answer could not be written.
	RequestTimeout Duration `yaml:"request_timeout"`
	// MaxBodyBytes bounds a request body. Default 65536.
	MaxBodyBytes int64 `yaml:"max_body_bytes"`
	// MaxInFlight is how many API requests run at once; more get 503 and
	// Retry-After. Default 512.
	MaxInFlight int64 `yaml:"max_in_flight"`
}

// Health configures the readiness probe.
type Health struct {
	// Timeout bounds each dependency check. Default 750ms, below the one
	// second after which a kubelet gives up by default.
	Timeout Duration `yaml:"timeout"`
}

// Database configures Postgres.
type Database struct {
	// URL is a postgres:// URL. Required.
	URL URL `yaml:"url"`
	// PasswordFile names a file whose content replaces the URL's password,
	// for a Secret mounted as a file.
	PasswordFile string `yaml:"password_file"`
	// MaxConns is the pool's size. Default 50.
	MaxConns int32 `yaml:"max_conns"`
	// QueryTimeout bounds each query or transaction. Default 5s.
	QueryTimeout Duration `yaml:"query_timeout"`
}

// Redis configures the cache.
type Redis struct {
	// URL is a redis:// or rediss:// URL. Empty switches the cache off.
	URL URL `yaml:"url"`
	// PasswordFile names a file whose content replaces the URL's password.
	PasswordFile string `yaml:"password_file"`
	// PoolSize is the number of connections. Default 20.
	PoolSize int `yaml:"pool_size"`
	// TTL is how long an order stays cached. Default 5m. It also bounds how
	// long a stale order can live when Redis was away during a write.
	TTL Duration `yaml:"ttl"`
	// Timeout bounds each cache operation. Default 250ms: a slow cache must
	// never be slower than the database.
	Timeout Duration `yaml:"timeout"`
	// KeyPrefix precedes every key. Default "order:".
	KeyPrefix string `yaml:"key_prefix"`
}

// Upstream configures an HTTP service that orders depend on.
type Upstream struct {
	// URL is the service's base URL. Empty leaves the step out.
	URL URL `yaml:"url"`
	// Timeout bounds each attempt. Default 3s.
	Timeout Duration `yaml:"timeout"`
	// Retries is how many times a failed attempt is repeated. Default 2.
	Retries uint `yaml:"retries"`
	// RetryInterval is the first wait between attempts; later ones double, and
	// all are jittered by half. Default 100ms.
	RetryInterval Duration `yaml:"retry_interval"`
	// MaxConcurrent is how many requests run at once; others wait. Default 32.
	MaxConcurrent int64 `yaml:"max_concurrent"`
}

// Orders configures how unfinished orders are picked up again.
type Orders struct {
	// RecoveryInterval is how often orders left half-done by a dead replica or
	// an unreachable upstream are looked for. Default 15s.
	RecoveryInterval Duration `yaml:"recovery_interval"`
}

// Shutdown configures what happens on SIGTERM.
type Shutdown struct {
	// DrainDelay is how long the service goes on serving after it has become
	// unready, so that load balancers notice. Default 5s.
	DrainDelay Duration `yaml:"drain_delay"`
	// Timeout bounds the whole shutdown, drain included. Default 30s.
	Timeout Duration `yaml:"timeout"`
}

// Default returns the settings used where neither file nor environment says
// otherwise. It has no database URL and is therefore not valid on its own.
func Default() Config {
	upstream := Upstream{
		Timeout:       Duration{3 * time.Second},
		Retries:       2,
		RetryInterval: Duration{100 * time.Millisecond},
		MaxConcurrent: 32,
	}
	return Config{
		Log: Log{Level: zapcore.InfoLevel},
		Server: Server{
			Listen:         ":8080",
			MetricsListen:  ":9090",
			ReadTimeout:    Duration{30 * time.Second},
			WriteTimeout:   Duration{30 * time.Second},
			IdleTimeout:    Duration{75 * time.Second},
			RequestTimeout: Duration{25 * time.Second},
			MaxBodyBytes:   64 << 10,
			MaxInFlight:    512,
		},
		Health:   Health{Timeout: Duration{750 * time.Millisecond}},
		Database: Database{MaxConns: 50, QueryTimeout: Duration{5 * time.Second}},
		Redis: Redis{
			PoolSize:  20,
			TTL:       Duration{5 * time.Minute},
			Timeout:   Duration{250 * time.Millisecond},
			KeyPrefix: "order:",
		},
		Payment:   upstream,
		Inventory: upstream,
		Orders:    Orders{RecoveryInterval: Duration{15 * time.Second}},
		Shutdown:  Shutdown{DrainDelay: Duration{5 * time.Second}, Timeout: Duration{30 * time.Second}},
	}
}

// Load reads the settings, fills in passwords kept in files and validates the
// result.
func Load(path string, lookup func(string) (string, bool)) (Config, error) {
	cfg, err := Read(path, lookup)
	if err != nil {
		return Config{}, err
	}
	if err := readPasswords(&cfg); err != nil {
		return Config{}, err
	}
	if err := cfg.Validate(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// Read reads the file at path over the defaults and applies the environment that
// lookup gives (see EnvVars). An empty path means DefaultPath, which alone may be
// missing. The result need not be valid: use it where one setting is enough.
func Read(path string, lookup func(string) (string, bool)) (Config, error) {
	cfg, err := readFile(path)
	if err != nil {
		return Config{}, err
	}
	if err := applyEnv(&cfg, lookup); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

func readFile(path string) (Config, error) {
	optional := path == ""
	if optional {
		path = DefaultPath
	}
	f, err := os.Open(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	if len(raw) > maxFileBytes {
		return Config{}, fmt.Errorf("read config: %s is larger than %d bytes", path, maxFileBytes)
	}
	cfg, err := Parse(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// Parse decodes one YAML document over the defaults. It rejects unknown and
// repeated keys but does not validate: the environment may still fill gaps.
func Parse(raw []byte) (Config, error) {
	cfg := Default()
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		if errors.Is(err, io.EOF) { // an empty file is a valid one
			return Default(), nil
		}
		return Config{}, tidy(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("more than one YAML document: keep the first, delete the rest")
	}
	return cfg, nil
}

var unknownField = regexp.MustCompile(`^line (\d+): field (.*) not found in type config\.(\w+)$`)

// tidy turns the decoder's list of Go type names into one line about YAML.
func tidy(err error) error {
	var typeErr *yaml.TypeError
	if !errors.As(err, &typeErr) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	lines := make([]string, 0, len(typeErr.Errors))
	for _, line := range typeErr.Errors {
		if m := unknownField.FindStringSubmatch(line); m != nil {
			line = fmt.Sprintf("line %s: unknown key %q", m[1], m[2])
			if m[3] != "Config" {
				line += " in a " + strings.ToLower(m[3]) + " section"
			}
		}
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "; "))
}

// Validate reports every impossible value at once, joined into one line.
func (c Config) Validate() error {
	var v validator
	v.require(c.Server.Listen != "", "server.listen", "must be an address such as :8080")
	v.require(c.Server.MetricsListen != "", "server.metrics_listen", "must be an address such as :9090")
	v.positive("server.read_timeout", c.Server.ReadTimeout)
	v.positive("server.write_timeout", c.Server.WriteTimeout)
	v.positive("server.idle_timeout", c.Server.IdleTimeout)
	v.positive("server.request_timeout", c.Server.RequestTimeout)
	v.require(c.Server.RequestTimeout.Duration < c.Server.WriteTimeout.Duration,
		"server.request_timeout", "must be below server.write_timeout, or late answers are cut off")
	v.require(c.Server.MaxBodyBytes > 0, "server.max_body_bytes", "must be above 0")
	v.require(c.Server.MaxInFlight > 0, "server.max_in_flight", "must be above 0")
	v.positive("health.timeout", c.Health.Timeout)

	v.require(!c.Database.URL.Empty(), "database.url", "is required: set it in the file or as DATABASE_URL")
	v.url("database.url", c.Database.URL, "postgres", "postgresql")
	// Migrations hold one connection for their lock while others serve probes.
	v.require(c.Database.MaxConns >= 2, "database.max_conns", "must be 2 or more")
	v.positive("database.query_timeout", c.Database.QueryTimeout)

	v.url("redis.url", c.Redis.URL, "redis", "rediss")
	v.require(c.Redis.PoolSize > 0, "redis.pool_size", "must be above 0")
	v.positive("redis.ttl", c.Redis.TTL)
	v.positive("redis.timeout", c.Redis.Timeout)

	v.upstream("payment", c.Payment)
	v.upstream("inventory", c.Inventory)

	v.positive("orders.recovery_interval", c.Orders.RecoveryInterval)
	v.require(c.Shutdown.DrainDelay.Duration >= 0, "shutdown.drain_delay", "must not be negative")
	v.positive("shutdown.timeout", c.Shutdown.Timeout)
	v.require(c.Shutdown.DrainDelay.Duration < c.Shutdown.Timeout.Duration,
		"shutdown.drain_delay", "must be below shutdown.timeout, which includes it")
	return v.err()
}

type validator struct{ problems []string }

func (v *validator) require(ok bool, key, problem string) {
	if !ok {
		v.problems = append(v.problems, key+" "+problem)
	}
}

func (v *validator) positive(key string, d Duration) {
	v.require(d.Duration > 0, key, "must be above 0, for example 5s")
}

func (v *validator) url(key string, u URL, schemes ...string) {
	if !u.Empty() {
		if problem := u.check(schemes...); problem != "" {
			v.require(false, key, problem)
		}
	}
}

func (v *validator) upstream(key string, u Upstream) {
	v.url(key+".url", u.URL, "http", "https")
	v.positive(key+".timeout", u.Timeout)
	v.positive(key+".retry_interval", u.RetryInterval)
	v.require(u.Retries <= 10, key+".retries", "must be 10 or less")
	v.require(u.MaxConcurrent > 0, key+".max_concurrent", "must be above 0")
}

func (v *validator) err() error {
	if len(v.problems) == 0 {
		return nil
	}
	return errors.New("invalid configuration: " + strings.Join(v.problems, "; "))
}

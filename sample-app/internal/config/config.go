// Package config loads the settings of the order service. Values in the YAML file
// override the defaults, and environment variables override the values in the file.
//
// An unknown key is an error that names the line. Values that can contain a password
// never appear in error messages or logs.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"
)

// DefaultPath is the path of the configuration file if no other path is given. This
// file need not exist, in contrast to a file whose path is given.
const DefaultPath = "/etc/app/config.yaml"

// production is the default environment.
const production = "production"

// maxFileBytes is the maximum size of a file. A Kubernetes ConfigMap can hold 1 MiB.
const maxFileBytes = 1 << 20

// Config contains all settings of the service.
type Config struct {
	App       App      `yaml:"app"`
	Log       Log      `yaml:"log"`
	Features  Features `yaml:"features"`
	OTLP      OTLP     `yaml:"otlp"`
	Server    Server   `yaml:"server"`
	Health    Health   `yaml:"health"`
	Database  Database `yaml:"database"`
	Redis     Redis    `yaml:"redis"`
	Payment   Upstream `yaml:"payment"`
	Inventory Upstream `yaml:"inventory"`
	Orders    Orders   `yaml:"orders"`
	Shutdown  Shutdown `yaml:"shutdown"`
}

// App says what runs.
type App struct {
	// Environment is where the service runs, for example staging. The default is
	// production.
	Environment string `yaml:"environment"`
}

// Log configures logging.
type Log struct {
	// Level is debug, info, warn or error. The default is info. It can change while the
	// service runs.
	Level Level `yaml:"level"`
	// Format is json or console. The default is json in the environment production, and
	// console in any other.
	Format string `yaml:"format"`
}

// Console reports whether log lines are for people and not for a collector of logs.
func (c Config) Console() bool {
	return c.Log.Format == "console" || c.Log.Format == "" && c.App.Environment != production
}

// Features switches on what is not meant for everybody yet. All features can change while
// the service runs.
type Features struct {
	// NewCheckout adds a receipt to the response when an order is created.
	NewCheckout bool `yaml:"new_checkout"`
	// ExperimentalUI serves a page with the newest orders at /ui.
	ExperimentalUI bool `yaml:"experimental_ui"`
}

// OTLP configures the traces and metrics that are sent to an OpenTelemetry collector.
type OTLP struct {
	// Endpoint is the http:// or https:// URL of the collector's OTLP port for gRPC. If it
	// is empty, nothing is sent.
	Endpoint URL `yaml:"endpoint"`
	// ServiceName is the name under which the telemetry appears. The default is
	// order-service.
	ServiceName string `yaml:"service_name"`
	// SampleRatio is the fraction of requests, from 0 to 1, that are traced. The default is
	// 0.1. Requests whose sender has decided about it already are not counted.
	SampleRatio float64 `yaml:"sample_ratio"`
	// Timeout is the maximum duration of each attempt to send data. The default is 10s.
	Timeout Duration `yaml:"timeout"`
	// Retry is how long the same data is sent again while the collector cannot take it. The
	// default is 1m; with 0 it is not sent again.
	Retry Duration `yaml:"retry"`
	// MetricsInterval is the time between two exports of metrics. The default is 15s; with 0
	// metrics can only be scraped.
	MetricsInterval Duration `yaml:"metrics_interval"`
}

// Server configures the API listener and the metrics listener.
type Server struct {
	// Listen is the address of the API and the probes. The default is ":8080".
	Listen string `yaml:"listen"`
	// MetricsListen is the address of the Prometheus endpoint. The default is
	// ":9090".
	MetricsListen string `yaml:"metrics_listen"`
	// ReadTimeout is the maximum time to read a whole request. The default is
	// 30s.
	ReadTimeout Duration `yaml:"read_timeout"`
	// WriteTimeout is the maximum time to write a response, measured from the end
	// of the request's header. The default is 30s.
	WriteTimeout Duration `yaml:"write_timeout"`
	// IdleTimeout is how long an idle keep-alive connection stays open. The
	// default is 75s. It should be longer than the idle timeout of the proxy in
	// front of the service (60s for ingress-nginx), so that the proxy closes idle
	// connections and never uses one that the service is about to close.
	IdleTimeout Duration `yaml:"idle_timeout"`
	// RequestTimeout is the maximum duration of the work for a request. The
	// default is 25s. It must be below WriteTimeout, so that there is time to
	// write the response.
	RequestTimeout Duration `yaml:"request_timeout"`
	// MaxBodyBytes is the maximum size of a request body in bytes. The default is
	// 65536.
	MaxBodyBytes int64 `yaml:"max_body_bytes"`
	// MaxInFlight is the maximum number of concurrent API requests. Further
	// requests get status 503 with a Retry-After header. The default is 512.
	MaxInFlight int64 `yaml:"max_in_flight"`
}

// Health configures the readiness probe.
type Health struct {
	// Timeout is the maximum duration of the check of each dependency. The default
	// is 750ms. It must be below the timeout of the kubelet's probe, which is one
	// second by default.
	Timeout Duration `yaml:"timeout"`
}

// Database configures Postgres.
type Database struct {
	// URL is a postgres:// URL. Required.
	URL URL `yaml:"url"`
	// PasswordFile is the path of a file with the password, for example of a
	// mounted Secret. It replaces the password in the URL.
	PasswordFile string `yaml:"password_file"`
	// MaxConns is the maximum number of connections in the pool. The default is
	// 50, the minimum is 2.
	MaxConns int32 `yaml:"max_conns"`
	// MinIdleConns is the number of idle connections that the pool keeps ready. The
	// default is 0.
	MinIdleConns int32 `yaml:"min_idle_conns"`
	// MaxConnLifetime is how long a connection is used before it is replaced. The
	// default is 1h.
	MaxConnLifetime Duration `yaml:"max_conn_lifetime"`
	// QueryTimeout is the maximum duration of each query or transaction. The
	// default is 5s.
	QueryTimeout Duration `yaml:"query_timeout"`
}

// Redis configures the cache.
type Redis struct {
	// URL is a redis:// or rediss:// URL. If it is empty, there is no cache.
	URL URL `yaml:"url"`
	// PasswordFile is the path of a file with the password. It replaces the
	// password in the URL.
	PasswordFile string `yaml:"password_file"`
	// PoolSize is the maximum number of connections. The default is 20.
	PoolSize int `yaml:"pool_size"`
	// MaxRetries is how often a failed operation is repeated. The default is 0,
	// because the database has the order too.
	MaxRetries int `yaml:"max_retries"`
	// TTL is how long an order stays in the cache. The default is 5m. It is also
	// the maximum time for which the cache returns a stale order if Redis was
	// unreachable when the order changed.
	TTL Duration `yaml:"ttl"`
	// Timeout is the maximum duration of each cache operation. The default is
	// 250ms: waiting longer for the cache would be slower than the database.
	Timeout Duration `yaml:"timeout"`
	// KeyPrefix is the prefix of all keys. The default is "order:".
	KeyPrefix string `yaml:"key_prefix"`
}

// Upstream configures an HTTP service that orders depend on.
type Upstream struct {
	// URL is the base URL of the service. If it is empty, the step is skipped.
	URL URL `yaml:"url"`
	// Timeout is the maximum duration of each attempt. The default is 3s.
	Timeout Duration `yaml:"timeout"`
	// Retries is the maximum number of retries after a failed attempt. The default
	// is 2, the maximum 10.
	Retries uint `yaml:"retries"`
	// RetryInterval is the delay before the first retry. It doubles with each
	// further retry and varies randomly by up to half. The default is 100ms.
	RetryInterval Duration `yaml:"retry_interval"`
	// MaxConcurrent is the maximum number of concurrent requests. Further requests
	// wait. The default is 32.
	MaxConcurrent int64 `yaml:"max_concurrent"`
}

// Orders configures the recovery of unfinished orders.
type Orders struct {
	// RecoveryInterval is the interval between two searches for orders that were
	// not finished because a replica died or an upstream was unreachable. The
	// default is 15s.
	RecoveryInterval Duration `yaml:"recovery_interval"`
}

// Shutdown configures the shutdown after SIGTERM.
type Shutdown struct {
	// DrainDelay is how long the service continues to accept requests after its
	// readiness probe has begun to fail, so that load balancers have time to
	// notice. The default is 5s.
	DrainDelay Duration `yaml:"drain_delay"`
	// Timeout is the maximum duration of the whole shutdown, including
	// DrainDelay. The default is 30s.
	Timeout Duration `yaml:"timeout"`
}

// Default returns the default settings. They contain no database URL, so they are
// not valid without further settings.
func Default() Config {
	upstream := Upstream{
		Timeout:       Duration{3 * time.Second},
		Retries:       2,
		RetryInterval: Duration{100 * time.Millisecond},
		MaxConcurrent: 32,
	}
	return Config{
		App: App{Environment: production},
		Log: Log{Level: Level{zapcore.InfoLevel}},
		OTLP: OTLP{
			ServiceName:     "order-service",
			SampleRatio:     0.1,
			Timeout:         Duration{10 * time.Second},
			Retry:           Duration{time.Minute},
			MetricsInterval: Duration{15 * time.Second},
		},
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
		Database: Database{MaxConns: 50, MaxConnLifetime: Duration{time.Hour}, QueryTimeout: Duration{5 * time.Second}},
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

// Load reads the settings like Read, inserts the passwords from password files and
// validates the result.
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

// Reload reads and validates the settings like Load, but without password files, which
// change independently.
func Reload(path string, lookup func(string) (string, bool)) (Config, error) {
	cfg, err := Read(path, lookup)
	if err != nil {
		return Config{}, err
	}
	if err := cfg.Validate(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// Read reads the file at path and applies the environment variables that lookup
// returns (see EnvVars). An empty path means DefaultPath, and then the file need not
// exist. Read does not validate the settings, so it is suitable if only some of them
// are needed.
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
		return Config{}, fmt.Errorf("read config: %s is larger than the maximum of %d bytes", path, maxFileBytes)
	}
	cfg, err := Parse(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// Parse decodes a YAML document, with defaults for missing keys. Unknown and
// duplicate keys are errors. Parse does not validate the settings, because environment
// variables can still change them.
func Parse(raw []byte) (Config, error) {
	cfg := Default()
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&cfg); err != nil {
		if errors.Is(err, io.EOF) { // an empty file is valid
			return Default(), nil
		}
		return Config{}, tidy(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("the file contains more than one YAML document: keep only one of them")
	}
	return cfg, nil
}

var unknownField = regexp.MustCompile(`^line (\d+): field (.*) not found in type config\.(\w+)$`)

// tidy converts the decoder's error, which contains line breaks and Go types, into
// one line in terms of YAML.
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

// Validate returns an error that lists all invalid values in one line, or nil.
func (c Config) Validate() error {
	var v validator
	v.serving(c)
	v.positive("health.timeout", c.Health.Timeout)

	v.require(!c.Database.URL.Empty(), "database.url", "is required: set it in the file or as DATABASE_URL")
	v.url("database.url", c.Database.URL, "postgres", "postgresql")
	// A migration holds one connection for its lock, and the probes need another.
	v.require(c.Database.MaxConns >= 2, "database.max_conns", "must be 2 or more")
	v.require(c.Database.MinIdleConns >= 0 && c.Database.MinIdleConns <= c.Database.MaxConns, "database.min_idle_conns", "must be 0 or more, and not above max_conns")
	v.positive("database.max_conn_lifetime", c.Database.MaxConnLifetime)
	v.positive("database.query_timeout", c.Database.QueryTimeout)

	v.url("redis.url", c.Redis.URL, "redis", "rediss")
	v.require(c.Redis.PoolSize > 0, "redis.pool_size", "must be above 0")
	v.require(c.Redis.MaxRetries >= 0 && c.Redis.MaxRetries <= 10, "redis.max_retries", "must be between 0 and 10")
	v.positive("redis.ttl", c.Redis.TTL)
	v.positive("redis.timeout", c.Redis.Timeout)

	v.upstream("payment", c.Payment)
	v.upstream("inventory", c.Inventory)

	v.positive("orders.recovery_interval", c.Orders.RecoveryInterval)
	v.require(c.Shutdown.DrainDelay.Duration >= 0, "shutdown.drain_delay", "must not be negative")
	v.positive("shutdown.timeout", c.Shutdown.Timeout)
	v.require(c.Shutdown.DrainDelay.Duration < c.Shutdown.Timeout.Duration,
		"shutdown.drain_delay", "must be below shutdown.timeout, because the timeout includes the delay")
	return v.err()
}

// ValidateServing is Validate for a service that has only the sections app, log, otlp and
// server.
func (c Config) ValidateServing() error {
	var v validator
	v.serving(c)
	return v.err()
}

type validator struct{ problems []string }

func (v *validator) serving(c Config) {
	v.require(c.App.Environment != "", "app.environment", "must be a name such as production")
	v.require(slices.Contains([]string{"", "json", "console"}, c.Log.Format), "log.format", "must be json or console")
	v.otlp(c.OTLP)
	v.require(c.Server.Listen != "", "server.listen", "must be an address such as :8080")
	v.require(c.Server.MetricsListen != "", "server.metrics_listen", "must be an address such as :9090")
	v.positive("server.read_timeout", c.Server.ReadTimeout)
	v.positive("server.write_timeout", c.Server.WriteTimeout)
	v.positive("server.idle_timeout", c.Server.IdleTimeout)
	v.positive("server.request_timeout", c.Server.RequestTimeout)
	v.require(c.Server.RequestTimeout.Duration < c.Server.WriteTimeout.Duration,
		"server.request_timeout", "must be below server.write_timeout, otherwise late responses are cut off")
	v.require(c.Server.MaxBodyBytes > 0, "server.max_body_bytes", "must be above 0")
	v.require(c.Server.MaxInFlight > 0, "server.max_in_flight", "must be above 0")
}

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

func (v *validator) otlp(o OTLP) {
	v.url("otlp.endpoint", o.Endpoint, "http", "https")
	if problem := o.Endpoint.checkPort(); problem != "" {
		v.require(false, "otlp.endpoint", problem)
	}
	v.require(o.ServiceName != "", "otlp.service_name", "must be a name such as order-service")
	v.require(o.SampleRatio >= 0 && o.SampleRatio <= 1, "otlp.sample_ratio", "must be a number from 0 to 1, for example 0.1")
	v.positive("otlp.timeout", o.Timeout)
	v.require(o.Retry.Duration >= 0, "otlp.retry", "must not be negative")
	v.require(o.MetricsInterval.Duration >= 0, "otlp.metrics_interval", "must not be negative")
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

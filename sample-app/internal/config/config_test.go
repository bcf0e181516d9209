package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"
)

const secret = "s3cr3t-p4ss"

func env(pairs ...string) func(string) (string, bool) {
	m := map[string]string{}
	for pair := range slices.Chunk(pairs, 2) {
		m[pair[0]] = pair[1]
	}
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadPrecedence(t *testing.T) {
	path := write(t, "config.yaml", `
log: {level: warn}
server: {listen: "127.0.0.1:1", request_timeout: 7s}
database: {url: "postgres://app@db/orders", max_conns: 9}
payment: {url: "http://payment"}
shutdown: {drain_delay: 2s}
`)
	cfg, err := Load(path, env(
		"APP_SERVER_LISTEN", "127.0.0.1:2",
		"APP_SERVER_METRICS_LISTEN", "127.0.0.1:3",
		"DATABASE_PASSWORD", secret,
		"DATABASE_MAX_CONNS", "11",
		"REDIS_URL", "redis://cache:6379/1",
		"INVENTORY_URL", "http://inventory",
		"LOG_LEVEL", "debug",
		"SHUTDOWN_TIMEOUT", "20s",
		"PAYMENT_URL", "", // treated as not set
	))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Log.Level = Level{zapcore.DebugLevel}
	want.Server.Listen, want.Server.MetricsListen = "127.0.0.1:2", "127.0.0.1:3"
	want.Server.RequestTimeout = Duration{7 * time.Second}
	want.Database.URL, want.Database.MaxConns = NewURL("postgres://app:"+secret+"@db/orders"), 11
	want.Redis.URL = NewURL("redis://cache:6379/1")
	want.Payment.URL, want.Inventory.URL = NewURL("http://payment"), NewURL("http://inventory")
	want.Shutdown = Shutdown{DrainDelay: Duration{2 * time.Second}, Timeout: Duration{20 * time.Second}}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

// The documentation and the Helm chart rely on these values.
func TestDefaultValues(t *testing.T) {
	d := Default()
	for name, got := range map[string]any{
		"database pool 50": d.Database.MaxConns == 50,
		"redis pool 20":    d.Redis.PoolSize == 20,
		"read 30s":         d.Server.ReadTimeout.Duration == 30*time.Second,
		"write 30s":        d.Server.WriteTimeout.Duration == 30*time.Second,
		"shutdown 30s":     d.Shutdown.Timeout.Duration == 30*time.Second,
		"drain 5s":         d.Shutdown.DrainDelay.Duration == 5*time.Second,
		"listen":           d.Server.Listen == ":8080" && d.Server.MetricsListen == ":9090",
	} {
		if got != true {
			t.Errorf("default changed: %s", name)
		}
	}
}

func TestExampleIsValidAndShowsTheDefaults(t *testing.T) {
	raw, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	// Except for the addresses, the example contains the default values.
	empty := URL{}
	cfg.Database.URL, cfg.Redis.URL, cfg.Payment.URL, cfg.Inventory.URL = empty, empty, empty, empty
	if !reflect.DeepEqual(cfg, Default()) {
		t.Errorf("the example differs from the defaults:\n%+v\n%+v", cfg, Default())
	}
}

func TestLoadErrors(t *testing.T) {
	valid := []string{"DATABASE_URL", "postgres://app:" + secret + "@db/orders"}
	tests := []struct {
		name, file string
		env        []string
		want       []string
	}{
		{name: "no database", want: []string{"database.url is required", "DATABASE_URL"}},
		{name: "unknown key", env: valid, file: "server:\n  listen: :1\n  lisen: :2\n", want: []string{"line 3", `unknown key "lisen"`, "server section"}},
		{name: "unknown top-level key", env: valid, file: "\nsrver: {}\n", want: []string{"line 2", `unknown key "srver"`}},
		{name: "repeated key", env: valid, file: "log: {}\nlog: {}\n", want: []string{"line 2", "already defined"}},
		{name: "bad syntax", env: valid, file: "log: [\n", want: []string{"line"}},
		{name: "tab", env: valid, file: "log:\n\tlevel: info\n", want: []string{"line 2"}},
		{name: "two documents", env: valid, file: "log: {}\n---\nlog: {}\n", want: []string{"more than one YAML document"}},
		{name: "wrong type", env: valid, file: "database: {max_conns: many}\n", want: []string{"line 1", "cannot unmarshal"}},
		{name: "endpoint without a port", env: valid, file: "otlp: {endpoint: 'http://collector'}\n", want: []string{"otlp.endpoint contains no port: add it, for example 4317"}},
		{name: "endpoint with a password", env: valid, file: "otlp: {endpoint: 'http://a:hunter2@collector:4317'}\n", want: []string{"otlp.endpoint must not contain a user"}},
		{name: "sample ratio", env: valid, file: "otlp: {sample_ratio: 10}\n", want: []string{"otlp.sample_ratio must be a number from 0 to 1"}},
		{name: "unknown level", env: valid, file: "app: {}\nlog:\n  level: verbose\n", want: []string{"line 3", `"verbose" is not a level of the log: use debug, info, warn or error`}},
		{name: "bare number as duration", env: valid, file: "shutdown:\n  timeout: 30\n", want: []string{"line 2", `"30" is not a duration`}},
		{name: "bad level", env: valid, file: "log: {level: loud}\n", want: []string{"loud"}},
		{name: "bad level in env", env: append([]string{"LOG_LEVEL", "loud"}, valid...), want: []string{"LOG_LEVEL", "loud"}},
		{name: "bad number in env", env: append([]string{"DATABASE_MAX_CONNS", "x"}, valid...), want: []string{"DATABASE_MAX_CONNS"}},
		{name: "bad duration in env", env: append([]string{"SHUTDOWN_TIMEOUT", "30"}, valid...), want: []string{"SHUTDOWN_TIMEOUT", "30s"}},
		{name: "password without url", env: []string{"DATABASE_PASSWORD", secret}, want: []string{"DATABASE_PASSWORD", "set the URL"}},
		{name: "malformed database url", env: []string{"DATABASE_URL", "postgres://app:" + secret + "/x@db:y/orders"}, want: []string{"database.url is not a valid URL", "percent-encode"}},
		{name: "wrong scheme", env: []string{"DATABASE_URL", "mysql://app:" + secret + "@db/orders"}, want: []string{"postgres://"}},
		{name: "no host", env: []string{"DATABASE_URL", "postgres:///orders"}, want: []string{"contains no host name"}},
		{name: "password in query", env: []string{"DATABASE_URL", "postgres://app@db/orders?password=" + secret}, want: []string{"query parameter"}},
		{name: "url is a list", file: "database:\n  url: [\"postgres://a:" + secret + "@db\"]\n", want: []string{"line 2", "plain string"}},
		{name: "redis scheme", env: append([]string{"REDIS_URL", "http://:" + secret + "@cache"}, valid...), want: []string{"redis.url must begin with redis://"}},
		{name: "pools", env: valid, file: "database: {min_idle_conns: 60, max_conn_lifetime: 0s}\nredis: {max_retries: 11}\n",
			want: []string{"database.min_idle_conns", "database.max_conn_lifetime", "redis.max_retries"}},
		{name: "several at once", env: valid, file: "redis: {pool_size: 0}\npayment: {retries: 11, max_concurrent: 0}\nhealth: {timeout: 0s}\n",
			want: []string{"redis.pool_size", "payment.retries", "payment.max_concurrent", "health.timeout"}},
		{name: "request timeout above write timeout", env: valid, file: "server: {request_timeout: 31s}\n", want: []string{"server.request_timeout must be below"}},
		{name: "drain delay above timeout", env: valid, file: "shutdown: {drain_delay: 30s}\n", want: []string{"shutdown.drain_delay must be below"}},
		{name: "too large", env: valid, file: "#" + strings.Repeat("x", maxFileBytes), want: []string{"larger than"}},
		{name: "missing password file", env: append([]string{"DATABASE_PASSWORD_FILE", "no-such-file"}, valid...), want: []string{"database.password_file", "no-such-file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(write(t, "config.yaml", tt.file), env(tt.env...))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not contain %q: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("password in error: %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
		})
	}
}

func TestExplicitFileMustExist(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), env("DATABASE_URL", "postgres://db/orders")); err == nil {
		t.Error("no error for a file that does not exist")
	}
}

func TestPasswordFiles(t *testing.T) {
	special := "p@ss/w:rd#?%"
	cfg, err := Load(write(t, "config.yaml", ""), env(
		"DATABASE_URL", "postgres://app:old@db/orders?sslmode=disable", "DATABASE_PASSWORD_FILE", write(t, "db", special+"\n"),
		"REDIS_URL", "redis://cache/2", "REDIS_PASSWORD_FILE", write(t, "redis", special),
	))
	if err != nil {
		t.Fatal(err)
	}
	const escaped = "p%40ss%2Fw%3Ard%23%3F%25"
	if got, want := cfg.Database.URL.Reveal(), "postgres://app:"+escaped+"@db/orders?sslmode=disable"; got != want {
		t.Errorf("database url %q, want %q", got, want)
	}
	if got, want := cfg.Redis.URL.Reveal(), "redis://:"+escaped+"@cache/2"; got != want {
		t.Errorf("redis url %q, want %q", got, want)
	}
	if _, err := Load(write(t, "config.yaml", ""), env("DATABASE_URL", "postgres://db/x", "DATABASE_PASSWORD_FILE", write(t, "db", "\n"))); err == nil {
		t.Error("an empty password file must be an error")
	}
}

func TestFormattingOmitsPasswords(t *testing.T) {
	cfg := Default()
	cfg.Database.URL = NewURL("postgres://app:" + secret + "@db:5432/orders?sslpassword=" + secret)
	cfg.Redis.URL = NewURL("redis://:" + secret + "@cache/0")
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"%v": fmt.Sprintf("%v", cfg), "%+v": fmt.Sprintf("%+v", cfg), "%#v": fmt.Sprintf("%#v", cfg),
		"%s": cfg.Database.URL.String(), "%q": fmt.Sprintf("%q", cfg.Redis.URL),
		"json": string(asJSON), "yaml": string(asYAML),
		"malformed": NewURL("postgres://a:" + secret + "@[").String(),
		"opaque":    NewURL("postgres:" + secret).String(),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("%s shows the password: %s", name, text)
		}
	}
	if got := cfg.Database.URL.String(); got != "postgres://app@db:5432/orders" {
		t.Errorf("redacted url %q", got)
	}
}

func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	for _, seed := range []string{
		"", "---", "null", "[]", "server: null", "log: {level: debug}", "shutdown: {timeout: 1h}",
		"a: &a [*a]", "database: {url: 'postgres://u:p@h/d'}", "payment: {retries: -1}",
		"a: &a {b: c}\nserver:\n  <<: *a\n", "server: !!binary aGk=", "\xff\xfe",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		cfg, err := Parse(raw)
		if err != nil {
			return
		}
		_ = cfg.Validate()
		// The encoded settings can be parsed again.
		out, err := yaml.Marshal(cfg)
		if err != nil {
			t.Fatalf("marshal: %v", err)
		}
		if _, err := Parse(out); err != nil {
			t.Fatalf("the encoded settings cannot be parsed: %v\n%s", err, out)
		}
	})
}

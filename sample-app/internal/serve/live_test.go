package serve_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// load sends requests until the returned function is called, which returns how many were
// answered and the first ones that failed.
func (f *fixture) load() (stop func() (int64, []string)) {
	var answered atomic.Int64
	var mu sync.Mutex
	var failed []string
	var workers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		workers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				status, response, err := f.try(http.MethodPost, f.url+"/api/orders", strings.Replace(newOrder, "book", "pen", 1))
				if err != nil || status != http.StatusCreated {
					mu.Lock()
					failed = append(failed, fmt.Sprintf("%d %s %v", status, response, err))
					mu.Unlock()
				}
				answered.Add(1)
			}
		})
	}
	return func() (int64, []string) {
		close(done)
		workers.Wait()
		return answered.Load(), failed
	}
}

func (f *fixture) eventuallyMetric(line string) {
	f.t.Helper()
	testenv.Eventually(f.t, line, func() bool {
		_, text, err := f.try(http.MethodGet, f.metrics+"/metrics", "")
		return err == nil && strings.Contains(text, line+"\n")
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// TestConfigurationChanges changes features and the level of the log under load. No request
// fails, an invalid file changes nothing, and a setting that needs a restart is not applied.
func TestConfigurationChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, file, "")
	f := started(t, func(f *fixture, cfg *config.Config) {
		f.live.File = file
		base := *cfg
		f.live.Load = func() (config.Config, error) {
			raw, err := os.ReadFile(file)
			if err != nil {
				return base, err
			}
			next, err := config.Parse(raw)
			if err != nil {
				return base, err
			}
			merged := base
			merged.Log, merged.Features, merged.Server.MaxInFlight = next.Log, next.Features, next.Server.MaxInFlight
			return merged, merged.Validate()
		}
	})
	stop := f.load()
	level := func() string {
		_, text, err := f.try(http.MethodGet, f.metrics+"/log/level", "")
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(text)
	}
	page := func() int {
		status, _, err := f.try(http.MethodGet, f.url+"/ui", "")
		if err != nil {
			t.Error(err)
		}
		return status
	}
	if got := page(); got != http.StatusNotFound {
		t.Errorf("the page is served at the start: %d", got)
	}
	write(t, file, "features: {new_checkout: true, experimental_ui: true}\nlog: {level: error}\nserver: {max_in_flight: 1}\n")
	testenv.Eventually(t, "the new configuration", func() bool { return page() == http.StatusOK })
	if got := level(); got != `{"level":"error"}` {
		t.Errorf("the level is %s", got)
	}
	if _, response := f.do(http.MethodPost, "/api/orders", newOrder); !strings.Contains(response, `"receipt":`) {
		t.Errorf("the response has no receipt: %s", response)
	}
	write(t, file, "features: {new_checkout: 7}\n")
	f.eventuallyMetric(`config_reloads_total{file="config",result="failed"} 1`)
	f.eventuallyMetric(`config_last_reload_successful{file="config"} 0`)
	if page() != http.StatusOK || level() != `{"level":"error"}` {
		t.Error("an invalid file has changed the configuration")
	}
	if status, response, err := f.try(http.MethodPut, f.metrics+"/log/level", `{"level":"debug"}`); err != nil || status != http.StatusOK {
		t.Errorf("setting the level: %d %s %v", status, response, err)
	}
	write(t, file, "log: {level: error}\n")
	testenv.Eventually(t, "the features are off", func() bool { return page() == http.StatusNotFound })
	if got := level(); got != `{"level":"debug"}` {
		t.Errorf("a change of other settings has reset the level to %s", got)
	}
	f.eventuallyMetric(`config_last_reload_successful{file="config"} 1`)
	answered, failed := stop()
	if answered < 10 || len(failed) > 0 {
		t.Errorf("%d requests, failed: %q", answered, failed)
	}
}

// TestPasswordRotates changes the password of the database under load, first in the database
// and then in its file. No request fails, and new connections use the new password. A file
// that is empty for a moment changes nothing.
func TestPasswordRotates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "one\n")
	var change func(string)
	var role string
	f := started(t, func(f *fixture, cfg *config.Config) {
		var address string
		address, change = testenv.Role(t, f.database, "one")
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		role = u.User.Username()
		cfg.Database.URL, cfg.Database.PasswordFile = config.NewURL(address), file
	})
	stop := f.load()
	admin, err := pgx.Connect(t.Context(), f.database)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	var changed time.Time
	if err := admin.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&changed); err != nil {
		t.Fatal(err)
	}
	change("two")
	write(t, file, "two\n")
	f.eventuallyMetric(`config_reloads_total{file="database_password",result="ok"} 2`)
	testenv.Eventually(t, "no connection from before is left", func() bool {
		var left int
		err := admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND backend_start < $2", role, changed).Scan(&left)
		if err != nil {
			t.Fatal(err)
		}
		return left == 0
	})
	write(t, file, "")
	f.eventuallyMetric(`config_reloads_total{file="database_password",result="failed"} 1`)
	if _, response := f.do(http.MethodGet, "/api/orders", ""); !strings.Contains(response, "orders") {
		t.Errorf("with an empty file: %s", response)
	}
	change("three")
	write(t, file, "three")
	f.eventuallyMetric(`config_reloads_total{file="database_password",result="ok"} 3`)
	answered, failed := stop()
	if answered < 10 || len(failed) > 0 {
		t.Errorf("%d requests, failed: %q", answered, failed)
	}
}

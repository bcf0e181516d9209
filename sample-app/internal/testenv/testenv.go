// Package testenv connects tests to the Postgres and Redis servers that the environment
// variables DATABASE_URL and REDIS_URL name. It separates the data of the tests, and it
// can interrupt connections.
package testenv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Patience is how long a test waits for an event that must happen. Only a test that
// fails waits this long.
const Patience = 15 * time.Second

// Postgres returns the URL of a database with a separate schema for the test. The schema
// is dropped at the end of the test. If DATABASE_URL is not set, the test is skipped.
func Postgres(t *testing.T) string {
	t.Helper()
	base := require(t, "DATABASE_URL", "postgres://test:...@127.0.0.1:5432/testdb")
	schema := "test_" + token(t)
	execute(t, base, "CREATE SCHEMA "+schema)
	t.Cleanup(func() { execute(t, base, "DROP SCHEMA "+schema+" CASCADE") })
	return with(t, base, func(u *url.URL) {
		q := u.Query()
		q.Set("search_path", schema)
		u.RawQuery = q.Encode()
	})
}

// Role creates a role that can use the schema of a database that Postgres has returned. It
// returns the URL without a password, and a function that changes the password. The role
// is dropped at the end of the test.
func Role(t *testing.T, database, password string) (address string, change func(password string)) {
	t.Helper()
	role := "role_" + token(t)
	schema := ""
	address = with(t, database, func(u *url.URL) {
		schema = u.Query().Get("search_path")
		u.User = url.User(role)
	})
	change = func(password string) {
		t.Helper()
		execute(t, database, "ALTER ROLE "+role+" PASSWORD '"+password+"'")
	}
	execute(t, database, "CREATE ROLE "+role+" LOGIN PASSWORD '"+password+"'; GRANT ALL ON SCHEMA "+schema+" TO "+role+
		"; GRANT ALL ON ALL TABLES IN SCHEMA "+schema+" TO "+role)
	t.Cleanup(func() { execute(t, database, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	return address, change
}

// Redis returns the URL of Redis and a separate key prefix for the test. If REDIS_URL is
// not set, the test is skipped.
func Redis(t *testing.T) (address, prefix string) {
	t.Helper()
	return require(t, "REDIS_URL", "redis://127.0.0.1:6379/0"), "test:" + token(t) + ":"
}

func require(t *testing.T, name, example string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skipf("%s is not set. Run `slipway test -C sample-app`, which starts Postgres and Redis, or set it yourself, for example %s=%s", name, name, example)
	}
	return value
}

// execute executes a SQL statement.
func execute(t *testing.T, address, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		t.Fatalf("connect to DATABASE_URL: %v", err)
	}
	_, err = conn.Exec(ctx, sql)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// token returns a random name.
func token(t *testing.T) string {
	t.Helper()
	raw := make([]byte, 6)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(raw)
}

// with returns the address after a change.
func with(t *testing.T, address string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatalf("%s is not a URL", address)
	}
	change(u)
	return u.String()
}

// Proxy forwards TCP connections, which a test can interrupt.
type Proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

// NewProxy returns a Proxy for the host of the given URL, and that URL with the host of
// the Proxy. The Proxy is closed at the end of the test.
func NewProxy(t *testing.T, address string) (p *Proxy, through string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p = &Proxy{listener: l, conns: map[net.Conn]struct{}{}}
	through = with(t, address, func(u *url.URL) {
		p.target = u.Host
		u.Host = l.Addr().String()
	})
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Down()
		p.wg.Wait()
	})
	return p, through
}

// Down closes all connections and rejects new ones.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// Up forwards connections again.
func (p *Proxy) Up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.pass(client) })
	}
}

func (p *Proxy) pass(client net.Conn) {
	defer client.Close()
	if !p.track(client) {
		return
	}
	defer p.forget(client)
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.track(server) {
		return
	}
	defer p.forget(server)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
	_ = client.Close()
	wg.Wait()
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.down {
		p.conns[c] = struct{}{}
	}
	return !p.down
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// Eventually waits until ok returns true. The test fails if that takes longer than
// Patience.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("timed out after %s waiting for: %s", Patience, what)
		}
	}
}

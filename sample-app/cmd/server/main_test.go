package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/standin"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// runMain is an environment variable that makes the test binary run the server, so that
// tests can send it real signals.
const runMain = "SERVER_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// process is a server that runs in a separate process.
type process struct {
	cmd     *exec.Cmd
	url     string
	lines   chan string // all lines that it logs
	stderr  bytes.Buffer
	scanned sync.WaitGroup
}

// spawn starts a server and waits until it listens.
func spawn(t *testing.T, environment ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.CommandContext(t.Context(), self, "--config", empty), lines: make(chan string, 1<<16)}
	p.cmd.Env = append(os.Environ(), append(environment, runMain+"=1",
		"APP_SERVER_LISTEN=127.0.0.1:0", "APP_SERVER_METRICS_LISTEN=127.0.0.1:0")...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	p.scanned.Go(func() {
		defer close(p.lines)
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			var line struct{ Msg, Addr string }
			if json.Unmarshal(scanner.Bytes(), &line) == nil && line.Msg == "listening" {
				listening <- line.Addr
			}
			p.lines <- scanner.Text()
		}
	})
	select {
	case addr := <-listening:
		p.url = "http://" + addr
	case <-time.After(testenv.Patience):
		_ = p.cmd.Process.Kill()
		t.Fatalf("the server does not listen: %s", p.stderr.String())
	}
	return p
}

// wait waits until the process ends, and returns its exit code and the remaining log
// lines.
func (p *process) wait(t *testing.T) (int, []string) {
	t.Helper()
	p.scanned.Wait()
	err := p.cmd.Wait()
	if code := p.cmd.ProcessState.ExitCode(); code >= 0 {
		var logged []string
		for line := range p.lines {
			logged = append(logged, line)
		}
		return code, logged
	}
	t.Fatalf("server: %v: %s", err, p.stderr.String())
	return 0, nil
}

func get(ctx context.Context, client *http.Client, url string) (int, error) {
	return send(ctx, client, http.MethodGet, url, "")
}

func send(ctx context.Context, client *http.Client, method, url, body string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// load is a number of clients that send requests continuously on their own
// connections. Every request must succeed.
type load struct {
	stop       chan struct{} // closing it stops the clients
	clients    sync.WaitGroup
	served     atomic.Int64 // all requests that have succeeded
	after      atomic.Int64 // those of them that were sent after SIGTERM
	terminated atomic.Bool  // SIGTERM has been sent
}

const clients = 8

// startLoad starts the clients.
func startLoad(t *testing.T, url string) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	for c := range clients {
		l.clients.Go(func() { l.client(t, url, c) })
	}
	return l
}

// client sends requests, alternately to create an order and to list orders.
func (l *load) client(t *testing.T, url string, number int) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		method, body, want := http.MethodGet, "", http.StatusOK
		if (number+i)%2 == 0 {
			method, want = http.MethodPost, http.StatusCreated
			body = `{"customer_id":"c-1","currency":"EUR","items":[{"sku":"book","quantity":1,"unit_price":100}]}`
		}
		late := l.terminated.Load()
		status, err := send(t.Context(), client, method, url+"/api/orders", body)
		if err != nil || status != want {
			t.Errorf("%s: status %d, error %v", method, status, err)
			return
		}
		l.served.Add(1)
		if late {
			l.after.Add(1)
		}
	}
}

// Like kube-proxy, the clients stop sending requests when readiness fails. They keep
// their connections open, and none of their requests may fail.
func TestSIGTERMUnderLoadLosesNoRequest(t *testing.T) {
	database := testenv.Postgres(t)
	redisURL, _ := testenv.Redis(t)
	payment, inventory := httptest.NewServer(standin.NewPayment(1_000_000)), httptest.NewServer(standin.NewInventory(1<<30, nil))
	defer payment.Close()
	defer inventory.Close()
	p := spawn(t,
		"DATABASE_URL="+database, "REDIS_URL="+redisURL, "PAYMENT_URL="+payment.URL, "INVENTORY_URL="+inventory.URL,
		"DATABASE_MAX_CONNS=8", "SHUTDOWN_DRAIN_DELAY=2s", "LOG_LEVEL=info")
	prober := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	testenv.Eventually(t, "the server is ready", func() bool {
		status, err := get(t.Context(), prober, p.url+"/health/ready")
		return err == nil && status == http.StatusOK
	})

	l := startLoad(t, p.url)
	testenv.Eventually(t, "the clients have sent 100 requests", func() bool { return l.served.Load() > 100 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.terminated.Store(true)
	testenv.Eventually(t, "readiness fails and requests are still served", func() bool {
		status, err := get(t.Context(), prober, p.url+"/health/ready")
		if err != nil {
			t.Errorf("probe while draining: %v", err)
		}
		return (err != nil || status == http.StatusServiceUnavailable) && l.after.Load() >= clients
	})
	close(l.stop)
	l.clients.Wait()

	code, logged := p.wait(t)
	if code != exitOK {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	checkShutdownLog(t, logged)
	t.Logf("%d requests served, %d of them after SIGTERM", l.served.Load(), l.after.Load())
}

// checkShutdownLog checks the format of all log lines and the order of the shutdown.
func checkShutdownLog(t *testing.T, logged []string) {
	t.Helper()
	var order []string
	for _, line := range logged {
		var entry struct{ Level, Ts, Caller, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "" || entry.Ts == "" || entry.Caller == "" {
			t.Errorf("not a log line: %s", line)
		}
		switch entry.Msg {
		case "draining", "finishing open requests", "stopped":
			order = append(order, entry.Msg)
		}
	}
	if got := strings.Join(order, ", "); got != "draining, finishing open requests, stopped" {
		t.Errorf("order of events: %s", got)
	}
}

func TestPasswordIsNeverLogged(t *testing.T) {
	const secret = "s3cr3t-p4ss"
	p := spawn(t, "DATABASE_URL=postgres://test:"+secret+"@127.0.0.1:1/none", "REDIS_URL=redis://:"+secret+"@127.0.0.1:1/0",
		"LOG_LEVEL=debug", "SHUTDOWN_DRAIN_DELAY=1ms")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if status, err := get(t.Context(), client, p.url+"/health/startup"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("startup without a database: %d, error %v", status, err)
	}
	for line := range p.lines { // until the first failed attempt has been logged
		if strings.Contains(line, secret) {
			t.Errorf("password logged: %s", line)
		}
		if strings.Contains(line, "database is not ready") {
			break
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	code, logged := p.wait(t)
	if code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if all := strings.Join(logged, "\n") + p.stderr.String(); strings.Contains(all, secret) {
		t.Errorf("password logged: %s", all)
	}
}

func noEnvironment(string) (string, bool) { return "", false }

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad := file("bad.yaml", "server:\n  lisen: x\n")
	inUse := file("inUse.yaml", "server: {listen: '256.0.0.1:80'}\ndatabase: {url: 'postgres://h/d'}\n")
	tests := []struct {
		args   string
		want   int
		stdout string
		stderr string
	}{
		{args: "version", stdout: "version=dev commit=unknown date=unknown\n"},
		{args: "--version", stdout: "version=dev"},
		{args: "--help", stdout: "DATABASE_URL"},
		{args: "help", stdout: "Usage:"},
		{args: "health --help", stdout: "Usage:"},
		{args: "--nonsense", want: 2, stderr: "server --help"},
		{args: "nonsense", want: 2, stderr: `unknown command "nonsense"`},
		{args: "version extra", want: 2, stderr: `unexpected argument "extra"`},
		{args: "--url x", want: 2, stderr: "server health"},
		{args: "--config " + bad, want: 2, stderr: `bad.yaml: line 2: unknown key "lisen"`},
		{args: "--config " + filepath.Join(dir, "missing.yaml"), want: 2, stderr: "missing.yaml"},
		{args: "--config " + inUse, want: 2, stderr: "server.listen"},
		{args: "health --config " + bad, want: 1, stderr: "unknown key"},
		{args: "health --url ://", want: 1, stderr: "check health"},
		{args: "health --url http://127.0.0.1:1/", want: 1, stderr: "check health"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			got := run(t.Context(), strings.Fields(tt.args), noEnvironment, &stdout, &stderr)
			if got != tt.want || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q", got, stdout.String(), stderr.String())
			}
			if lines := strings.Count(stderr.String(), "\n"); lines > 1 || (tt.want != 0) != (lines == 1) {
				t.Errorf("%d lines on stderr: %q", lines, stderr.String())
			}
		})
	}
}

func TestHealthCommand(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health/ready" {
				status = http.StatusNotFound
			}
			w.WriteHeader(status)
		}))
		path := filepath.Join(t.TempDir(), "config.yaml")
		content := fmt.Sprintf("server: {listen: %q}\n", srv.Listener.Addr())
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		want := exitFailed
		if status == http.StatusOK {
			want = exitOK
		}
		var stderr bytes.Buffer
		if got := run(t.Context(), []string{"health", "--config", path}, noEnvironment, io.Discard, &stderr); got != want {
			t.Errorf("exit code %d for status %d: %s", got, status, stderr.String())
		}
		srv.Close()
	}
}

func TestHealthAddress(t *testing.T) {
	for listen, want := range map[string]string{
		":8080": "http://127.0.0.1:8080/health/ready", "0.0.0.0:81": "http://127.0.0.1:81/health/ready",
		"[::]:82": "http://127.0.0.1:82/health/ready", "10.0.0.1:83": "http://10.0.0.1:83/health/ready",
		config.Default().Server.Listen: "http://127.0.0.1:8080/health/ready",
	} {
		if got, err := readyURL(listen); err != nil || got != want {
			t.Errorf("%s: %s, error %v, want %s", listen, got, err, want)
		}
	}
	if _, err := readyURL("8080"); err == nil {
		t.Error("no error for an address without a port")
	}
}

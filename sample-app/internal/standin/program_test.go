package standin_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-ci/slipway/sample-app/internal/standin"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// output is the standard output of a program.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func payment(stdout, stderr io.Writer) standin.Program {
	return standin.Program{
		Name: "payment", Listen: "127.0.0.1:0", Stdout: stdout, Stderr: stderr,
		Lookup: func(string) (string, bool) { return "", false },
		Define: func(flags *flag.FlagSet) func() http.Handler {
			limit := flags.Int64("limit", 10, "")
			return func() http.Handler { return standin.NewPayment(*limit) }
		},
	}
}

// free returns an address of 127.0.0.1 that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// TestProgram runs a simulated service as its chart does: requests continue the trace of
// their client in spans and in the log, and are counted; those of probes are not.
func TestProgram(t *testing.T) {
	collector := testenv.NewCollector(t)
	file, metrics := filepath.Join(t.TempDir(), "config.yaml"), free(t)
	settings := fmt.Sprintf("app: {environment: staging}\nlog: {format: json}\nserver: {listen: %q, metrics_listen: %q}\n"+
		"otlp: {endpoint: %q}\nshutdown: {drain_delay: 1ms}\n", free(t), metrics, collector.URL())
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stdout output
	code := make(chan int, 1)
	go func() { code <- payment(&stdout, t.Output()).Run(ctx, []string{"--config", file, "--limit", "5"}) }()
	testenv.Eventually(t, "the address", func() bool { return strings.Contains(stdout.String(), "\n") })
	first, _, _ := strings.Cut(stdout.String(), "\n")
	_, base, _ := strings.Cut(first, " on ")

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(method, url, body string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	get(http.MethodGet, base+"/health/live", "")
	if got := get(http.MethodPost, base+"/payments", `{"id":"a","amount":6}`); !strings.Contains(got, "declined") {
		t.Errorf("payment: %s", got)
	}
	if got := get(http.MethodGet, "http://"+metrics+"/metrics", ""); !strings.Contains(got, `http_requests_total{endpoint="/payments",method="POST",status="200"} 1`) || strings.Contains(got, "/health") {
		t.Errorf("metrics: %s", got)
	}
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d", got)
	}
	spans := collector.Spans()
	if len(spans) != 1 || spans[0].GetName() != "POST /payments" || spans[0].Resource["service.name"] != "payment" || hex.EncodeToString(spans[0].GetTraceId()) != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("spans: %v", spans)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var entry map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil || len(lines) != 2 || entry["trace_id"] != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("log: %q, %v", lines, err)
	}
}

func TestProgramRefusesBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	invalid := filepath.Join(dir, "invalid.yaml")
	if err := os.WriteFile(invalid, []byte("otlp: {sample_ratio: 2}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(dir, "missing.yaml"): "no such file",
		invalid:                            "otlp.sample_ratio must be a number from 0 to 1",
	} {
		var stderr bytes.Buffer
		if code := payment(io.Discard, &stderr).Run(t.Context(), []string{"--config", file}); code != 2 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: exit code %d: %s", file, code, stderr.String())
		}
	}
}

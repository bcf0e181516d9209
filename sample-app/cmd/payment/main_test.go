package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"--listen", "127.0.0.1:0"}, noEnv, stdout, io.Discard) }()
	line := make([]byte, 256)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	_, url, _ := strings.Cut(strings.TrimSpace(string(line[:n])), " on ")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health/live", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	stop()
	if got := <-code; got != 0 || resp.StatusCode != http.StatusOK {
		t.Errorf("exit code %d, status %d", got, resp.StatusCode)
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]int{"--help": 0, "--nonsense": 2, "--listen 256.0.0.1:1": 2} {
		var stderr bytes.Buffer
		if got := run(t.Context(), strings.Fields(args), noEnv, io.Discard, &stderr); got != want || stderr.Len() == 0 {
			t.Errorf("%s: exit code %d, want %d: %s", args, got, want, stderr.String())
		}
	}
}

func noEnv(string) (string, bool) { return "", false }

package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	status := http.StatusCreated
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"status":"confirmed"}`)
	}))
	defer server.Close()
	for _, tt := range []struct {
		status, code int
		want         string
	}{
		{http.StatusCreated, 0, "5 requests: 5 confirmed"},
		{http.StatusServiceUnavailable, 1, "5 failed"},
	} {
		status = tt.status
		var stdout bytes.Buffer
		code := run(t.Context(), []string{"--url", server.URL, "--rate", "1000", "--requests", "5"}, &stdout, io.Discard)
		if code != tt.code || !strings.Contains(stdout.String(), tt.want) {
			t.Errorf("status %d: exit code %d, want %d: %s", tt.status, code, tt.code, stdout.String())
		}
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]int{
		"--help": 0, "--nonsense": 2, "--rate 0": 2, "--rate 0 --requests 1": 2, "--rate -1": 2, "--requests -1": 2, "x": 2, "--url :: --requests 1": 2,
	} {
		var stderr bytes.Buffer
		if got := run(t.Context(), strings.Fields(args), io.Discard, &stderr); got != want || stderr.Len() == 0 {
			t.Errorf("%s: exit code %d, want %d: %s", args, got, want, stderr.String())
		}
	}
}

// Package gateway calls the services that orders depend on. Every attempt has a
// timeout, failed attempts are retried a limited number of times with random delays,
// and the number of concurrent requests is limited.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/semaphore"
)

const (
	// maxAnswerBytes is the maximum number of bytes that are read of a response.
	maxAnswerBytes = 1 << 20
	// maxRetryAfter is the maximum delay that an upstream can request with a
	// Retry-After header.
	maxRetryAfter = 2 * time.Second
)

// Options configure a client.
type Options struct {
	// URL is the base URL of the upstream.
	URL string
	// Timeout is the maximum duration of each attempt.
	Timeout time.Duration
	// Retries is the maximum number of retries after a failed attempt.
	Retries uint
	// RetryInterval is the delay before the first retry. It doubles with each
	// further retry and varies randomly by up to half.
	RetryInterval time.Duration
	// MaxConcurrent is the maximum number of concurrent requests. Further
	// requests wait.
	MaxConcurrent int64
	// Trace adds spans to the requests. If it is nil, they are not traced.
	Trace func(http.RoundTripper) http.RoundTripper
}

// StatusError is a response with an unexpected status.
type StatusError struct {
	// Code is the HTTP status code.
	Code int
	// Retryable reports whether the same request may succeed later.
	Retryable bool
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("unexpected status %d %s", e.Code, http.StatusText(e.Code))
}

// client sends requests to one upstream. It is safe for concurrent use.
type client struct {
	opts    Options
	base    string
	http    *http.Client
	direct  *http.Transport
	slots   *semaphore.Weighted
	waiting atomic.Int64
}

func newClient(o Options) *client {
	direct := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: int(o.MaxConcurrent), // with the default of 2, most requests would open a new connection
		IdleConnTimeout:     90 * time.Second,
	}
	var transport http.RoundTripper = direct
	if o.Trace != nil {
		transport = o.Trace(direct)
	}
	return &client{
		opts:   o,
		base:   strings.TrimRight(o.URL, "/"),
		http:   &http.Client{Timeout: o.Timeout, Transport: transport},
		direct: direct,
		slots:  semaphore.NewWeighted(o.MaxConcurrent),
	}
}

// Waiting returns the number of requests that are waiting because of
// Options.MaxConcurrent.
func (c *client) Waiting() int64 { return c.waiting.Load() }

// Close closes idle connections.
func (c *client) Close() { c.direct.CloseIdleConnections() }

// call sends body as JSON with an idempotency key and decodes the response into out,
// unless out is nil. A response with another status than 2xx is a *StatusError.
func (c *client) call(ctx context.Context, method, path, key string, body, out any) error {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = c.opts.RetryInterval
	wait.Multiplier = 2
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		return struct{}{}, c.attempt(ctx, method, path, key, payload, out)
	}, backoff.WithBackOff(wait), backoff.WithMaxTries(c.opts.Retries+1), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// attempt sends the request once.
func (c *client) attempt(ctx context.Context, method, path, key string, payload []byte, out any) error {
	// The attempt does not occupy a slot during the delay before a retry, so that
	// other requests can use it.
	if err := c.acquire(ctx); err != nil {
		return backoff.Permanent(err)
	}
	defer c.slots.Release(1)

	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(payload))
	if err != nil {
		return backoff.Permanent(err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Idempotency-Key", key)
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("read response: %w", err)
	}
	if err := checkStatus(resp); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return backoff.Permanent(fmt.Errorf("decode response: %w", err))
	}
	return nil
}

// acquire waits for a free slot.
func (c *client) acquire(ctx context.Context) error {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	if err := c.slots.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait because %d requests are already running: %w", c.opts.MaxConcurrent, err)
	}
	return nil
}

// checkStatus returns nil if the status is 2xx. Otherwise it returns a *StatusError,
// which is marked as permanent if a retry cannot succeed.
func checkStatus(resp *http.Response) error {
	code := resp.StatusCode
	if code >= 200 && code <= 299 {
		return nil
	}
	err := &StatusError{Code: code, Retryable: code >= 500 || code == http.StatusTooManyRequests}
	if !err.Retryable {
		return backoff.Permanent(err)
	}
	seconds, parseErr := strconv.Atoi(resp.Header.Get("Retry-After"))
	if parseErr != nil || seconds < 0 {
		return err
	}
	pause := min(time.Duration(seconds)*time.Second, maxRetryAfter)
	return errors.Join(err, &backoff.RetryAfterError{Duration: pause})
}

// hasStatus reports whether err is a response with the given status.
func hasStatus(err error, code int) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == code
}

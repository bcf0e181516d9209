// Package gateway calls the services that orders depend on. Every attempt has a
// timeout, failures are repeated a bounded number of times with jitter, and no
// more requests run at once than configured.
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
	// maxAnswerBytes bounds what is read of an answer.
	maxAnswerBytes = 1 << 20
	// maxRetryAfter bounds how long an upstream may make a caller wait.
	maxRetryAfter = 2 * time.Second
)

// Options configure a client.
type Options struct {
	// URL is the upstream's base URL.
	URL string
	// Timeout bounds each attempt.
	Timeout time.Duration
	// Retries is how many times a failed attempt is repeated.
	Retries uint
	// RetryInterval is the first wait between attempts; it doubles each time
	// and is jittered by half.
	RetryInterval time.Duration
	// MaxConcurrent is how many requests run at once; others wait.
	MaxConcurrent int64
}

// StatusError is an answer that the client has no use for.
type StatusError struct {
	Code int
	// Retryable says that the same request may succeed later.
	Retryable bool
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("unexpected status %d %s", e.Code, http.StatusText(e.Code))
}

type client struct {
	opts    Options
	base    string
	http    *http.Client
	slots   *semaphore.Weighted
	waiting atomic.Int64
}

func newClient(o Options) *client {
	return &client{
		opts: o,
		base: strings.TrimRight(o.URL, "/"),
		http: &http.Client{
			Timeout: o.Timeout,
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				MaxIdleConnsPerHost: int(o.MaxConcurrent), // the default of 2 would open a connection for most requests
				IdleConnTimeout:     90 * time.Second,
			},
		},
		slots: semaphore.NewWeighted(o.MaxConcurrent),
	}
}

// Waiting is how many requests wait for their turn at this moment.
func (c *client) Waiting() int64 { return c.waiting.Load() }

// Close closes idle connections.
func (c *client) Close() { c.http.CloseIdleConnections() }

// call sends body as JSON under an idempotency key and decodes the answer into
// out, unless that is nil. Answers other than 2xx become a *StatusError.
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

func (c *client) attempt(ctx context.Context, method, path, key string, payload []byte, out any) error {
	// The slot is taken for the attempt alone: waiting between attempts must
	// not keep others from trying.
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
		return fmt.Errorf("read answer: %w", err)
	}
	if err := checkStatus(resp); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return backoff.Permanent(fmt.Errorf("decode answer: %w", err))
	}
	return nil
}

func (c *client) acquire(ctx context.Context) error {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	if err := c.slots.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for one of %d concurrent requests to finish: %w", c.opts.MaxConcurrent, err)
	}
	return nil
}

// checkStatus sorts answers into usable, worth another try, and final.
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

// hasStatus reports whether err is an answer with the given status.
func hasStatus(err error, code int) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == code
}

// Package load creates orders and measures what the service answers.
package load

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// maxIdle is the number of connections that are kept for further requests.
const maxIdle = 512

// maxFailures is the number of failures that a report describes.
const maxFailures = 5

// Options configure a run.
type Options struct {
	// URL is the address of the order service.
	URL string
	// Rate is the number of requests per second. A request is sent at its time even if
	// earlier ones were not answered. With 0, each request is sent as soon as Concurrency
	// permits it.
	Rate float64
	// Concurrency is the maximum number of requests at the same time; 0 means that there is
	// none.
	Concurrency int64
	// Requests is the number of requests.
	Requests int
	// Timeout is the maximum duration of each request.
	Timeout time.Duration
}

// Report is the result of a run.
type Report struct {
	// Orders is the number of created orders, by their status.
	Orders map[string]int
	// Failed is the number of requests that were not answered with a created order, and
	// Failures describes the first of them.
	Failed   int
	Failures []string
	// Latencies are the durations of all requests, in ascending order.
	Latencies []time.Duration
	// Took is the duration of the run.
	Took time.Duration
}

// Quantile returns the latency that the fraction q of the requests, from 0 to 1, did not
// exceed.
func (r Report) Quantile(q float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	return r.Latencies[min(int(q*float64(len(r.Latencies))), len(r.Latencies)-1)]
}

// String returns the report in lines that people can read.
func (r Report) String() string {
	parts := make([]string, 0, len(r.Orders)+1)
	for _, status := range slices.Sorted(maps.Keys(r.Orders)) {
		parts = append(parts, fmt.Sprintf("%d %s", r.Orders[status], status))
	}
	parts = append(parts, fmt.Sprintf("%d failed", r.Failed))
	var text strings.Builder
	fmt.Fprintf(&text, "%d requests: %s in %s (%.0f per second); p50 %s, p95 %s, p99 %s, longest %s",
		len(r.Latencies), strings.Join(parts, ", "), r.Took.Round(time.Millisecond), float64(len(r.Latencies))/r.Took.Seconds(),
		round(r.Quantile(0.5)), round(r.Quantile(0.95)), round(r.Quantile(0.99)), round(r.Quantile(1)))
	for _, failure := range r.Failures {
		text.WriteString("\n  failed: " + failure)
	}
	return text.String()
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// Run sends the requests until all are answered or ctx is done. It returns an error if the
// options are invalid.
func Run(ctx context.Context, o Options) (Report, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" {
		return Report{}, fmt.Errorf("%q is not the address of a service, such as http://127.0.0.1:8080", o.URL)
	}
	if o.Rate < 0 || o.Concurrency < 0 || o.Requests <= 0 || o.Rate == 0 && o.Concurrency == 0 {
		return Report{}, errors.New("the number of requests must be above 0, and the rate or the concurrency too")
	}
	r := &run{
		target: base.JoinPath("/api/orders").String(),
		report: Report{Orders: map[string]int{}},
		client: &http.Client{Timeout: o.Timeout, Transport: &http.Transport{MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle}},
	}
	defer r.client.CloseIdleConnections()
	slots := semaphore.NewWeighted(cmp.Or(o.Concurrency, math.MaxInt64))
	started := time.Now()
	var requests sync.WaitGroup
	for n := range o.Requests {
		if o.Rate > 0 && !wait(ctx, started.Add(time.Duration(float64(n)/o.Rate*float64(time.Second)))) {
			break
		}
		if slots.Acquire(ctx, 1) != nil {
			break
		}
		requests.Go(func() {
			defer slots.Release(1)
			r.send(ctx)
		})
	}
	requests.Wait()
	r.report.Took = time.Since(started)
	slices.Sort(r.report.Latencies)
	return r.report, nil
}

// wait waits until a time and reports whether ctx was not done before.
func wait(ctx context.Context, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

type run struct {
	target string
	client *http.Client

	mu     sync.Mutex
	report Report
}

// send creates one order of an article that is never out of stock.
func (r *run) send(ctx context.Context) {
	started := time.Now()
	status, err := r.create(ctx)
	took := time.Since(started)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Latencies = append(r.report.Latencies, took)
	if err == nil {
		r.report.Orders[status]++
		return
	}
	r.report.Failed++
	if len(r.report.Failures) < maxFailures {
		r.report.Failures = append(r.report.Failures, started.Format("15:04:05.000 ")+err.Error())
	}
}

func (r *run) create(ctx context.Context) (status string, err error) {
	body := fmt.Sprintf(`{"customer_id":"load","currency":"USD","items":[{"sku":"load-%s","quantity":1,"unit_price":1999}]}`, rand.Text())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.target, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("%s: %s", resp.Status, raw)
	}
	var order struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(raw, &order); err != nil {
		return "", err
	}
	return cmp.Or(order.Status, "without a status"), nil
}

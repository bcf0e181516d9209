// Package health implements the three probes of Kubernetes.
//
//	/health/startup  200 once the database has been migrated
//	/health/live     200 as long as the process answers; checks nothing else
//	/health/ready    200 if the service has started, is not draining, and all
//	                 required dependencies answer
package health

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Check is a dependency that the readiness probe checks.
type Check struct {
	Name string
	// Required reports whether the service is unready if the dependency fails.
	// Otherwise it is only degraded.
	Required bool
	// Probe returns nil if the dependency answers.
	Probe func(context.Context) error
}

// Status is the status of a dependency or of the service.
type Status string

// The statuses that the probes report.
const (
	StatusOK          Status = "ok"
	StatusDegraded    Status = "degraded"
	StatusUnavailable Status = "unavailable"
	StatusStarting    Status = "starting"
	StatusDraining    Status = "draining"
)

// Report is the body of the responses to probes.
type Report struct {
	Status Status `json:"status"`
	// Checks contains the dependencies, by name, if they were checked.
	Checks map[string]Result `json:"checks,omitempty"`
}

// Result is the result of checking one dependency.
type Result struct {
	Status   Status `json:"status"`
	Required bool   `json:"required"`
	// Error is only the kind of the failure: "timeout" or "unreachable". The
	// complete error, which can contain names of hosts and users, is logged.
	Error string `json:"error,omitempty"`
	// DurationMS is how long the check took, in milliseconds.
	DurationMS int64 `json:"duration_ms"`
}

// Health is the state of the service as the probes report it. It is safe for
// concurrent use. Create it with New.
type Health struct {
	timeout  time.Duration
	checks   []Check
	log      *zap.Logger
	started  atomic.Bool
	draining atomic.Bool
	mu       sync.Mutex
	failing  map[string]bool
}

// New returns a Health that is neither started nor draining. timeout is the maximum
// duration of each check.
func New(timeout time.Duration, log *zap.Logger, checks ...Check) *Health {
	return &Health{timeout: timeout, checks: checks, log: log, failing: map[string]bool{}}
}

// Start marks the service as started.
func (h *Health) Start() { h.started.Store(true) }

// Started reports whether Start has been called.
func (h *Health) Started() bool { return h.started.Load() }

// Drain makes the service permanently unready.
func (h *Health) Drain() { h.draining.Store(true) }

// Draining reports whether Drain has been called.
func (h *Health) Draining() bool { return h.draining.Load() }

// Startup handles the startup probe.
func (h *Health) Startup(w http.ResponseWriter, _ *http.Request) {
	if !h.Started() {
		write(w, Report{Status: StatusStarting})
		return
	}
	write(w, Report{Status: StatusOK})
}

// Live handles the liveness probe.
func (h *Health) Live(w http.ResponseWriter, _ *http.Request) {
	write(w, Report{Status: StatusOK})
}

// Ready handles the readiness probe.
func (h *Health) Ready(w http.ResponseWriter, r *http.Request) {
	switch {
	case h.Draining():
		write(w, Report{Status: StatusDraining})
	case !h.Started():
		write(w, Report{Status: StatusStarting})
	default:
		write(w, h.check(r.Context()))
	}
}

// check checks all dependencies concurrently.
func (h *Health) check(ctx context.Context) Report {
	results := make([]Result, len(h.checks))
	var wg sync.WaitGroup
	for i, c := range h.checks {
		wg.Go(func() { results[i] = h.probe(ctx, c) })
	}
	wg.Wait()
	report := Report{Status: StatusOK, Checks: make(map[string]Result, len(results))}
	for i, c := range h.checks {
		report.Checks[c.Name] = results[i]
		switch {
		case results[i].Status == StatusOK:
		case c.Required:
			report.Status = StatusUnavailable
		case report.Status == StatusOK:
			report.Status = StatusDegraded
		}
	}
	return report
}

// probe checks one dependency.
func (h *Health) probe(ctx context.Context, c Check) Result {
	probeCtx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	start := time.Now()
	err := c.Probe(probeCtx)
	result := Result{Status: StatusOK, Required: c.Required, DurationMS: time.Since(start).Milliseconds()}
	if err != nil {
		result.Status, result.Error = StatusUnavailable, "unreachable"
		if errors.Is(err, context.DeadlineExceeded) {
			result.Error = "timeout"
		}
	}
	if ctx.Err() == nil { // otherwise the client disconnected, which says nothing about the dependency
		h.logChange(c.Name, err)
	}
	return result
}

// logChange logs when a dependency begins to fail or recovers, but not every check.
func (h *Health) logChange(name string, err error) {
	h.mu.Lock()
	changed := h.failing[name] != (err != nil)
	h.failing[name] = err != nil
	h.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		h.log.Warn("dependency stopped answering", zap.String("dependency", name), zap.Error(err))
	default:
		h.log.Info("dependency answers again", zap.String("dependency", name))
	}
}

func write(w http.ResponseWriter, report Report) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	status := http.StatusServiceUnavailable
	if report.Status == StatusOK || report.Status == StatusDegraded {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(report) // fails only if the client has disconnected
}

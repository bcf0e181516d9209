package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/slipway-ci/slipway/sample-app/internal/logging"
)

const (
	requestIDHeader = "X-Request-ID"
	maxRequestID    = 128
)

// tag assigns an ID to every request: that of the client if it is valid, otherwise a
// new one.
func (a *api) tag(c *gin.Context) {
	id := c.GetHeader(requestIDHeader)
	if !printable(id, maxRequestID) {
		id = uuid.NewString()
	}
	c.Header(requestIDHeader, id)
	c.Next()
}

func requestID(c *gin.Context) string { return c.Writer.Header().Get(requestIDHeader) }

// record logs every request, and observes it unless it is from a probe.
func (a *api) record(c *gin.Context) {
	start := time.Now()
	c.Next()
	took := time.Since(start)
	route, method, status := c.FullPath(), c.Request.Method, c.Writer.Status()
	if route == "" {
		// Unknown paths and methods share one label. Otherwise clients could
		// create any number of time series.
		route, method = "unmatched", "other"
	}
	level := zapcore.InfoLevel
	if strings.HasPrefix(route, "/health/") {
		// Probes are not observed: they would count as errors when a pod starts or
		// stops, and as load for the autoscaler.
		level = zapcore.DebugLevel
	} else {
		a.Observe(c.Request.Context(), method, route, status, took)
	}
	a.Log.Log(level, "request",
		zap.String("method", c.Request.Method),
		zap.String("path", c.Request.URL.Path),
		zap.Int("status", status),
		zap.Duration("duration_ms", took),
		zap.String("request_id", requestID(c)),
		logging.Trace(c.Request.Context()))
}

// rescue converts a panic to a response with status 500, and logs it with its stack.
func (a *api) rescue(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v) // net/http uses this to abort a response
		}
		a.Log.Error("handler panicked", zap.String("request_id", requestID(c)), zap.String("panic", fmt.Sprint(v)), logging.Trace(c.Request.Context()))
		if !c.Writer.Written() {
			newProblem(http.StatusInternalServerError, "an internal error occurred and was logged; this is a bug in the order service").send(c)
		}
	}()
	c.Next()
}

// drain asks clients to close their connection when the service is shutting down. If
// the service closed idle connections itself, requests that are already on their way
// could be lost.
func (a *api) drain(c *gin.Context) {
	if a.Health.Draining() {
		c.Header("Connection", "close")
	}
	c.Next()
}

// started rejects requests until the database is ready.
func (a *api) started(c *gin.Context) {
	if !a.Health.Started() {
		newProblem(http.StatusServiceUnavailable, "the order service is starting; try again later").send(c)
		return
	}
	c.Next()
}

// limit rejects requests above MaxInFlight.
func (a *api) limit(c *gin.Context) {
	if !a.slots.TryAcquire(1) {
		newProblem(http.StatusServiceUnavailable, "the order service is busy; try again later").send(c)
		return
	}
	defer a.slots.Release(1)
	c.Next()
}

// bound limits the body size and the duration of a request.
func (a *api) bound(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), a.RequestTimeout)
	defer cancel()
	c.Request = c.Request.WithContext(ctx)
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, a.MaxBodyBytes)
	c.Next()
}

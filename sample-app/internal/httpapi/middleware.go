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
)

const (
	requestIDHeader = "X-Request-ID"
	maxRequestID    = 128
)

// tag gives every request an ID: the client's if it is sane, else a new one.
func (a *api) tag(c *gin.Context) {
	id := c.GetHeader(requestIDHeader)
	if !printable(id, maxRequestID) {
		id = uuid.NewString()
	}
	c.Header(requestIDHeader, id)
	c.Next()
}

func requestID(c *gin.Context) string { return c.Writer.Header().Get(requestIDHeader) }

// record logs every answer and counts those that are not to probes.
func (a *api) record(c *gin.Context) {
	start := time.Now()
	c.Next()
	took := time.Since(start)
	route, method, status := c.FullPath(), c.Request.Method, c.Writer.Status()
	if route == "" {
		// Whatever a client makes up shares one label.
		route, method = "unmatched", "other"
	}
	level := zapcore.InfoLevel
	if strings.HasPrefix(route, "/health/") {
		// Probes are no traffic: they would count as errors whenever a pod
		// starts or stops, and as load for the autoscaler.
		level = zapcore.DebugLevel
	} else {
		a.Observe(method, route, status, took)
	}
	a.Log.Log(level, "request",
		zap.String("method", c.Request.Method),
		zap.String("path", c.Request.URL.Path),
		zap.Int("status", status),
		zap.Duration("duration_ms", took),
		zap.String("request_id", requestID(c)))
}

// rescue turns a panic into a 500 and a log line with its stack.
func (a *api) rescue(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v) // net/http's own way of ending a connection
		}
		a.Log.Error("handler panicked", zap.String("request_id", requestID(c)), zap.String("panic", fmt.Sprint(v)))
		if !c.Writer.Written() {
			newProblem(http.StatusInternalServerError, "the order service has a bug, it is logged").send(c)
		}
	}()
	c.Next()
}

// drain asks clients to leave their connection once the service is stopping.
// Closing idle connections instead would race with requests on their way.
func (a *api) drain(c *gin.Context) {
	if a.Health.Draining() {
		c.Header("Connection", "close")
	}
	c.Next()
}

// started keeps requests out until the database is ready.
func (a *api) started(c *gin.Context) {
	if !a.Health.Started() {
		newProblem(http.StatusServiceUnavailable, "the order service is starting, try again later").send(c)
		return
	}
	c.Next()
}

// limit sheds load above MaxInFlight.
func (a *api) limit(c *gin.Context) {
	if !a.slots.TryAcquire(1) {
		newProblem(http.StatusServiceUnavailable, "the order service is busy, try again later").send(c)
		return
	}
	defer a.slots.Release(1)
	c.Next()
}

// bound bounds the body and the time of a request.
func (a *api) bound(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), a.RequestTimeout)
	defer cancel()
	c.Request = c.Request.WithContext(ctx)
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, a.MaxBodyBytes)
	c.Next()
}

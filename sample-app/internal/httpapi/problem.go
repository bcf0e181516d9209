package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/logging"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// problem is an RFC 9457 problem details object.
type problem struct {
	Type   string             `json:"type"`
	Title  string             `json:"title"`
	Status int                `json:"status"`
	Detail string             `json:"detail,omitempty"`
	Errors []order.FieldError `json:"errors,omitempty"`
}

// Error implements error.
func (p *problem) Error() string { return p.Title + ": " + p.Detail }

func newProblem(status int, detail string) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// send writes the problem as the response and stops further handlers.
func (p *problem) send(c *gin.Context) {
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusConflict {
		c.Header("Retry-After", "1")
	}
	raw, err := json.Marshal(p)
	if err != nil { // cannot happen with strings and integers
		raw = []byte("{}")
	}
	c.Abort()
	c.Data(p.Status, "application/problem+json", raw)
}

// fail responds with the problem that corresponds to err. The details of unexpected
// errors are logged but not sent to the client.
func (a *api) fail(c *gin.Context, err error) {
	var p *problem
	switch {
	case errors.As(err, &p):
	case errors.Is(err, order.ErrNotFound):
		p = newProblem(http.StatusNotFound, "the order does not exist")
	case errors.Is(err, order.ErrIdempotencyMismatch):
		p = newProblem(http.StatusUnprocessableEntity, order.ErrIdempotencyMismatch.Error())
	case errors.Is(err, order.ErrNotCancellable):
		p = newProblem(http.StatusConflict, "the order cannot be cancelled, because it is not confirmed")
	case errors.Is(err, order.ErrStale):
		p = newProblem(http.StatusConflict, "another request changed the order at the same time; read the order again")
	case errors.Is(err, context.Canceled) && c.Request.Context().Err() != nil:
		// The client has disconnected. The status is only for logs and metrics.
		p = &problem{Type: "about:blank", Title: "Client Closed Request", Status: statusClientClosed}
	default:
		a.Log.Error("request failed", zap.String("request_id", requestID(c)), zap.Error(err), logging.Trace(c.Request.Context()))
		trace.SpanFromContext(c.Request.Context()).RecordError(err)
		p = newProblem(http.StatusServiceUnavailable, "the order service cannot reach one of its dependencies; try again later")
	}
	p.send(c)
}

// statusClientClosed is the status that nginx logs when the client disconnects before
// the response.
const statusClientClosed = 499

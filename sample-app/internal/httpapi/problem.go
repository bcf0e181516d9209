package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"

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

// Error lets a problem be returned as an error.
func (p *problem) Error() string { return p.Title + ": " + p.Detail }

func newProblem(status int, detail string) *problem {
	return &problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// send writes the problem and ends the request.
func (p *problem) send(c *gin.Context) {
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusConflict {
		c.Header("Retry-After", "1")
	}
	raw, err := json.Marshal(p)
	if err != nil { // strings and ints always marshal
		raw = []byte("{}")
	}
	c.Abort()
	c.Data(p.Status, "application/problem+json", raw)
}

// fail answers with the problem that an error amounts to. Errors nobody has
// foreseen are logged whole and told to the client without details.
func (a *api) fail(c *gin.Context, err error) {
	var p *problem
	switch {
	case errors.As(err, &p):
	case errors.Is(err, order.ErrNotFound):
		p = newProblem(http.StatusNotFound, "there is no such order")
	case errors.Is(err, order.ErrIdempotencyMismatch):
		p = newProblem(http.StatusUnprocessableEntity, order.ErrIdempotencyMismatch.Error())
	case errors.Is(err, order.ErrNotCancellable):
		p = newProblem(http.StatusConflict, "only a confirmed order can be cancelled")
	case errors.Is(err, order.ErrStale):
		p = newProblem(http.StatusConflict, "the order was changed at the same time: read it again")
	case errors.Is(err, context.Canceled) && c.Request.Context().Err() != nil:
		// The client has left; the status is only for logs and metrics.
		p = &problem{Type: "about:blank", Title: "Client Closed Request", Status: statusClientClosed}
	default:
		a.Log.Error("request failed", zap.String("request_id", requestID(c)), zap.Error(err))
		p = newProblem(http.StatusServiceUnavailable, "the order service cannot reach what it needs, try again later")
	}
	p.send(c)
}

// statusClientClosed is what nginx logs when the client leaves first.
const statusClientClosed = 499

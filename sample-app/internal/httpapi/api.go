// Package httpapi implements the HTTP API of the order service.
//
//	POST /api/orders              create an order; supports Idempotency-Key
//	GET  /api/orders/{id}         read an order
//	GET  /api/orders              list orders, newest first: ?limit=&cursor=
//	POST /api/orders/{id}/cancel  cancel a confirmed order
//	GET  /ui                      a page with the newest orders, if the feature is on
//
// Errors are problem details (RFC 9457).
package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/slipway-ci/slipway/sample-app/internal/health"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Orders contains the operations of the API. *order.Service implements it.
type Orders interface {
	Create(ctx context.Context, d order.Draft, key string) (o order.Order, created bool, err error)
	Get(ctx context.Context, id uuid.UUID) (order.Order, error)
	List(ctx context.Context, before uuid.UUID, limit int) (orders []order.Order, more bool, err error)
	Cancel(ctx context.Context, id uuid.UUID) (order.Order, error)
}

// Options configure the API. All fields but Tracing are required.
type Options struct {
	Orders Orders
	Health *health.Health
	Log    *zap.Logger
	// Tracing adds spans to requests. If it is nil, requests are not traced.
	Tracing *Tracing
	// Observe is called after every response, except those to probes. path is the
	// pattern of the route.
	Observe func(ctx context.Context, method, path string, status int, took time.Duration)
	// RequestTimeout is the maximum duration of the work for each API request.
	RequestTimeout time.Duration
	// MaxBodyBytes is the maximum size of request bodies, in bytes.
	MaxBodyBytes int64
	// MaxInFlight is the maximum number of concurrent API requests. Further
	// requests get status 503.
	MaxInFlight int64
	// Features returns which features are on. It is called for every request that needs
	// it.
	Features func() Features
}

type api struct {
	Options
	slots *semaphore.Weighted
}

// New returns the handler for the API and the probes.
func New(o Options) http.Handler {
	a := &api{Options: o, slots: semaphore.NewWeighted(o.MaxInFlight)}
	gin.SetMode(gin.ReleaseMode) // otherwise gin prints its routes to standard output, between the JSON logs
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	engine.Use(a.tag)
	if o.Tracing != nil {
		engine.Use(o.Tracing.middleware())
	}
	engine.Use(a.record, a.rescue, a.drain)
	engine.NoRoute(func(c *gin.Context) {
		newProblem(http.StatusNotFound, "this path does not exist").send(c)
	})
	engine.NoMethod(func(c *gin.Context) {
		newProblem(http.StatusMethodNotAllowed, "this path does not support the method; the Allow header lists the supported methods").send(c)
	})

	// Probes are not limited, so that a busy pod is not restarted.
	engine.GET("/health/startup", gin.WrapF(o.Health.Startup))
	engine.GET("/health/live", gin.WrapF(o.Health.Live))
	engine.GET("/health/ready", gin.WrapF(o.Health.Ready))

	orders := engine.Group("/api/orders", a.started, a.limit, a.bound)
	orders.POST("", a.create)
	orders.GET("", a.list)
	orders.GET("/:id", a.get)
	orders.POST("/:id/cancel", a.cancel)
	engine.GET("/ui", a.started, a.limit, a.bound, a.page)
	return engine
}

func (a *api) create(c *gin.Context) {
	if err := checkJSON(c.Request.Header); err != nil {
		a.fail(c, err)
		return
	}
	key, err := idempotencyKey(c.Request.Header)
	if err != nil {
		a.fail(c, err)
		return
	}
	draft, err := decodeDraft(c.Request.Body)
	if err != nil {
		a.fail(c, err)
		return
	}
	o, created, err := a.Orders.Create(c.Request.Context(), draft, key)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Location", "/api/orders/"+o.ID.String())
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	c.JSON(unlessPending(status, o), a.withReceipt(o))
}

func (a *api) get(c *gin.Context) {
	id, err := orderID(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	o, err := a.Orders.Get(c.Request.Context(), id)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, o)
}

// listAnswer is the body of GET /api/orders.
type listAnswer struct {
	Orders []order.Order `json:"orders"`
	// NextCursor is the value of ?cursor= for the next page. It is absent on the
	// last page.
	NextCursor string `json:"next_cursor,omitempty"`
}

func (a *api) list(c *gin.Context) {
	limit, before, err := page(c.Request.URL.Query())
	if err != nil {
		a.fail(c, err)
		return
	}
	orders, more, err := a.Orders.List(c.Request.Context(), before, limit)
	if err != nil {
		a.fail(c, err)
		return
	}
	answer := listAnswer{Orders: orders}
	if orders == nil {
		answer.Orders = []order.Order{} // encoded as [] and not as null
	}
	if more {
		answer.NextCursor = cursor(orders[len(orders)-1].ID)
	}
	c.JSON(http.StatusOK, answer)
}

func (a *api) cancel(c *gin.Context) {
	id, err := orderID(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	o, err := a.Orders.Cancel(c.Request.Context(), id)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.JSON(unlessPending(http.StatusOK, o), o)
}

// unlessPending returns status 202 if the order is not settled, and otherwise the
// given status.
func unlessPending(status int, o order.Order) int {
	if !o.Settled() {
		return http.StatusAccepted
	}
	return status
}

// orderID returns the order ID in the path.
func orderID(c *gin.Context) (uuid.UUID, error) {
	// Parse also accepts other formats, such as URNs, but an order must have only one
	// URL.
	raw := c.Param("id")
	id, err := uuid.Parse(raw)
	if err != nil || id.String() != raw {
		return uuid.Nil, newProblem(http.StatusNotFound, "the order does not exist")
	}
	return id, nil
}

// Package httpapi is the order service's HTTP face.
//
//	POST /api/orders              place an order; Idempotency-Key is honoured
//	GET  /api/orders/{id}         read one
//	GET  /api/orders              list, newest first: ?limit=&cursor=
//	POST /api/orders/{id}/cancel  refund and release a confirmed order
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

// Orders is what the API needs done. *order.Service does it.
type Orders interface {
	Create(ctx context.Context, d order.Draft, key string) (o order.Order, created bool, err error)
	Get(ctx context.Context, id uuid.UUID) (order.Order, error)
	List(ctx context.Context, before uuid.UUID, limit int) (orders []order.Order, more bool, err error)
	Cancel(ctx context.Context, id uuid.UUID) (order.Order, error)
}

// Options are what the API is made of.
type Options struct {
	Orders Orders
	Health *health.Health
	Log    *zap.Logger
	// Observe is told of every answered request but probes. path is the route's pattern.
	Observe func(method, path string, status int, took time.Duration)
	// RequestTimeout bounds the work behind each API request.
	RequestTimeout time.Duration
	// MaxBodyBytes bounds request bodies.
	MaxBodyBytes int64
	// MaxInFlight is how many API requests run at once. More get 503.
	MaxInFlight int64
}

type api struct {
	Options
	slots *semaphore.Weighted
}

// New returns the handler of the API and the probes.
func New(o Options) http.Handler {
	a := &api{Options: o, slots: semaphore.NewWeighted(o.MaxInFlight)}
	gin.SetMode(gin.ReleaseMode) // else gin prints its routes to stdout, among the JSON logs
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	engine.Use(a.tag, a.record, a.rescue, a.drain)
	engine.NoRoute(func(c *gin.Context) {
		newProblem(http.StatusNotFound, "there is nothing at this path").send(c)
	})
	engine.NoMethod(func(c *gin.Context) {
		newProblem(http.StatusMethodNotAllowed, "this path knows other methods, see the Allow header").send(c)
	})

	// Probes are neither limited nor kept waiting: a busy pod is not a dead one.
	engine.GET("/health/startup", gin.WrapF(o.Health.Startup))
	engine.GET("/health/live", gin.WrapF(o.Health.Live))
	engine.GET("/health/ready", gin.WrapF(o.Health.Ready))

	orders := engine.Group("/api/orders", a.started, a.limit, a.bound)
	orders.POST("", a.create)
	orders.GET("", a.list)
	orders.GET("/:id", a.get)
	orders.POST("/:id/cancel", a.cancel)
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
	c.JSON(unlessPending(status, o), o)
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
	// NextCursor lists on when sent as ?cursor=. Absent on the last page.
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
		answer.Orders = []order.Order{} // [] rather than null
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

// unlessPending turns a status into 202 while the order is not settled.
func unlessPending(status int, o order.Order) int {
	if !o.Settled() {
		return http.StatusAccepted
	}
	return status
}

func orderID(c *gin.Context) (uuid.UUID, error) {
	// Parse would also take URNs and braces; one order has one address.
	raw := c.Param("id")
	id, err := uuid.Parse(raw)
	if err != nil || id.String() != raw {
		return uuid.Nil, newProblem(http.StatusNotFound, "there is no such order")
	}
	return id, nil
}

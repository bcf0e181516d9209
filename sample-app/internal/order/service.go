package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/logging"
)

// Store stores orders. Methods that change an order with a given version return
// ErrStale if that version is no longer the current one. While a caller holds an order,
// nobody else can claim it.
type Store interface {
	// Insert adds a new order, which the caller holds for the given duration. If
	// there is already an order with the same key, which is not empty, Insert adds
	// nothing and returns that order with created false, or ErrIdempotencyMismatch
	// if its fingerprint is different.
	Insert(ctx context.Context, o Order, key string, fingerprint []byte, hold time.Duration) (stored Order, created bool, err error)
	// Get returns an order, or ErrNotFound.
	Get(ctx context.Context, id uuid.UUID) (Order, error)
	// List returns up to limit orders that are older than the order before, the
	// newest first. The zero UUID means that the list starts with the newest order.
	List(ctx context.Context, before uuid.UUID, limit int) ([]Order, error)
	// BeginCancel changes the status of a confirmed order to cancelling. The caller
	// holds the order for the given duration.
	BeginCancel(ctx context.Context, id uuid.UUID, version int64, hold time.Duration) (Order, error)
	// Claim selects an unsettled order that nobody holds and holds it for the given
	// duration. If id is not zero, only this order can be selected. Claim returns
	// ErrNotFound if there is no such order.
	Claim(ctx context.Context, id uuid.UUID, hold time.Duration) (Order, error)
	// Settle sets the final status of an order and releases it.
	Settle(ctx context.Context, id uuid.UUID, version int64, status Status, reason string) (Order, error)
}

// Cache stores copies of orders. It may delete them at any time. Its errors do not
// cause requests to fail.
type Cache interface {
	// Get returns an order, or ErrNotFound.
	Get(ctx context.Context, id uuid.UUID) (Order, error)
	// Put stores an order, unless the cache contains a newer version of it.
	Put(ctx context.Context, o Order) error
}

// Inventory reserves stock. All methods are idempotent for an order ID.
type Inventory interface {
	// Reserve reserves the items of an order. It returns ErrOutOfStock if there is
	// not enough stock. After any other error the stock may have been reserved.
	Reserve(ctx context.Context, o Order) error
	// Release undoes Reserve, even if the request of Reserve arrives later.
	Release(ctx context.Context, id uuid.UUID) error
}

// Payment charges customers. All methods are idempotent for an order ID.
type Payment interface {
	// Charge charges the total of an order. It returns ErrDeclined if the payment is
	// declined. After any other error the customer may have been charged.
	Charge(ctx context.Context, o Order) error
	// Refund undoes Charge, even if the request of Charge arrives later.
	Refund(ctx context.Context, id uuid.UUID) error
}

// Recorder records events.
type Recorder interface {
	// OrderCreated is called when a new order is confirmed or rejected.
	OrderCreated(ctx context.Context, o Order)
	// PaymentFailed is called when a payment fails, with one of the reasons for the
	// rejection of an order.
	PaymentFailed(ctx context.Context, reason string)
}

// Options configure a Service.
type Options struct {
	Store Store
	// Cache can be nil. Then all orders are read from Store.
	Cache Cache
	// Inventory and Payment can be nil. Then their step is skipped.
	Inventory Inventory
	Payment   Payment
	Recorder  Recorder
	Log       *zap.Logger
	// Tracer starts the spans of the work on an order. If it is nil, there are none.
	Tracer trace.Tracer
	// SettleTimeout is the maximum duration of the work on one order.
	SettleTimeout time.Duration
}

// Service creates, reads and cancels orders.
type Service struct {
	Options
	// lifetime is done when the process must stop immediately.
	lifetime context.Context //nolint:containedctx // it belongs to the service and not to a request
}

// NewService returns a Service. When lifetime is done, the Service aborts the work on
// all orders, even if a request is waiting for it. Another replica will recover these
// orders.
func NewService(lifetime context.Context, o Options) *Service {
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	return &Service{Options: o, lifetime: lifetime}
}

// hold returns how long a replica holds an order. It is twice the maximum duration of
// the work, so that a replica has certainly stopped when another one claims the order.
func (s *Service) hold() time.Duration { return 2 * s.SettleTimeout }

// Create stores a pending order, reserves the stock, charges the payment and stores the
// result. If the returned order is pending, an upstream failed and the result is not yet
// known. Recover will settle such an order.
//
// If key is not empty and was used before with the same draft, Create returns the
// existing order and created is false. With a different draft the error is
// ErrIdempotencyMismatch.
func (s *Service) Create(ctx context.Context, d Draft, key string) (o Order, created bool, err error) {
	fingerprint, err := d.Fingerprint()
	if err != nil {
		return Order{}, false, err
	}
	id, err := uuid.NewV7() // ordered by time, so that lists can be sorted and paged by ID
	if err != nil {
		return Order{}, false, fmt.Errorf("create order: %w", err)
	}
	draft := Order{ID: id, CustomerID: d.CustomerID, Status: StatusPending, Items: d.Items, Total: d.Total()}
	o, created, err = s.Store.Insert(ctx, draft, key, fingerprint, s.hold())
	if err != nil {
		return Order{}, false, fmt.Errorf("create order: %w", err)
	}
	describe(ctx, o)
	if o.Settled() {
		return o, created, nil
	}
	request := ctx
	ctx, stop := s.detach(ctx)
	defer stop()
	defer func() { describe(request, o) }()
	if created {
		o = s.settle(ctx, o)
		return o, true, nil
	}
	// Either the first request is still working on the order, or its replica has
	// died. Only in the second case can resume claim the order and settle it.
	o = s.resume(ctx, o)
	return o, false, nil
}

// Get returns an order, if possible from the cache. It returns ErrNotFound if the order
// does not exist.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Order, error) {
	if s.Cache != nil {
		o, err := s.Cache.Get(ctx, id)
		if err == nil {
			describe(ctx, o)
			return o, nil
		}
		if !errors.Is(err, ErrNotFound) {
			s.Log.Warn("cache is unavailable, reading from the database", zap.Error(err), logging.Trace(ctx))
		}
	}
	o, err := s.Store.Get(ctx, id)
	if err != nil {
		return Order{}, fmt.Errorf("get order %s: %w", id, err)
	}
	describe(ctx, o)
	s.remember(ctx, o)
	return o, nil
}

// List returns up to limit orders that are older than the order before, the newest
// first, and whether there are more. The zero UUID means that the list starts with the
// newest order.
func (s *Service) List(ctx context.Context, before uuid.UUID, limit int) (orders []Order, more bool, err error) {
	orders, err = s.Store.List(ctx, before, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("list orders: %w", err)
	}
	if len(orders) > limit {
		return orders[:limit], true, nil
	}
	return orders, false, nil
}

// Cancel refunds the payment of a confirmed order and releases its stock. It is not an
// error if the order is already cancelled. If the returned order has the status
// cancelling, an upstream failed, and Recover will settle the order. Cancel returns
// ErrNotFound if the order does not exist, ErrNotCancellable if it is pending or
// rejected, and ErrStale if it is changed at the same time.
func (s *Service) Cancel(ctx context.Context, id uuid.UUID) (Order, error) {
	o, err := s.Store.Get(ctx, id)
	if err != nil {
		return Order{}, fmt.Errorf("cancel order %s: %w", id, err)
	}
	describe(ctx, o)
	switch o.Status {
	case StatusCancelled, StatusCancelling:
		return o, nil
	case StatusPending, StatusRejected:
		return Order{}, fmt.Errorf("cancel order %s: it is %s: %w", id, o.Status, ErrNotCancellable)
	case StatusConfirmed:
	}
	o, err = s.Store.BeginCancel(ctx, id, o.Version, s.hold())
	if err != nil {
		return Order{}, fmt.Errorf("cancel order %s: %w", id, err)
	}
	ctx, stop := s.detach(ctx)
	defer stop()
	s.remember(ctx, o)
	return s.settle(ctx, o), nil
}

// Recover settles the unsettled orders that nobody holds, one after another, and returns
// how many it has claimed. It stops at the first error of the store.
func (s *Service) Recover(ctx context.Context) (int, error) {
	for n := 0; ; n++ {
		o, err := s.Store.Claim(ctx, uuid.Nil, s.hold())
		if errors.Is(err, ErrNotFound) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("recover orders: %w", err)
		}
		s.Log.Info("recovering an unfinished order", zap.Stringer("order_id", o.ID), zap.String("status", string(o.Status)))
		s.recoverOne(ctx, o)
	}
}

func (s *Service) recoverOne(ctx context.Context, o Order) {
	ctx, stop := context.WithTimeout(ctx, s.SettleTimeout)
	defer stop()
	s.settle(ctx, o)
}

// resume settles an unsettled order if nobody else is working on it.
func (s *Service) resume(ctx context.Context, o Order) Order {
	claimed, err := s.Store.Claim(ctx, o.ID, s.hold())
	if err != nil {
		if !errors.Is(err, ErrNotFound) {
			s.Log.Warn("cannot claim an unfinished order", zap.Stringer("order_id", o.ID), zap.Error(err), logging.Trace(ctx))
		}
		return o
	}
	return s.settle(ctx, claimed)
}

// detach returns a context that does not end with the request, so that an order is
// finished even if the client disconnects. It ends after SettleTimeout or when the
// service must stop.
func (s *Service) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.SettleTimeout)
	unlink := context.AfterFunc(s.lifetime, cancel)
	return ctx, func() {
		unlink()
		cancel()
	}
}

// outcome is the final status of an order.
type outcome struct {
	status Status
	reason string
}

// settle completes the remaining steps of an order that the caller holds. If a step
// fails, settle returns the unsettled order, which Recover will settle.
func (s *Service) settle(ctx context.Context, o Order) Order {
	ctx, span := s.Tracer.Start(ctx, "settle order")
	defer span.End()
	describe(ctx, o)
	log := s.Log.With(zap.Stringer("order_id", o.ID), logging.Trace(ctx))
	var (
		out outcome
		err error
	)
	if o.Status == StatusCancelling {
		out, err = outcome{status: StatusCancelled}, s.undo(ctx, o.ID)
	} else {
		out, err = s.place(ctx, o, log)
	}
	if err != nil {
		fail(ctx, err)
		log.Warn("cannot finish the order, it will be recovered later", zap.String("status", string(o.Status)), zap.Error(err))
		return o
	}
	settled, err := s.Store.Settle(ctx, o.ID, o.Version, out.status, out.reason)
	if err != nil {
		fail(ctx, err)
		log.Warn("cannot store the result of the order, it will be recovered later", zap.String("status", string(out.status)), zap.Error(err))
		return o
	}
	describe(ctx, settled)
	s.remember(ctx, settled)
	if out.status != StatusCancelled {
		s.Recorder.OrderCreated(ctx, settled)
	}
	log.Info("order settled", zap.String("status", string(settled.Status)), zap.String("reason", settled.Reason))
	return settled
}

// place reserves the stock and charges the payment. It returns an error only if a step
// failed and could not be undone, so that the result is unknown.
func (s *Service) place(ctx context.Context, o Order, log *zap.Logger) (outcome, error) {
	if s.Inventory != nil {
		err := s.Inventory.Reserve(ctx, o)
		switch {
		case errors.Is(err, ErrOutOfStock):
			return outcome{StatusRejected, ReasonOutOfStock}, nil
		case err != nil:
			log.Warn("cannot reserve the stock", zap.Error(err))
			fail(ctx, err)
			return outcome{StatusRejected, ReasonInventoryUnavailable}, s.undo(ctx, o.ID)
		}
	}
	if s.Payment != nil {
		err := s.Payment.Charge(ctx, o)
		switch {
		case errors.Is(err, ErrDeclined):
			s.Recorder.PaymentFailed(ctx, ReasonPaymentDeclined)
			return outcome{StatusRejected, ReasonPaymentDeclined}, s.undo(ctx, o.ID)
		case err != nil:
			log.Warn("cannot charge the payment", zap.Error(err))
			fail(ctx, err)
			s.Recorder.PaymentFailed(ctx, ReasonPaymentUnavailable)
			return outcome{StatusRejected, ReasonPaymentUnavailable}, s.undo(ctx, o.ID)
		}
	}
	return outcome{status: StatusConfirmed}, nil
}

// undo refunds the payment and releases the stock. The refund comes first: after a crash
// between the two steps, stock is still reserved, but the customer is not charged.
func (s *Service) undo(ctx context.Context, id uuid.UUID) error {
	if s.Payment != nil {
		if err := s.Payment.Refund(ctx, id); err != nil {
			return fmt.Errorf("refund: %w", err)
		}
	}
	if s.Inventory != nil {
		if err := s.Inventory.Release(ctx, id); err != nil {
			return fmt.Errorf("release reservation: %w", err)
		}
	}
	return nil
}

// remember stores an order in the cache. Errors are only logged.
func (s *Service) remember(ctx context.Context, o Order) {
	if s.Cache == nil {
		return
	}
	// The new version must be stored in the cache even if the client disconnects.
	if err := s.Cache.Put(context.WithoutCancel(ctx), o); err != nil {
		s.Log.Warn("cache is unavailable, the order was not cached", zap.Stringer("order_id", o.ID), zap.Error(err), logging.Trace(ctx))
	}
}

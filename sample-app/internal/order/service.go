package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
)

// Store keeps orders. Every method that changes an order takes the version the
// caller has seen and fails with ErrStale when that is no longer current.
type Store interface {
	// Insert adds a new order, held by the caller until hold has passed.
	// If key is not empty and known, nothing is added and the order it
	// belongs to is returned with created false, or ErrIdempotencyMismatch
	// when fingerprints differ.
	Insert(ctx context.Context, o Order, key string, fingerprint []byte, hold time.Duration) (stored Order, created bool, err error)
	// Get returns the order or ErrNotFound.
	Get(ctx context.Context, id uuid.UUID) (Order, error)
	// List returns up to limit orders, newest first, older than before; the
	// zero UUID begins at the newest.
	List(ctx context.Context, before uuid.UUID, limit int) ([]Order, error)
	// BeginCancel moves a confirmed order to cancelling, held by the caller.
	BeginCancel(ctx context.Context, id uuid.UUID, version int64, hold time.Duration) (Order, error)
	// Claim takes over one unsettled order that nobody holds any more, or the
	// one named if id is not zero. It returns ErrNotFound if there is none.
	Claim(ctx context.Context, id uuid.UUID, hold time.Duration) (Order, error)
	// Settle sets an order's final status and ends the hold.
	Settle(ctx context.Context, id uuid.UUID, version int64, status Status, reason string) (Order, error)
}

// Cache keeps copies of orders. It may forget anything at any time, and its
// errors never fail a request.
type Cache interface {
	// Get returns the order, or ErrNotFound.
	Get(ctx context.Context, id uuid.UUID) (Order, error)
	// Put keeps the order unless a newer version is already there.
	Put(ctx context.Context, o Order) error
}

// Inventory sets stock aside. All calls are idempotent by order ID.
type Inventory interface {
	// Reserve returns ErrOutOfStock if the order can never be served. After any
	// other error the stock may or may not be set aside.
	Reserve(ctx context.Context, o Order) error
	// Release undoes Reserve, also one that is still to arrive.
	Release(ctx context.Context, id uuid.UUID) error
}

// Payment takes money. All calls are idempotent by order ID.
type Payment interface {
	// Charge returns ErrDeclined if the money will not come. After any other
	// error it may or may not have been taken.
	Charge(ctx context.Context, o Order) error
	// Refund undoes Charge, also one that is still to arrive.
	Refund(ctx context.Context, id uuid.UUID) error
}

// Recorder is told of what happened to orders.
type Recorder interface {
	OrderCreated(o Order)
	PaymentFailed(reason string)
}

// Options are what a Service is made of.
type Options struct {
	Store Store
	// Cache may be nil: then every read goes to Store.
	Cache Cache
	// Inventory and Payment may be nil: then their step is left out.
	Inventory Inventory
	Payment   Payment
	Recorder  Recorder
	Log       *zap.Logger
	// SettleTimeout bounds the work on one order, whoever waits for it.
	SettleTimeout time.Duration
}

// Service creates, reads and cancels orders.
type Service struct {
	Options
	// lifetime ends when the process must stop at once.
	lifetime context.Context //nolint:containedctx // it is the service's own, not a request's
}

// NewService returns a Service. When lifetime ends, work that had outlived its
// request is given up; another replica will pick it up.
func NewService(lifetime context.Context, o Options) *Service {
	return &Service{Options: o, lifetime: lifetime}
}

// hold is how long a replica may work on an order before others may take it
// over. Twice the time it allows itself, so that clocks need not agree.
func (s *Service) hold() time.Duration { return 2 * s.SettleTimeout }

// Create places an order: it is stored as pending, stock is reserved, the
// payment charged, and the outcome stored. A pending order in the result means
// that an upstream failed in a way that leaves the outcome open; Recover will
// settle it.
//
// With a key that was used before for the same draft, the order that was then
// created is returned and created is false.
func (s *Service) Create(ctx context.Context, d Draft, key string) (o Order, created bool, err error) {
	fingerprint, err := d.Fingerprint()
	if err != nil {
		return Order{}, false, err
	}
	id, err := uuid.NewV7() // ordered by time, so that IDs double as page cursors
	if err != nil {
		return Order{}, false, fmt.Errorf("create order: %w", err)
	}
	draft := Order{ID: id, CustomerID: d.CustomerID, Status: StatusPending, Items: d.Items, Total: d.Total()}
	o, created, err = s.Store.Insert(ctx, draft, key, fingerprint, s.hold())
	if err != nil {
		return Order{}, false, fmt.Errorf("create order: %w", err)
	}
	if o.Settled() {
		return o, created, nil
	}
	ctx, stop := s.detach(ctx)
	defer stop()
	if created {
		return s.settle(ctx, o), true, nil
	}
	// The first request is still at it, or has died. Only in the latter case
	// does resume get hold of the order and finish the work.
	return s.resume(ctx, o), false, nil
}

// Get returns the order, from the cache if it is there.
func (s *Service) Get(ctx context.Context, id uuid.UUID) (Order, error) {
	if s.Cache != nil {
		o, err := s.Cache.Get(ctx, id)
		if err == nil {
			return o, nil
		}
		if !errors.Is(err, ErrNotFound) {
			s.Log.Warn("cache unavailable, reading from the database", zap.Error(err))
		}
	}
	o, err := s.Store.Get(ctx, id)
	if err != nil {
		return Order{}, fmt.Errorf("get order %s: %w", id, err)
	}
	s.remember(ctx, o)
	return o, nil
}

// List returns up to limit orders older than before, newest first, and whether
// there are more.
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

// Cancel refunds and releases a confirmed order. Cancelling twice is not an
// error. A cancelling order in the result means that an upstream did not
// answer; Recover will finish it.
func (s *Service) Cancel(ctx context.Context, id uuid.UUID) (Order, error) {
	o, err := s.Store.Get(ctx, id)
	if err != nil {
		return Order{}, fmt.Errorf("cancel order %s: %w", id, err)
	}
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

// Recover settles the orders that nobody works on any more, one after another,
// and returns how many it took up. It stops at the first storage error.
func (s *Service) Recover(ctx context.Context) (int, error) {
	for n := 0; ; n++ {
		o, err := s.Store.Claim(ctx, uuid.Nil, s.hold())
		if errors.Is(err, ErrNotFound) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("recover orders: %w", err)
		}
		s.Log.Info("recovering unfinished order", zap.Stringer("order_id", o.ID), zap.String("status", string(o.Status)))
		s.recoverOne(ctx, o)
	}
}

func (s *Service) recoverOne(ctx context.Context, o Order) {
	ctx, stop := context.WithTimeout(ctx, s.SettleTimeout)
	defer stop()
	s.settle(ctx, o)
}

func (s *Service) resume(ctx context.Context, o Order) Order {
	claimed, err := s.Store.Claim(ctx, o.ID, s.hold())
	if err != nil {
		if !errors.Is(err, ErrNotFound) {
			s.Log.Warn("cannot take over unfinished order", zap.Stringer("order_id", o.ID), zap.Error(err))
		}
		return o
	}
	return s.settle(ctx, claimed)
}

// detach returns a context that outlives the request: a client that hangs up
// must not leave an order half-done. It ends with the service.
func (s *Service) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.SettleTimeout)
	unlink := context.AfterFunc(s.lifetime, cancel)
	return ctx, func() {
		unlink()
		cancel()
	}
}

// outcome is what an order should become.
type outcome struct {
	status Status
	reason string
}

// settle does what is left to do for an order that the caller holds. If it
// cannot, it returns the order unsettled and leaves the rest to Recover.
func (s *Service) settle(ctx context.Context, o Order) Order {
	log := s.Log.With(zap.Stringer("order_id", o.ID))
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
		log.Warn("order left unfinished, it will be recovered", zap.String("status", string(o.Status)), zap.Error(err))
		return o
	}
	settled, err := s.Store.Settle(ctx, o.ID, o.Version, out.status, out.reason)
	if err != nil {
		log.Warn("outcome of order not stored, it will be recovered", zap.String("status", string(out.status)), zap.Error(err))
		return o
	}
	s.remember(ctx, settled)
	if out.status != StatusCancelled {
		s.Recorder.OrderCreated(settled)
	}
	log.Info("order settled", zap.String("status", string(settled.Status)), zap.String("reason", settled.Reason))
	return settled
}

// place reserves and charges. It returns an error only if the outcome is open:
// a step failed and could not be undone.
func (s *Service) place(ctx context.Context, o Order, log *zap.Logger) (outcome, error) {
	if s.Inventory != nil {
		err := s.Inventory.Reserve(ctx, o)
		switch {
		case errors.Is(err, ErrOutOfStock):
			return outcome{StatusRejected, ReasonOutOfStock}, nil
		case err != nil:
			log.Warn("inventory did not reserve", zap.Error(err))
			return outcome{StatusRejected, ReasonInventoryUnavailable}, s.undo(ctx, o.ID)
		}
	}
	if s.Payment != nil {
		err := s.Payment.Charge(ctx, o)
		switch {
		case errors.Is(err, ErrDeclined):
			s.Recorder.PaymentFailed(ReasonPaymentDeclined)
			return outcome{StatusRejected, ReasonPaymentDeclined}, s.undo(ctx, o.ID)
		case err != nil:
			log.Warn("payment did not charge", zap.Error(err))
			s.Recorder.PaymentFailed(ReasonPaymentUnavailable)
			return outcome{StatusRejected, ReasonPaymentUnavailable}, s.undo(ctx, o.ID)
		}
	}
	return outcome{status: StatusConfirmed}, nil
}

// undo gives the money back before the stock, so that a crash in between errs
// in the customer's favour.
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

func (s *Service) remember(ctx context.Context, o Order) {
	if s.Cache == nil {
		return
	}
	// Not even a client that hangs up may keep a newer version out of the cache.
	if err := s.Cache.Put(context.WithoutCancel(ctx), o); err != nil {
		s.Log.Warn("cache unavailable, order not cached", zap.Stringer("order_id", o.ID), zap.Error(err))
	}
}

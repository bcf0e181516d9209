// Package order contains the domain of the service: the order, its statuses, and the
// service that creates and cancels orders by means of a store, a payment service and an
// inventory service.
package order

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// Status is the status of an order. The possible transitions are:
//
//	pending ---> confirmed ---> cancelling ---> cancelled
//	   `-------> rejected
type Status string

// The statuses. Normally an order is pending or cancelling only during one request. If
// an upstream or a replica fails during that request, Service.Recover settles the
// order.
const (
	StatusPending    Status = "pending"
	StatusConfirmed  Status = "confirmed"
	StatusRejected   Status = "rejected"
	StatusCancelling Status = "cancelling"
	StatusCancelled  Status = "cancelled"
)

// The reasons why an order is rejected.
const (
	ReasonOutOfStock           = "out_of_stock"
	ReasonPaymentDeclined      = "payment_declined"
	ReasonPaymentUnavailable   = "payment_unavailable"
	ReasonInventoryUnavailable = "inventory_unavailable"
)

// Errors that callers can distinguish with errors.Is.
var (
	// ErrNotFound means that the order does not exist.
	ErrNotFound = errors.New("order not found")
	// ErrIdempotencyMismatch means that the idempotency key belongs to an order
	// with different content.
	ErrIdempotencyMismatch = errors.New("idempotency key was already used for a different order")
	// ErrNotCancellable means that an order with this status cannot be cancelled.
	ErrNotCancellable = errors.New("order cannot be cancelled in its current status")
	// ErrStale means that the order has been changed or claimed in the meantime.
	ErrStale = errors.New("order was changed in the meantime")
	// ErrOutOfStock means that the inventory service cannot reserve the items.
	ErrOutOfStock = errors.New("out of stock")
	// ErrDeclined means that the payment service declined the payment.
	ErrDeclined = errors.New("payment declined")
)

// Item is one line of an order.
type Item struct {
	SKU string `json:"sku"`
	// Quantity is the number of pieces, 1 or more.
	Quantity int `json:"quantity"`
	// UnitPrice is in minor units (cents) of the order's currency.
	UnitPrice int64 `json:"unit_price"`
}

// Money is an amount in minor units (cents) of an ISO 4217 currency.
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Order is a customer's order.
type Order struct {
	ID         uuid.UUID `json:"id"`
	CustomerID string    `json:"customer_id"`
	Status     Status    `json:"status"`
	// Reason says why the order was rejected. It is empty for other statuses.
	Reason string `json:"reason,omitempty"`
	Items  []Item `json:"items"`
	Total  Money  `json:"total"`
	// Version starts at 1 and increases with every change.
	Version   int64     `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Settled reports whether the order has a status that changes only on request.
func (o Order) Settled() bool {
	return o.Status != StatusPending && o.Status != StatusCancelling
}

// Package order holds what an order is, how it moves from one status to the
// next, and what it needs from storage, payment and inventory to do so.
package order

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// Status is where an order stands.
//
//	pending ---> confirmed ---> cancelling ---> cancelled
//	   `-------> rejected
type Status string

// The statuses. Pending and Cancelling are passed through within one request
// unless an upstream or a replica fails on the way; Recover finishes those.
const (
	StatusPending    Status = "pending"
	StatusConfirmed  Status = "confirmed"
	StatusRejected   Status = "rejected"
	StatusCancelling Status = "cancelling"
	StatusCancelled  Status = "cancelled"
)

// Reasons why an order was rejected.
const (
	ReasonOutOfStock           = "out_of_stock"
	ReasonPaymentDeclined      = "payment_declined"
	ReasonPaymentUnavailable   = "payment_unavailable"
	ReasonInventoryUnavailable = "inventory_unavailable"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound says that no such order exists.
	ErrNotFound = errors.New("order not found")
	// ErrIdempotencyMismatch says that an idempotency key came back with
	// another order.
	ErrIdempotencyMismatch = errors.New("idempotency key was already used for a different order")
	// ErrNotCancellable says that the order's status rules cancelling out.
	ErrNotCancellable = errors.New("order cannot be cancelled in its present status")
	// ErrStale says that someone else changed or took the order meanwhile.
	ErrStale = errors.New("order was changed by someone else")
	// ErrOutOfStock is inventory's definite no.
	ErrOutOfStock = errors.New("out of stock")
	// ErrDeclined is payment's definite no.
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
	// Reason says why a rejected order was rejected; empty otherwise.
	Reason string `json:"reason,omitempty"`
	Items  []Item `json:"items"`
	Total  Money  `json:"total"`
	// Version counts changes, from 1. Caches and writers compare it.
	Version   int64     `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Settled reports whether nothing more will happen to the order by itself.
func (o Order) Settled() bool {
	return o.Status != StatusPending && o.Status != StatusCancelling
}

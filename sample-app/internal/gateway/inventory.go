package gateway

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Inventory is an order.Inventory that calls an HTTP service with these endpoints:
//
//	POST   /reservations {"id", "items": [{"sku", "quantity"}]}  -> 201; 200 if it exists; 409 if out of stock
//	DELETE /reservations/{id}                                    -> 204
type Inventory struct{ *client }

// NewInventory returns an Inventory. It does not connect to the service.
func NewInventory(o Options) *Inventory { return &Inventory{newClient(o)} }

type reservationRequest struct {
	ID    uuid.UUID         `json:"id"`
	Items []reservationItem `json:"items"`
}

type reservationItem struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Reserve implements order.Inventory.
func (i *Inventory) Reserve(ctx context.Context, o order.Order) error {
	req := reservationRequest{ID: o.ID, Items: make([]reservationItem, len(o.Items))}
	for n, item := range o.Items {
		req.Items[n] = reservationItem{SKU: item.SKU, Quantity: item.Quantity}
	}
	err := i.call(ctx, http.MethodPost, "/reservations", "reserve-"+o.ID.String(), req, nil)
	switch {
	case err == nil:
		return nil
	case hasStatus(err, http.StatusConflict):
		return fmt.Errorf("inventory: %w", order.ErrOutOfStock)
	}
	return fmt.Errorf("inventory: %w", err)
}

// Release implements order.Inventory.
func (i *Inventory) Release(ctx context.Context, id uuid.UUID) error {
	err := i.call(ctx, http.MethodDelete, "/reservations/"+id.String(), "release-"+id.String(), nil, nil)
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	return nil
}

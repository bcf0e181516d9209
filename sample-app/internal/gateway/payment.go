package gateway

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Payment is an order.Payment that calls an HTTP service with these endpoints:
//
//	POST /payments {"id", "amount", "currency"}  -> {"status": "approved" | "declined" | "refunded"}
//	POST /payments/{id}/refund                   -> {"status": "refunded"}
type Payment struct{ *client }

// NewPayment returns a Payment. It does not connect to the service.
func NewPayment(o Options) *Payment { return &Payment{newClient(o)} }

type paymentRequest struct {
	ID       uuid.UUID `json:"id"`
	Amount   int64     `json:"amount"`
	Currency string    `json:"currency"`
}

type paymentAnswer struct {
	Status string `json:"status"`
}

// Charge implements order.Payment.
func (p *Payment) Charge(ctx context.Context, o order.Order) error {
	var answer paymentAnswer
	req := paymentRequest{ID: o.ID, Amount: o.Total.Amount, Currency: o.Total.Currency}
	if err := p.call(ctx, http.MethodPost, "/payments", "charge-"+o.ID.String(), req, &answer); err != nil {
		return fmt.Errorf("payment: %w", err)
	}
	switch answer.Status {
	case "approved":
		return nil
	case "declined", "refunded": // a payment that has been refunded cannot be charged again
		return fmt.Errorf("payment: %w", order.ErrDeclined)
	}
	return fmt.Errorf("payment: unknown status %q", answer.Status)
}

// Refund implements order.Payment.
func (p *Payment) Refund(ctx context.Context, id uuid.UUID) error {
	var answer paymentAnswer
	err := p.call(ctx, http.MethodPost, "/payments/"+id.String()+"/refund", "refund-"+id.String(), nil, &answer)
	if err != nil {
		return fmt.Errorf("payment: %w", err)
	}
	return nil
}

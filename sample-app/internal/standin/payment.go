package standin

import (
	"net/http"
	"sync"
)

// PaymentStatus is the status of a payment.
type PaymentStatus string

// The statuses of a payment.
const (
	PaymentApproved PaymentStatus = "approved"
	PaymentDeclined PaymentStatus = "declined"
	PaymentRefunded PaymentStatus = "refunded"
)

// Payment is a simulated payment service. It approves amounts up to a limit and declines
// larger ones.
type Payment struct {
	Faults
	limit int64
	http.Handler

	mu       sync.Mutex
	payments map[string]PaymentStatus
}

// NewPayment returns a Payment that declines amounts above limit, in minor units.
func NewPayment(limit int64) *Payment {
	p := &Payment{limit: limit, payments: map[string]PaymentStatus{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", p.charge)
	mux.HandleFunc("POST /payments/{id}/refund", p.refund)
	mux.HandleFunc("GET /payments/{id}", p.show)
	p.Handler = withHealth(p.wrap(mux))
	return p
}

// Status returns the status of a payment, or "" if the payment does not exist.
func (p *Payment) Status(id string) PaymentStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.payments[id]
}

// Approved returns the number of payments that are approved and not refunded.
func (p *Payment) Approved() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, status := range p.payments {
		if status == PaymentApproved {
			n++
		}
	}
	return n
}

type payment struct {
	ID     string        `json:"id"`
	Status PaymentStatus `json:"status"`
}

func (p *Payment) charge(w http.ResponseWriter, r *http.Request) {
	var req struct {
		ID       string `json:"id"`
		Amount   int64  `json:"amount"`
		Currency string `json:"currency"`
	}
	if !decode(w, r, &req) {
		return
	}
	if req.ID == "" {
		reply(w, http.StatusBadRequest, map[string]string{"error": "id is required"})
		return
	}
	p.mu.Lock()
	status, known := p.payments[req.ID]
	if !known {
		status = PaymentApproved
		if req.Amount > p.limit {
			status = PaymentDeclined
		}
		p.payments[req.ID] = status
	}
	p.mu.Unlock()
	reply(w, http.StatusOK, payment{ID: req.ID, Status: status})
}

// refund refunds a payment. If the payment does not exist yet, because its request
// arrives later, it will not be charged.
func (p *Payment) refund(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	p.mu.Lock()
	p.payments[id] = PaymentRefunded
	p.mu.Unlock()
	reply(w, http.StatusOK, payment{ID: id, Status: PaymentRefunded})
}

func (p *Payment) show(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	status := p.Status(id)
	if status == "" {
		reply(w, http.StatusNotFound, map[string]string{"error": "the payment does not exist"})
		return
	}
	reply(w, http.StatusOK, payment{ID: id, Status: status})
}

// withHealth adds a liveness probe that faults do not affect.
func withHealth(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.Handle("/", next)
	return mux
}

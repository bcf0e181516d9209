package standin

import (
	"maps"
	"net/http"
	"sync"
)

// Inventory is a simulated inventory service, which reserves stock.
type Inventory struct {
	Faults
	initial int
	http.Handler

	mu           sync.Mutex
	stock        map[string]int
	reservations map[string]map[string]int // nil once released
}

// NewInventory returns an Inventory. stock contains the initial quantity of articles, by
// SKU; all other articles have the quantity initial.
func NewInventory(initial int, stock map[string]int) *Inventory {
	i := &Inventory{initial: initial, stock: maps.Clone(stock), reservations: map[string]map[string]int{}}
	if i.stock == nil {
		i.stock = map[string]int{}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reservations", i.reserve)
	mux.HandleFunc("DELETE /reservations/{id}", i.release)
	mux.HandleFunc("GET /stock/{sku}", i.show)
	i.Handler = withHealth(i.wrap(mux))
	return i
}

// Stock returns the available quantity of an article.
func (i *Inventory) Stock(sku string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.left(sku)
}

func (i *Inventory) left(sku string) int {
	if n, named := i.stock[sku]; named {
		return n
	}
	return i.initial
}

func (i *Inventory) reserve(w http.ResponseWriter, r *http.Request) {
	var req struct {
		ID    string `json:"id"`
		Items []struct {
			SKU      string `json:"sku"`
			Quantity int    `json:"quantity"`
		} `json:"items"`
	}
	if !decode(w, r, &req) {
		return
	}
	wanted := make(map[string]int, len(req.Items))
	valid := req.ID != "" && len(req.Items) > 0
	for _, item := range req.Items {
		valid = valid && item.Quantity > 0
		wanted[item.SKU] += item.Quantity
	}
	if !valid {
		reply(w, http.StatusBadRequest, map[string]string{"error": "id and items with a quantity greater than 0 are required"})
		return
	}
	status, body := i.set(req.ID, wanted)
	reply(w, status, body)
}

// set reserves all wanted quantities or nothing. It returns the status and the body of
// the response.
func (i *Inventory) set(id string, wanted map[string]int) (int, map[string]string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if held, known := i.reservations[id]; known {
		if held == nil {
			return http.StatusConflict, map[string]string{"error": "the reservation has been released"}
		}
		return http.StatusOK, map[string]string{"id": id}
	}
	for sku, n := range wanted {
		if i.left(sku) < n {
			return http.StatusConflict, map[string]string{"error": "out of stock", "sku": sku}
		}
	}
	for sku, n := range wanted {
		i.stock[sku] = i.left(sku) - n
	}
	i.reservations[id] = wanted
	return http.StatusCreated, map[string]string{"id": id}
}

// release releases a reservation. If the reservation does not exist yet, because its
// request arrives later, it will be rejected.
func (i *Inventory) release(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	i.mu.Lock()
	for sku, n := range i.reservations[id] {
		i.stock[sku] = i.left(sku) + n
	}
	i.reservations[id] = nil
	i.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (i *Inventory) show(w http.ResponseWriter, r *http.Request) {
	sku := r.PathValue("sku")
	reply(w, http.StatusOK, map[string]any{"sku": sku, "left": i.Stock(sku)})
}

package order

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Limits of what an order may hold.
const (
	MaxItems       = 100
	MaxQuantity    = 10_000
	MaxUnitPrice   = 1_000_000_000
	MaxNameLength  = 128
	currencyLength = 3
)

// Draft is an order as the customer asks for it.
type Draft struct {
	CustomerID string `json:"customer_id"`
	// Currency is an ISO 4217 code such as EUR.
	Currency string `json:"currency"`
	Items    []Item `json:"items"`
}

// FieldError says what is wrong with one value of a Draft.
type FieldError struct {
	// Pointer is the value's JSON Pointer (RFC 6901), such as /items/0/sku.
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Validate returns every problem of the draft, or nil.
func (d Draft) Validate() []FieldError {
	var problems []FieldError
	report := func(pointer, format string, args ...any) {
		problems = append(problems, FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
	if !validName(d.CustomerID) {
		report("/customer_id", "must be 1 to %d printable ASCII characters", MaxNameLength)
	}
	if !validCurrency(d.Currency) {
		report("/currency", "must be an ISO 4217 code of three capital letters, such as EUR")
	}
	if n := len(d.Items); n < 1 || n > MaxItems {
		report("/items", "must hold 1 to %d items, has %d", MaxItems, n)
		return problems
	}
	seen := make(map[string]bool, len(d.Items))
	for i, item := range d.Items {
		at := "/items/" + strconv.Itoa(i)
		if !validName(item.SKU) {
			report(at+"/sku", "must be 1 to %d printable ASCII characters", MaxNameLength)
		} else if seen[item.SKU] {
			report(at+"/sku", "appears twice: add the quantities up in one item")
		}
		seen[item.SKU] = true
		if item.Quantity < 1 || item.Quantity > MaxQuantity {
			report(at+"/quantity", "must be 1 to %d", MaxQuantity)
		}
		if item.UnitPrice < 0 || item.UnitPrice > MaxUnitPrice {
			report(at+"/unit_price", "must be 0 to %d minor units", MaxUnitPrice)
		}
	}
	return problems
}

// Total is the sum of all items. The limits that Validate checks keep it far
// from overflowing.
func (d Draft) Total() Money {
	total := Money{Currency: d.Currency}
	for _, item := range d.Items {
		total.Amount += int64(item.Quantity) * item.UnitPrice
	}
	return total
}

// The largest valid order must fit: this fails to compile if a limit is raised
// too far.
const _ = uint64(math.MaxInt64 - MaxItems*MaxQuantity*MaxUnitPrice)

// Fingerprint identifies the draft's content, so that a repeated idempotency
// key can be told from a reused one. White space and key order of the request
// do not matter.
func (d Draft) Fingerprint() ([]byte, error) {
	canonical, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("fingerprint order: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return sum[:], nil
}

func validName(s string) bool {
	if s == "" || len(s) > MaxNameLength {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func validCurrency(s string) bool {
	if len(s) != currencyLength {
		return false
	}
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return true
}

package order

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Limits of an order.
const (
	MaxItems       = 100           // items of an order
	MaxQuantity    = 10_000        // pieces of an item
	MaxUnitPrice   = 1_000_000_000 // price of a piece in minor units
	MaxNameLength  = 128           // bytes of a customer ID or SKU
	currencyLength = 3
)

// Draft is an order as the customer requests it.
type Draft struct {
	CustomerID string `json:"customer_id"`
	// Currency is an ISO 4217 code such as EUR.
	Currency string `json:"currency"`
	Items    []Item `json:"items"`
}

// FieldError describes an invalid value in a Draft.
type FieldError struct {
	// Pointer is the JSON Pointer (RFC 6901) of the value, such as /items/0/sku.
	Pointer string `json:"pointer"`
	// Detail says what is wrong with the value.
	Detail string `json:"detail"`
}

// Validate returns all invalid values, or nil.
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
		report("/items", "must contain 1 to %d items, but contains %d", MaxItems, n)
		return problems
	}
	seen := make(map[string]bool, len(d.Items))
	for i, item := range d.Items {
		at := "/items/" + strconv.Itoa(i)
		if !validName(item.SKU) {
			report(at+"/sku", "must be 1 to %d printable ASCII characters", MaxNameLength)
		} else if seen[item.SKU] {
			report(at+"/sku", "occurs twice: use one item with the total quantity")
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

// Total returns the sum of all items. It does not overflow if the draft is valid.
func (d Draft) Total() Money {
	total := Money{Currency: d.Currency}
	for _, item := range d.Items {
		total.Amount += int64(item.Quantity) * item.UnitPrice
	}
	return total
}

// The total of the largest valid order must not overflow. If the limits are raised too
// far, this does not compile.
const _ = uint64(math.MaxInt64 - MaxItems*MaxQuantity*MaxUnitPrice)

// Fingerprint returns a hash of the draft. It distinguishes a repeated request from a
// different request with the same idempotency key. It does not depend on white space
// and on the order of keys in the request.
func (d Draft) Fingerprint() ([]byte, error) {
	canonical, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("fingerprint order: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return sum[:], nil
}

// validName reports whether s is valid as a customer ID or SKU.
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

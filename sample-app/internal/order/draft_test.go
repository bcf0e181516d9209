package order_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

func valid() order.Draft {
	return order.Draft{CustomerID: "c-1", Currency: "EUR", Items: []order.Item{{SKU: "book", Quantity: 2, UnitPrice: 1250}, {SKU: "pen", Quantity: 1, UnitPrice: 99}}}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*order.Draft)
		want   []string
	}{
		{"valid", func(*order.Draft) {}, nil},
		{"free of charge", func(d *order.Draft) { d.Items[0].UnitPrice = 0 }, nil},
		{"no customer", func(d *order.Draft) { d.CustomerID = "" }, []string{"/customer_id"}},
		{"long customer", func(d *order.Draft) { d.CustomerID = strings.Repeat("x", order.MaxNameLength+1) }, []string{"/customer_id"}},
		{"control character", func(d *order.Draft) { d.CustomerID = "a\nb" }, []string{"/customer_id"}},
		{"small currency", func(d *order.Draft) { d.Currency = "eur" }, []string{"/currency"}},
		{"long currency", func(d *order.Draft) { d.Currency = "EURO" }, []string{"/currency"}},
		{"no items", func(d *order.Draft) { d.Items = nil }, []string{"/items"}},
		{"too many items", func(d *order.Draft) { d.Items = make([]order.Item, order.MaxItems+1) }, []string{"/items"}},
		{"no sku", func(d *order.Draft) { d.Items[1].SKU = "" }, []string{"/items/1/sku"}},
		{"sku twice", func(d *order.Draft) { d.Items[1].SKU = "book" }, []string{"/items/1/sku"}},
		{"no quantity", func(d *order.Draft) { d.Items[0].Quantity = 0 }, []string{"/items/0/quantity"}},
		{"too much", func(d *order.Draft) { d.Items[0].Quantity = order.MaxQuantity + 1 }, []string{"/items/0/quantity"}},
		{"negative price", func(d *order.Draft) { d.Items[0].UnitPrice = -1 }, []string{"/items/0/unit_price"}},
		{"everything", func(d *order.Draft) { *d = order.Draft{Items: make([]order.Item, 1)} },
			[]string{"/customer_id", "/currency", "/items/0/sku", "/items/0/quantity"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := valid()
			tt.change(&d)
			var got []string
			for _, p := range d.Validate() {
				got = append(got, p.Pointer)
			}
			if strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("problems at %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTotal(t *testing.T) {
	if got, want := valid().Total(), (order.Money{Amount: 2599, Currency: "EUR"}); got != want {
		t.Errorf("total %+v, want %+v", got, want)
	}
	largest := order.Draft{Items: make([]order.Item, order.MaxItems)}
	for i := range largest.Items {
		largest.Items[i] = order.Item{Quantity: order.MaxQuantity, UnitPrice: order.MaxUnitPrice}
	}
	if got := largest.Total().Amount; got != int64(order.MaxItems)*order.MaxQuantity*order.MaxUnitPrice {
		t.Errorf("largest total %d", got)
	}
}

func TestFingerprintDistinguishesDrafts(t *testing.T) {
	base, err := valid().Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*order.Draft){
		"customer": func(d *order.Draft) { d.CustomerID = "c-2" },
		"currency": func(d *order.Draft) { d.Currency = "USD" },
		"quantity": func(d *order.Draft) { d.Items[0].Quantity++ },
		"order":    func(d *order.Draft) { d.Items[0], d.Items[1] = d.Items[1], d.Items[0] },
	} {
		d := valid()
		change(&d)
		if other, err := d.Fingerprint(); err != nil || bytes.Equal(base, other) {
			t.Errorf("another %s gives the same fingerprint (error %v)", name, err)
		}
	}
	if again, err := valid().Fingerprint(); err != nil || !bytes.Equal(base, again) {
		t.Errorf("the same draft gives another fingerprint (error %v)", err)
	}
}

package httpapi

import (
	"html/template"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// Features are switched on while the service runs.
type Features struct {
	// Receipt adds a receipt to the response when an order is created.
	Receipt bool
	// Page serves a page with the newest orders at /ui.
	Page bool
}

// receipted is the response when an order is created with the feature Receipt.
type receipted struct {
	order.Order
	Receipt receipt `json:"receipt"`
}

type receipt struct {
	Lines []receiptLine `json:"lines"`
	Total string        `json:"total"` // for example "25.00 EUR"
}

type receiptLine struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
	Amount   string `json:"amount"`
}

// withReceipt returns the response for an order that was created.
func (a *api) withReceipt(o order.Order) any {
	if !a.Features().Receipt {
		return o
	}
	r := receipt{Lines: []receiptLine{}, Total: amount(o.Total)}
	for _, i := range o.Items {
		line := order.Money{Amount: int64(i.Quantity) * i.UnitPrice, Currency: o.Total.Currency}
		r.Lines = append(r.Lines, receiptLine{SKU: i.SKU, Quantity: i.Quantity, Amount: amount(line)})
	}
	return receipted{Order: o, Receipt: r}
}

// amount writes an amount with two decimals, for example "25.00 EUR".
func amount(m order.Money) string {
	digits := strconv.FormatInt(m.Amount, 10)
	for len(digits) < 3 {
		digits = "0" + digits
	}
	return digits[:len(digits)-2] + "." + digits[len(digits)-2:] + " " + m.Currency
}

// pageOrders is how many orders the page shows.
const pageOrders = 20

//nolint:gochecknoglobals // parsed once
var ordersPage = template.Must(template.New("orders").Funcs(template.FuncMap{"amount": amount}).Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Orders</title></head>
<body>
<h1>Newest orders</h1>
<table>
<tr><th>Order</th><th>Status</th><th>Total</th><th>Created</th></tr>
{{range .}}<tr><td><a href="/api/orders/{{.ID}}">{{.ID}}</a></td><td>{{.Status}} {{.Reason}}</td><td>{{amount .Total}}</td><td>{{.CreatedAt.Format "2006-01-02 15:04:05"}}</td></tr>
{{else}}<tr><td colspan="4">There are no orders.</td></tr>
{{end}}</table>
</body>
</html>
`))

// page serves the page with the newest orders, if the feature is on.
func (a *api) page(c *gin.Context) {
	if !a.Features().Page {
		newProblem(http.StatusNotFound, "this path does not exist").send(c)
		return
	}
	orders, _, err := a.Orders.List(c.Request.Context(), uuid.Nil, pageOrders)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Content-Type", "text/html; charset=utf-8")
	c.Header("Content-Security-Policy", "default-src 'none'")
	c.Status(http.StatusOK)
	if err := ordersPage.Execute(c.Writer, orders); err != nil {
		_ = c.Error(err) // the client has gone
	}
}

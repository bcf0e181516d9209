package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/sample-app/internal/httpapi"
	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

// TestFeatures switches each feature on and off while the API runs.
func TestFeatures(t *testing.T) {
	f := newAPI(orders{created: true, order: order.Order{
		ID: uuid.New(), Status: order.StatusConfirmed, Reason: "<b>", Total: order.Money{Amount: 5, Currency: "EUR"}, CreatedAt: time.Unix(0, 0),
	}})
	create := func() string {
		return f.do(t, http.MethodPost, "/api/orders", body, "Content-Type", "application/json").Body.String()
	}
	page := func() (int, string) {
		r := f.do(t, http.MethodGet, "/ui", "")
		return r.Code, r.Body.String()
	}
	for _, on := range []bool{false, true, false} {
		f.features = httpapi.Features{Receipt: on, Page: on}
		want := `"receipt":{"lines":[{"sku":"book","quantity":2,"amount":"25.00 EUR"}],"total":"25.00 EUR"}`
		if got := create(); strings.Contains(got, want) != on {
			t.Errorf("features %v: created %s", on, got)
		}
		switch code, html := page(); {
		case !on && code != http.StatusNotFound:
			t.Errorf("without the feature: %d %s", code, html)
		case on && (code != http.StatusOK || !strings.Contains(html, "0.05 EUR") || !strings.Contains(html, "&lt;b&gt;")):
			t.Errorf("with the feature: %d %s", code, html)
		}
	}
}

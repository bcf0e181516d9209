package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"github.com/slipway-ci/slipway/sample-app/internal/order"
)

const (
	defaultLimit = 20
	maxLimit     = 100
	maxKeyLength = 255
)

// decodeDraft decodes and validates the body of POST /api/orders. Its errors are of
// type *problem.
func decodeDraft(body io.Reader) (order.Draft, error) {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	var d order.Draft
	if err := dec.Decode(&d); err != nil {
		return order.Draft{}, badBody(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return order.Draft{}, badBody(errors.New("the body contains more data after the JSON object"))
	}
	if fields := d.Validate(); len(fields) > 0 {
		p := newProblem(http.StatusUnprocessableEntity, "the order is not valid")
		p.Errors = fields
		return order.Draft{}, p
	}
	return d, nil
}

// badBody returns the problem that corresponds to a decoding error.
func badBody(err error) *problem {
	var (
		tooLarge *http.MaxBytesError
		wrong    *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &tooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than the maximum of %d bytes", tooLarge.Limit))
	case errors.As(err, &wrong):
		return newProblem(http.StatusBadRequest, fmt.Sprintf("%s must not be a JSON %s", orDefault(wrong.Field, "the body"), wrong.Value))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return newProblem(http.StatusBadRequest, "the body ends before the end of the JSON object")
	}
	return newProblem(http.StatusBadRequest, err.Error())
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// checkJSON returns an error if the content type is not JSON.
func checkJSON(h http.Header) error {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return newProblem(http.StatusUnsupportedMediaType, "the Content-Type must be application/json")
	}
	return nil
}

// idempotencyKey returns the value of the header Idempotency-Key, or "" if there is
// none.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 || !printable(values[0], maxKeyLength) {
		return "", newProblem(http.StatusBadRequest,
			fmt.Sprintf("the header Idempotency-Key must occur only once and contain 1 to %d printable ASCII characters", maxKeyLength))
	}
	return values[0], nil
}

// printable reports whether s contains 1 to limit printable ASCII characters.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// page returns the maximum number of orders on the page, and the ID of the last order
// on the previous page or the zero UUID.
func page(q url.Values) (limit int, before uuid.UUID, err error) {
	limit = defaultLimit
	if v := q.Get("limit"); v != "" {
		limit, err = strconv.Atoi(v)
		if err != nil || limit < 1 || limit > maxLimit {
			return 0, uuid.Nil, newProblem(http.StatusBadRequest, fmt.Sprintf("limit must be a number from 1 to %d", maxLimit))
		}
	}
	if v := q.Get("cursor"); v != "" {
		raw, err := base64.RawURLEncoding.DecodeString(v)
		if err == nil {
			before, err = uuid.FromBytes(raw)
		}
		if err != nil {
			return 0, uuid.Nil, newProblem(http.StatusBadRequest, "cursor must be the next_cursor of an earlier response")
		}
	}
	return limit, before, nil
}

// cursor returns the cursor for the page after the given order. It is opaque for
// clients, so that its format can change.
func cursor(last uuid.UUID) string { return base64.RawURLEncoding.EncodeToString(last[:]) }

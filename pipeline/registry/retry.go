package registry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Again does something until it works, fails for a reason that does not pass,
// or has had all its tries.
func Again(ctx context.Context, b remote.Backoff, worth func(error) bool, do func() error) error {
	for tries := b.Steps; ; tries-- {
		err := do()
		if err == nil || tries <= 1 || !worth(err) {
			return err
		}
		if Wait(ctx, b.Step()) != nil {
			return err // the caller looks at ctx first
		}
	}
}

// Wait sleeps unless the run ends; then it returns why.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// passing tells a failure that another try may mend.
func passing(err error) bool {
	if errors.Is(err, context.Canceled) && !errors.Is(err, errStalled) {
		return false
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		for _, d := range te.Errors {
			switch d.Code {
			case transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode:
				return true // the upload was cut or lost; a fresh one starts over
			default:
			}
		}
		// The status says it. The codes beside it are many and registries
		// make up their own.
		return passingStatus(te.StatusCode)
	}
	return brokenOff(err)
}

func passingStatus(code int) bool {
	// 499 and 522 are nginx's and Cloudflare's for a connection that was lost.
	return slices.Contains([]int{408, 429, 499, 500, 502, 503, 504, 522}, code)
}

// brokenOff tells a connection that was lost or stood still.
func brokenOff(err error) bool {
	if _, ok := errors.AsType[*spentError](err); ok {
		return false
	}
	var ne net.Error
	return errors.Is(err, errStalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &ne) && ne.Timeout()
}

// spentError is a failure that had all its tries.
type spentError struct{ error }

func (e *spentError) Unwrap() error { return e.error }

// retrying tries requests that only read until one is answered.
type retrying struct {
	base    http.RoundTripper
	backoff remote.Backoff
}

func (r *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return r.base.RoundTrip(req)
	}
	b := r.backoff
	for tries := b.Steps; ; tries-- {
		resp, err := r.base.RoundTrip(req)
		switch {
		case err == nil && !passingStatus(resp.StatusCode):
			return resp, nil
		case err != nil && (!passing(err) || tries <= 1):
			return nil, &spentError{err}
		case tries <= 1:
			return resp, nil
		}
		if err == nil {
			_ = resp.Body.Close() // nobody reads it
		}
		if err := Wait(req.Context(), b.Step()); err != nil {
			return nil, err
		}
	}
}

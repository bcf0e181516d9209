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

// Again calls do until it succeeds, until it returns an error for which retriable
// is false, or until it has been called b.Steps times. Between calls it waits for
// the next duration of b. It returns the last error of do, also if ctx ends during
// a wait, so callers check ctx.Err() first.
func Again(ctx context.Context, b remote.Backoff, retriable func(error) bool, do func() error) error {
	for tries := b.Steps; ; tries-- {
		err := do()
		if err == nil || tries <= 1 || !retriable(err) {
			return err
		}
		if Wait(ctx, b.Step()) != nil {
			return err
		}
	}
}

// Wait returns nil after d, or ctx.Err() as soon as ctx ends.
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

// transient reports whether a retry may succeed after err.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) && !errors.Is(err, errStalled) {
		return false
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		if te.StatusCode == http.StatusRequestEntityTooLarge {
			return false // whatever the codes in its body are
		}
		for _, d := range te.Errors {
			switch d.Code {
			case transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode:
				return true // the upload was cut off or lost; a retry starts a new one
			default:
			}
		}
		// Only the status decides. Many registries invent other error codes.
		return transientStatus(te.StatusCode)
	}
	return connectionLost(err)
}

func transientStatus(code int) bool {
	// nginx and Cloudflare report a lost connection as 499 and 522.
	return slices.Contains([]int{408, 429, 499, 500, 502, 503, 504, 522}, code)
}

// connectionLost reports whether err is a connection that broke, timed out or
// stalled.
func connectionLost(err error) bool {
	if _, ok := errors.AsType[*exhaustedError](err); ok {
		return false
	}
	var ne net.Error
	return errors.Is(err, errStalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &ne) && ne.Timeout()
}

// exhaustedError is an error after which no attempts are left.
type exhaustedError struct{ error }

func (e *exhaustedError) Unwrap() error { return e.error }

// retrying is a transport that retries GET and HEAD requests after transient
// errors.
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
		case err == nil && !transientStatus(resp.StatusCode):
			return resp, nil
		case err != nil && (!transient(err) || tries <= 1):
			return nil, &exhaustedError{err}
		case tries <= 1:
			return resp, nil
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		if err := Wait(req.Context(), b.Step()); err != nil {
			return nil, err
		}
	}
}

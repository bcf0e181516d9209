package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var errStalled = errors.New("the transfer stalled")

// stallGuard is a transport that cancels a request if no byte is sent or received
// for the limit. A deadline for the whole request would cancel large uploads over
// slow connections.
type stallGuard struct {
	base  http.RoundTripper
	limit time.Duration
}

func (s *stallGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(s.limit, func() { cancel(errStalled) })
	watch := &watch{timer: timer, limit: s.limit, ctx: ctx, cancel: cancel}
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &watched{ReadCloser: req.Body, watch: watch}
	}
	resp, err := s.base.RoundTrip(req)
	if err != nil {
		timer.Stop()
		err = watch.cause(err)
		cancel(nil)
		return nil, err
	}
	watch.progressed()
	resp.Body = &watched{ReadCloser: resp.Body, watch: watch, response: true}
	return resp, nil
}

// watch is the timer of one request.
type watch struct {
	timer  *time.Timer
	limit  time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (w *watch) progressed() { w.timer.Reset(w.limit) }

// cause replaces the error of a request that was cancelled because it stalled.
func (w *watch) cause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(w.ctx), errStalled) {
		return fmt.Errorf("%w for %s", errStalled, w.limit)
	}
	return err
}

// watched is a body that resets the timer of its request whenever it is read.
type watched struct {
	io.ReadCloser
	watch    *watch
	response bool // closing the body of the response ends the request
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.progressed()
	}
	return n, b.watch.cause(err)
}

func (b *watched) Close() error {
	err := b.ReadCloser.Close()
	if b.response {
		b.watch.timer.Stop()
		b.watch.cancel(nil)
	}
	return err
}

// maxRedirects is the default limit of [http.Client]. The library's own clients
// have no limit.
const maxRedirects = 10

// redirects returns the number of redirects that led to a request.
func redirects(req *http.Request) int {
	n := 0
	for ; req != nil && req.Response != nil; req = req.Response.Request {
		n++
	}
	return n
}

// rewinding is a transport that sends the body of a request from its start every
// time the request is sent. If a token expires during a request, the library
// sends the request again, although it has already read the body to its end.
type rewinding struct{ base http.RoundTripper }

func (r *rewinding) RoundTrip(req *http.Request) (*http.Response, error) {
	if redirects(req) > maxRedirects {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if req.GetBody == nil || req.Body == nil || req.Body == http.NoBody {
		return r.base.RoundTrip(req)
	}
	body, err := req.GetBody()
	if err = errors.Join(err, req.Body.Close()); err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Body = body
	return r.base.RoundTrip(req)
}

// maxRetryAfter limits the time that a registry can request with Retry-After.
const maxRetryAfter = 30 * time.Second

// throttled is a transport that waits as long as the last Retry-After header
// requires before it sends the next request (RFC 9110, section 10.2.3; only the
// form in seconds). Registries limit the rate of all requests of a client
// together, so every request waits.
type throttled struct {
	base http.RoundTripper

	mu    sync.Mutex
	until time.Time
}

func (t *throttled) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	left := time.Until(t.until)
	t.mu.Unlock()
	if left > 0 {
		if err := Wait(req.Context(), left); err != nil {
			if req.Body != nil {
				err = errors.Join(err, req.Body.Close())
			}
			return nil, err
		}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return resp, err
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err == nil && seconds > 0 {
		t.mu.Lock()
		t.until = time.Now().Add(min(time.Duration(min(seconds, 3600))*time.Second, maxRetryAfter))
		t.mu.Unlock()
	}
	return resp, nil
}

// audit is a transport that counts what a push sends, and that returns an error
// if the registry reports another digest for a manifest than the one that was
// sent.
type audit struct {
	base                               http.RoundTripper
	sent, mounted, existing, manifests atomic.Int64
	bytes                              atomic.Int64
	onBytes                            func(total int64)
}

func (a *audit) RoundTrip(req *http.Request) (*http.Response, error) {
	var want string
	isManifest := strings.Contains(req.URL.Path, "/manifests/")
	if req.Method == http.MethodPut && isManifest && req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		if _, err := io.Copy(h, body); err != nil {
			return nil, err
		}
		want = "sha256:" + hex.EncodeToString(h.Sum(nil))
		a.manifests.Add(1) // before the response, which may be lost after the manifest is stored
	}
	if req.Method == http.MethodPatch && req.Body != nil {
		req = req.Clone(req.Context())
		req.Body = &countedBody{ReadCloser: req.Body, audit: a}
	}
	resp, err := a.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	blob := strings.Contains(req.URL.Path, "/blobs/")
	switch {
	case want != "" && resp.StatusCode < 300:
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != want {
			return nil, errors.Join(&digestMismatchError{want, got}, resp.Body.Close())
		}
	case req.Method == http.MethodHead && blob && resp.StatusCode == http.StatusOK:
		a.existing.Add(1)
	case req.Method == http.MethodPost && resp.StatusCode == http.StatusCreated:
		a.mounted.Add(1)
	case req.Method == http.MethodPut && !isManifest && resp.StatusCode == http.StatusCreated:
		a.sent.Add(1)
	}
	return resp, nil
}

// digestMismatchError reports that a registry stored a manifest under another
// digest than the one of the bytes that were sent.
type digestMismatchError struct{ want, got string }

func (e *digestMismatchError) Error() string {
	return fmt.Sprintf("it stored manifest %s as %s", e.want, e.got)
}

// countedBody is the body of an upload that counts the bytes that are read from it.
type countedBody struct {
	io.ReadCloser
	audit *audit
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		total := b.audit.bytes.Add(int64(n))
		if b.audit.onBytes != nil {
			b.audit.onBytes(total)
		}
	}
	return n, err
}

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

var errStalled = errors.New("the transfer stood still")

// stalling ends a request on which nothing moves for the limit, either way.
// A deadline for the whole request would end large uploads over slow lines.
type stalling struct {
	base  http.RoundTripper
	limit time.Duration
}

func (s *stalling) RoundTrip(req *http.Request) (*http.Response, error) {
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
	watch.moved()
	resp.Body = &watched{ReadCloser: resp.Body, watch: watch, last: true}
	return resp, nil
}

type watch struct {
	timer  *time.Timer
	limit  time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (w *watch) moved() { w.timer.Reset(w.limit) }

func (w *watch) cause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(w.ctx), errStalled) {
		return fmt.Errorf("%w for %s", errStalled, w.limit)
	}
	return err
}

type watched struct {
	io.ReadCloser
	watch *watch
	last  bool // closing it ends the request
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.moved()
	}
	return n, b.watch.cause(err)
}

func (b *watched) Close() error {
	err := b.ReadCloser.Close()
	if b.last {
		b.watch.timer.Stop()
		b.watch.cancel(nil)
	}
	return err
}

// maxRedirects is what [http.Client] allows; the library's own clients allow
// any number.
const maxRedirects = 10

// redirects counts the redirects that led to a request.
func redirects(req *http.Request) int {
	n := 0
	for ; req != nil && req.Response != nil; req = req.Response.Request {
		n++
	}
	return n
}

// renewing sends a request's body from its start each time the request is
// sent. A request is sent twice when a token ended in the middle of it: by then
// the library has used the body up.
type renewing struct{ base http.RoundTripper }

func (r *renewing) RoundTrip(req *http.Request) (*http.Response, error) {
	if redirects(req) > maxRedirects {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("it redirects more than %d times", maxRedirects)
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

// maxPatience bounds how long a registry may tell us to wait.
const maxPatience = 30 * time.Second

// patient does what Retry-After says before the next request (RFC 9110,
// section 10.2.3; the form in seconds). The registry counts all of a client's
// requests, so all of them wait.
type patient struct {
	base http.RoundTripper

	mu    sync.Mutex
	until time.Time
}

func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	p.mu.Lock()
	left := time.Until(p.until)
	p.mu.Unlock()
	if left > 0 {
		if err := Wait(req.Context(), left); err != nil {
			if req.Body != nil {
				err = errors.Join(err, req.Body.Close())
			}
			return nil, err
		}
	}
	resp, err := p.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return resp, err
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err == nil && seconds > 0 {
		p.mu.Lock()
		p.until = time.Now().Add(min(time.Duration(min(seconds, 3600))*time.Second, maxPatience))
		p.mu.Unlock()
	}
	return resp, nil
}

// audit counts what a push sends and refuses a registry that stores a manifest
// under another digest than ours.
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
		a.manifests.Add(1) // also where the answer is lost: the registry may have it
	}
	if req.Method == http.MethodPatch && req.Body != nil {
		req = req.Clone(req.Context())
		req.Body = &tally{ReadCloser: req.Body, audit: a}
	}
	resp, err := a.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	blob := strings.Contains(req.URL.Path, "/blobs/")
	switch {
	case want != "" && resp.StatusCode < 300:
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != want {
			return nil, errors.Join(&lieError{want, got}, resp.Body.Close())
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

// lieError is a registry that holds something else than it was given.
type lieError struct{ want, got string }

func (e *lieError) Error() string {
	return fmt.Sprintf("it stored manifest %s as %s", e.want, e.got)
}

type tally struct {
	io.ReadCloser
	audit *audit
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if n > 0 {
		total := t.audit.bytes.Add(int64(n))
		if t.audit.onBytes != nil {
			t.audit.onBytes(total)
		}
	}
	return n, err
}

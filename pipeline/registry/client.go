// Package registry talks to OCI registries: it finds credentials, pulls base
// images through mirrors, and pushes images so that every tag points at one
// digest.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Options says how registries are reached.
type Options struct {
	Mirrors   map[string][]string // by registry, tried in order before it; for pulls
	Insecure  []string            // registries spoken to over plain HTTP
	CAFile    string              // PEM file of more certificate authorities
	Uploads   int                 // parallel uploads; default 5
	Downloads int                 // parallel downloads; default 10
	Keychain  authn.Keychain      // default: none, everything is anonymous
	UserAgent string              // default "slipway"
	// Backoff spaces the tries of a request that failed for a passing reason.
	// Default: 5 tries, 0.5 s before the second, doubling.
	Backoff remote.Backoff
	// Stall is how long a transfer may stand still. Default 60 s.
	Stall time.Duration
}

// Client reaches registries.
type Client struct {
	opts Options
	base *http.Transport
}

// New returns a client. It returns a [fault.Input] error when the file of
// certificate authorities cannot be used.
func New(o Options) (*Client, error) {
	if o.Uploads == 0 {
		o.Uploads = 5
	}
	if o.Downloads == 0 {
		o.Downloads = 10
	}
	if o.UserAgent == "" {
		o.UserAgent = "slipway"
	}
	if o.Keychain == nil {
		o.Keychain = authn.NewMultiKeychain()
	}
	if o.Backoff.Steps == 0 {
		o.Backoff = remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 5}
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	base := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   max(o.Uploads, o.Downloads) + 1,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if o.CAFile != "" {
		pool, err := authorities(o.CAFile)
		if err != nil {
			return nil, err
		}
		base.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &Client{opts: o, base: base}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.base.CloseIdleConnections() }

func authorities(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.Inputf("registry.ca", "reading the registry's certificate authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fault.Inputf("registry.ca", "%s holds no PEM certificate", file)
	}
	return pool, nil
}

// Repository reads a repository name such as ghcr.io/acme/orders. It returns
// a [fault.Input] error for anything else, tags and digests among it.
func (c *Client) Repository(s string) (name.Repository, error) {
	opts, err := c.naming(s)
	if err != nil {
		return name.Repository{}, err
	}
	repo, err := name.NewRepository(s, opts...)
	if err != nil {
		return name.Repository{}, fault.Inputf("reference.malformed", "%q is not a repository: %w", s, err).
			WithFix("for example ghcr.io/acme/orders; tags go to --tag")
	}
	return repo, nil
}

// Reference reads an image reference. It returns a [fault.Input] error for a
// malformed one.
func (c *Client) Reference(s string) (name.Reference, error) {
	opts, err := c.naming(s)
	if err != nil {
		return nil, err
	}
	ref, err := name.ParseReference(s, opts...)
	if err != nil {
		return nil, fault.Inputf("reference.malformed", "%q is not an image reference: %w", s, err)
	}
	return ref, nil
}

// Tag reads a tag and puts it on a repository.
func (c *Client) Tag(repo name.Repository, tag string) (name.Tag, error) {
	opts, err := c.naming(repo.Name())
	if err != nil {
		return name.Tag{}, err
	}
	t, err := name.NewTag(repo.Name()+":"+tag, append(opts, name.StrictValidation)...)
	if err != nil || strings.ContainsAny(tag, "/:@") {
		return name.Tag{}, fault.Inputf("reference.malformed", "%q is not a tag", tag).
			WithFix("a tag has at most 128 letters, digits, dots, dashes and underscores")
	}
	return t, nil
}

func (c *Client) naming(s string) ([]name.Option, error) {
	if s == "" || len(s) > 1024 {
		return nil, fault.Inputf("reference.malformed", "an image reference must have 1 to 1024 characters")
	}
	host, _, _ := strings.Cut(s, "/")
	if slices.Contains(c.opts.Insecure, host) {
		return []name.Option{name.Insecure}, nil
	}
	return nil, nil
}

// options are what every call needs.
func (c *Client) options(ctx context.Context, jobs int, wrap func(http.RoundTripper) http.RoundTripper) []remote.Option {
	var rt http.RoundTripper = &stalling{base: c.base, limit: c.opts.Stall}
	rt = &patient{base: rt}
	if wrap != nil {
		rt = wrap(rt)
	}
	return []remote.Option{
		remote.WithContext(ctx), remote.WithJobs(jobs), remote.WithTransport(rt),
		remote.WithAuthFromKeychain(c.opts.Keychain), remote.WithUserAgent(c.opts.UserAgent),
		remote.WithRetryBackoff(c.opts.Backoff), remote.WithRetryPredicate(passing),
		remote.WithRetryStatusCodes(408, 429, 499, 500, 502, 503, 504, 522),
	}
}

// passing tells a failure that another try may mend.
func passing(err error) bool {
	var te *transport.Error
	if errors.As(err, &te) {
		for _, d := range te.Errors {
			switch d.Code {
			case transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode:
				return true // the upload was cut or lost; a fresh one starts over
			}
		}
		return te.Temporary()
	}
	var ne net.Error
	return errors.Is(err, errStalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &ne) && ne.Timeout()
}

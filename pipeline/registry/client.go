// Package registry talks to OCI registries: it finds credentials, pulls base
// images through mirrors, and pushes images so that every tag points at one
// digest.
package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Options says how registries are reached.
type Options struct {
	// Settings are the section registry of slipway.yaml. Without a number of
	// uploads or downloads the one of [config.Default] counts.
	Settings  config.Registry
	Root      string         // folder of slipway.yaml, absolute
	Keychain  authn.Keychain // default: none, everything is anonymous
	UserAgent string         // default "slipway"
	// Backoff spaces the tries of a request that failed for a passing reason.
	// Default: 5 tries, 0.5 s before the second, doubling.
	Backoff remote.Backoff
	// Servers are the addresses at which registries are reached in place of
	// their own, by host:port; one without a port keeps the registry's.
	Servers map[string]string
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
	o.Settings.Uploads = cmp.Or(o.Settings.Uploads, config.Default().Registry.Uploads)
	o.Settings.Downloads = cmp.Or(o.Settings.Downloads, config.Default().Registry.Downloads)
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
		MaxIdleConnsPerHost:   max(o.Settings.Uploads, o.Settings.Downloads) + 1,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if len(o.Servers) > 0 {
		dial := base.DialContext
		base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if server, ok := o.Servers[address]; ok {
				if _, port, err := net.SplitHostPort(address); err == nil && !strings.Contains(server, ":") {
					server = net.JoinHostPort(server, port)
				}
				address = server
			}
			return dial(ctx, network, address)
		}
	}
	if file := config.Resolve(o.Root, o.Settings.CA); file != "" {
		pool, err := authorities(file)
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
	if err != nil || !tagForm.MatchString(tag) {
		return name.Tag{}, fault.Inputf("reference.malformed", "%q is not a tag", tag).
			WithFix("a tag has at most 128 letters, digits, dots, dashes and underscores, no dot or dash first")
	}
	return t, nil
}

// tagForm is what registries take
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests).
var tagForm = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

func (c *Client) naming(s string) ([]name.Option, error) {
	if s == "" || len(s) > 1024 {
		return nil, fault.Inputf("reference.malformed", "an image reference must have 1 to 1024 characters")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, fault.Inputf("reference.malformed", "%q is not an image reference: it holds characters that none has", s)
	}
	if slices.Contains(strings.Split(s, "/"), "") {
		return nil, fault.Inputf("reference.malformed", "%q is not an image reference: it has an empty part", s).
			WithFix("write it without a scheme, for example ghcr.io/acme/orders")
	}
	host, _, _ := strings.Cut(s, "/")
	if slices.Contains(c.opts.Settings.Insecure, host) {
		return []name.Option{name.Insecure}, nil
	}
	return nil, nil
}

// pulling are the options of a pull. What a pull hands out is read long after
// the call, so every request is tried again by itself.
func (c *Client) pulling(ctx context.Context, p v1.Platform) []remote.Option {
	rt := &retrying{base: c.transport(), backoff: c.opts.Backoff}
	return append(c.options(ctx, c.opts.Settings.Downloads, rt), remote.WithPlatform(p))
}

func (c *Client) transport() http.RoundTripper {
	return &patient{base: &stalling{base: c.base, limit: c.opts.Stall}}
}

// options are what every call needs. The library's own retries are off: they
// sleep through the end of a run, and judge an answer by the codes in its body.
func (c *Client) options(ctx context.Context, jobs int, rt http.RoundTripper) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx), remote.WithJobs(jobs), remote.WithTransport(&renewing{base: rt}),
		remote.WithAuthFromKeychain(c.opts.Keychain), remote.WithUserAgent(c.opts.UserAgent),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithRetryPredicate(passing), remote.WithRetryStatusCodes(),
	}
}

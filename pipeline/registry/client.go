// Package registry talks to OCI registries. It finds credentials, pulls base
// images through mirrors, and pushes images in an order in which a tag never
// points at an incomplete image.
//
// The package promises no compatibility to programs other than slipway.
package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Options configures a [Client].
type Options struct {
	// Settings is the section "registry" of slipway.yaml. If the number of
	// uploads or downloads is zero, the one of [config.Default] is used.
	Settings  config.Registry
	Root      string         // folder of slipway.yaml, absolute
	Keychain  authn.Keychain // default: every request is anonymous
	UserAgent string         // default "slipway"
	// Backoff sets the number of attempts for a request that fails for a
	// transient reason, and the time between them. Default: 5 attempts, 0.5 s
	// before the second, twice as long before each further one.
	Backoff remote.Backoff
	// Servers maps the host:port of a registry to the address to connect to
	// instead. An address without a port keeps the port of the registry.
	Servers map[string]string
	// Stall is how long a transfer may make no progress before it is cancelled.
	// Default 60 s.
	Stall time.Duration
}

// Client sends requests to registries. Use [New] to create one.
type Client struct {
	opts Options
	base *http.Transport

	mu          sync.Mutex
	servers     map[string]string // Options.Servers, and what Route has added
	credentials map[string]string // what Route has added, by address
}

// Route makes the client connect to server instead of address, both as host:port. Only
// requests to this server get the credential, if there is one.
func (c *Client) Route(address, server, credential string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[address] = server
	if credential != "" {
		if c.credentials == nil {
			c.credentials = map[string]string{}
		}
		c.credentials[address] = credential
	}
}

// credentialed is a transport that adds the credentials of [Client.Route] to requests.
type credentialed struct {
	base   http.RoundTripper
	client *Client
}

func (c *credentialed) RoundTrip(req *http.Request) (*http.Response, error) {
	c.client.mu.Lock()
	credential := c.client.credentials[req.URL.Host]
	c.client.mu.Unlock()
	if credential != "" {
		req = req.Clone(req.Context())
		req.Header.Set(CredentialHeader, credential)
	}
	return c.base.RoundTrip(req)
}

// CredentialHeader is the header with the credential of the embedded registry. The header
// Authorization has the credentials of the user, which are for other registries.
const CredentialHeader = "Slipway-Credential" //nolint:gosec // the name of a header

// server returns the address to connect to for the address of a registry.
func (c *Client) server(address string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	server, ok := c.servers[address]
	if !ok {
		return address
	}
	if _, port, err := net.SplitHostPort(address); err == nil && !strings.Contains(server, ":") {
		server = net.JoinHostPort(server, port)
	}
	return server
}

// New returns a client. It returns a [fault.Input] error if the file of
// certificate authorities is missing or holds no certificate.
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
	c := &Client{opts: o, servers: maps.Clone(o.Servers)}
	if c.servers == nil {
		c.servers = map[string]string{}
	}
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	c.base = &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, c.server(address))
		},
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   max(o.Settings.Uploads, o.Settings.Downloads) + 1,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if file := config.Resolve(o.Root, o.Settings.CA); file != "" {
		pool, err := authorities(file)
		if err != nil {
			return nil, err
		}
		c.base.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return c, nil
}

// Close closes idle connections.
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

// Repository parses a repository name, for example ghcr.io/acme/orders. It
// returns a [fault.Input] error for anything else, including a reference with a
// tag or digest.
func (c *Client) Repository(s string) (name.Repository, error) {
	opts, err := c.nameOptions(s)
	if err != nil {
		return name.Repository{}, err
	}
	repo, err := name.NewRepository(s, opts...)
	if err != nil {
		return name.Repository{}, fault.Inputf("reference.malformed", "%q is not a repository: %w", s, err).
			WithFix("use a name like ghcr.io/acme/orders, and --tag for tags")
	}
	return repo, nil
}

// Reference parses an image reference. It returns a [fault.Input] error if s is
// malformed.
func (c *Client) Reference(s string) (name.Reference, error) {
	opts, err := c.nameOptions(s)
	if err != nil {
		return nil, err
	}
	ref, err := name.ParseReference(s, opts...)
	if err != nil {
		return nil, fault.Inputf("reference.malformed", "%q is not an image reference: %w", s, err)
	}
	return ref, nil
}

// Tag returns the tag with the name tag in a repository. It returns a
// [fault.Input] error if the name is malformed.
func (c *Client) Tag(repo name.Repository, tag string) (name.Tag, error) {
	opts, err := c.nameOptions(repo.Name())
	if err != nil {
		return name.Tag{}, err
	}
	t, err := name.NewTag(repo.Name()+":"+tag, append(opts, name.StrictValidation)...)
	if err != nil || !validTag.MatchString(tag) {
		return name.Tag{}, fault.Inputf("reference.malformed", "%q is not a tag", tag).
			WithFix("a tag has at most 128 letters, digits, dots, dashes and underscores, and does not start with a dot or a dash")
	}
	return t, nil
}

// validTag matches the tags that the OCI distribution specification permits
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests).
var validTag = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// nameOptions returns the options for parsing s. It rejects what the library
// accepts although no registry does.
func (c *Client) nameOptions(s string) ([]name.Option, error) {
	if s == "" || len(s) > 1024 {
		return nil, fault.Inputf("reference.malformed", "an image reference must have 1 to 1024 characters")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, fault.Inputf("reference.malformed", "%q is not an image reference: it contains a control character or another character that cannot be printed", s)
	}
	if slices.Contains(strings.Split(s, "/"), "") {
		return nil, fault.Inputf("reference.malformed", "%q is not an image reference: it has nothing before or after a slash", s).
			WithFix("remove a scheme such as https://; a reference is, for example, ghcr.io/acme/orders")
	}
	host, _, _ := strings.Cut(s, "/")
	if slices.Contains(c.opts.Settings.Insecure, host) {
		return []name.Option{name.Insecure}, nil
	}
	return nil, nil
}

// pullOptions returns the library's options for a pull of one platform's image.
// The layers are read long after the pull returns, so the transport itself
// retries every request.
func (c *Client) pullOptions(ctx context.Context, p v1.Platform) []remote.Option {
	rt := &retrying{base: c.transport(), backoff: c.opts.Backoff}
	return append(c.options(ctx, c.opts.Settings.Downloads, rt), remote.WithPlatform(p))
}

func (c *Client) transport() http.RoundTripper {
	return &throttled{base: &bounded{base: &stallGuard{base: &credentialed{base: c.base, client: c}, limit: c.opts.Stall}}}
}

// options returns the library's options that every call needs. The library's
// own retries are off: they do not stop when the context ends, and they judge a
// response by the error codes in its body and not by its status.
func (c *Client) options(ctx context.Context, jobs int, rt http.RoundTripper) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx), remote.WithJobs(jobs), remote.WithTransport(&rewinding{base: rt}),
		remote.WithAuthFromKeychain(c.opts.Keychain), remote.WithUserAgent(c.opts.UserAgent),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithRetryPredicate(transient), remote.WithRetryStatusCodes(),
	}
}

package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // for kubeconfigs that log in with OIDC
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// requestTimeout is the time that the API server may take to answer a request. It does
// not apply to watches.
const requestTimeout = 30 * time.Second

// connection contains the clients for a cluster. Helm uses it as its
// genericclioptions.RESTClientGetter.
type connection struct {
	watchConfig   *rest.Config // for watches, without a timeout
	requestConfig *rest.Config // for all other requests
	loader        clientcmd.ClientConfig
	discovery     discovery.CachedDiscoveryInterface
	mapper        *kindMapper
	client        *kubernetes.Clientset
	dynamic       dynamic.Interface
}

// connect reads the kubeconfig and makes the clients. It sends no requests.
func connect(o deploy.Options, c config.Cluster, transport func(http.RoundTripper) http.RoundTripper) (*connection, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if o.Kubeconfig != "" {
		rules = &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}
	}
	raw, err := rules.Load()
	if err != nil {
		e := fault.Inputf("deploy.kubeconfig", "reading the kubeconfig: %w", err)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, e.WithFix("set --kubeconfig or KUBECONFIG to the path of a kubeconfig")
		}
		return nil, e
	}
	name := c.Context
	if name == "" {
		name = raw.CurrentContext
	}
	if _, ok := raw.Contexts[name]; !ok {
		return nil, missingContext(name, o.Environment, slices.Sorted(maps.Keys(raw.Contexts)))
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: name}
	overrides.Context.Namespace = o.Namespace
	k := &connection{loader: clientcmd.NewNonInteractiveClientConfig(*raw, name, overrides, rules)}
	if k.watchConfig, err = k.loader.ClientConfig(); err != nil {
		return nil, fault.Inputf("deploy.kubeconfig", "reading context %s of the kubeconfig: %w", name, err)
	}
	if server := cmp.Or(o.Server, forwarded(k.watchConfig.Host, o.Forward)); server != "" {
		if err := redirect(k.watchConfig, server); err != nil {
			return nil, err
		}
	}
	// A single run of slipway cannot overload an API server, but the default limit of
	// five requests per second would delay the run noticeably.
	k.watchConfig.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	k.watchConfig.UserAgent = "slipway"
	k.watchConfig.WarningHandlerWithContext = warnings{}
	k.watchConfig.Wrap(func(base http.RoundTripper) http.RoundTripper { return &retrying{base: base} })
	if transport != nil {
		k.watchConfig.Wrap(transport)
	}
	k.requestConfig = rest.CopyConfig(k.watchConfig)
	k.requestConfig.Timeout = requestTimeout
	if k.client, err = kubernetes.NewForConfig(k.requestConfig); err != nil {
		return nil, fault.Inputf("deploy.kubeconfig", "reading context %s of the kubeconfig: %w", name, err)
	}
	if k.dynamic, err = dynamic.NewForConfig(k.requestConfig); err != nil {
		return nil, fault.Inputf("deploy.kubeconfig", "reading context %s of the kubeconfig: %w", name, err)
	}
	k.discovery = memory.NewMemCacheClient(k.client.Discovery())
	k.mapper = &kindMapper{RESTMapper: restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(k.discovery), k.discovery, nil)}
	return k, nil
}

// missingContext returns the error for a context that is not in the kubeconfig. An
// empty name stands for the current context, and known are the contexts that exist.
func missingContext(name, environment string, known []string) error {
	switch {
	case len(known) == 0:
		return fault.Inputf("deploy.kubeconfig", "there is no kubeconfig").
			WithFix("set --kubeconfig or KUBECONFIG to the path of a kubeconfig; for a cluster on this machine see devcluster/README.md")
	case name == "":
		return fault.Inputf("deploy.kubeconfig", "the kubeconfig has no current context").
			WithFix("set deploy.environments.%s.context to one of %s", environment, strings.Join(known, ", "))
	}
	return fault.Inputf("deploy.kubeconfig", "the kubeconfig has no context %q", name).WithFix("use one of %s", strings.Join(known, ", "))
}

// forwarded returns the address, as host:port, at which a server with a loopback
// address can be reached. It returns an empty text if the server has another address or
// its port is not forwarded.
func forwarded(server string, forward map[string]string) string {
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback() && !ip.IsUnspecified()) {
		return ""
	}
	return forward[cmp.Or(u.Port(), "443")]
}

// redirect changes the host and port that requests are sent to. The certificate is
// still checked against the old name.
func redirect(c *rest.Config, server string) error {
	old, err := url.Parse(c.Host)
	if err != nil || old.Hostname() == "" {
		old = &url.URL{Scheme: "https", Host: c.Host}
	}
	if c.ServerName == "" && old.Scheme == "https" {
		c.ServerName = old.Hostname()
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil { // without a port, the port in the kubeconfig applies
		host, port = server, old.Port()
	}
	if host == "" || strings.ContainsAny(host+port, "/ ") {
		return fault.Inputf("usage", "--cluster-server %q must be host or host:port", server)
	}
	old.Host = net.JoinHostPort(host, cmp.Or(port, "443"))
	c.Host = old.String()
	return nil
}

// ToRESTConfig implements genericclioptions.RESTClientGetter. The configuration has a
// timeout, because Helm sets none.
func (k *connection) ToRESTConfig() (*rest.Config, error) {
	return rest.CopyConfig(k.requestConfig), nil
}

// ToDiscoveryClient implements genericclioptions.RESTClientGetter.
func (k *connection) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return k.discovery, nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (k *connection) ToRESTMapper() (meta.RESTMapper, error) { return k.mapper, nil }

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter.
func (k *connection) ToRawKubeConfigLoader() clientcmd.ClientConfig { return k.loader }

// retrying is a transport that retries a request if no connection to the server could
// be made. It does not retry a request that the server may have received, and it does
// not wait for a server that has never answered.
type retrying struct {
	base     http.RoundTripper
	answered atomic.Bool
}

// retryTimeout is how long a server may be unreachable, for example while it restarts.
const retryTimeout = 20 * time.Second

// RoundTrip implements [http.RoundTripper].
func (t *retrying) RoundTrip(r *http.Request) (*http.Response, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for start, delay := time.Now(), 100*time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		resp, err := t.base.RoundTrip(r)
		if err == nil {
			t.answered.Store(true)
		}
		if err == nil || !notConnected(err) || !t.answered.Load() || time.Since(start) > retryTimeout || r.Body != nil && r.GetBody == nil {
			return resp, err
		}
		timer.Reset(delay)
		select {
		case <-r.Context().Done():
			return nil, err
		case <-timer.C:
		}
		if r.GetBody != nil {
			body, bodyErr := r.GetBody()
			if bodyErr != nil {
				return nil, err
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
	}
}

// WrappedRoundTripper lets client-go find the wrapped transport.
func (t *retrying) WrappedRoundTripper() http.RoundTripper { return t.base }

// warnings reports the warnings of the API server.
type warnings struct{}

// HandleWarningHeaderWithContext is called for every Warning header of a response
// (https://www.rfc-editor.org/rfc/rfc7234#section-5.5).
func (warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _, text string) {
	if code == 299 && text != "" {
		progress.Warnf(ctx, "Kubernetes: %s", text)
	}
}

// notConnected reports whether a request failed because no connection was made.
func notConnected(err error) bool {
	text := err.Error()
	return strings.Contains(text, "connection refused") || strings.Contains(text, "no route to host") || strings.Contains(text, "network is unreachable")
}

// explain adds to an error what was being done. It returns nil if err is nil.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

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
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // kubeconfigs of clusters with OIDC name it
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// answerTimeout is how long the API server has for one request that is not a
// watch.
const answerTimeout = 30 * time.Second

// connection is how a cluster is reached. It is also Helm's way to it
// (genericclioptions.RESTClientGetter).
type connection struct {
	watching  *rest.Config // without a timeout, for what stays open
	asking    *rest.Config
	loader    clientcmd.ClientConfig
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
	client    *kubernetes.Clientset
	dynamic   dynamic.Interface
}

// connect reads the kubeconfig; it does not speak to the cluster yet.
func connect(o deploy.Options, c config.Cluster, transport func(http.RoundTripper) http.RoundTripper) (*connection, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if o.Kubeconfig != "" {
		rules = &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}
	}
	raw, err := rules.Load()
	if err != nil {
		e := fault.Inputf("deploy.kubeconfig", "reading the kubeconfig: %w", err)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, e.WithFix("name one by --kubeconfig or KUBECONFIG")
		}
		return nil, e
	}
	name := c.Context
	if name == "" {
		name = raw.CurrentContext
	}
	if _, ok := raw.Contexts[name]; !ok {
		known := slices.Sorted(maps.Keys(raw.Contexts))
		switch {
		case len(known) == 0:
			return nil, fault.Inputf("deploy.kubeconfig", "there is no kubeconfig").
				WithFix("name one by --kubeconfig or KUBECONFIG; for a cluster on this machine see devcluster/README.md")
		case name == "":
			return nil, fault.Inputf("deploy.kubeconfig", "the kubeconfig has no current context").WithFix("set deploy.environments.%s.context to one of %s", o.Environment, strings.Join(known, ", "))
		}
		return nil, fault.Inputf("deploy.kubeconfig", "the kubeconfig has no context %q", name).WithFix("it has %s", strings.Join(known, ", "))
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: name}
	overrides.Context.Namespace = o.Namespace
	k := &connection{loader: clientcmd.NewNonInteractiveClientConfig(*raw, name, overrides, rules)}
	if k.watching, err = k.loader.ClientConfig(); err != nil {
		return nil, fault.Inputf("deploy.kubeconfig", "context %s of the kubeconfig: %w", name, err)
	}
	if server := cmp.Or(o.Server, forwarded(k.watching.Host, o.Forward)); server != "" {
		if err := redirect(k.watching, server); err != nil {
			return nil, err
		}
	}
	// One run of slipway is no threat to a server; the default of five requests
	// a second would be felt.
	k.watching.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	k.watching.UserAgent = "slipway"
	k.watching.WarningHandlerWithContext = warnings{}
	k.watching.Wrap(func(base http.RoundTripper) http.RoundTripper { return &persistent{base: base} })
	if transport != nil {
		k.watching.Wrap(transport)
	}
	k.asking = rest.CopyConfig(k.watching)
	k.asking.Timeout = answerTimeout
	if k.client, err = kubernetes.NewForConfig(k.asking); err != nil {
		return nil, fault.Inputf("deploy.kubeconfig", "context %s of the kubeconfig: %w", name, err)
	}
	if k.dynamic, err = dynamic.NewForConfig(k.asking); err != nil {
		return nil, fault.Inputf("deploy.kubeconfig", "context %s of the kubeconfig: %w", name, err)
	}
	k.discovery = memory.NewMemCacheClient(k.client.Discovery())
	k.mapper = restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(k.discovery), k.discovery, nil)
	return k, nil
}

// forwarded is where a server on this machine's loopback is reached; empty if it is
// not forwarded.
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

// redirect sends requests to another host and port and keeps the name that the
// certificate is checked against.
func redirect(c *rest.Config, server string) error {
	old, err := url.Parse(c.Host)
	if err != nil || old.Hostname() == "" {
		old = &url.URL{Scheme: "https", Host: c.Host}
	}
	if c.ServerName == "" && old.Scheme == "https" {
		c.ServerName = old.Hostname()
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil { // no port: the kubeconfig's
		host, port = server, old.Port()
	}
	if host == "" || strings.ContainsAny(host+port, "/ ") {
		return fault.Inputf("usage", "--cluster-server %q is not host or host:port", server)
	}
	old.Host = net.JoinHostPort(host, cmp.Or(port, "443"))
	c.Host = old.String()
	return nil
}

// ToRESTConfig is for Helm, whose requests have no timeout of their own.
func (k *connection) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(k.asking), nil }

// ToDiscoveryClient is for Helm.
func (k *connection) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return k.discovery, nil
}

// ToRESTMapper is for Helm.
func (k *connection) ToRESTMapper() (meta.RESTMapper, error) { return k.mapper, nil }

// ToRawKubeConfigLoader is for Helm.
func (k *connection) ToRawKubeConfigLoader() clientcmd.ClientConfig { return k.loader }

// persistent tries a request again that never reached the server: its
// connection was refused or could not be made. A request that may have arrived
// is not repeated, and a server that never answered is not waited for.
type persistent struct {
	base     http.RoundTripper
	answered atomic.Bool
}

// patience is how long a server may be away, as while it restarts.
const patience = 20 * time.Second

// RoundTrip sends the request.
func (p *persistent) RoundTrip(r *http.Request) (*http.Response, error) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for start, step := time.Now(), 100*time.Millisecond; ; step = min(2*step, 2*time.Second) {
		resp, err := p.base.RoundTrip(r)
		if err == nil {
			p.answered.Store(true)
		}
		if err == nil || !refused(err) || !p.answered.Load() || time.Since(start) > patience || r.Body != nil && r.GetBody == nil {
			return resp, err //nolint:wrapcheck // a transport adds nothing
		}
		pause.Reset(step)
		select {
		case <-r.Context().Done():
			return nil, err //nolint:wrapcheck // a transport adds nothing
		case <-pause.C:
		}
		if r.GetBody != nil {
			body, bodyErr := r.GetBody()
			if bodyErr != nil {
				return nil, err //nolint:wrapcheck // a transport adds nothing
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
	}
}

// WrappedRoundTripper lets client-go find the transport below.
func (p *persistent) WrappedRoundTripper() http.RoundTripper { return p.base }

// warnings shows what the server warns of.
type warnings struct{}

// HandleWarningHeaderWithContext is called for every warning of the server
// (https://www.rfc-editor.org/rfc/rfc7234#section-5.5).
func (warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _, text string) {
	if code == 299 && text != "" {
		progress.Warnf(ctx, "Kubernetes: %s", text)
	}
}

// refused reports whether no connection was made.
func refused(err error) bool {
	text := err.Error()
	return strings.Contains(text, "connection refused") || strings.Contains(text, "no route to host") || strings.Contains(text, "network is unreachable")
}

// explain tells what was being done to a cluster that does not answer or refuses.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

package rollout

import (
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// connect makes the clients that the options do not contain.
func (t *tracker) connect() error {
	t.resources = resources{dynamic: t.Dynamic}
	if t.Mapper != nil {
		t.mapper = meta.ToRESTMapperWithContext(t.Mapper)
	}
	if t.Config == nil {
		if t.Dynamic == nil {
			return fault.Failedf("deploy.cluster", "tracking the rollout: the options have neither Config nor Dynamic")
		}
		if t.mapper == nil {
			t.mapper = meta.ToRESTMapperWithContext(meta.NewDefaultRESTMapper(nil))
		}
		return nil
	}
	config := rest.CopyConfig(t.Config)
	config.QPS, config.RateLimiter = -1, nil
	config.Timeout = 0 // a timeout would end watches
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return noRetry{rt} })
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fault.Failedf("deploy.cluster", "making a client for the cluster: %w", err)
	}
	t.httpClient = client
	if t.dynamic == nil {
		if t.dynamic, err = dynamic.NewForConfigAndClient(config, client); err != nil {
			return fault.Failedf("deploy.cluster", "making a client for the cluster: %w", err)
		}
	}
	if t.Client == nil {
		if t.Client, err = kubernetes.NewForConfigAndClient(config, client); err != nil {
			return fault.Failedf("deploy.cluster", "making a client for the cluster: %w", err)
		}
	}
	if t.mapper == nil {
		d, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
		if err != nil {
			return fault.Failedf("deploy.cluster", "making a client for the cluster: %w", err)
		}
		t.mapper = restmapper.NewDeferredDiscoveryRESTMapperWithContext(memory.NewMemCacheClientWithContext(d))
	}
	return nil
}

// noRetry is a transport that reports a lost connection at once. Otherwise client-go
// would retry the request for ten seconds, and it would treat a watch that could not
// start as one that has ended.
type noRetry struct{ http.RoundTripper }

// connectionError replaces the error of a lost connection. It does not wrap that error,
// so that client-go does not recognize it.
type connectionError struct{ host string }

func (e connectionError) Error() string { return "the connection to " + e.host + " was lost" }

// RoundTrip implements [http.RoundTripper].
func (t noRetry) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil && (utilnet.IsProbableEOF(err) || utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err)) {
		err = connectionError{r.URL.Host}
	}
	return resp, err
}

// WrappedRoundTripper lets client-go find the wrapped transport, to close its idle
// connections.
func (t noRetry) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }

// close closes the connections that connect has opened.
func (t *tracker) close() {
	if t.httpClient != nil {
		utilnet.CloseIdleConnectionsFor(t.httpClient.Transport)
	}
}

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

// connect makes the clients that the caller did not give.
func (t *tracker) connect() error {
	t.resources = resources{dynamic: t.Dynamic}
	if t.Mapper != nil {
		t.mapper = meta.ToRESTMapperWithContext(t.Mapper)
	}
	if t.Config == nil {
		if t.Dynamic == nil {
			return fault.Failedf("deploy.cluster", "tracking the rollout: neither a cluster configuration nor a client")
		}
		if t.mapper == nil {
			t.mapper = meta.ToRESTMapperWithContext(meta.NewDefaultRESTMapper(nil))
		}
		return nil
	}
	config := rest.CopyConfig(t.Config)
	config.QPS, config.RateLimiter = -1, nil
	config.Timeout = 0 // it would end watches
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return candid{rt} })
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
	}
	t.httpClient = client
	if t.dynamic == nil {
		if t.dynamic, err = dynamic.NewForConfigAndClient(config, client); err != nil {
			return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
		}
	}
	if t.Client == nil {
		if t.Client, err = kubernetes.NewForConfigAndClient(config, client); err != nil {
			return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
		}
	}
	if t.mapper == nil {
		d, err := discovery.NewDiscoveryClientForConfigAndClient(config, client)
		if err != nil {
			return fault.Failedf("deploy.cluster", "reaching the cluster: %w", err)
		}
		t.mapper = restmapper.NewDeferredDiscoveryRESTMapperWithContext(memory.NewMemCacheClientWithContext(d))
	}
	return nil
}

// candid is a transport that reports broken connections. client-go would try
// again by itself for ten seconds, and take a watch that could not begin for
// one that ended.
type candid struct{ http.RoundTripper }

// brokenError hides the error beneath from client-go on purpose.
type brokenError struct{ host string }

func (e brokenError) Error() string { return "the connection to " + e.host + " broke off" }

// RoundTrip implements [http.RoundTripper].
func (c candid) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil && (utilnet.IsProbableEOF(err) || utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err)) {
		err = brokenError{r.URL.Host}
	}
	return resp, err
}

// WrappedRoundTripper lets idle connections be closed.
func (c candid) WrappedRoundTripper() http.RoundTripper { return c.RoundTripper }

func (t *tracker) close() {
	if t.httpClient != nil {
		utilnet.CloseIdleConnectionsFor(t.httpClient.Transport)
	}
}

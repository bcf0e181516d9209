package registry

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Resolve makes the client connect to other addresses for some host:port pairs,
// as a name server would. Tests use it to give a registry on this machine a name
// that is not a loopback address, because the library requires TLS for those.
func (c *Client) Resolve(hosts map[string]string) {
	dial := c.base.DialContext
	c.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := hosts[addr]; ok {
			addr = to
		}
		return dial(ctx, network, addr)
	}
}

// Transport returns the client's transport for requests that a test sends itself.
func (c *Client) Transport() *http.Transport { return c.base }

// LimitHelpers sets how long a credential helper may take.
func LimitHelpers(k authn.Keychain, limit time.Duration) { k.(keychain).docker.limit = limit }

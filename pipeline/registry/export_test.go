package registry

import (
	"context"
	"net"
	"net/http"
)

// Resolve makes the client reach a host name at an address, as a name server
// would. Hosts that are not loopback are treated otherwise: TLS is a must.
func (c *Client) Resolve(hosts map[string]string) {
	dial := c.base.DialContext
	c.base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := hosts[addr]; ok {
			addr = to
		}
		return dial(ctx, network, addr)
	}
}

// Transport is the client's, for what a test does beside it.
func (c *Client) Transport() *http.Transport { return c.base }

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is the part of the host's IPv4 address space that one cluster uses.
type Network struct {
	// Host is the address of the host on the link to the node.
	Host netip.Addr `json:"host"`
	// Node is the address of the node on the link to the host.
	Node netip.Addr `json:"node"`
	// Link is the network of the link between host and node.
	Link netip.Prefix `json:"link"`
	// Pods is the network of the pods.
	Pods netip.Prefix `json:"pods"`
	// Services is the network of the Services' cluster IPs.
	Services netip.Prefix `json:"services"`
}

// ServiceIP returns the i-th address of the Services' network, counted from 0.
func (n Network) ServiceIP(i int) netip.Addr {
	ip := n.Services.Addr()
	for range i {
		ip = ip.Next()
	}
	return ip
}

// DNS returns the address of the cluster's DNS server.
func (n Network) DNS() netip.Addr { return n.ServiceIP(10) }

// network returns the i-th of the 256 networks that a machine can have at the
// same time.
func network(i byte) Network {
	link := netip.AddrFrom4([4]byte{10, 213, i, 0})
	return Network{
		Host:     link.Next(),
		Node:     link.Next().Next(),
		Link:     netip.PrefixFrom(link, 30),
		Pods:     netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 214, i, 0}), 24),
		Services: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 215, i, 0}), 24),
	}
}

// chooseNetwork returns the first network that overlaps no route of the host. The
// search starts at a network derived from the cluster's name, so that a cluster
// usually keeps its addresses when it is stopped and started again.
func chooseNetwork(name string) (Network, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return Network{}, fmt.Errorf("reading the host's routes: %w", err)
	}
	var taken []netip.Prefix
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(route.Dst.IP.To4())
		ones, _ := route.Dst.Mask.Size()
		if ok && ones > 0 { // the default route overlaps everything
			taken = append(taken, netip.PrefixFrom(ip, ones))
		}
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	first := h.Sum(nil)[h.Size()-1]
next:
	for i := range 256 {
		n := network(first + byte(i))
		for _, t := range taken {
			if t.Overlaps(n.Link) || t.Overlaps(n.Pods) || t.Overlaps(n.Services) {
				continue next
			}
		}
		return n, nil
	}
	return Network{}, errors.New("no free network: the host already has routes to all of 10.213.0.0/16, 10.214.0.0/16 and 10.215.0.0/16; delete a cluster with devcluster down, or remove other routes to these networks")
}

// lockNetworks ensures that only one cluster at a time chooses its network. The
// lock is an abstract socket, because such a socket is unique in the host's
// network namespace, as the routes are, and disappears with its process.
func lockNetworks(ctx context.Context) (unlock func(), err error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@slipway-devcluster-networks", Net: "unix"})
		if err == nil {
			return func() { socket.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("locking the choice of networks: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting until another cluster has chosen its network: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// connect creates the link between the host and the network namespace of the
// process pid, and the routes of both to pods and Services.
func connect(c *Cluster, n Network, pid int) error {
	inside, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("opening the node's network namespace: %w", err)
	}
	defer inside.Close()
	peer := "eth0"
	link := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: c.Link(), Alias: "devcluster " + c.Name},
		PeerName:      peer,
		PeerNamespace: netlink.NsFd(inside),
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("creating the interface %s: %w", c.Link(), err)
	}
	if err := addAddress(nil, c.Link(), netip.PrefixFrom(n.Host, n.Link.Bits())); err != nil {
		return err
	}
	outside, err := netlink.LinkByName(c.Link())
	if err != nil {
		return fmt.Errorf("finding the interface %s: %w", c.Link(), err)
	}
	for _, dst := range []netip.Prefix{n.Pods, n.Services} {
		route := &netlink.Route{LinkIndex: outside.Attrs().Index, Dst: ipNet(dst), Gw: n.Node.AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("adding the host's route to %s: %w", dst, err)
		}
	}
	handle, err := netlink.NewHandleAt(inside)
	if err != nil {
		return fmt.Errorf("opening the node's network namespace: %w", err)
	}
	defer handle.Close()
	// CoreDNS is a process of the node, not a pod, so the node needs its address.
	if err := addAddress(handle, "lo", netip.PrefixFrom(n.DNS(), 32)); err != nil {
		return err
	}
	if err := addAddress(handle, peer, netip.PrefixFrom(n.Node, n.Link.Bits())); err != nil {
		return err
	}
	// Without a route the API server could not reach Services, such as those of webhooks
	// and of other API servers. kube-proxy replaces the address before a packet leaves.
	own, err := handle.LinkByName(peer)
	if err != nil {
		return fmt.Errorf("finding the node's interface: %w", err)
	}
	route := &netlink.Route{LinkIndex: own.Attrs().Index, Dst: ipNet(n.Services), Scope: netlink.SCOPE_LINK, Src: n.Node.AsSlice()}
	if err := handle.RouteAdd(route); err != nil {
		return fmt.Errorf("adding the node's route to %s: %w", n.Services, err)
	}
	return nil
}

// addAddress adds an address to an interface and activates the interface. A nil
// handle means the host's network namespace.
func addAddress(handle *netlink.Handle, name string, address netip.Prefix) error {
	if handle == nil {
		var err error
		if handle, err = netlink.NewHandle(); err != nil {
			return fmt.Errorf("opening the host's network namespace: %w", err)
		}
		defer handle.Close()
	}
	link, err := handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the interface %s: %w", name, err)
	}
	if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		return fmt.Errorf("adding the address %s to the interface %s: %w", address, name, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("activating the interface %s: %w", name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// disconnect removes the host's interface to the node, and with it the routes.
func disconnect(c *Cluster) error {
	link, err := netlink.LinkByName(c.Link())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	// The kernel also removes it once the node's network namespace is gone.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the interface %s: %w", c.Link(), err)
	}
	return nil
}

// listenInside opens a listener in the network namespace of the process pid. A
// socket always belongs to the namespace in which it was created, so only its
// creation has to take place in that namespace.
func listenInside(ctx context.Context, pid int, address string) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result)
	go func() {
		// The thread is not unlocked, so that it ends together with this
		// goroutine and no other goroutine runs in the node's namespace.
		runtime.LockOSThread()
		inside, err := netns.GetFromPid(pid)
		if err == nil {
			defer inside.Close()
			err = netns.Set(inside)
		}
		if err != nil {
			done <- result{err: fmt.Errorf("entering the node's network namespace: %w", err)}
			return
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", address)
		done <- result{listener, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("listening on %s in the node: %w", address, r.err)
	}
	return r.listener, nil
}

// listenAPI opens the host's listener for the API server and returns its port:
// 6443, or any free port if 6443 is in use.
func listenAPI(ctx context.Context, address string) (net.Listener, int, error) {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", net.JoinHostPort(address, "6443"))
	if errors.Is(err, unix.EADDRINUSE) {
		listener, err = listen.Listen(ctx, "tcp", net.JoinHostPort(address, "0"))
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening a port for the API server: %w", err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, 0, fmt.Errorf("reading the API server's port: %w", err)
	}
	n, err := strconv.Atoi(port)
	return listener, n, err
}

// forward forwards all connections of the listener to the address, until the
// listener is closed. It opens no more connections after ctx is done.
func forward(ctx context.Context, listener net.Listener, address string) {
	for {
		from, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // for example, the client has closed the connection already
		}
		go func() {
			defer from.Close()
			to, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
			if err != nil {
				return // this closes the connection of the client
			}
			defer to.Close()
			var both sync.WaitGroup
			both.Go(func() { pipe(to, from) })
			both.Go(func() { pipe(from, to) })
			both.Wait()
		}()
	}
}

// pipe copies data in one direction. At the end of the data it closes only that
// direction of the connection.
func pipe(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if tcp, ok := to.(*net.TCPConn); ok && err == nil {
		_ = tcp.CloseWrite() // fails only if the other end has closed the connection
		return
	}
	to.Close()
	from.Close()
}

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

// Network is what of the host's address space one cluster takes.
type Network struct {
	Host     netip.Addr   `json:"host"` // the host's end of the link
	Node     netip.Addr   `json:"node"` // the node's end
	Link     netip.Prefix `json:"link"`
	Pods     netip.Prefix `json:"pods"`
	Services netip.Prefix `json:"services"`
}

// ServiceIP is the n-th address of the service network.
func (n Network) ServiceIP(i int) netip.Addr {
	ip := n.Services.Addr()
	for range i {
		ip = ip.Next()
	}
	return ip
}

// DNS is the address every pod asks.
func (n Network) DNS() netip.Addr { return n.ServiceIP(10) }

// network is the i-th of the 256 a machine can hold side by side.
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

// chooseNetwork takes the first network that no route of the host touches,
// starting at one derived from the name, so that a cluster that comes and
// goes keeps its addresses.
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
		if ok && ones > 0 { // everything lies within the default route
			taken = append(taken, netip.PrefixFrom(ip, ones))
		}
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	first := byte(h.Sum32())
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
	return Network{}, errors.New("no free network: the host has routes into all of 10.213.0.0/16 to 10.215.0.0/16; take down clusters or networks that overlap them")
}

// lockNetworks serializes the choice of networks on this machine. An abstract
// socket belongs to the host's network namespace, exactly as its routes do,
// and cannot outlive the process.
func lockNetworks(ctx context.Context) (unlock func(), err error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@slipway-devcluster-networks", Net: "unix"})
		if err == nil {
			return func() { socket.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("taking the lock on networks: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another cluster to choose its network: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// connect lays the cable between the host and the namespace of process pid,
// and the routes over it.
func connect(c *Cluster, n Network, pid int) error {
	inside, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("opening the node's network: %w", err)
	}
	defer inside.Close()
	peer := "eth0"
	link := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: c.Link(), Alias: "devcluster " + c.Name},
		PeerName:      peer,
		PeerNamespace: netlink.NsFd(inside),
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("making the interface %s: %w", c.Link(), err)
	}
	if err := addresses(nil, c.Link(), netip.PrefixFrom(n.Host, n.Link.Bits())); err != nil {
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
		return fmt.Errorf("opening the node's network: %w", err)
	}
	defer handle.Close()
	// The DNS address belongs to no pod: it is the node's own.
	if err := addresses(handle, "lo", netip.PrefixFrom(n.DNS(), 32)); err != nil {
		return err
	}
	return addresses(handle, peer, netip.PrefixFrom(n.Node, n.Link.Bits()))
}

// addresses gives an interface its addresses and sets it up; nil is the
// host's own namespace.
func addresses(handle *netlink.Handle, name string, prefixes ...netip.Prefix) error {
	if handle == nil {
		var err error
		if handle, err = netlink.NewHandle(); err != nil {
			return fmt.Errorf("opening the host's network: %w", err)
		}
		defer handle.Close()
	}
	link, err := handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the interface %s: %w", name, err)
	}
	for _, prefix := range prefixes {
		if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(prefix)}); err != nil {
			return fmt.Errorf("giving %s to %s: %w", prefix, name, err)
		}
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// disconnect removes the host's end of the cable, and with it the routes.
func disconnect(c *Cluster) error {
	link, err := netlink.LinkByName(c.Link())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	// The kernel takes it away by itself when the namespace goes.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the interface %s: %w", c.Link(), err)
	}
	return nil
}

// listenInside opens a listener in the network of process pid. A socket
// belongs for good to the namespace it was made in, so the thread is inside
// only for a moment.
func listenInside(pid int, address string) (net.Listener, error) {
	type result struct {
		listener net.Listener
		err      error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: should the way back fail, the thread must not serve
		// another goroutine, and ends with this one.
		runtime.LockOSThread()
		inside, err := netns.GetFromPid(pid)
		if err == nil {
			defer inside.Close()
			err = netns.Set(inside)
		}
		if err != nil {
			done <- result{err: fmt.Errorf("entering the node's network: %w", err)}
			return
		}
		listener, err := net.Listen("tcp4", address)
		done <- result{listener, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("listening on %s in the node: %w", address, r.err)
	}
	return r.listener, nil
}

// listenAPI takes 6443 on the host's address if it is free, else any port.
func listenAPI(address string) (net.Listener, int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "6443"))
	if errors.Is(err, unix.EADDRINUSE) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
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

// forward passes every connection on to the address, until the listener is
// closed.
func forward(listener net.Listener, address string) {
	for {
		from, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // such as a client gone before it was accepted
		}
		go func() {
			defer from.Close()
			to, err := net.Dial("tcp4", address)
			if err != nil {
				return // the client sees its connection closed
			}
			defer to.Close()
			var both sync.WaitGroup
			both.Go(func() { pipe(to, from) })
			both.Go(func() { pipe(from, to) })
			both.Wait()
		}()
	}
}

// pipe copies one direction and passes on its end, leaving the other open.
func pipe(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if tcp, ok := to.(*net.TCPConn); ok && err == nil {
		tcp.CloseWrite()
		return
	}
	to.Close()
	from.Close()
}

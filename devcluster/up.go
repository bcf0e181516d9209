//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options are the flags of devcluster up.
type options struct {
	source     string
	listen     string
	registries []string
	services   []string
	timeout    time.Duration
	bin        string // the cache of built programs
}

// progress prints lines of text with the time since the command began.
type progress struct {
	to    io.Writer
	began time.Time
}

func (p progress) say(format string, args ...any) {
	fmt.Fprintf(p.to, "%6.1fs  %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// up starts the cluster if it is not running, and returns when it is ready.
func up(ctx context.Context, c *Cluster, o options, p progress) error {
	p.say("cluster %s: checking this machine", c.Name)
	if err := o.check(); err != nil {
		return err
	}
	version, err := checkMachine(ctx, o.services)
	if err != nil {
		return err
	}
	unlock, err := c.Lock(ctx, func() {
		p.say("waiting for another devcluster command on cluster %s to finish", c.Name)
	})
	if err != nil {
		return err
	}
	defer unlock()

	switch s := c.Status(); s.State {
	case stateRunning:
		p.say("cluster %s is already running", c.Name)
		r, err := c.Record()
		if err != nil {
			return err
		}
		// The running cluster may lack a service that is requested now.
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		return addServices(ctx, c, r, o.services, p)
	case stateBroken:
		reason, _, _ := strings.Cut(s.Reason, "\n")
		p.say("cluster %s is broken (%s); deleting it and starting a new one", c.Name, reason)
	}
	if err := fresh(ctx, c, o, version, p); err != nil {
		// err already contains the node's own error and the last lines of its
		// log, so these can be deleted.
		return errors.Join(err, tearDown(c), os.Remove(c.Dir))
	}
	return nil
}

// check validates the flags.
func (o options) check() error {
	if err := checkRegistries(o.registries); err != nil {
		return err
	}
	if net.ParseIP(o.listen) == nil {
		return usageError{fmt.Errorf("invalid value %q for --listen: it must be an IP address of this machine", o.listen)}
	}
	for _, name := range o.services {
		if !slices.Contains(serviceNames(), name) {
			return usageError{fmt.Errorf("no service %q: the services are %s", name, strings.Join(serviceNames(), " and "))}
		}
	}
	return nil
}

// fresh deletes what remains of the cluster and starts a new one. containerd is
// the version of this machine's containerd.
func fresh(ctx context.Context, c *Cluster, o options, containerd string, p progress) error {
	if err := tearDown(c); err != nil {
		return fmt.Errorf("deleting what remains of cluster %s: %w", c.Name, err)
	}
	source, err := findSource(o.source)
	if err != nil {
		return err
	}
	programs, err := source.programs(ctx, o.bin, p.say)
	if err != nil {
		return err
	}
	source.versions.Containerd = containerd
	// The timeout does not include the build.
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return start(ctx, c, &Record{
		Name: c.Name, Started: time.Now(), Listen: o.listen, Programs: programs, Versions: source.versions,
		Registries: slices.Compact(slices.Sorted(slices.Values(o.registries))),
	}, o, p)
}

// start starts the host process, waits until the cluster is ready and adds the
// services.
func start(ctx context.Context, c *Cluster, r *Record, o options, p progress) error {
	if err := os.MkdirAll(c.Path("log"), 0o755); err != nil {
		return fmt.Errorf("creating the directory of logs: %w", err)
	}
	if err := c.Write(r); err != nil {
		return err
	}
	events, err := startHost(ctx, c)
	if err != nil {
		return err
	}
	defer events.Close()
	said := readEvents(ctx, events)
	if err := awaitServers(ctx, c, said, p); err != nil {
		return err
	}
	if r, err = c.Record(); err != nil {
		return err
	}
	// If a server fails from now on, stop waiting for the cluster.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	go func() {
		for e := range said {
			if e.Error != "" {
				fail(errors.New(e.Error))
			}
		}
	}()
	if err := awaitReady(ctx, c, r, p); err != nil {
		return err
	}
	r.Ready = true
	if err := c.Write(r); err != nil {
		return err
	}
	return addServices(ctx, c, r, o.services, p)
}

// awaitServers prints the steps that the host process reports and returns when
// all servers have been started.
func awaitServers(ctx context.Context, c *Cluster, said <-chan event, p progress) error {
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("starting the node: %w", context.Cause(ctx))
		case e, ok := <-said:
			switch {
			case !ok:
				return fmt.Errorf("the host process ended: %s", lastLines(c.Path("log", "host.log"), 5))
			case e.Error != "":
				return errors.New(e.Error)
			case e.Step != "":
				p.say("%s", e.Step)
			}
			if e.Ready {
				return nil
			}
		}
	}
}

// awaitReady returns when the node can run pods.
func awaitReady(ctx context.Context, c *Cluster, r *Record, p progress) error {
	if err := importPause(ctx, c, r); err != nil {
		return err
	}
	p.say("built and imported the pause image")
	a, err := newAPI(c.Path("pki"), r.Server())
	if err != nil {
		return err
	}
	if err := eventually(ctx, "the node to be Ready", func(ctx context.Context) error { return nodeReady(ctx, a, c.Name) }); err != nil {
		return err
	}
	p.say("node %s is Ready", c.Name)
	if err := eventually(ctx, "the cluster's DNS server to answer", func(ctx context.Context) error { return resolves(ctx, r) }); err != nil {
		return err
	}
	p.say("DNS answers at %s", r.Network.DNS())
	// The API server rejects pods until their namespace has this service account.
	return eventually(ctx, "the default service account", func(ctx context.Context) error {
		return a.do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	})
}

// startHost starts this program again as the cluster's host process, in its own
// session, and returns its events. ctx does not stop the host process.
func startHost(ctx context.Context, c *Cluster) (events *os.File, err error) {
	events, says, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("creating a pipe: %w", err)
	}
	defer says.Close()
	log, err := os.OpenFile(c.Path("log", "host.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of the host process: %w", err)
	}
	defer log.Close()
	command := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", "run", "--name", c.Name, "--state-dir", filepath.Dir(c.Dir))
	command.Args[0] = "devcluster"
	command.Dir = "/"
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{says}
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		events.Close()
		return nil, fmt.Errorf("starting the host process: %w", err)
	}
	// Both processes record the host process: the record must be complete even
	// if one of them is killed now.
	if r, rerr := c.Record(); rerr == nil && r.Host.PID == 0 {
		if r.Host, rerr = identify(command.Process.Pid); rerr == nil {
			err = c.Write(r)
		}
	}
	// Reap the host process if it ends while this command is still running.
	go func() { _ = command.Wait() }()
	return events, err
}

// Server returns the URL of the API server on the host.
func (r *Record) Server() string {
	address := r.Listen
	if net.ParseIP(address).IsUnspecified() {
		address = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(address, strconv.Itoa(r.Port))
}

// resolves checks that the cluster's DNS server resolves kubernetes.default, a name
// that exists in every cluster.
func resolves(ctx context.Context, r *Record) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	addresses, err := resolver(r.Network).LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	if err != nil {
		return err
	}
	if want := r.Network.ServiceIP(1).String(); !slices.Contains(addresses, want) {
		return fmt.Errorf("kubernetes.default resolves to %v, not to %s", addresses, want)
	}
	return nil
}

// resolver returns a resolver on the host that uses the cluster's DNS server.
func resolver(n Network) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(n.DNS().String(), "53"))
	}}
}

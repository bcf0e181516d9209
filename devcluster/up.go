//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// options of up.
type options struct {
	source     string
	listen     string
	registries []string
	services   []string
	timeout    time.Duration
	bin        string // cache of built programs
}

// progress prints plain lines with the time since the command began.
type progress struct {
	to    io.Writer
	began time.Time
}

func (p progress) say(format string, args ...any) {
	fmt.Fprintf(p.to, "%6.1fs  %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// up starts the cluster unless it runs, and returns when it can be used.
func up(ctx context.Context, c *Cluster, o options, p progress) error {
	p.say("cluster %s: checking this machine", c.Name)
	if err := checkRegistries(o.registries); err != nil {
		return err
	}
	if net.ParseIP(o.listen) == nil {
		return usageError{fmt.Errorf("--listen %q: it must be an IP address of this machine", o.listen)}
	}
	for _, name := range o.services {
		if !slices.Contains(serviceNames(), name) {
			return usageError{fmt.Errorf("no service %q; there are %s", name, strings.Join(serviceNames(), " and "))}
		}
	}
	version, err := checkMachine(o.services)
	if err != nil {
		return err
	}
	unlock, err := c.Lock(ctx, func() { p.say("another command works on cluster %s; waiting for it", c.Name) })
	if err != nil {
		return err
	}
	defer unlock()

	switch s := c.Status(); s.State {
	case "running":
		p.say("cluster %s runs already", c.Name)
		r, err := c.Record()
		if err != nil {
			return err
		}
		// A service asked for now may be missing from the up of before.
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		return addServices(ctx, c, r, o.services, p)
	case "broken":
		reason, _, _ := strings.Cut(s.Reason, "\n")
		p.say("cluster %s was broken (%s); starting afresh", c.Name, reason)
	}
	if err := fresh(ctx, c, o, version, p); err != nil {
		// The node's own reason, with its last log lines, is in err by now.
		return errors.Join(err, tearDown(c), os.Remove(c.Dir))
	}
	return nil
}

// fresh starts the cluster from nothing.
func fresh(ctx context.Context, c *Cluster, o options, containerd string, p progress) error {
	if err := tearDown(c); err != nil {
		return fmt.Errorf("removing what is left of cluster %s: %w", c.Name, err)
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
	// How long a build takes says nothing about the node's health.
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return start(ctx, c, &Record{
		Name: c.Name, Started: time.Now(), Listen: o.listen, Programs: programs, Versions: source.versions,
		Registries: slices.Compact(slices.Sorted(slices.Values(o.registries))),
	}, o, p)
}

func start(ctx context.Context, c *Cluster, r *Record, o options, p progress) error {
	if err := os.MkdirAll(c.Path("log"), 0o755); err != nil {
		return fmt.Errorf("making the folder of logs: %w", err)
	}
	if err := c.Write(r); err != nil {
		return err
	}
	events, err := startHost(c)
	if err != nil {
		return err
	}
	defer events.Close()
	said := make(chan event)
	go func() {
		defer close(said)
		for lines := json.NewDecoder(events); ; {
			var e event
			if lines.Decode(&e) != nil {
				return
			}
			select {
			case said <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	for ready := false; !ready; {
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
			ready = e.Ready
		}
	}
	if r, err = c.Record(); err != nil {
		return err
	}
	// A server may die at any later moment: stop waiting for it then.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	go func() {
		for e := range said {
			if e.Error != "" {
				fail(errors.New(e.Error))
			}
		}
	}()
	if err := importPause(ctx, c, r); err != nil {
		return err
	}
	p.say("the pause image is made and imported")
	a, err := newAPI(c.Path("pki"), r.Server())
	if err != nil {
		return err
	}
	if err := eventually(ctx, "the node", func(ctx context.Context) error { return nodeReady(ctx, a, c.Name) }); err != nil {
		return err
	}
	p.say("node %s is Ready", c.Name)
	if err := eventually(ctx, "the cluster's DNS", func(ctx context.Context) error { return resolves(ctx, r) }); err != nil {
		return err
	}
	p.say("DNS answers at %s", r.Network.DNS())
	// Pods are refused until their namespace has its account.
	err = eventually(ctx, "the default service account", func(ctx context.Context) error {
		return a.do(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	})
	if err != nil {
		return err
	}
	r.Ready = true
	if err := c.Write(r); err != nil {
		return err
	}
	return addServices(ctx, c, r, o.services, p)
}

// startHost starts this program again, detached, as the cluster's host
// process, and returns what it says.
func startHost(c *Cluster) (events *os.File, err error) {
	events, says, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer says.Close()
	log, err := os.OpenFile(c.Path("log", "host.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the host process's log: %w", err)
	}
	defer log.Close()
	command := exec.Command("/proc/self/exe", "run", "--name", c.Name, "--state-dir", filepath.Dir(c.Dir))
	command.Args[0] = "devcluster"
	command.Dir = "/"
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{says}
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		events.Close()
		return nil, fmt.Errorf("starting the host process: %w", err)
	}
	// Recorded by both sides: this one would be too late if up were killed
	// now, the other one if the host process were.
	if r, rerr := c.Record(); rerr == nil && r.Host.PID == 0 {
		if r.Host, rerr = identify(command.Process.Pid); rerr == nil {
			err = c.Write(r)
		}
	}
	// Reaps it, should it end while up is still there.
	go func() { _ = command.Wait() }()
	return events, err
}

// Server is the API server's address on the host.
func (r *Record) Server() string {
	address := r.Listen
	if net.ParseIP(address).IsUnspecified() {
		address = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(address, strconv.Itoa(r.Port))
}

// resolves asks the cluster's DNS for the one name every cluster has.
func resolves(ctx context.Context, r *Record) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	addresses, err := resolver(r.Network).LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	if err != nil {
		return err
	}
	if want := r.Network.ServiceIP(1).String(); !slices.Contains(addresses, want) {
		return fmt.Errorf("kubernetes.default is %v, not %s", addresses, want)
	}
	return nil
}

// resolver asks the cluster's DNS, from the host.
func resolver(n Network) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(n.DNS().String(), "53"))
	}}
}

func checkRegistries(registries []string) error {
	for _, registry := range registries {
		host, port, err := net.SplitHostPort(registry)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 || host != "127.0.0.1" {
			return usageError{fmt.Errorf("--registry %q: it must be 127.0.0.1:PORT, a registry on this machine", registry)}
		}
		if slices.Contains([]uint64{2379, 2380, 6443, 10248, 10249, 10256, 10257, 10259, 8181}, n) {
			return usageError{fmt.Errorf("--registry %q: a server of the node has this port inside; use another one", registry)}
		}
	}
	return nil
}

// checkMachine names what is missing, and how to get it, in one line. It
// returns containerd's version.
func checkMachine(services []string) (containerd string, err error) {
	if os.Geteuid() != 0 {
		return "", usageError{errors.New("devcluster makes namespaces, mounts and a network interface: run it as root")}
	}
	var missing []string
	need := func(program, pkg string) {
		if _, err := lookPath(program); err != nil && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	need("containerd", "containerd")
	need("ctr", "containerd")
	need("runc", "runc")
	need("iptables", "iptables")
	need("mount", "mount")
	if _, err := pluginFolder(); err != nil {
		missing = append(missing, "containernetworking-plugins")
	}
	missing = append(missing, missingServicePackages(services)...)
	if len(missing) > 0 {
		return "", usageError{fmt.Errorf("missing on this machine; as root: apt-get install -y %s", strings.Join(missing, " "))}
	}
	program, err := lookPath("containerd")
	if err != nil {
		return "", err
	}
	output, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking containerd for its version: %w", err)
	}
	for _, field := range strings.Fields(string(output)) {
		if v := strings.TrimPrefix(field, "v"); v[0] >= '0' && v[0] <= '9' {
			return "v" + v, nil
		}
	}
	return strings.TrimSpace(string(output)), nil
}

// lookPath finds a program where the node will, not where this user's
// environment does.
func lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("no program %s in %s: %w", name, searchPath, exec.ErrNotFound)
}

// down stops the cluster and removes all of it; it says whether there was
// anything.
func down(ctx context.Context, c *Cluster) (was bool, err error) {
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		// Without a state folder there may still be what a deleted one left.
		return false, tearDown(c)
	}
	unlock, err := c.Lock(ctx, nil)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := tearDown(c); err != nil {
		return true, err
	}
	if err := os.Remove(c.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("removing the state folder: %w", err)
	}
	return true, nil
}

// tearDown stops every process of the cluster and empties its state folder,
// whatever state a crash left them in. The folder stays: its lock is held.
func tearDown(c *Cluster) error {
	if r, err := c.Record(); err == nil {
		if err := r.Host.Stop(10 * time.Second); err != nil {
			return err
		}
		// It dies with its host process; this waits until it has.
		if err := r.Init.Stop(0); err != nil {
			return err
		}
	}
	// The kernel removes it as well, once it has cleared the namespace away.
	if err := disconnect(c); err != nil {
		return err
	}
	if err := removeCgroups(c); err != nil {
		return err
	}
	if err := unmountBelow(c.Dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the state folder: %w", err)
	}
	// The record goes last: a down that is interrupted can be repeated.
	for _, entry := range entries {
		if entry.Name() != "cluster.json" {
			err = errors.Join(err, os.RemoveAll(c.Path(entry.Name())))
		}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.RemoveAll(c.Path("cluster.json"))
	}
	if err != nil {
		return fmt.Errorf("emptying the state folder: %w", err)
	}
	return nil
}

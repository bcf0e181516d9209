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
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// host runs the process of a cluster that stays in the host's namespaces. It
// starts the node, connects it to the host's network and forwards connections.
// The node ends when this process ends. The cluster stops when ctx is done.
func host(ctx context.Context, c *Cluster, up io.Writer) error {
	// The kernel kills the node when the thread that started it ends.
	runtime.LockOSThread()
	events := json.NewEncoder(up)
	err := supervise(ctx, c, events)
	if ctx.Err() != nil {
		err = nil // the cluster was asked to stop
	}
	if err == nil {
		return nil
	}
	if _, serr := os.Stat(c.Dir); errors.Is(serr, fs.ErrNotExist) {
		return errors.Join(err, removeCgroups(c))
	}
	// The error goes to the devcluster up that started this process, if it is
	// still running, and to a file for devcluster status.
	err = errors.Join(err, writeFile(c.Path("failure"), []byte(err.Error()+"\n"), 0o644))
	_ = events.Encode(event{Error: err.Error()})
	return err
}

// supervise starts the node and returns when the node ends or ctx is done.
func supervise(ctx context.Context, c *Cluster, up *json.Encoder) error {
	r, err := c.Record()
	if err != nil {
		return fmt.Errorf("reading the cluster's record: %w", err)
	}
	if r.Host, err = identify(os.Getpid()); err != nil {
		return err
	}
	// From now on devcluster down can find this process, even after a crash.
	if err := c.Write(r); err != nil {
		return err
	}
	server, port, err := listenAPI(ctx, r.Listen)
	if err != nil {
		return err
	}
	defer server.Close()
	r.Port = port

	unlock, err := lockNetworks(ctx)
	if err != nil {
		return err
	}
	// Other clusters can choose their networks once the routes of this one
	// exist, so connect unlocks earlier. Unlocking twice is harmless.
	defer unlock()
	if err := prepare(c, r); err != nil {
		return err
	}
	n, err := startInit(ctx, c)
	if err != nil {
		return err
	}
	defer n.stop()
	if r.Init, err = identify(n.command.Process.Pid); err != nil {
		return err
	}
	if err := connect(c, r.Network, n.command.Process.Pid); err != nil {
		return err
	}
	defer func() { _ = disconnect(c) }() // down removes the interface if this fails
	unlock()
	if err := c.Write(r); err != nil {
		return err
	}
	closeAll, err := n.forwardRegistries(ctx, r.Registries)
	defer closeAll()
	if err != nil {
		return err
	}
	go forward(ctx, server, net.JoinHostPort(r.Network.Node.String(), "6443"))
	step := fmt.Sprintf("the node's namespaces and its network %s are set up", r.Network.Link)
	if err := up.Encode(event{Step: step}); err != nil {
		return fmt.Errorf("reporting to devcluster up: %w", err)
	}
	if _, err := n.gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("starting the node: %w", err)
	}
	return n.watch(ctx, c, r, up)
}

// prepare chooses the cluster's network and creates everything that the node
// needs before its start.
func prepare(c *Cluster, r *Record) error {
	var err error
	if r.Network, err = chooseNetwork(c.Name); err != nil {
		return err
	}
	if err := writePKI(c, r); err != nil {
		return err
	}
	cni, err := pluginDir()
	if err != nil {
		return err
	}
	if err := writeConfiguration(c, r, cni); err != nil {
		return err
	}
	return makeCgroups(c)
}

// node is the running node, as its host process sees it.
type node struct {
	command *exec.Cmd  // the node's first process
	gate    *os.File   // see gateFD
	events  *os.File   // see eventsFD
	ended   chan error // receives the error of the first process when it ends
}

// stop kills the node and waits until it has ended. When the first process in a
// process namespace is killed, the kernel kills all others in it, too, and
// reports the end of the first one last.
func (n *node) stop() {
	n.gate.Close()
	_ = n.command.Process.Kill() // fails only if the process has ended
	_ = n.wait()
}

// wait waits until the node's first process has ended. It can be called more
// than once.
func (n *node) wait() error {
	err := <-n.ended
	n.ended <- err
	return err
}

// forwardRegistries forwards connections to the addresses of the registries in
// the node to the same addresses on the host, until closeAll is called.
func (n *node) forwardRegistries(ctx context.Context, registries []string) (closeAll func(), err error) {
	var listeners []net.Listener
	closeAll = func() {
		for _, listener := range listeners {
			listener.Close()
		}
	}
	for _, registry := range registries {
		inside, err := listenInside(ctx, n.command.Process.Pid, registry)
		if err != nil {
			return closeAll, err
		}
		listeners = append(listeners, inside)
		go forward(ctx, inside, registry)
	}
	return closeAll, nil
}

// watch forwards the node's events to up until the node fails or ctx is done.
func (n *node) watch(ctx context.Context, c *Cluster, r *Record, up *json.Encoder) error {
	// Without the cancellation of ctx the channel is closed only when the node
	// ends.
	said := readEvents(context.WithoutCancel(ctx), n.events)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			// Without its state directory no command could find the cluster.
			if now, err := c.Record(); err != nil || now.Host != r.Host {
				return errors.Join(errors.New("the cluster's state directory was deleted while the cluster was running"), err)
			}
		case e, ok := <-said:
			if !ok {
				return fmt.Errorf("the node's first process ended: %w", n.wait())
			}
			if e.Error != "" {
				return errors.New(e.Error)
			}
			// The node keeps running even if devcluster up has ended.
			_ = up.Encode(e)
		}
	}
}

// readEvents returns a channel of the events that from provides. The channel is
// closed at the end of from or when ctx is done.
func readEvents(ctx context.Context, from io.Reader) <-chan event {
	said := make(chan event)
	go func() {
		defer close(said)
		for lines := json.NewDecoder(from); ; {
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
	return said
}

// startInit starts this program again, as the first process in the namespaces of
// a new node. The process waits at the gate. ctx does not stop it; stop does.
func startInit(ctx context.Context, c *Cluster) (*node, error) {
	waits, gate, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("creating a pipe: %w", err)
	}
	defer waits.Close()
	events, says, err := os.Pipe()
	if err != nil {
		gate.Close()
		return nil, fmt.Errorf("creating a pipe: %w", err)
	}
	defer says.Close()
	command := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", "init", "--name", c.Name, "--state-dir", filepath.Dir(c.Dir))
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.ExtraFiles = []*os.File{waits, says}
	command.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := command.Start(); err != nil {
		gate.Close()
		events.Close()
		return nil, fmt.Errorf("creating the node's namespaces: %w; in a container, devcluster needs permission to create namespaces (CAP_SYS_ADMIN)", err)
	}
	n := &node{command: command, gate: gate, events: events, ended: make(chan error, 1)}
	go func() { n.ended <- command.Wait() }()
	return n, nil
}

// pluginDir returns the directory in which the CNI plugins are installed.
func pluginDir() (string, error) {
	dirs := []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the CNI plugin ptp is in none of the directories %v; install the package containernetworking-plugins", dirs)
}

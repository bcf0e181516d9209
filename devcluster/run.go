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

// host is the process of a cluster that stays in the host's namespaces. It
// starts the node, connects it and carries its connections; the node dies
// with it. ctx ends when the cluster is to stop.
func host(ctx context.Context, c *Cluster, up io.Writer) error {
	// The kernel kills the node when the thread that started it ends.
	runtime.LockOSThread()
	events := json.NewEncoder(up)
	err := supervise(ctx, c, events)
	if err == nil || ctx.Err() != nil {
		return nil // asked to stop
	}
	if _, serr := os.Stat(c.Dir); errors.Is(serr, fs.ErrNotExist) {
		return errors.Join(err, removeCgroups(c))
	}
	// Either the up that started this is there to read it, or status is.
	err = errors.Join(err, writeFile(c.Path("failure"), []byte(err.Error()+"\n"), 0o644))
	_ = events.Encode(event{Error: err.Error()})
	return err
}

func supervise(ctx context.Context, c *Cluster, up *json.Encoder) error {
	r, err := c.Record()
	if err != nil {
		return fmt.Errorf("reading the cluster's record: %w", err)
	}
	if r.Host, err = identify(os.Getpid()); err != nil {
		return err
	}
	// From here on whoever cleans up after a crash finds this process.
	if err := c.Write(r); err != nil {
		return err
	}
	server, port, err := listenAPI(r.Listen)
	if err != nil {
		return err
	}
	defer server.Close()
	r.Port = port

	unlock, err := lockNetworks(ctx)
	if err != nil {
		return err
	}
	// Released below, as soon as the routes are there for others to see.
	defer unlock()
	if r.Network, err = chooseNetwork(c.Name); err != nil {
		return err
	}
	if err := writePKI(c, r); err != nil {
		return err
	}
	cni, err := pluginFolder()
	if err != nil {
		return err
	}
	if err := writeConfiguration(c, r, cni); err != nil {
		return err
	}
	if err := makeCgroups(c); err != nil {
		return err
	}

	node, gate, events, err := startInit(c)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- node.Wait() }()
	defer func() {
		// Killing the first process of a process namespace kills them all,
		// and waiting for it waits for them all.
		_ = node.Process.Kill()
		<-ended
		ended <- nil
	}()
	defer gate.Close()

	if r.Init, err = identify(node.Process.Pid); err != nil {
		return err
	}
	if err := connect(c, r.Network, node.Process.Pid); err != nil {
		return err
	}
	defer disconnect(c)
	unlock()
	if err := c.Write(r); err != nil {
		return err
	}
	for _, registry := range r.Registries {
		inside, err := listenInside(node.Process.Pid, registry)
		if err != nil {
			return err
		}
		defer inside.Close()
		go forward(inside, registry)
	}
	go forward(server, net.JoinHostPort(r.Network.Node.String(), "6443"))
	if err := up.Encode(event{Step: fmt.Sprintf("the node's namespaces and network %s are there", r.Network.Link)}); err != nil {
		return fmt.Errorf("telling up: %w", err)
	}
	if _, err := gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("starting the node: %w", err)
	}

	said := make(chan event)
	go func() {
		defer close(said)
		for lines := json.NewDecoder(events); ; {
			var e event
			if lines.Decode(&e) != nil {
				return
			}
			said <- e
		}
	}()
	watch := time.NewTicker(2 * time.Second)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-watch.C:
			// Without its state folder nobody could find it again.
			if now, err := c.Record(); err != nil || now.Host != r.Host {
				return errors.Join(errors.New("the cluster's state folder was removed while it ran"), err)
			}
		case e, ok := <-said:
			if !ok {
				err := <-ended
				ended <- nil
				return fmt.Errorf("the node's first process ended: %w", err)
			}
			if e.Error != "" {
				return errors.New(e.Error)
			}
			// An up that went away does not stop the node.
			_ = up.Encode(e)
		}
	}
}

// startInit starts this program again as the first process of the node's
// namespaces. It waits at the gate.
func startInit(c *Cluster) (node *exec.Cmd, gate *os.File, events *os.File, err error) {
	waits, gate, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer waits.Close()
	events, says, err := os.Pipe()
	if err != nil {
		gate.Close()
		return nil, nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer says.Close()
	node = exec.Command("/proc/self/exe", "init", "--name", c.Name, "--state-dir", filepath.Dir(c.Dir))
	node.Stdout, node.Stderr = os.Stdout, os.Stderr
	node.ExtraFiles = []*os.File{waits, says}
	node.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := node.Start(); err != nil {
		gate.Close()
		events.Close()
		return nil, nil, nil, fmt.Errorf("making the node's namespaces (is this a container without the right to?): %w", err)
	}
	return node, gate, events, nil
}

// pluginFolder is where the CNI plugins are installed.
func pluginFolder() (string, error) {
	dirs := []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no CNI plugin ptp in any of %v; install containernetworking-plugins", dirs)
}

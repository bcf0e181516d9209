//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poll is the interval between two checks of something that cannot be watched.
const poll = 100 * time.Millisecond

// Cluster identifies a cluster by its name and its state directory. The
// cluster may be running, stopped, or never have existed.
type Cluster struct {
	Name string
	// Dir is the cluster's state directory. It does not exist while the
	// cluster is stopped.
	Dir string
}

// Process identifies a process. The kernel reuses process IDs, but no two
// processes have the same ID and the same start time.
type Process struct {
	PID int `json:"pid"`
	// Start is the start time in clock ticks since the machine booted.
	Start uint64 `json:"start"`
}

// Record is the content of cluster.json in the state directory, from which
// later commands learn about a running cluster.
type Record struct {
	Name string `json:"name"`
	// Host is the process in the host's namespaces, which forwards
	// connections and supervises Init.
	Host Process `json:"host"`
	// Init is the first process in the node's namespaces.
	Init    Process   `json:"init"`
	Started time.Time `json:"started"`
	// Ready is set once every part of the cluster has answered.
	Ready bool `json:"ready"`
	// Listen and Port are the API server's IP address and port on the host.
	Listen  string  `json:"listen"`
	Port    int     `json:"port"`
	Network Network `json:"network"`
	// Registries are the host's registries that the node pulls from, as
	// HOST:PORT.
	Registries []string `json:"registries"`
	// Services are the backing services that accept connections.
	Services []string `json:"services,omitempty"`
	// Programs is the directory of the programs that the node runs.
	Programs string   `json:"programs"`
	Versions Versions `json:"versions"`
}

// Versions are the versions of the programs that the node runs.
type Versions struct {
	Kubernetes string `json:"kubernetes"`
	Etcd       string `json:"etcd"`
	CoreDNS    string `json:"coredns"`
	Containerd string `json:"containerd"`
}

// nameRule ensures that a cluster's name is valid as the name of a node and of
// a directory.
var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// newCluster validates the name and returns the cluster with that name in the
// state directory.
func newCluster(stateDir, name string) (*Cluster, error) {
	if !nameRule.MatchString(name) {
		return nil, usageError{fmt.Errorf("invalid cluster name %q: it must be at most 40 characters of a-z, 0-9 and -, and must start and end with a letter or digit", name)}
	}
	dir, err := filepath.Abs(filepath.Join(stateDir, name))
	if err != nil {
		return nil, fmt.Errorf("finding the state directory: %w", err)
	}
	return &Cluster{Name: name, Dir: dir}, nil
}

// Path returns a path in the state directory.
func (c *Cluster) Path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// Context returns the name of the cluster, context and user in the kubeconfig.
func (c *Cluster) Context() string {
	if c.Name == defaultName {
		return defaultName
	}
	return defaultName + "-" + c.Name
}

// tag distinguishes clusters that have the same name but different state
// directories, in names that must be unique on the machine.
func (c *Cluster) tag() string {
	h := fnv.New32a()
	h.Write([]byte(c.Dir))
	return fmt.Sprintf("%08x", h.Sum32())
}

// Link returns the name of the host's network interface to the node.
func (c *Cluster) Link() string { return "dc-" + c.tag() }

// Cgroup returns the path of the parent cgroup of all pods, which is the same
// in every cgroup hierarchy.
func (c *Cluster) Cgroup() string { return "/devcluster-" + c.Name + "-" + c.tag() }

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.Path("kubeconfig") }

// Record reads the cluster's record. The error is fs.ErrNotExist if the
// cluster is stopped or has not yet written a record.
func (c *Cluster) Record() (*Record, error) {
	data, err := os.ReadFile(c.Path("cluster.json"))
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", c.Path("cluster.json"), err)
	}
	return &r, nil
}

// Write replaces the cluster's record atomically.
func (c *Cluster) Write(r *Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	return writeFile(c.Path("cluster.json"), data, 0o644)
}

// Failure returns the error with which the node stopped, or "" if the node has
// not failed.
func (c *Cluster) Failure() string {
	data, _ := os.ReadFile(c.Path("failure"))
	return strings.TrimSpace(string(data))
}

// Lock locks the state directory, and creates it if it does not exist, so that
// only one command at a time changes the cluster. The lock is on the directory
// itself, so no lock file remains after the directory has been removed. If
// another command holds the lock, Lock calls waiting once, unless it is nil,
// and waits until the lock is free or ctx is done.
func (c *Cluster) Lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("creating the state directory: %w", err)
		}
		dir, err := os.Open(c.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // devcluster down has just removed it
		}
		if err != nil {
			return nil, fmt.Errorf("opening the state directory: %w", err)
		}
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			held, herr := dir.Stat()
			now, nerr := os.Stat(c.Dir)
			if herr == nil && nerr == nil && os.SameFile(held, now) {
				return func() { dir.Close() }, nil
			}
			dir.Close()
			continue
		}
		dir.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", c.Dir, err)
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another devcluster command on cluster %s to finish: %w", c.Name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// identify returns the process with the given process ID. A zombie is an
// error.
func identify(pid int) (Process, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	// The command name may contain spaces and parentheses. It ends at the last
	// closing parenthesis.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 20 {
		return Process{}, fmt.Errorf("identifying process %d: its stat file has only %d fields", pid, len(fields))
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	if fields[0] == "Z" {
		return Process{}, fmt.Errorf("process %d has ended", pid)
	}
	return Process{PID: pid, Start: start}, nil
}

// Alive reports whether the process is still running.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identify(p.PID)
	return err == nil && now == p
}

// Stop sends SIGTERM to the process, sends SIGKILL if the process is still
// running after the grace period, and returns when the process has ended. It
// returns nil if the process is not running.
func (p Process) Stop(grace time.Duration) error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// The process may have ended, and its ID been reused, before PidfdOpen.
	if !p.Alive() {
		return nil
	}
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, 30 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stopping process %d: %w", p.PID, err)
		}
		deadline := time.Now().Add(step.wait)
		for left := step.wait; left > 0; left = time.Until(deadline) {
			watched := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // file descriptors fit into 32 bits
			n, err := unix.Poll(watched, int(left.Milliseconds())+1)
			if n > 0 {
				return nil
			}
			if err != nil && !errors.Is(err, syscall.EINTR) {
				return fmt.Errorf("waiting for process %d: %w", p.PID, err)
			}
		}
	}
	return fmt.Errorf("process %d is still running after SIGKILL", p.PID)
}

// writeFile replaces a file atomically, so that no reader sees a part of it.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // after the rename it no longer exists
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

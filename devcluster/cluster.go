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

// poll is how often something that cannot be watched is looked at again.
const poll = 100 * time.Millisecond

// Cluster is one named cluster and where its state lies. Holding a Cluster
// says nothing about whether it runs.
type Cluster struct {
	Name string
	Dir  string // its state folder; gone when the cluster is down
}

// Process names a process for good: the kernel gives pids out again, a pid
// together with its start time never.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the machine's boot
}

// Record is what a running cluster leaves in its state folder for the
// commands that come later.
type Record struct {
	Name       string    `json:"name"`
	Host       Process   `json:"host"` // outside: forwards, supervises Init
	Init       Process   `json:"init"` // the first process of the node's namespaces
	Started    time.Time `json:"started"`
	Ready      bool      `json:"ready"`  // up saw everything answer
	Listen     string    `json:"listen"` // the host's address of the API server
	Port       int       `json:"port"`
	Network    Network   `json:"network"`
	Registries []string  `json:"registries"`
	Services   []string  `json:"services,omitempty"`
	Programs   string    `json:"programs"` // the folder they were started from
	Versions   Versions  `json:"versions"`
}

// Versions of what the node runs.
type Versions struct {
	Kubernetes string `json:"kubernetes"`
	Etcd       string `json:"etcd"`
	CoreDNS    string `json:"coredns"`
	Containerd string `json:"containerd"`
}

// nameRule keeps names usable as a node's name and a folder's.
var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// newCluster checks the name and fixes where the state lies.
func newCluster(stateDir, name string) (*Cluster, error) {
	if !nameRule.MatchString(name) {
		return nil, usageError{fmt.Errorf("the cluster's name %q must be at most 40 of a-z, 0-9 and -, with a letter or digit at both ends", name)}
	}
	dir, err := filepath.Abs(filepath.Join(stateDir, name))
	if err != nil {
		return nil, fmt.Errorf("finding the state folder: %w", err)
	}
	return &Cluster{Name: name, Dir: dir}, nil
}

// Path joins onto the state folder.
func (c *Cluster) Path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// Context is the name of the kubeconfig's cluster, context and user.
func (c *Cluster) Context() string {
	if c.Name == defaultName {
		return defaultName
	}
	return defaultName + "-" + c.Name
}

// tag tells apart clusters of one name in different state folders wherever
// the kernel has a single space of names.
func (c *Cluster) tag() string {
	h := fnv.New32a()
	h.Write([]byte(c.Dir))
	return fmt.Sprintf("%08x", h.Sum32())
}

// Link is the host's end of the node's network cable.
func (c *Cluster) Link() string { return "dc-" + c.tag() }

// Cgroup is the parent of all of the cluster's pods, in every hierarchy.
func (c *Cluster) Cgroup() string { return "/devcluster-" + c.Name + "-" + c.tag() }

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.Path("kubeconfig") }

// Record reads what the cluster says of itself; fs.ErrNotExist if it never
// came as far.
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

// Write replaces the record in one step.
func (c *Cluster) Write(r *Record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the cluster's record: %w", err)
	}
	return writeFile(c.Path("cluster.json"), data, 0o644)
}

// Failure is what the node said when it stopped of itself, or "".
func (c *Cluster) Failure() string {
	data, _ := os.ReadFile(c.Path("failure"))
	return strings.TrimSpace(string(data))
}

// Lock takes the state folder for one command that changes the cluster, and
// makes the folder if need be. A lock on the folder itself leaves no lock
// file behind when the folder goes.
func (c *Cluster) Lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("making the state folder: %w", err)
		}
		dir, err := os.Open(c.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a down removed it in between
		}
		if err != nil {
			return nil, fmt.Errorf("opening the state folder: %w", err)
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
			return nil, fmt.Errorf("waiting for another command on cluster %s: %w", c.Name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// identify reads the start time that makes a pid a name.
func identify(pid int) (Process, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	// The command's name may hold blanks and brackets; the last bracket ends it.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 20 {
		return Process{}, fmt.Errorf("identifying process %d: its stat has %d fields", pid, len(fields))
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

// Alive says whether this very process still runs.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identify(p.PID)
	return err == nil && now == p
}

// Stop asks with SIGTERM, then kills, and returns when the process is gone.
func (p Process) Stop(grace time.Duration) error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // it may have ended before the descriptor held it
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
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
			if n > 0 {
				return nil
			}
			if err != nil && !errors.Is(err, syscall.EINTR) {
				return fmt.Errorf("waiting for process %d: %w", p.PID, err)
			}
		}
	}
	return fmt.Errorf("process %d does not end, even killed", p.PID)
}

// writeFile replaces a file in one step, so that no reader sees half of it.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone already once renamed
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

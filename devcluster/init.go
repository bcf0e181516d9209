//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// event is a progress message, encoded as one line of JSON. The node's first
// process sends it to the host process, which forwards it to the "devcluster up"
// that waits for it.
type event struct {
	// Step says what has just been completed.
	Step string `json:"step,omitempty"`
	// Error is the reason why the node stops.
	Error string `json:"error,omitempty"`
	// Ready says that all servers have been started.
	Ready bool `json:"ready,omitempty"`
}

// File descriptors of the node's first process.
const (
	// gateFD is a pipe from the host process. The node starts when it receives
	// one byte, and stops when the pipe is closed because the host process has
	// ended.
	gateFD = 3
	// eventsFD is a pipe to the host process for events.
	eventsFD = 4
)

// searchPath is the node's PATH. The programs of the distribution come before
// those that were installed locally.
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"

// supervisor starts the servers and reaps all processes of the node.
type supervisor struct {
	mu      sync.Mutex
	running map[int]string
	fail    context.CancelCauseFunc
}

// nodeInit runs the first process in the node's namespaces. It returns only
// when the node has failed.
func nodeInit(ctx context.Context, c *Cluster) error {
	gate, events := os.NewFile(gateFD, "gate"), json.NewEncoder(os.NewFile(eventsFD, "events"))
	unix.CloseOnExec(gateFD)
	unix.CloseOnExec(eventsFD)
	err := startNode(ctx, c, gate, events)
	// If the event cannot be sent, the host process has already ended, and the
	// first error is the one to return.
	_ = events.Encode(event{Error: err.Error()})
	return err
}

// startNode starts the node as soon as the gate opens, and returns the error
// with which the node stops.
func startNode(ctx context.Context, c *Cluster, gate io.Reader, events *json.Encoder) error {
	if _, err := io.ReadFull(gate, make([]byte, 1)); err != nil {
		return errors.New("the host process ended before the node started")
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	go func() {
		// The host process sends nothing more, so this returns when it ends.
		_, _ = gate.Read(make([]byte, 1))
		fail(errors.New("the host process has ended"))
	}()

	r, err := c.Record()
	if err != nil {
		return fmt.Errorf("reading the cluster's record: %w", err)
	}
	if err := unix.Sethostname([]byte(c.Name)); err != nil {
		return fmt.Errorf("setting the node's host name: %w", err)
	}
	if err := mountNode(c, r.Programs); err != nil {
		return err
	}
	if err := os.Setenv("PATH", searchPath); err != nil {
		return fmt.Errorf("setting PATH: %w", err)
	}
	s := &supervisor{running: map[int]string{}, fail: fail}
	children := make(chan os.Signal, 1)
	s.watch(children)
	if err := s.startServers(ctx, servers(c, r), events); err != nil {
		return err
	}
	if err := events.Encode(event{Ready: true}); err != nil {
		return fmt.Errorf("reporting to the host process: %w", err)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// startServers starts each server as soon as the servers that it depends on
// answer.
func (s *supervisor) startServers(ctx context.Context, all map[string]server, events *json.Encoder) error {
	if err := s.startAll(all, "etcd", "containerd"); err != nil {
		return err
	}
	if err := answers(ctx, events, "containerd", dials("unix", containerdSocket)); err != nil {
		return err
	}
	if err := answers(ctx, events, "etcd", dials("tcp", "127.0.0.1:2379")); err != nil {
		return err
	}
	if err := s.startAll(all, "kube-apiserver"); err != nil {
		return err
	}
	a, err := newAPI(filepath.Join(insideState, "pki"), nodeServer)
	if err != nil {
		return err
	}
	err = answers(ctx, events, "the API server", func(ctx context.Context) error {
		// The body of the response is the text "ok", which is not JSON.
		return a.do(ctx, http.MethodGet, "/readyz", nil, nil)
	})
	if err != nil {
		return err
	}
	if err := s.startAll(all, "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"); err != nil {
		return err
	}
	err = eventually(ctx, "CoreDNS to be granted access", func(ctx context.Context) error { return allowDNS(ctx, a) })
	if err != nil {
		return err
	}
	return s.startAll(all, "coredns")
}

// startAll starts the named servers.
func (s *supervisor) startAll(all map[string]server, names ...string) error {
	for _, name := range names {
		if err := s.start(all[name]); err != nil {
			return err
		}
	}
	return nil
}

// answers waits until a server answers, and reports it as an event.
func answers(ctx context.Context, events *json.Encoder, what string, try func(context.Context) error) error {
	if err := eventually(ctx, what+" to answer", try); err != nil {
		return err
	}
	return events.Encode(event{Step: what + " answers"})
}

// dials returns a function that succeeds if the address accepts connections.
func dials(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// start starts a server that writes to its own log file. When the server ends,
// the node fails.
func (s *supervisor) start(one server) error {
	program, err := exec.LookPath(one.argv[0])
	if err != nil {
		return fmt.Errorf("starting %s: %w", one.name, err)
	}
	log, err := os.OpenFile(logFile(one.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("starting %s: %w", one.name, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("starting %s: %w", one.name, err)
	}
	defer null.Close()
	// The lock is held during the start, so that watch finds the server in
	// running even if it ends immediately. os/exec cannot be used, because it
	// would wait for the process itself, and here watch must do that.
	s.mu.Lock()
	defer s.mu.Unlock()
	process, err := os.StartProcess(program, one.argv, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, log, log},
	})
	if err != nil {
		return fmt.Errorf("starting %s: %w", one.name, err)
	}
	s.running[process.Pid] = one.name
	return process.Release()
}

func logFile(name string) string { return filepath.Join("/var/log", name+".log") }

// watch reaps all child processes, which is the duty of the first process in a
// process namespace. If one of them is a server, the node fails.
func (s *supervisor) watch(children chan os.Signal) {
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			for {
				var status unix.WaitStatus
				pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err != nil || pid <= 0 {
					break
				}
				s.mu.Lock()
				name := s.running[pid]
				s.mu.Unlock()
				if name == "" {
					continue
				}
				how := fmt.Sprintf("exit status %d", status.ExitStatus())
				if status.Signaled() {
					how = "signal: " + status.Signal().String()
				}
				s.fail(fmt.Errorf("%s ended (%s); the last lines of its log:\n%s", name, how, lastLines(logFile(name), 12)))
			}
		}
	}()
}

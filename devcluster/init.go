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

// event is a line from the node to its host process, and from there to the
// up that waits for it.
type event struct {
	Step  string `json:"step,omitempty"`  // done just now
	Error string `json:"error,omitempty"` // the node stops because of this
	Ready bool   `json:"ready,omitempty"` // every server runs
}

// Descriptors the node's first process is started with.
const (
	gateFD   = 3 // a byte opens it; its end means the host process is gone
	eventsFD = 4
)

// searchPath has the distribution's programs before any of the machine's own.
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"

// supervisor starts the servers and reaps every process of the node.
type supervisor struct {
	mu      sync.Mutex
	running map[int]string
	fail    context.CancelCauseFunc
}

// nodeInit is the first process of the node's namespaces. It returns only
// when the node has failed.
func nodeInit(c *Cluster) error {
	gate, events := os.NewFile(gateFD, "gate"), json.NewEncoder(os.NewFile(eventsFD, "events"))
	unix.CloseOnExec(gateFD)
	unix.CloseOnExec(eventsFD)
	err := startNode(c, gate, events)
	// Nobody listening is no reason to fail differently.
	_ = events.Encode(event{Error: err.Error()})
	return err
}

func startNode(c *Cluster, gate io.Reader, events *json.Encoder) error {
	if _, err := io.ReadFull(gate, make([]byte, 1)); err != nil {
		return errors.New("the host process ended before the node began")
	}
	ctx, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	go func() {
		// Nothing more is ever sent: this returns when the other end closes.
		_, _ = gate.Read(make([]byte, 1))
		fail(errors.New("the host process has gone"))
	}()

	r, err := c.Record()
	if err != nil {
		return fmt.Errorf("reading the cluster's record: %w", err)
	}
	if err := unix.Sethostname([]byte(c.Name)); err != nil {
		return fmt.Errorf("naming the node: %w", err)
	}
	if err := mountNode(c, r.Programs); err != nil {
		return err
	}
	if err := os.Setenv("PATH", searchPath); err != nil {
		return fmt.Errorf("setting the search path: %w", err)
	}
	s := &supervisor{running: map[int]string{}, fail: fail}
	children := make(chan os.Signal, 1)
	s.watch(children)

	all := servers(c, r)
	say := func(step string) error {
		return events.Encode(event{Step: step})
	}
	for _, name := range []string{"etcd", "containerd"} {
		if err := s.start(all[name]); err != nil {
			return err
		}
	}
	if err := eventually(ctx, "containerd", dials("unix", containerdSocket)); err != nil {
		return err
	}
	if err := say("containerd answers"); err != nil {
		return err
	}
	if err := eventually(ctx, "etcd", dials("tcp", "127.0.0.1:2379")); err != nil {
		return err
	}
	if err := say("etcd answers"); err != nil {
		return err
	}
	if err := s.start(all["kube-apiserver"]); err != nil {
		return err
	}
	a, err := newAPI(filepath.Join(insideState, "pki"), "https://127.0.0.1:6443")
	if err != nil {
		return err
	}
	err = eventually(ctx, "the API server", func(ctx context.Context) error {
		// The answer is the text "ok", so it is not decoded.
		return a.do(ctx, http.MethodGet, "/readyz", nil, nil)
	})
	if err != nil {
		return err
	}
	if err := say("the API server answers"); err != nil {
		return err
	}
	for _, name := range []string{"kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if err := s.start(all[name]); err != nil {
			return err
		}
	}
	if err := eventually(ctx, "CoreDNS's rights", func(ctx context.Context) error { return allowDNS(ctx, a) }); err != nil {
		return err
	}
	if err := s.start(all["coredns"]); err != nil {
		return err
	}
	if err := events.Encode(event{Ready: true}); err != nil {
		return fmt.Errorf("telling the host process: %w", err)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// dials tries whether anybody accepts connections there.
func dials(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// start runs a server with its own log; it fails the node when it ends.
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
	// Held over the start, so that a server that ends at once is known by
	// then. os/exec would wait for the process itself, which here the reaper
	// must do.
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

// watch reaps every child, as the first process of a process namespace must;
// a server among them ends the node.
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
				s.fail(fmt.Errorf("%s ended (%s); its last words:\n%s", name, how, lastLines(logFile(name), 12)))
			}
		}
	}()
}

package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// grace is how long a server may take to stop before it is killed.
const grace = 5 * time.Second

// queryTimeout is how long a query may take. Creating a database copies files, which
// takes long if the disk is busy.
const queryTimeout = 10 * time.Second

// launch describes a server process.
type launch struct {
	program string
	args    []string
	env     []string
	dir     string
	stdin   string         // standard input; may contain passwords, unlike args
	quit    syscall.Signal // signal that stops it quickly; its data is not needed any more
}

// server is a running server process.
type server struct {
	name string
	pid  int
	quit syscall.Signal
	log  *tail
	done chan struct{} // closed when the process has ended and was reaped
	err  error         // result of the process; valid once done is closed
}

// start starts the process in its own process group, so that Ctrl-C in the terminal
// does not stop it before the tests that use it have ended.
//
// On Linux the kernel signals the process when slipway dies (PR_SET_PDEATHSIG in
// prctl(2)), so that no server is left even after SIGKILL. The kernel sends the
// signal when the thread that started the process ends, and the Go runtime may end
// an idle thread at any time. Therefore the process is started by a goroutine that
// is locked to its thread until the process has ended.
func (l launch) start(acc *account) (*server, error) {
	s := &server{name: l.program, quit: l.quit, log: &tail{}, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := l.build(acc)
		cmd.Stdout, cmd.Stderr = s.log, s.log
		// Wait must not block on a child of the process that keeps the pipe open.
		cmd.WaitDelay = grace
		err := cmd.Start()
		if err == nil {
			s.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			s.err = cmd.Wait()
			close(s.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("running %s: %w", l.program, err)
	}
	return s, nil
}

// run runs the program until it ends.
func (l launch) run(ctx context.Context, acc *account) error {
	s, err := l.start(acc)
	if err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		s.stop()
		return ctx.Err()
	}
	if s.err != nil {
		return fmt.Errorf("running %s: %w: %s", l.program, s.err, s.log.last())
	}
	return nil
}

// build returns the command of the process.
func (l launch) build(acc *account) *exec.Cmd {
	cmd := exec.Command(l.program, l.args...) //nolint:noctx // the process keeps running after the call; Set.Stop ends it
	cmd.Dir, cmd.Env = l.dir, l.env
	if l.stdin != "" {
		cmd.Stdin = strings.NewReader(l.stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: acc.credential()}
	dieWithParent(cmd.SysProcAttr, l.quit)
	return cmd
}

// stop signals the process, kills its process group when it has ended or after the
// grace period, and returns when the process has ended.
func (s *server) stop() {
	// Once the process is reaped, its pid may be reused and must not be signalled.
	select {
	case <-s.done:
	default:
		_ = syscall.Kill(s.pid, s.quit) // fails only if the process has just ended
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
	_ = syscall.Kill(-s.pid, syscall.SIGKILL) // remaining children; fails if there are none
	<-s.done
}

// await calls ask repeatedly until it succeeds. It returns an error if the server
// ends, or if it does not answer within the start timeout.
func (s *server) await(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	askErr := errors.New("no query was sent")
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		select {
		case <-s.done:
			if s.err == nil {
				return fmt.Errorf("the server ended unexpectedly: %s", s.log.last())
			}
			return fmt.Errorf("the server ended unexpectedly: %w: %s", s.err, s.log.last())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("the server is not ready after %s: %w", startTimeout, askErr)
			}
			return ctx.Err()
		case <-timer.C:
		}
		// A wrong answer may come from another process that has bound the port. In
		// that case the server is about to end, so continue.
		if askErr = ask(ctx); askErr == nil {
			return nil
		}
		timer.Reset(pause)
	}
}

// portTaken reports whether the server could not bind its port.
func (s *server) portTaken() bool {
	return strings.Contains(strings.ToLower(s.log.String()), "address already in use")
}

// dial connects to a port of 127.0.0.1. The deadline of the connection is that of ctx
// or the query timeout, whichever is earlier.
func dial(ctx context.Context, port int) (net.Conn, error) {
	deadline := time.Now().Add(queryTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// freePort returns a port of 127.0.0.1 that no process listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return 0, fmt.Errorf("choosing a port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("releasing the chosen port: %w", err)
	}
	return port, nil
}

// tail is a writer that keeps the end of the output of a process, for errors.
type tail struct {
	mu   sync.Mutex
	data []byte
}

var _ io.Writer = (*tail)(nil)

// tailSize is how many bytes a tail keeps: the last lines of a log.
const tailSize = 8 << 10

// Write keeps the last bytes of the output.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String returns the bytes that were kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}

// last returns the last line of the output that is not blank.
func (t *tail) last() string {
	text := strings.TrimSpace(t.String())
	return text[strings.LastIndexByte(text, '\n')+1:]
}

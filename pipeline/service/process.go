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

// patience is how long one question to a server may take. Creating a database
// copies files, which a busy disk can draw out.
const patience = 10 * time.Second

// launch describes a server process.
type launch struct {
	program string
	args    []string
	env     []string
	dir     string
	stdin   string         // given to the process; holds passwords, which argv must not
	quit    syscall.Signal // makes it stop fast; its data is thrown away anyway
}

// server is a running server process.
type server struct {
	name string
	pid  int
	quit syscall.Signal
	log  *tail
	done chan struct{} // closed when the process is gone and reaped
	err  error         // how it ended; read it after done
}

// start starts the process in a group of its own, so that a Ctrl-C in the
// terminal does not reach it before the tests that use it have ended.
//
// The kernel signals the process when slipway dies (PR_SET_PDEATHSIG), so that
// even SIGKILL leaves no server running. That signal is tied to the thread that
// started the process, not to slipway: the Go runtime may end an idle thread at
// any time. So a goroutine locked to its thread starts the process and stays on
// it until the process is gone.
func (l launch) start(acc *account) (*server, error) {
	s := &server{name: l.program, quit: l.quit, log: &tail{}, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := l.build(acc)
		cmd.Stdout, cmd.Stderr = s.log, s.log
		// A child that keeps our pipe open must not keep us waiting.
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

// run runs the program to its end.
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

func (l launch) build(acc *account) *exec.Cmd {
	cmd := exec.Command(l.program, l.args...) //nolint:noctx // it outlives the call; Stop ends it
	cmd.Dir, cmd.Env = l.dir, l.env
	if l.stdin != "" {
		cmd.Stdin = strings.NewReader(l.stdin)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: acc.credential()}
	dieWithParent(cmd.SysProcAttr, l.quit)
	return cmd
}

// stop asks the process to end, kills what is left of its group after the grace
// and returns when it is gone.
func (s *server) stop() {
	// The process is ours to signal until it is reaped, which done tells.
	select {
	case <-s.done:
	default:
		_ = syscall.Kill(s.pid, s.quit) // fails only when it has just gone
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
	_ = syscall.Kill(-s.pid, syscall.SIGKILL) // children that outlived it; mostly there are none
	<-s.done
}

// await asks until the server answers, ends, or has had its time.
func (s *server) await(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	answer := errors.New("not asked yet")
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		select {
		case <-s.done:
			if s.err == nil {
				return fmt.Errorf("it ended by itself: %s", s.log.last())
			}
			return fmt.Errorf("it ended by itself: %w: %s", s.err, s.log.last())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("no good answer within %s: %w", answerWithin, answer)
			}
			return ctx.Err()
		case <-timer.C:
		}
		// A wrong answer is no reason to give up: it may come from a stranger who
		// took the port, and then our server is about to end.
		if answer = ask(ctx); answer == nil {
			return nil
		}
		timer.Reset(pause)
	}
}

// portTaken tells whether the server could not bind its port.
func (s *server) portTaken() bool {
	return strings.Contains(strings.ToLower(s.log.String()), "address already in use")
}

// dial connects to a loopback port; the deadline of the connection is ctx's, or
// patience from now.
func dial(ctx context.Context, port int) (net.Conn, error) {
	deadline := time.Now().Add(patience)
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

// freePort returns a loopback port that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return 0, fmt.Errorf("choosing a port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("choosing a port: %w", err)
	}
	return port, nil
}

// tail keeps the end of what a process prints, for error messages.
type tail struct {
	mu   sync.Mutex
	data []byte
}

var _ io.Writer = (*tail)(nil)

// tailSize is enough for the last few lines of any server's log.
const tailSize = 8 << 10

// Write keeps the last bytes of p.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailSize; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}

// last returns the last line that is not blank.
func (t *tail) last() string {
	text := strings.TrimSpace(t.String())
	return text[strings.LastIndexByte(text, '\n')+1:]
}

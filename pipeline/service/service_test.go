package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// childDir is the variable that makes the test program start services in a folder and
// wait until it is killed; see TestKilledSlipwayLeavesNoServers.
const childDir = "SLIPWAY_TEST_SERVICE_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		s, err := Start(context.Background(), Options{Kinds: Kinds(), Dir: dir, Lookup: unset})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		for _, srv := range s.servers {
			fmt.Println(srv.pid)
		}
		fmt.Println("ready")
		select {}
	}
	goleak.VerifyTestMain(m)
}

func unset(string) (string, bool) { return "", false }

// needPrograms skips the test if a server is not installed.
func needPrograms(t *testing.T) {
	t.Helper()
	for _, kind := range Kinds() {
		if _, err := prepare(kind); err != nil {
			t.Skipf("a program is missing: %v", err)
		}
	}
}

// parent returns a new directory for which the user of the servers has search
// permission.
func parent(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != filepath.Clean(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// list returns the names of the files in a directory.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ended reports whether a process has ended and was reaped.
func ended(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// address returns the address of a service.
func address(t *testing.T, s *Set, kind Kind) *url.URL {
	t.Helper()
	for _, kv := range s.Env() {
		if v, ok := strings.CutPrefix(kv, kind.Variable()+"="); ok {
			u, err := url.Parse(v)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
	}
	t.Fatalf("no %s in the environment", kind.Variable())
	return nil
}

func TestServicesAnswerAndLeaveNothing(t *testing.T) {
	needPrograms(t)
	dir := parent(t)
	sink := &sink{}
	ctx := progress.With(t.Context(), sink, "test")
	s, err := Start(ctx, Options{Kinds: []Kind{Postgres, Redis, Postgres}, Dir: dir, Lookup: unset})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if n := len(s.servers); n != 2 {
		t.Errorf("started %d servers, want 2", n)
	}

	db := address(t, s, Postgres)
	port, _ := strconv.Atoi(db.Port())
	pgPassword, _ := db.User.Password()
	for _, q := range []string{
		"CREATE SCHEMA shop",
		"CREATE TABLE shop.orders (id int)",
		"CREATE DATABASE another",
		"CREATE ROLE somebody",
	} {
		if err := pgQuery(ctx, port, pgPassword, strings.TrimPrefix(db.Path, "/"), q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
	if err := pgQuery(ctx, port, "wrong", pgDatabase, "SELECT 1"); err == nil {
		t.Error("Postgres accepted a wrong password")
	}

	store := address(t, s, Redis)
	port, _ = strconv.Atoi(store.Port())
	redisPassword, _ := store.User.Password()
	if err := (redis{}).ready(ctx, port, redisPassword); err != nil {
		t.Error(err)
	}
	if err := (redis{}).ready(ctx, port, "wrong"); err == nil {
		t.Error("Redis accepted a wrong password")
	}
	for _, password := range []string{pgPassword, redisPassword} {
		notInOutput(t, s, sink, password)
		notInFiles(t, dir, password)
	}

	s.Stop()
	s.Stop()
	for _, srv := range s.servers {
		if !ended(srv.pid) {
			t.Errorf("%s is still running after Stop", srv.name)
		}
	}
	if names := list(t, dir); len(names) > 0 {
		t.Errorf("files remain: %v", names)
	}
}

// notInOutput checks that a password is not in the arguments and the log of a server,
// and not in the progress.
func notInOutput(t *testing.T, s *Set, sink *sink, password string) {
	t.Helper()
	for _, srv := range s.servers {
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", srv.pid))
		if err != nil {
			t.Logf("the arguments of %s were not checked: %v", srv.name, err)
			continue
		}
		if strings.Contains(string(argv)+srv.log.String()+sink.text(), password) {
			t.Errorf("a password is in the arguments or the log of %s, or in the progress", srv.name)
		}
	}
}

// notInFiles checks that a password is not in a file below dir.
func notInFiles(t *testing.T, dir, password string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // the server may have removed the file
		}
		if strings.Contains(string(data), password) {
			t.Errorf("a password is in %s", path)
		}
		return nil
	})
	if err != nil {
		t.Logf("walking the data: %v", err)
	}
}

func TestCancelStopsServices(t *testing.T) {
	needPrograms(t)
	dir := parent(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Options{Kinds: []Kind{Redis}, Dir: dir, Lookup: unset})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-s.servers[0].done // if nothing stops the server, the test times out
	s.Stop()            // waits until the other goroutine has removed the data
	if names := list(t, dir); len(names) > 0 {
		t.Errorf("files remain: %v", names)
	}
}

func TestCancelWhileStarting(t *testing.T) {
	needPrograms(t)
	dir := parent(t)
	ctx, cancel := context.WithCancel(t.Context())
	// The first event is that a service is starting.
	ctx = progress.With(ctx, sinkFunc(func(progress.Event) { cancel() }), "test")
	_, err := Start(ctx, Options{Kinds: Kinds(), Dir: dir, Lookup: unset})
	if !errors.Is(err, context.Canceled) || fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if names := list(t, dir); len(names) > 0 {
		t.Errorf("files remain: %v", names)
	}
}

// The servers of a killed process end, and the next start removes their data.
func TestKilledSlipwayLeavesNoServers(t *testing.T) {
	needPrograms(t)
	dir := parent(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(lines.Text())
		}
		pids = append(pids, pid)
	}
	if len(pids) != 2 {
		t.Fatalf("the child started %d servers, want 2", len(pids))
	}
	// The directory of a live process is not removed.
	if err := sweep(dir); err != nil {
		t.Fatal(err)
	}
	if names := list(t, dir); len(names) != 1 {
		t.Fatalf("after sweep: got %v, want the directory of the live process", names)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	for _, pid := range pids {
		for !dead(t, pid) { // not a child of this process, so Wait cannot be used
			runtime.Gosched()
		}
	}
	s, err := Start(t.Context(), Options{Kinds: []Kind{Redis}, Dir: dir, Lookup: unset})
	if err != nil {
		t.Fatal(err)
	}
	if names := list(t, dir); len(names) != 1 || filepath.Join(dir, names[0]) != s.home.path {
		t.Errorf("after the next start: got %v, want its own directory", names)
	}
	s.Stop()
}

// dead reports whether a process has ended. It may be a zombie if no init process
// reaps it.
func dead(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ended(pid)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

func TestRetryWithAnotherPort(t *testing.T) {
	needPrograms(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	acc, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			h, err := newHome(parent(t), acc)
			if err != nil {
				t.Fatal(err)
			}
			defer h.remove()
			p, err := prepare(kind)
			if err != nil {
				t.Fatal(err)
			}
			retried := &takenPort{plan: p, port: taken}
			srv, _, err := startServer(t.Context(), retried, h, acc)
			if err != nil {
				t.Fatal(err)
			}
			srv.stop()
			if retried.starts != 2 {
				t.Errorf("started %d times, want 2", retried.starts)
			}
		})
	}
}

// takenPort is a plan whose first server uses a port that is taken.
type takenPort struct {
	plan
	port, starts int
}

func (h *takenPort) command(dir string, port int, password string) launch {
	if h.starts++; h.starts == 1 {
		port = h.port
	}
	return h.plan.command(dir, port, password)
}

func TestServicesInTheEnvironment(t *testing.T) {
	env := map[string]string{"DATABASE_URL": "postgres://elsewhere/db", "REDIS_URL": "redis://elsewhere"}
	sink := &sink{}
	s, err := Start(progress.With(t.Context(), sink, "test"), Options{
		Kinds: Kinds(), Dir: filepath.Join(t.TempDir(), "unused"),
		Lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	want := []string{"DATABASE_URL=postgres://elsewhere/db", "REDIS_URL=redis://elsewhere"}
	if got := s.Env(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if text := sink.text(); !strings.Contains(text, "DATABASE_URL") || strings.Contains(text, "elsewhere") {
		t.Errorf("got progress %q, want the variable without its value", text)
	}
}

func TestMissingProgramsAreInputErrors(t *testing.T) {
	for _, tc := range []struct{ err, program, fix string }{
		{missing("postgres", "postgresql", "DATABASE_URL").Error(), "postgres", "apt-get install postgresql, or set DATABASE_URL"},
		{missing("redis-server", "redis-server", "REDIS_URL").Error(), "redis-server", "apt-get install redis-server, or set REDIS_URL"},
	} {
		if !strings.Contains(tc.err, tc.program) || !strings.Contains(tc.err, tc.fix) {
			t.Errorf("got %q", tc.err)
		}
	}
	_, err := Start(t.Context(), Options{Kinds: []Kind{"mysql"}, Lookup: unset})
	if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), "postgres, redis") {
		t.Errorf("unknown kind: got %v, want an input error with the known kinds", err)
	}
	if got := search("no-such-program-anywhere", []string{t.TempDir()}); got != "" {
		t.Errorf("found %s", got)
	}
}

func TestNewestPostgresFirst(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"9.6", "14", "16", "15"} {
		if err := os.MkdirAll(filepath.Join(dir, v, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := pgFolders(dir + "/*/bin"); len(got) != 4 || got[0] != filepath.Join(dir, "16", "bin") || got[3] != filepath.Join(dir, "9.6", "bin") {
		t.Errorf("got %v", got)
	}
}

// sink stores the texts of events.
type sink struct {
	mu    sync.Mutex
	texts []string
}

func (s *sink) Emit(e progress.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts = append(s.texts, e.Text)
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.texts, "\n")
}

// sinkFunc is called for every event.
type sinkFunc func(progress.Event)

func (f sinkFunc) Emit(e progress.Event) { f(e) }

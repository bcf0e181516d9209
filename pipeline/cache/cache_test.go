package cache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// TestMain also is the other process of the tests: told a cache and what to
// do, it does it, says so, and waits until its standard input ends.
func TestMain(m *testing.M) {
	dir := cache.Dir(os.Getenv("CACHE_TEST_DIR"))
	switch os.Getenv("CACHE_TEST_DO") {
	case "lock":
		_, err := dir.Lock(context.Background(), "tools", "x.lock")
		wait(err, "")
	case "run":
		r, err := dir.Run()
		if err == nil {
			err = os.WriteFile(filepath.Join(r.Dir, "half"), []byte("x"), 0o644)
		}
		wait(err, r.Dir)
	default:
		goleak.VerifyTestMain(m)
	}
}

func wait(err error, says string) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("done", says)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// other starts another process and returns when it has done its part.
func other(t *testing.T, dir cache.Dir, do string) (says string, kill func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CACHE_TEST_DIR="+string(dir), "CACHE_TEST_DO="+do)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "done") {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "done")), kill
}

func TestLockExcludesOtherProcesses(t *testing.T) {
	dir := cache.Dir(t.TempDir())
	_, kill := other(t, dir, "lock")

	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := dir.Lock(ctx, "tools", "x.lock")
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting for a lock that is held: %v, want %v", err, context.Canceled)
	}

	// Whoever waits gets it when the holder dies, and not before.
	waiting := make(sink, 100)
	var killed atomic.Bool
	go func() {
		unlock, err := dir.Lock(progress.With(t.Context(), waiting, "test"), "tools", "x.lock")
		if err == nil && !killed.Load() {
			err = errors.New("two hold the lock")
		}
		if err == nil {
			unlock()
		}
		got <- err
	}()
	if e := <-waiting; e.Kind != progress.Status || !strings.Contains(e.Text, "waiting") {
		t.Errorf("it says %+v, want that it waits", e)
	}
	for range 200 { // another lock stays free; and there is time to do wrong
		unlock, err := dir.Lock(t.Context(), "tools", "y.lock")
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	}
	killed.Store(true)
	kill()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

type sink chan progress.Event

func (s sink) Emit(e progress.Event) { s <- e }

func TestLockExcludesGoroutines(t *testing.T) {
	dir := cache.Dir(t.TempDir())
	var inside, done atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			unlock, err := dir.Lock(t.Context(), "x.lock")
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d hold the lock", n)
			}
			runtime.Gosched()
			inside.Add(-1)
			done.Add(1)
			unlock()
		})
	}
	wg.Wait()
	if done.Load() != 8 {
		t.Errorf("%d had the lock, want 8", done.Load())
	}
}

// A killed run's folder goes with the next run; a living one's stays.
func TestRunSweepsDeadRuns(t *testing.T) {
	dir := cache.Dir(t.TempDir())
	dead, kill := other(t, dir, "run")
	living, _ := other(t, dir, "run")
	kill()
	orphan, young := dir.Path("runs", "run-orphan.lock"), dir.Path("runs", "run-young.lock")
	for _, f := range []string{orphan, young} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(orphan, old, old); err != nil {
		t.Fatal(err)
	}
	r, err := dir.Run()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		dead: false, dead + ".lock": false, living: true, living + "/half": true, living + ".lock": true,
		orphan: false, young: true, r.Dir: true,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %t", path, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(r.Dir, "half"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for _, path := range []string{r.Dir, r.Dir + ".lock"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func TestRunsSideBySide(t *testing.T) {
	dir, wg := cache.Dir(t.TempDir()), sync.WaitGroup{}
	for range 20 {
		wg.Go(func() {
			r, err := dir.Run()
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.WriteFile(filepath.Join(r.Dir, "f"), nil, 0o644); err != nil {
				t.Errorf("another run swept this one: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(dir.Path("runs")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestStoreAndLoad(t *testing.T) {
	type value struct {
		A string
		N []int
	}
	dir := cache.Dir(t.TempDir())
	var v value
	if dir.Load(&v, "verdicts", "x.json") {
		t.Error("an entry that was never stored is there")
	}
	want := value{"a", []int{1, 2}}
	if err := dir.Store(want, "verdicts", "x.json"); err != nil {
		t.Fatal(err)
	}
	if !dir.Load(&v, "verdicts", "x.json") || cmp.Diff(want, v) != "" {
		t.Errorf("loaded %+v", v)
	}
	for _, damage := range []string{"", "{", `{"A":"b","N":[1,`, `{"A":"b","N":"x"}`, `[]`, "\x00\x00\x00\x00", `{"A":"b"}x`} {
		if err := os.WriteFile(dir.Path("verdicts", "x.json"), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		v := value{}
		if dir.Load(&v, "verdicts", "x.json") || cmp.Diff(value{}, v) != "" {
			t.Errorf("%q loads as %+v", damage, v)
		}
	}
	if err := dir.Store(make(chan int), "verdicts", "x.json"); err == nil {
		t.Error("what is no JSON was stored")
	}
	if err := dir.Store(want, "verdicts", "x.json"); err != nil || !dir.Load(&v, "verdicts", "x.json") {
		t.Errorf("a damaged entry is not replaced: %v", err)
	}
	if names, err := os.ReadDir(dir.Path("verdicts")); err != nil || len(names) != 1 {
		t.Errorf("beside the entry: %v, %v", names, err)
	}
}

// Whoever reads while others write sees an entry of one of them, never a mix.
func TestStoreIsAtomic(t *testing.T) {
	dir, wg := cache.Dir(t.TempDir()), sync.WaitGroup{}
	text := func(i int) []string {
		return strings.Split(strings.Repeat(strconv.Itoa(i)+",", 5000), ",")
	}
	if err := dir.Store(text(0), "x.json"); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		wg.Go(func() {
			for range 20 {
				if err := dir.Store(text(i), "x.json"); err != nil {
					t.Error(err)
				}
				var got []string
				if !dir.Load(&got, "x.json") || len(got) != 5001 || got[0] != got[4999] {
					t.Error("half an entry")
				}
			}
		})
	}
	wg.Wait()
}

func TestUser(t *testing.T) {
	t.Setenv("SLIPWAY_CACHE", "here")
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if d, err := cache.User(); err != nil || string(d) != filepath.Join(wd, "here") {
		t.Errorf("%s, %v", d, err)
	}
	t.Setenv("SLIPWAY_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/c")
	if d, err := cache.User(); err != nil || d != "/c/slipway" {
		t.Errorf("%s, %v", d, err)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	var f *fault.Error
	if _, err := cache.User(); !errors.As(err, &f) || f.Kind != fault.Input || f.Fix == "" {
		t.Errorf("without a home: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Dir(file).Make("x"); !errors.As(err, &f) || f.Kind != fault.Input || f.Fix == "" {
		t.Errorf("a cache below a file: %v", err)
	}
}

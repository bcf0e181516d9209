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

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// TestMain also runs the other process of the tests: if the environment names a
// cache and an action, it carries out the action, prints "done" and waits until
// its standard input ends.
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

func wait(err error, output string) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("done", output)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// otherProcess starts another process, waits until it has carried out the action,
// and returns the output of the action. A call of kill ends the process.
func otherProcess(t *testing.T, dir cache.Dir, do string) (output string, kill func()) {
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
		t.Fatalf("the other process printed %q, %v", line, err)
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "done")), kill
}

func TestLockExcludesOtherProcesses(t *testing.T) {
	dir := cache.Dir(t.TempDir())
	_, kill := otherProcess(t, dir, "lock")

	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := dir.Lock(ctx, "tools", "x.lock")
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting for a held lock: got %v, want %v", err, context.Canceled)
	}

	// A waiting process acquires the lock when its holder dies, and not earlier.
	waiting := make(sink, 100)
	var killed atomic.Bool
	go func() {
		unlock, err := dir.Lock(progress.With(t.Context(), waiting, "test"), "tools", "x.lock")
		if err == nil && !killed.Load() {
			err = errors.New("acquired a lock that another process holds")
		}
		if err == nil {
			unlock()
		}
		got <- err
	}()
	if e := <-waiting; e.Kind != progress.Status || !strings.Contains(e.Text, "waiting") {
		t.Errorf("got event %+v, want a status that it is waiting", e)
	}
	for range 200 { // another lock is free, and the goroutine gets time to fail
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
				t.Errorf("%d goroutines hold the lock", n)
			}
			runtime.Gosched()
			inside.Add(-1)
			done.Add(1)
			unlock()
		})
	}
	wg.Wait()
	if done.Load() != 8 {
		t.Errorf("%d goroutines held the lock, want 8", done.Load())
	}
}

// The next run removes the folder of a killed run, but not of a live one.
func TestRunRemovesFoldersOfDeadRuns(t *testing.T) {
	dir := cache.Dir(t.TempDir())
	dead, kill := otherProcess(t, dir, "run")
	live, _ := otherProcess(t, dir, "run")
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
		dead: false, dead + ".lock": false, live: true, live + "/half": true, live + ".lock": true,
		orphan: false, young: true, r.Dir: true,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: got %v, want existing: %t", path, err, want)
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
			t.Errorf("%s still exists", path)
		}
	}
}

func TestConcurrentRuns(t *testing.T) {
	dir, wg := cache.Dir(t.TempDir()), sync.WaitGroup{}
	for range 20 {
		wg.Go(func() {
			r, err := dir.Run()
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.WriteFile(filepath.Join(r.Dir, "f"), nil, 0o644); err != nil {
				t.Errorf("another run removed the folder of this one: %v", err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(dir.Path("runs")); err != nil || len(left) != 0 {
		t.Errorf("remaining: %v, %v", left, err)
	}
}

// home sets an empty home folder, in which the key of the cache is.
func home(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_STATE_HOME", "")
}

// TestPlantedEntries: an entry counts only if it was written on this machine, under the
// same name.
func TestPlantedEntries(t *testing.T) {
	home(t)
	dir := cache.Dir(t.TempDir())
	const good, other = "good", "other"
	for name, value := range map[string]string{"a.json": good, "b.json": other} {
		if err := dir.Store(value, "verdicts", name); err != nil {
			t.Fatal(err)
		}
	}
	entry, err := os.ReadFile(dir.Path("verdicts", "a.json"))
	if err != nil {
		t.Fatal(err)
	}
	another, err := os.ReadFile(dir.Path("verdicts", "b.json"))
	if err != nil {
		t.Fatal(err)
	}
	loads := func() bool {
		var v string
		return dir.Load(&v, "verdicts", "a.json")
	}
	for name, planted := range map[string]string{
		"plain":           `"other"`,
		"no seal":         `{"value":"other"}`,
		"changed value":   strings.Replace(string(entry), good, "evil", 1),
		"another entry":   string(another),
		"seal of another": strings.Replace(string(another), other, good, 1),
	} {
		if err := os.WriteFile(dir.Path("verdicts", "a.json"), []byte(planted), 0o600); err != nil {
			t.Fatal(err)
		}
		if loads() {
			t.Errorf("%s: the entry was believed", name)
		}
	}
	if err := os.WriteFile(dir.Path("verdicts", "a.json"), entry, 0o600); err != nil {
		t.Fatal(err)
	}
	if !loads() {
		t.Error("the own entry was not believed")
	}
	home(t) // another machine, to which the cache was restored
	if loads() {
		t.Error("an entry of another machine was believed")
	}
	if err := dir.Store(good, "verdicts", "a.json"); err != nil || !loads() {
		t.Errorf("a new entry was not believed: %v", err)
	}
}

// TestKey: the key is made once, only the user can read it, and it is not in the cache.
func TestKey(t *testing.T) {
	home(t)
	dir := cache.Dir(t.TempDir())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := strconv.Itoa(i) + ".json"
			var got int
			if err := dir.Store(i, name); err != nil || !dir.Load(&got, name) || got != i {
				t.Errorf("entry %d: got %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	file := filepath.Join(os.Getenv("HOME"), ".local", "state", "slipway", "cache.key")
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Size() != 32 {
		t.Errorf("got %v, %v", fi, err)
	}
	if names, err := os.ReadDir(filepath.Dir(file)); err != nil || len(names) != 1 {
		t.Errorf("got files %v, %v", names, err)
	}
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"", filepath.Join(file, "unusable")} { // a damaged key, and no folder for one
		t.Setenv("XDG_STATE_HOME", state)
		var got int
		if err := dir.Store(1, "x.json"); err != nil || dir.Load(&got, "x.json") {
			t.Errorf("without a key: got %d, %v", got, err)
		}
	}
}

func TestStoreAndLoad(t *testing.T) {
	home(t)
	type value struct {
		A string
		N []int
	}
	dir := cache.Dir(t.TempDir())
	var v value
	if dir.Load(&v, "verdicts", "x.json") {
		t.Error("loaded an entry that was never stored")
	}
	want := value{"a", []int{1, 2}}
	if err := dir.Store(want, "verdicts", "x.json"); err != nil {
		t.Fatal(err)
	}
	if !dir.Load(&v, "verdicts", "x.json") || cmp.Diff(want, v) != "" {
		t.Errorf("loaded %+v, want %+v", v, want)
	}
	for _, damage := range []string{"", "{", `{"A":"b","N":[1,`, `{"A":"b","N":"x"}`, `[]`, "\x00\x00\x00\x00", `{"A":"b"}x`} {
		if err := os.WriteFile(dir.Path("verdicts", "x.json"), []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		v := value{}
		if dir.Load(&v, "verdicts", "x.json") || cmp.Diff(value{}, v) != "" {
			t.Errorf("loaded damaged entry %q as %+v", damage, v)
		}
	}
	if err := dir.Store(make(chan int), "verdicts", "x.json"); err == nil {
		t.Error("stored a value that cannot be encoded as JSON")
	}
	if err := dir.Store(want, "verdicts", "x.json"); err != nil || !dir.Load(&v, "verdicts", "x.json") {
		t.Errorf("replacing a damaged entry: %v", err)
	}
	if names, err := os.ReadDir(dir.Path("verdicts")); err != nil || len(names) != 1 {
		t.Errorf("got files %v, %v, want one", names, err)
	}
}

// A reader sees a complete entry of one of several concurrent writers, never a
// mixture.
func TestStoreIsAtomic(t *testing.T) {
	home(t)
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
					t.Error("read an incomplete entry")
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
	_, err = cache.User()
	testkit.WantInput(t, err, "cache.unusable")
	if !strings.Contains(err.Error(), "set HOME to a writable folder, or set SLIPWAY_CACHE, GOCACHE and GOMODCACHE") {
		t.Errorf("the error does not say what to set: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for variable, fix := range map[string]string{"": "set HOME", file: "set SLIPWAY_CACHE to"} {
		t.Setenv("SLIPWAY_CACHE", variable)
		_, err = cache.Dir(file).Make("x") // below a file
		testkit.WantInput(t, err, "cache.unusable")
		if !strings.Contains(err.Error(), fix) {
			t.Errorf("with SLIPWAY_CACHE=%s the error does not say %q: %v", variable, fix, err)
		}
	}
}

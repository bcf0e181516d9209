package reload_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/sample-app/internal/reload"
	"github.com/slipway-ci/slipway/sample-app/internal/testenv"
)

// mount is a folder as the kubelet mounts a ConfigMap: the file is a link into the folder
// that the link ..data names, and a change replaces that link.
type mount struct {
	t       *testing.T
	dir     string
	version int
}

func (m *mount) path() string { return filepath.Join(m.dir, "config.yaml") }

// write replaces the content in one step, as the kubelet does.
func (m *mount) write(text string) {
	m.t.Helper()
	m.version++
	data := fmt.Sprintf("..version_%d", m.version)
	err := errors.Join(
		os.Mkdir(filepath.Join(m.dir, data), 0o755),
		os.WriteFile(filepath.Join(m.dir, data, "config.yaml"), []byte(text), 0o600),
		os.Symlink(data, filepath.Join(m.dir, "..data_tmp")),
		os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, "..data")),
	)
	if m.version == 1 {
		err = errors.Join(err, os.Symlink(filepath.Join("..data", "config.yaml"), m.path()))
	} else {
		err = errors.Join(err, os.RemoveAll(filepath.Join(m.dir, fmt.Sprintf("..version_%d", m.version-1))))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// follower records the values and the errors of a Value that follows a file.
type follower struct {
	t      *testing.T
	value  *reload.Value[string]
	mu     sync.Mutex
	values []string
	errs   []string
	event  chan struct{}
}

func follow(t *testing.T, path string, o reload.Options[string]) *follower {
	t.Helper()
	f := &follower{t: t, event: make(chan struct{}, 100)}
	o.Paths = []string{path}
	o.Load = func() (string, error) {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "invalid") {
			err = errors.New("the file is invalid")
		}
		return string(text), err
	}
	o.Failed = func(err error) { f.record(&f.errs, err.Error()) }
	initial, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f.value = reload.New(string(initial), o)
	f.value.Subscribe(func(_, after string) { f.record(&f.values, after) })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.value.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	f.wait(1) // the first comparison, after which changes are reported
	return f
}

func (f *follower) record(list *[]string, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*list = append(*list, text)
	f.event <- struct{}{}
}

// wait waits for n values or errors.
func (f *follower) wait(n int) {
	f.t.Helper()
	for range n {
		select {
		case <-f.event:
		case <-time.After(testenv.Patience):
			f.t.Fatalf("nothing happened; so far values %q, errors %q", f.values, f.errs)
		}
	}
}

func (f *follower) want(current string, errs int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.value.Get() != current || len(f.errs) != errs {
		f.t.Errorf("the value is %q after %q, want %q; errors %q, want %d", f.value.Get(), f.values, current, f.errs, errs)
	}
}

// TestConfigMap changes a file as the kubelet does. An invalid version is reported once and
// not used.
func TestConfigMap(t *testing.T) {
	m := &mount{t: t, dir: t.TempDir()}
	m.write("one")
	f := follow(t, m.path(), reload.Options[string]{Debounce: 10 * time.Millisecond})
	f.want("one", 0)
	m.write("two")
	f.wait(1)
	f.want("two", 0)
	m.write("invalid")
	f.wait(1)
	f.want("two", 1)
	m.write("three")
	f.wait(1)
	f.want("three", 1)
}

// TestChangesWithinTheDebounce: several changes within the debounce are read once.
func TestChangesWithinTheDebounce(t *testing.T) {
	m := &mount{t: t, dir: t.TempDir()}
	m.write("one")
	f := follow(t, m.path(), reload.Options[string]{Debounce: 300 * time.Millisecond})
	m.write("two")
	m.write("invalid")
	m.write("three")
	f.wait(1)
	f.want("three", 0)
	if len(f.values) != 2 { // the first one is that of the start
		t.Errorf("values %q", f.values)
	}
}

// TestFileWithoutALink: a file that is written, emptied, replaced, deleted and written again.
func TestFileWithoutALink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	f := follow(t, path, reload.Options[string]{Debounce: 10 * time.Millisecond})
	write("two")
	f.wait(1)
	f.want("two", 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.wait(1)
	f.want("two", 1)
	write("three")
	f.wait(1)
	f.want("three", 1)
}

// TestFolderThatIsReplaced: after its folder was deleted and made again, a file is still
// followed, because the files are compared from time to time.
func TestFolderThatIsReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "app")
	path := filepath.Join(dir, "config.yaml")
	lay := func(text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	lay("one")
	f := follow(t, path, reload.Options[string]{Debounce: 10 * time.Millisecond, Recheck: 50 * time.Millisecond})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.wait(1)
	f.want("one", 1)
	lay("two")
	f.wait(1)
	f.want("two", 1)
}

// TestRefresh reads a change at once, without Run, and does not read the same content again.
func TestRefresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	loads := 0
	v := reload.New("", reload.Options[string]{Paths: []string{path}, Load: func() (string, error) {
		loads++
		text, err := os.ReadFile(path)
		return string(text), err
	}})
	for i, text := range []string{"one", "one", "two"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		v.Refresh()
		if v.Get() != text {
			t.Errorf("%d: %q", i, v.Get())
		}
	}
	if loads != 2 {
		t.Errorf("the file was read %d times, want 2", loads)
	}
}

// TestReadersWhileItChanges reads and changes a value at the same time, for the race
// detector. Every value that is read is one that was written.
func TestReadersWhileItChanges(t *testing.T) {
	m := &mount{t: t, dir: t.TempDir()}
	m.write("0")
	v := reload.New("0", reload.Options[string]{Paths: []string{m.path()}, Load: func() (string, error) {
		text, err := os.ReadFile(m.path())
		return string(text), err
	}})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if v.Get() == "" {
						t.Error("an empty value was read")
						return
					}
				}
			}
		})
	}
	for i := range 100 {
		m.write(strconv.Itoa(i + 1))
		v.Refresh()
	}
	close(stop)
	readers.Wait()
	if v.Get() != "100" {
		t.Errorf("the value is %q", v.Get())
	}
}

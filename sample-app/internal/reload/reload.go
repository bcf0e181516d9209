// Package reload keeps a value that is read from files up to date while a program runs.
//
// It watches the folders of the files and not the files themselves, because Kubernetes
// replaces the files of a ConfigMap or a Secret by switching the link ..data in their
// folder, and many editors replace a file instead of writing to it
// (https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically).
// A value that cannot be read or is invalid is reported, and the last good one stays.
package reload

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// DefaultDebounce is how long a Value waits for further changes before it reads the
	// files.
	DefaultDebounce = 100 * time.Millisecond
	// DefaultRecheck is how often a Value compares the files even if nothing has reported a
	// change, for example because the file system does not report changes.
	DefaultRecheck = 30 * time.Second
	// maxDelays is how many times Debounce the reading can be put off by further changes.
	maxDelays = 10
	// maxBytes is how much of a file is compared.
	maxBytes = 4 << 20
)

// Options configure a Value.
type Options[T any] struct {
	// Load reads the files and returns the new value. It must validate the value. Required.
	Load func() (T, error)
	// Paths are the files that Load reads. Required.
	Paths []string
	// Debounce is the delay after a change. Changes within it are read once. The default
	// is DefaultDebounce.
	Debounce time.Duration
	// Recheck is the interval between two comparisons of the files without a reported
	// change. The default is DefaultRecheck.
	Recheck time.Duration
	// Failed is called with the error of Load, or of watching the files. It is called once
	// for each content of the files. It can be nil.
	Failed func(error)
}

// Value is a value that can change while the program runs. It is safe for concurrent use.
// Create it with New.
type Value[T any] struct {
	o       Options[T]
	current atomic.Pointer[T]

	mu      sync.Mutex // held while the files are read and the callbacks run
	seen    [sha256.Size]byte
	changed []func(before, after T)
}

// New returns a Value that has the initial value, which was read from the files, until Run
// or Refresh finds another one.
func New[T any](initial T, o Options[T]) *Value[T] {
	o.Debounce, o.Recheck = cmp.Or(o.Debounce, DefaultDebounce), cmp.Or(o.Recheck, DefaultRecheck)
	v := &Value[T]{o: o}
	v.current.Store(&initial)
	return v
}

// Get returns the current value.
func (v *Value[T]) Get() T { return *v.current.Load() }

// Subscribe adds a function that is called after each change, with the value before and
// after it. Calls never overlap. The function must not call Subscribe or Refresh.
func (v *Value[T]) Subscribe(f func(before, after T)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changed = append(v.changed, f)
}

// Refresh reads the files now, unless their content is that of the last time.
func (v *Value[T]) Refresh() {
	v.mu.Lock()
	defer v.mu.Unlock()
	sum := v.content()
	if sum == v.seen {
		return
	}
	v.seen = sum
	after, err := v.o.Load()
	if err != nil {
		v.fail(err)
		return
	}
	before := *v.current.Swap(&after)
	for _, f := range v.changed {
		f(before, after)
	}
}

// content identifies the content of all files. A file that cannot be read counts as one
// with the error as its content.
func (v *Value[T]) content() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, path := range v.o.Paths {
		f, err := os.Open(path)
		if err == nil {
			_, err = io.Copy(h, io.LimitReader(f, maxBytes))
			err = errors.Join(err, f.Close())
		}
		_, _ = fmt.Fprintf(h, "\x00%v\x00", err) // never fails, see package hash
	}
	h.Sum(sum[:0])
	return sum
}

func (v *Value[T]) fail(err error) {
	if v.o.Failed != nil {
		v.o.Failed(err)
	}
}

// Run watches the files until ctx is done. If the files cannot be watched, it still
// compares them at every interval Recheck.
func (v *Value[T]) Run(ctx context.Context) {
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		v.fail(fmt.Errorf("watch %v: %w", v.o.Paths, err))
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
	}
	recheck := time.NewTicker(v.o.Recheck)
	defer recheck.Stop()
	wait := time.NewTimer(0) // what has changed before the folders are watched is read at once
	defer wait.Stop()
	v.watch(watcher)
	var first time.Time // of the changes that were not read yet
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
			first = time.Time{}
			v.Refresh()
			continue
		case <-recheck.C:
			v.watch(watcher)
		case e := <-events:
			if e.Op == fsnotify.Chmod {
				continue
			}
		case <-failures: //nolint:errcheck // some changes were not reported, so the files are compared
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		if now.Sub(first) < maxDelays*v.o.Debounce {
			wait.Reset(v.o.Debounce)
		}
	}
}

// watch watches the folders of the files that exist. A folder that is watched already stays
// so, and one that was made again is watched anew.
func (v *Value[T]) watch(w *fsnotify.Watcher) {
	if w == nil {
		return
	}
	for _, path := range v.o.Paths {
		_ = w.Add(filepath.Dir(path)) // the next comparison tries again
	}
}

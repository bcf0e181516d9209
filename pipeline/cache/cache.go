// Package cache is slipway's folder in the user's cache: binaries, layers,
// tools and verdicts that need not be made twice. Every entry is complete or
// absent, concurrent runs share it safely, and deleting all of it costs time
// and nothing else.
package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Dir is slipway's cache folder.
type Dir string

// User is the cache folder of the user: $SLIPWAY_CACHE, else "slipway" in
// [os.UserCacheDir].
func User() (Dir, error) {
	if dir := os.Getenv("SLIPWAY_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fault.Inputf("cache.unusable", "SLIPWAY_CACHE=%s: %w", dir, err)
		}
		return Dir(abs), nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fault.Inputf("cache.unusable", "finding the user's cache folder: %w", err).
			WithFix("set SLIPWAY_CACHE or HOME")
	}
	return Dir(filepath.Join(base, "slipway")), nil
}

// Path joins names to the cache folder.
func (d Dir) Path(names ...string) string {
	return filepath.Join(append([]string{string(d)}, names...)...)
}

// Make creates a folder of the cache and returns its path.
func (d Dir) Make(names ...string) (string, error) {
	path := d.Path(names...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fault.Inputf("cache.unusable", "making the cache folder: %w", err).
			WithFix("set SLIPWAY_CACHE to a folder that can be written")
	}
	return path, nil
}

// Lock takes the exclusive lock of the file named, waiting for other runs; the
// operating system releases it when a run dies.
func (d Dir) Lock(ctx context.Context, names ...string) (unlock func(), err error) {
	path := d.Path(names...)
	if _, err := d.Make(filepath.Dir(filepath.Join(names...))); err != nil {
		return nil, err
	}
	l := flock.New(path)
	ok, err := l.TryLock()
	if err == nil && !ok {
		progress.Statusf(ctx, "waiting for another slipway run")
		ok, err = l.TryLockContext(ctx, 50*time.Millisecond)
	}
	if ctx.Err() != nil {
		if ok {
			_ = l.Unlock()
		}
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = l.Unlock() }, nil // closing the file cannot leave it locked
}

// Run is a run's own folder for unfinished work. It is on the same file system
// as the rest of the cache, so that finished files can be renamed into place.
type Run struct {
	Dir  string
	lock *flock.Flock
}

// Run makes a run's own folder and removes those of runs that died.
func (d Dir) Run() (*Run, error) {
	parent, err := d.Make("runs")
	if err != nil {
		return nil, err
	}
	d.sweep(parent)
	// The lock comes before the folder, so that a folder whose lock is free is
	// a dead run's.
	dir := filepath.Join(parent, "run-"+rand.Text())
	l := flock.New(dir + ".lock")
	if ok, err := l.TryLock(); err != nil || !ok {
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, os.Remove(dir+".lock")))
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("making a folder for this run: %w", err), os.Remove(dir+".lock"), l.Unlock())
	}
	return &Run{Dir: dir, lock: l}, nil
}

// sweep removes the folders of dead runs: those whose lock nobody holds. A lock
// without a folder is a dead run's too unless it is new: then its run is about
// to make the folder.
func (d Dir) sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		path, isLock := strings.CutSuffix(filepath.Join(parent, e.Name()), ".lock")
		fi, err := e.Info()
		if err != nil || isLock && (exists(path) || time.Since(fi.ModTime()) < time.Minute) {
			continue
		}
		l := flock.New(path + ".lock")
		if ok, err := l.TryLock(); err != nil || !ok {
			continue
		}
		_ = os.RemoveAll(path) // a later run tries again
		_ = os.Remove(path + ".lock")
		_ = l.Unlock()
	}
}

// Close removes the run's folder.
func (r *Run) Close() error {
	err := errors.Join(os.RemoveAll(r.Dir), os.Remove(r.Dir+".lock"), r.lock.Unlock())
	if err != nil {
		return fmt.Errorf("removing the run's folder: %w", err)
	}
	return nil
}

// Load reads a JSON entry. A missing or damaged one is no entry: it leaves v
// at its zero value.
func (d Dir) Load(v any, names ...string) bool {
	path := d.Path(names...)
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	if err := json.Unmarshal(data, v); err != nil {
		reflect.ValueOf(v).Elem().SetZero() // what came before the damage was read
		return false
	}
	Touch(path)
	return true
}

// Store writes a JSON entry, whole or not at all.
func (d Dir) Store(v any, names ...string) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a cache entry: %w", err)
	}
	if _, err := d.Make(filepath.Dir(filepath.Join(names...))); err != nil {
		return err
	}
	if err := renameio.WriteFile(d.Path(names...), data, 0o644); err != nil {
		return fmt.Errorf("writing a cache entry: %w", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

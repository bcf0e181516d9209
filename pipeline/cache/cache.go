// Package cache manages slipway's folder in the user's cache: binaries, layers,
// tools and results of gates that later runs reuse. Every entry is complete or
// absent, concurrent runs can share the cache, and deleting it costs nothing but
// time.
//
// The package promises no compatibility to programs other than slipway.
package cache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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

// Dir is the path of slipway's cache folder.
type Dir string

// User returns the cache folder of the user: $SLIPWAY_CACHE, or "slipway" in
// [os.UserCacheDir] if that is not set. It returns a [fault.Input] error if the
// folder cannot be determined.
func User() (Dir, error) {
	if dir := os.Getenv("SLIPWAY_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fault.Inputf("cache.unusable", "resolving SLIPWAY_CACHE=%s: %w", dir, err)
		}
		return Dir(abs), nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fault.Inputf("cache.unusable", "finding the user's cache folder: %w", err).
			WithFix("%s", homeFix)
	}
	return Dir(filepath.Join(base, "slipway")), nil
}

// homeFix is what to do if the home folder cannot hold the cache. Without HOME, Go has no
// folders for its caches either, so SLIPWAY_CACHE alone is not enough.
const homeFix = "set HOME to a writable folder, or set SLIPWAY_CACHE, GOCACHE and GOMODCACHE"

// Path returns a path in the cache folder.
func (d Dir) Path(names ...string) string {
	return filepath.Join(append([]string{string(d)}, names...)...)
}

// Make creates a folder in the cache, if it does not exist, and returns its path.
// It returns a [fault.Input] error if it cannot be created.
func (d Dir) Make(names ...string) (string, error) {
	path := d.Path(names...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		err := fault.Inputf("cache.unusable", "creating the cache folder: %w", err)
		if os.Getenv("SLIPWAY_CACHE") == "" {
			return "", err.WithFix("%s", homeFix)
		}
		return "", err.WithFix("set SLIPWAY_CACHE to a writable folder")
	}
	return path, nil
}

// Lock acquires the exclusive lock on the named file in the cache. It waits until
// other runs have released the lock or ctx ends. The operating system releases
// the lock if a run dies.
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
	return func() { _ = l.Unlock() }, nil // Unlock closes the file, which releases the lock in any case
}

// Run is the folder of one run for unfinished work. It is on the same file system
// as the rest of the cache, so that finished files can be renamed into place.
type Run struct {
	Dir  string // absolute path
	lock *flock.Flock
}

// Run creates a folder for this run and removes the folders of runs that died.
func (d Dir) Run() (*Run, error) {
	parent, err := d.Make("runs")
	if err != nil {
		return nil, err
	}
	d.sweep(parent)
	// The lock is acquired before the folder is created. Therefore a folder whose
	// lock is free belongs to a run that died.
	dir := filepath.Join(parent, "run-"+rand.Text())
	l := flock.New(dir + ".lock")
	if ok, err := l.TryLock(); err != nil || !ok {
		return nil, fmt.Errorf("locking %s: %w", dir, errors.Join(err, os.Remove(dir+".lock")))
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("creating a folder for this run: %w", err), os.Remove(dir+".lock"), l.Unlock())
	}
	return &Run{Dir: dir, lock: l}, nil
}

// sweep removes the folders of runs that died: those whose lock is free. A lock
// file without a folder is removed if it is older than a minute. If it is newer,
// its run may be about to create the folder.
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
		_ = os.RemoveAll(path) // if this fails, a later run retries
		_ = os.Remove(path + ".lock")
		_ = l.Unlock()
	}
}

// Close removes the run's folder and releases its lock.
func (r *Run) Close() error {
	err := errors.Join(os.RemoveAll(r.Dir), os.Remove(r.Dir+".lock"), r.lock.Unlock())
	if err != nil {
		return fmt.Errorf("removing the run's folder: %w", err)
	}
	return nil
}

// Load reads a JSON entry into v, which must be a pointer to a zero value, and
// marks the entry as used. If the entry is missing or damaged, or was not written by
// Store on this machine, Load leaves v at its zero value and returns false.
func (d Dir) Load(v any, names ...string) bool {
	path := d.Path(names...)
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	if !decode(filepath.Join(names...), data, v) {
		reflect.ValueOf(v).Elem().SetZero() // the fields before the damage have been set
		return false
	}
	Touch(path)
	return true
}

// Store writes v as a JSON entry, atomically, with a seal of this machine. On a machine
// without a home folder that can be written, nothing is kept, and that is no error.
func (d Dir) Store(v any, names ...string) error {
	data, err := encode(filepath.Join(names...), v)
	if errors.Is(err, errNoKey) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := d.Make(filepath.Dir(filepath.Join(names...))); err != nil {
		return err
	}
	if err := renameio.WriteFile(d.Path(names...), data, 0o644); err != nil {
		return fmt.Errorf("writing a cache entry: %w", err)
	}
	return nil
}

// HashFile returns the SHA-256 of a file in hex.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

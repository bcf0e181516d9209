package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
)

// What [Dir.Prune] leaves unless told otherwise.
const (
	KeepFor   = 14 * 24 * time.Hour
	KeepBytes = 4 << 30
)

// keepAtLeast guards what a run beside this one has just made or looked up.
const keepAtLeast = time.Hour

// prunable are the folders whose files can be made again, each by itself. A
// record without its blob is made again, and a blob without its record is
// never looked for, so they need not go together. Lock files stay: one that is
// removed while somebody waits for it would lock nothing.
func prunable() []string { return []string{"layers", "blobs", "upx", "verdicts", "mounts"} }

// Pruned is what was removed.
type Pruned struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// entry is a file of the cache; its time is when it was last used.
type entry struct {
	path string
	size int64
	used time.Time
}

// Prune removes what was not used for keep and then, least recently used
// first, what is above max bytes; zero stands for [KeepFor] and [KeepBytes].
// Nothing that was used in the last hour is removed. When another run prunes,
// or the cache cannot be written, it does nothing.
func (d Dir) Prune(ctx context.Context, keep time.Duration, limit int64) (Pruned, error) {
	keep, limit = cmp.Or(keep, KeepFor), cmp.Or(limit, KeepBytes)
	if _, err := os.Stat(string(d)); errors.Is(err, fs.ErrNotExist) {
		return Pruned{}, nil
	}
	l := flock.New(d.Path("prune.lock"))
	if ok, err := l.TryLock(); err != nil || !ok {
		return Pruned{}, nil // a cache on a read-only disk is still a cache
	}
	defer func() { _ = l.Unlock() }()
	entries, total, err := d.entries(ctx)
	if err != nil {
		return Pruned{}, err
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.used.Compare(b.used) })
	var p Pruned
	now := time.Now()
	for _, e := range entries {
		age := now.Sub(e.used)
		if age < keepAtLeast || age < keep && total <= limit {
			break // the rest was used later
		}
		if err := ctx.Err(); err != nil {
			return p, err
		}
		removed, err := e.remove()
		if err != nil {
			return p, fmt.Errorf("pruning the cache: %w", err)
		}
		if removed {
			p.Files++
			p.Bytes += e.size
			total -= e.size
		}
	}
	return p, nil
}

func (d Dir) entries(ctx context.Context) (all []entry, total int64, err error) {
	for _, name := range prunable() {
		err := filepath.WalkDir(d.Path(name), func(path string, de fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil || !de.Type().IsRegular() || filepath.Ext(path) == ".lock" {
				return err
			}
			fi, err := de.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // replaced just now
			}
			if err != nil {
				return err
			}
			all = append(all, entry{path, fi.Size(), fi.ModTime()})
			total += fi.Size()
			return nil
		})
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, fmt.Errorf("pruning the cache: %w", err)
		}
	}
	return all, total, nil
}

// remove removes the file unless it was used since it was listed.
func (e entry) remove() (bool, error) {
	fi, err := os.Stat(e.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !fi.ModTime().Equal(e.used) {
		return false, err
	}
	err = os.Remove(e.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Touch notes that a file of the cache was used, so that it is not pruned.
func Touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // a cache on a read-only disk is still a cache
}

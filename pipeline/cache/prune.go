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

// The defaults of [Dir.Prune].
const (
	KeepFor   = 14 * 24 * time.Hour // entries that were used more recently are kept
	KeepBytes = 4 << 30             // bytes that may remain in the cache
)

// keepAtLeast is the age below which no entry is removed, because a concurrent
// run may be using it.
const keepAtLeast = time.Hour

// prunable returns the folders whose files can be removed one by one. A record and
// its blob do not have to be removed together: a record without a blob is created
// again, and a blob without a record is not used. Lock files are kept, because a
// run that waits for a lock file that is removed would acquire a lock on nothing.
func prunable() []string { return []string{"layers", "blobs", "upx", "verdicts", "mounts"} }

// Pruned counts what [Dir.Prune] removed.
type Pruned struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// entry is a file in the cache.
type entry struct {
	path string
	size int64
	used time.Time // when it was last used: its modification time
}

// Prune removes the entries that have not been used for the duration keep. After
// that it removes the least recently used entries until the cache has no more
// than limit bytes. If keep or limit is zero, [KeepFor] or [KeepBytes] is used.
//
// Prune does not remove entries that were used within the last hour. It does
// nothing if another run is pruning, or if the cache is not writable.
func (d Dir) Prune(ctx context.Context, keep time.Duration, limit int64) (Pruned, error) {
	keep, limit = cmp.Or(keep, KeepFor), cmp.Or(limit, KeepBytes)
	if _, err := os.Stat(string(d)); errors.Is(err, fs.ErrNotExist) {
		return Pruned{}, nil
	}
	l := flock.New(d.Path("prune.lock"))
	if ok, err := l.TryLock(); err != nil || !ok {
		return Pruned{}, nil // another run prunes, or the cache is read-only
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
			break // all remaining entries were used later
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

// entries returns the entries that may be removed and the sum of their sizes.
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
				return nil // removed since it was listed
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
			return nil, 0, fmt.Errorf("listing the cache to prune it: %w", err)
		}
	}
	return all, total, nil
}

// remove removes the file, unless it has been used since it was listed, and
// reports whether it did.
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

// Touch marks a file in the cache as used now, so that [Dir.Prune] keeps it.
func Touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // fails if the cache is read-only, which is allowed
}

package cache_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/pipeline/cache"
)

// writeAged writes files of the given size that were last used some time ago.
func writeAged(t *testing.T, dir cache.Dir, files map[string]time.Duration, size int) {
	t.Helper()
	for name, age := range files {
		path := dir.Path(name)
		when := time.Now().Add(-age)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o644), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
	}
}

// remaining returns the sorted files in the cache, except the lock of Prune.
func remaining(t *testing.T, dir cache.Dir) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(string(dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "prune.lock" {
			rel, _ := filepath.Rel(string(dir), path)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestPrune(t *testing.T) {
	const day = 24 * time.Hour
	files := map[string]time.Duration{
		"blobs/sha256/a": 20 * day, "blobs/sha256/b": 10 * day, "blobs/sha256/c": 2 * time.Hour, "blobs/sha256/d": time.Minute,
		"layers/a.json": 20 * day, "layers/b.json": 9 * day, "upx/a": 15 * day, "upx/a.json": 15 * day, "upx/a.lock": 15 * day,
		"verdicts/a.json": 30 * day, "verdicts/b.json": -day, "mounts/r.example/a.json": 40 * day,
		// Prune must keep these: no run creates them, or they are expensive to create.
		"registry/docker/x": 90 * day, "tools/golangci-lint": 90 * day, "runs/run-x/blob-1": 90 * day, "prune.txt": 90 * day,
	}
	always := []string{"prune.txt", "registry/docker/x", "runs/run-x/blob-1", "tools/golangci-lint", "upx/a.lock"}
	for _, tt := range []struct {
		name  string
		keep  time.Duration
		limit int64
		want  []string // in addition to always
		files int
	}{
		{"defaults", 0, 0, []string{"blobs/sha256/b", "blobs/sha256/c", "blobs/sha256/d", "layers/b.json", "verdicts/b.json"}, 6},
		{"keep a month", 31 * day, 0, []string{"blobs/sha256/a", "blobs/sha256/b", "blobs/sha256/c", "blobs/sha256/d", "layers/a.json", "layers/b.json", "upx/a", "upx/a.json", "verdicts/a.json", "verdicts/b.json"}, 1},
		{"keep a second, but at least an hour", time.Second, 0, []string{"blobs/sha256/d", "verdicts/b.json"}, 9},
		{"limit of three files", 365 * day, 300, []string{"blobs/sha256/c", "blobs/sha256/d", "verdicts/b.json"}, 8},
		{"limit of one byte, but at least an hour", 365 * day, 1, []string{"blobs/sha256/d", "verdicts/b.json"}, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := cache.Dir(t.TempDir())
			writeAged(t, dir, files, 100)
			p, err := dir.Prune(t.Context(), tt.keep, tt.limit)
			if err != nil {
				t.Fatal(err)
			}
			if p.Files != tt.files || p.Bytes != int64(100*tt.files) {
				t.Errorf("removed %+v, want %d files", p, tt.files)
			}
			want := slices.Sorted(slices.Values(slices.Concat(always, tt.want)))
			if diff := cmp.Diff(want, remaining(t, dir)); diff != "" {
				t.Error(diff)
			}
			if p, err := dir.Prune(t.Context(), tt.keep, tt.limit); err != nil || p != (cache.Pruned{}) {
				t.Errorf("second pruning: %+v, %v", p, err)
			}
		})
	}
}

// Loading an entry marks it as used.
func TestLoadPreventsPruning(t *testing.T) {
	dir := cache.Dir(t.TempDir())
	if err := errors.Join(dir.Store(1, "verdicts", "used.json"), dir.Store(1, "verdicts", "unused.json")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-1000 * time.Hour)
	for _, n := range []string{"used.json", "unused.json"} {
		if err := os.Chtimes(dir.Path("verdicts", n), old, old); err != nil {
			t.Fatal(err)
		}
	}
	var v int
	if !dir.Load(&v, "verdicts", "used.json") {
		t.Fatal("the entry does not exist")
	}
	if _, err := dir.Prune(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"verdicts/used.json"}, remaining(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestPruneMissingCancelledAndLocked(t *testing.T) {
	missing := cache.Dir(filepath.Join(t.TempDir(), "missing"))
	if p, err := missing.Prune(t.Context(), 0, 0); err != nil || p != (cache.Pruned{}) {
		t.Errorf("missing cache: %+v, %v", p, err)
	}
	if _, err := os.Stat(string(missing)); err == nil {
		t.Error("pruning created the cache folder")
	}
	dir := cache.Dir(t.TempDir())
	writeAged(t, dir, map[string]time.Duration{"layers/a.json": 1000 * time.Hour}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dir.Prune(ctx, 0, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	unlock, err := dir.Lock(t.Context(), "prune.lock")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := dir.Prune(t.Context(), 0, 0); err != nil || p.Files != 0 {
		t.Errorf("while another run prunes: %+v, %v", p, err)
	}
	unlock()
	if p, err := dir.Prune(t.Context(), 0, 0); err != nil || p.Files != 1 {
		t.Errorf("after the other run: %+v, %v", p, err)
	}
}

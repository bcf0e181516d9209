package image_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
)

// damage returns a function that applies change to every file of the cache that
// matches the pattern.
func damage(pattern string, change func(t *testing.T, path string)) func(*testing.T, cache.Dir) {
	return func(t *testing.T, dir cache.Dir) {
		t.Helper()
		paths, err := filepath.Glob(dir.Path(pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no file matches %s, %v", pattern, err)
		}
		for _, p := range paths {
			change(t, p)
		}
	}
}

// overwrite returns a function that overwrites a file.
func overwrite(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// If the cache is damaged, the layers are created again and the digest is the same.
func TestDamagedCacheIsRepaired(t *testing.T) {
	for name, damageCache := range map[string]func(*testing.T, cache.Dir){
		"blobs truncated":    damage("blobs/sha256/*", func(_ *testing.T, p string) { _ = os.Truncate(p, 100) }),
		"blobs missing":      damage("blobs/sha256/*", remove),
		"records missing":    damage("layers/*", remove),
		"records garbage":    damage("layers/*", overwrite("{\"digest\":\"sha256:")),
		"records empty":      damage("layers/*", overwrite("")),
		"records null":       damage("layers/*", overwrite("null")),
		"records of nothing": damage("layers/*", overwrite("{}")),
		"records elsewhere":  damage("layers/*", overwrite(`{"digest":"sha256:../../../x","diff_id":"sha256:x","size":1}`)),
		"records wrong type": damage("layers/*", overwrite(`[1]`)),
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Binaries = o.Binaries[:1]
			want := run(t, o)
			damageCache(t, o.Cache)
			got := run(t, o)
			if got.Digest != want.Digest {
				t.Errorf("digest %s, want %s", got.Digest, want.Digest)
			}
			if err := validate.Image(got.Image.Single); err != nil {
				t.Error(err)
			}
		})
	}
}

// A blob of the right size with wrong content is detected only when it is read.
// Reading it fails and removes it, and the next run creates it again.
func TestFlippedBitIsDetectedAndRepaired(t *testing.T) {
	o := options(t)
	o.Binaries = o.Binaries[:1]
	want := run(t, o)
	damage("blobs/sha256/*", func(t *testing.T, p string) {
		t.Helper()
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		overwrite(string(data))(t, p)
	})(t, o.Cache)
	layers, err := run(t, o).Image.Single.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, rc)
		rc.Close()
		if fault.CodeOf(err) != "cache.damaged" {
			t.Errorf("reading a damaged blob: got %v, want cache.damaged", err)
		}
	}
	repaired := run(t, o)
	if repaired.Digest != want.Digest {
		t.Errorf("digest %s, want %s", repaired.Digest, want.Digest)
	}
	if err := validate.Image(repaired.Image.Single); err != nil {
		t.Error(err)
	}
}

func TestRunsShareACache(t *testing.T) {
	o := options(t)
	digests := make([]string, 6)
	var wg sync.WaitGroup
	for i := range digests {
		o := o
		o.RunDir = t.TempDir()
		wg.Go(func() {
			r, err := image.Run(t.Context(), o)
			if err != nil {
				t.Error(err)
			}
			digests[i] = r.Digest
		})
	}
	wg.Wait()
	for _, d := range digests {
		if d != digests[0] {
			t.Errorf("digests differ: %v", digests)
		}
	}
	o.RunDir = t.TempDir()
	if err := validate.Index(run(t, o).Image.Index); err != nil {
		t.Error(err)
	}
}

// cancelsAfter is a context that is cancelled when its error is read for the n-th
// time.
type cancelsAfter struct {
	context.Context
	mu     sync.Mutex
	left   int
	cancel context.CancelFunc
}

func (e *cancelsAfter) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left--; e.left == 0 {
		e.cancel()
	}
	return e.Context.Err()
}

// A run that is cancelled at any moment leaves no file in its folder and no damaged
// entry in the cache.
func TestCancelledRunLeavesNothing(t *testing.T) {
	for _, compression := range []string{"gzip", "zstd"} {
		for n := 1; n < 60; n += 4 {
			o := options(t)
			o.Settings.Compression = compression
			ctx, cancel := context.WithCancel(t.Context())
			_, err := image.Run(&cancelsAfter{Context: ctx, left: n, cancel: cancel}, o)
			cancel()
			if !errors.Is(err, context.Canceled) {
				if err == nil {
					break // the run was complete before
				}
				t.Fatalf("after %d checks: %v", n, err)
			}
			if left, err := os.ReadDir(o.RunDir); err != nil || len(left) != 0 {
				t.Errorf("after %d checks: remaining %v, %v", n, left, err)
			}
			if n%8 == 1 {
				validateImage(t, run(t, o))
			}
		}
	}
}

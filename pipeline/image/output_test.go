package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/image"
)

// layoutDigest validates a layout and returns the digest of its only image.
func layoutDigest(t *testing.T, dir, ref string) string {
	t.Helper()
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(idx); err != nil {
		t.Error(err)
	}
	m, err := idx.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if got := m.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; got != ref {
		t.Errorf("reference name is %q, want %q", got, ref)
	}
	return m.Manifests[0].Digest.String()
}

// names returns the names of the files in a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWriteLayout(t *testing.T) {
	o := options(t)
	index := run(t, o)
	o.Binaries = o.Binaries[:1]
	single := run(t, o)
	parent := t.TempDir()
	dir := filepath.Join(parent, "new", "layout")
	for _, r := range []image.Result{index, single, single, index} { // each run replaces the layout of the one before
		if err := image.WriteLayout(t.Context(), dir, r.Image, "orders:v1"); err != nil {
			t.Fatal(err)
		}
		if got := layoutDigest(t, dir, "orders:v1"); got != r.Digest {
			t.Errorf("the layout has %s, want %s", got, r.Digest)
		}
		if got := names(t, filepath.Dir(dir)); len(got) != 1 {
			t.Errorf("got %v, want the layout only", got)
		}
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("the folder has mode %v, %v", fi.Mode(), err)
	}
	empty := t.TempDir()
	if err := image.WriteLayout(t.Context(), empty, single.Image, ""); err != nil {
		t.Error(err)
	}
	layoutDigest(t, empty, "")

	t.Run("folder is occupied", func(t *testing.T) {
		file := filepath.Join(parent, "file")
		folder := filepath.Join(parent, "folder")
		if err := errors.Join(os.WriteFile(file, []byte("x"), 0o644), os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "precious"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{file, folder} {
			testkit.WantInput(t, image.WriteLayout(t.Context(), dir, single.Image, ""), "output.occupied")
		}
		if got := names(t, folder); len(got) != 1 || got[0] != "precious" {
			t.Errorf("the folder contains %v, want precious", got)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := image.WriteLayout(ctx, dir, single.Image, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if got := layoutDigest(t, dir, "orders:v1"); got != index.Digest {
			t.Errorf("the layout has %s, want the previous image %s", got, index.Digest)
		}
		if got := names(t, filepath.Dir(dir)); len(got) != 1 {
			t.Errorf("got %v, want the layout only", got)
		}
	})
}

// smallDisk mounts a file system of 6 MB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("mounting a tmpfs needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// wantFull checks that err reports a full disk, on one line.
func wantFull(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want %v", err, syscall.ENOSPC)
	}
	if err != nil && strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
}

func TestFullDisk(t *testing.T) {
	o := options(t)
	both := run(t, o) // its two programs have 3 MB each
	o.Binaries = o.Binaries[:1]
	one := run(t, o)
	t.Run("layout", func(t *testing.T) {
		disk := smallDisk(t)
		dir := filepath.Join(disk, "layout")
		if err := image.WriteLayout(t.Context(), dir, one.Image, "x"); err != nil {
			t.Fatal(err)
		}
		wantFull(t, image.WriteLayout(t.Context(), dir, both.Image, "x"))
		if got := layoutDigest(t, dir, "x"); got != one.Digest {
			t.Errorf("the layout has %s, want the previous image %s", got, one.Digest)
		}
		if got := names(t, disk); len(got) != 1 {
			t.Errorf("got %v, want the layout only", got)
		}
	})
	t.Run("archive", func(t *testing.T) {
		disk := smallDisk(t)
		file := filepath.Join(disk, "image.tar")
		tag, err := name.NewTag("orders:v1")
		if err != nil {
			t.Fatal(err)
		}
		if err := image.WriteArchive(t.Context(), file, one.Image.Single, tag); err != nil {
			t.Fatal(err)
		}
		wantFull(t, image.WriteArchive(t.Context(), file, one.Image.Single, tag))
		if _, err := tarball.ImageFromPath(file, &tag); err != nil {
			t.Errorf("reading the previous archive: %v", err)
		}
		if got := names(t, disk); len(got) != 1 {
			t.Errorf("got %v, want the archive only", got)
		}
	})
	t.Run("cache", func(t *testing.T) {
		disk := smallDisk(t)
		o := options(t)
		for _, compression := range []string{"gzip", "zstd"} {
			o.Settings.Compression = compression
			o.RunDir = filepath.Join(disk, "run-"+compression)
			o.Cache = cacheIn(disk)
			if err := os.Mkdir(o.RunDir, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := image.Run(t.Context(), o)
			wantFull(t, err)
			if got := names(t, o.RunDir); len(got) != 0 {
				t.Errorf("remaining in the folder of the run: %v", got)
			}
		}
	})
}

func TestWriteArchive(t *testing.T) {
	o := options(t)
	o.Binaries = o.Binaries[:1]
	r := run(t, o)
	tag, err := name.NewTag("registry.example.com/acme/orders:v1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "new", "image.tar")
	for range 2 { // the second archive replaces the first
		if err := image.WriteArchive(t.Context(), file, r.Image.Single, tag); err != nil {
			t.Fatal(err)
		}
	}
	img, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	got, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := r.Image.Single.ConfigName(); err != nil || got != want {
		t.Errorf("configuration %s, want %s", got, want)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := image.WriteArchive(ctx, file, r.Image.Single, tag); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the previous archive has changed, %v", err)
	}
	if got := names(t, filepath.Dir(file)); len(got) != 1 {
		t.Errorf("got %v, want the archive only", got)
	}
	belowFile := filepath.Join(file, "below", "image.tar")
	if err := image.WriteArchive(t.Context(), belowFile, r.Image.Single, tag); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("archive below a file: got %v", err)
	}
}

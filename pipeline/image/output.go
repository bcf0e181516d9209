package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// WriteLayout writes the image to a folder as an OCI layout
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md). If
// ref is not empty, it is the reference name of the image in index.json.
//
// An existing layout is replaced once the new one is complete: if WriteLayout
// fails, the existing layout is unchanged.
// WriteLayout returns a [fault.Input] error if the folder exists and is neither
// empty nor a layout, or if it is not writable.
func WriteLayout(ctx context.Context, dir string, img Image, ref string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("resolving the layout's folder: %w", err)
	}
	if err := replaceable(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fault.Inputf("output.unwritable", "creating the parent folder of the layout: %w", err)
	}
	sweep(dir)
	tmp, release, err := lockedTemp(dir)
	if err != nil {
		return fault.Inputf("output.unwritable", "writing the layout: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp), release()) }()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	l, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	var opts []layout.Option
	if ref != "" {
		opts = append(opts, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref}))
	}
	if img.Index != nil {
		err = l.AppendIndex(img.Index, opts...)
	} else {
		err = l.AppendImage(img.Single, opts...)
	}
	if err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return swap(tmp, dir)
}

// lockedTemp creates a temporary folder next to dir and locks it. The lock marks
// the folder as in use; the operating system releases it if the run dies.
func lockedTemp(dir string) (tmp string, release func() error, err error) {
	for {
		tmp, err := os.MkdirTemp(filepath.Dir(dir), prefix(dir))
		if err != nil {
			return "", nil, err
		}
		f, locked := lock(tmp)
		if locked {
			return tmp, f.Close, nil
		}
		// A concurrent run locked the folder first and is removing it: create another.
	}
}

// sweep removes the temporary folders of dead runs next to dir.
func sweep(dir string) {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), prefix(dir)+"*"))
	if err != nil {
		return // the name of the folder contains an unbalanced bracket
	}
	for _, tmp := range left {
		if f, locked := lock(tmp); locked {
			_ = os.RemoveAll(tmp) // if this fails, a later run retries
			_ = f.Close()
		}
	}
}

// prefix begins the names of the temporary folders for dir.
func prefix(dir string) string { return "." + filepath.Base(dir) + ".slipway-" }

// lock locks a folder without waiting, and reports whether it succeeded.
func lock(dir string) (*os.File, bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, false
	}
	if _, err := os.Stat(dir); err != nil { // swept between opening and locking
		_ = f.Close()
		return nil, false
	}
	return f, true
}

// replaceable returns an error if dir is neither missing, empty nor an OCI layout.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err == nil {
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err == nil {
			return nil
		}
		err = errors.New("it is not an OCI layout")
	}
	return fault.Inputf("output.occupied", "%s cannot be replaced: %w", dir, err).WithFix("choose a new or empty folder")
}

// swap replaces dir with tmp. If that fails, it restores dir.
func swap(tmp, dir string) error {
	old := tmp + ".old"
	err := os.Rename(dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing the layout: %w", err)
	}
	if renameErr := os.Rename(tmp, dir); renameErr != nil {
		if err == nil {
			renameErr = errors.Join(renameErr, os.Rename(old, dir))
		}
		return fmt.Errorf("replacing the layout: %w", renameErr)
	}
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("removing the old layout: %w", err)
	}
	return nil
}

// WriteArchive writes the image of one platform as an archive for docker load.
// An existing file is replaced atomically. WriteArchive returns a [fault.Input]
// error if the file cannot be created.
func WriteArchive(ctx context.Context, file string, img v1.Image, tag name.Tag) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fault.Inputf("output.unwritable", "creating the parent folder of the archive: %w", err)
	}
	f, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o644))
	if err != nil {
		return fault.Inputf("output.unwritable", "writing the archive: %w", err)
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if err := tarball.Write(tag, img, &cancelWriter{ctx, f}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("writing the archive %s: %w", file, err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("writing the archive %s: %w", file, err)
	}
	return nil
}

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// WriteLayout writes the image as an OCI layout folder
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)
// whose index.json names the image by the given reference name, if any. The
// folder is complete or as it was before; it returns a [fault.Input] error
// when something that is not a layout is in its place.
func WriteLayout(ctx context.Context, dir string, img Image, ref string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("resolving the layout's folder: %w", err)
	}
	if err := replaceable(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fault.Inputf("output.unwritable", "making a folder for the layout: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return fault.Inputf("output.unwritable", "writing the layout: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
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

func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err == nil {
		if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err == nil {
			return nil
		}
		err = errors.New("it holds something else than an OCI layout")
	}
	return fault.Inputf("output.occupied", "%s cannot be replaced: %w", dir, err).WithFix("name a new or empty folder")
}

// swap puts the finished folder in place.
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

// WriteArchive writes one platform's image as an archive for docker load. The
// file is complete or as it was before.
func WriteArchive(ctx context.Context, file string, img v1.Image, tag name.Tag) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fault.Inputf("output.unwritable", "making a folder for the archive: %w", err)
	}
	f, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o644))
	if err != nil {
		return fault.Inputf("output.unwritable", "writing the archive: %w", err)
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if err := tarball.Write(tag, img, &guard{ctx, f}); err != nil {
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

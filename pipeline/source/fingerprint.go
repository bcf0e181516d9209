package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// large is the size in bytes above which a fingerprint uses the size and the
// modification time of a file instead of its content.
const large = 8 << 20

// Fingerprint returns a hash of all files that the linters and the tests can
// read. If the fingerprint is unchanged, the results of the gates are too.
func (s *Source) Fingerprint(ctx context.Context) (string, error) {
	type entry struct{ file, sum string }
	var entries []*entry
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, dir := range s.Scope() {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			entries = append(entries, &entry{dir, "missing"})
			continue
		}
		err := visit(ctx, dir, func(file string, d fs.DirEntry) error {
			if d.IsDir() {
				return nil
			}
			e := &entry{file: file}
			entries = append(entries, e)
			g.Go(func() (err error) {
				e.sum, err = sumFile(file, d)
				return err
			})
			return nil
		})
		if err != nil {
			return "", errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	h := sha256.New()
	for _, e := range entries {
		rel, err := filepath.Rel(s.Dir, e.file)
		if err != nil {
			return "", fmt.Errorf("fingerprinting the source: %w", err)
		}
		fmt.Fprintf(h, "%q %s\n", filepath.ToSlash(rel), e.sum)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sumFile returns what a fingerprint records of a file.
func sumFile(file string, d fs.DirEntry) (string, error) {
	if d.Type()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(file)
		if err != nil {
			return "", fault.Inputf("source.unreadable", "reading the source: %w", err)
		}
		return "link " + target, nil
	}
	if !d.Type().IsRegular() {
		return d.Type().String(), nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fault.Inputf("source.unreadable", "reading the source: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", fault.Inputf("source.unreadable", "reading the source: %w", err)
	}
	if fi.Size() > large {
		return fmt.Sprintf("large %d %d", fi.Size(), fi.ModTime().UnixNano()), nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fault.Inputf("source.unreadable", "reading %s: %w", file, err)
	}
	return fmt.Sprintf("%x %t", h.Sum(nil), fi.Mode()&0o111 != 0), nil
}

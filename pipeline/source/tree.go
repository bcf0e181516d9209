package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"go/build"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// walk returns the app's files that are part of a build and adds the excluded
// ones to s.Excluded.
func (s *Source) walk(ctx context.Context, ignore *Ignore) ([]string, error) {
	var files []string
	err := visit(ctx, s.Dir, func(file string, d fs.DirEntry) error {
		if ignore.Match(file) {
			if d.IsDir() {
				return nil // a later pattern may include some of its files again
			}
			s.Excluded = append(s.Excluded, file)
			return nil
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			if err := s.checkLink(file); err != nil {
				return err
			}
			files = append(files, file)
		case d.Type().IsRegular():
			files = append(files, file)
		}
		return nil
	})
	return files, err
}

// visit walks a folder in lexical order. It skips .git and slipway's output.
func visit(ctx context.Context, dir string, fn func(file string, d fs.DirEntry) error) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fault.Inputf("source.unreadable", "reading the source: %w", err)
		case ctx.Err() != nil:
			return ctx.Err()
		case d.Name() == ".git" && file != dir, d.IsDir() && d.Name() == OutputDir:
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case file == dir:
			return nil
		}
		return fn(file, d)
	})
}

// checkLink returns an error if a symbolic link points outside the source tree.
// Its target is not part of the commit, so the same commit would give another
// image on another machine.
func (s *Source) checkLink(file string) error {
	target, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a dangling link adds no content to the image
	}
	if err != nil {
		return fault.Inputf("source.unreadable", "following a symbolic link: %w", err)
	}
	root, err := filepath.EvalSymlinks(s.Root)
	if err != nil {
		return fault.Inputf("source.unreadable", "resolving the root: %w", err)
	}
	if rel, err := filepath.Rel(root, target); err != nil || !filepath.IsLocal(rel) {
		shown, err := filepath.Rel(s.Root, file)
		if err != nil {
			shown = file
		}
		return fault.Inputf("source.link-leaves", "symbolic link %s points outside the source tree, to %s", shown, target).
			WithFix("replace the link with the file, or exclude it in %s", IgnoreFile)
	}
	return nil
}

// findMain sets s.Main to the configured main package, or to the only one.
func (s *Source) findMain(o Options, files []string) error {
	bc := build.Default
	bc.GOOS, bc.GOARCH, bc.CgoEnabled, bc.BuildTags = "linux", "amd64", true, o.Tags
	if o.Main != "" {
		dir := filepath.Join(s.Dir, filepath.FromSlash(strings.TrimPrefix(o.Main, s.Module)))
		rel, err := filepath.Rel(s.Dir, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return fault.Inputf("source.no-main", "main package %s is outside the module %s", o.Main, s.Module)
		}
		s.Main = dotted(rel)
		for _, f := range files {
			if filepath.Dir(f) == dir && isMain(&bc, f) {
				return nil
			}
		}
		return fault.Inputf("source.no-main", "%s is not a main package of %s", s.Main, s.Module).
			WithFix("%s", s.suggest(&bc, files))
	}
	mains := s.mains(&bc, files)
	if o.NoMain && len(mains) != 1 {
		return nil
	}
	switch len(mains) {
	case 0:
		return fault.Inputf("source.no-main", "module %s has no main package", s.Module).
			WithFix("slipway builds programs; set app.dir in slipway.yaml if the program is in another module")
	case 1:
		s.Main = mains[0]
		return nil
	default:
		return fault.Inputf("source.several-mains", "module %s has %d main packages", s.Module, len(mains)).
			WithFix("set app.main in slipway.yaml to one of %s", strings.Join(mains, ", "))
	}
}

// suggest returns a fix that lists the main packages of the module.
func (s *Source) suggest(bc *build.Context, files []string) string {
	if mains := s.mains(bc, files); len(mains) > 0 {
		return "set app.main in slipway.yaml to one of " + strings.Join(mains, ", ")
	}
	return "the module has no main package"
}

// Mains returns the sorted main packages of the module in o.Dir, relative to it.
// It returns the same errors as [Open] if the module cannot be read.
func Mains(ctx context.Context, o Options) ([]string, error) {
	s := Source{Root: o.Root, Dir: filepath.Join(o.Root, o.Dir)}
	if err := s.readModule(); err != nil {
		return nil, err
	}
	ignore, err := s.ignore()
	if err != nil {
		return nil, err
	}
	files, err := s.walk(ctx, ignore)
	if err != nil {
		return nil, err
	}
	bc := build.Default
	bc.GOOS, bc.GOARCH, bc.CgoEnabled, bc.BuildTags = "linux", "amd64", true, o.Tags
	return s.mains(&bc, files), nil
}

// mains returns the sorted main packages among the files of the module.
func (s *Source) mains(bc *build.Context, files []string) []string {
	nested := map[string]bool{}
	for _, f := range files {
		if filepath.Base(f) == "go.mod" && filepath.Dir(f) != s.Dir {
			nested[filepath.Dir(f)] = true
		}
	}
	var mains []string
	seen := map[string]bool{}
	for _, f := range files {
		dir := filepath.Dir(f)
		if seen[dir] || !strings.HasSuffix(f, ".go") || s.outOfModule(dir, nested) || !isMain(bc, f) {
			continue
		}
		seen[dir] = true
		if rel, err := filepath.Rel(s.Dir, dir); err == nil {
			mains = append(mains, dotted(rel))
		}
	}
	slices.Sort(mains)
	return mains
}

// outOfModule reports whether the pattern ./... does not match a folder
// (https://pkg.go.dev/cmd/go#hdr-Package_lists_and_patterns).
func (s *Source) outOfModule(dir string, nested map[string]bool) bool {
	for ; dir != s.Dir && len(dir) > len(s.Dir); dir = filepath.Dir(dir) {
		name := filepath.Base(dir)
		if nested[dir] || name == "vendor" || name == "testdata" || name[0] == '.' || name[0] == '_' {
			return true
		}
	}
	return false
}

// isMain reports whether a file belongs to a main package for the platform and
// tags of bc. Test files do not count.
func isMain(bc *build.Context, file string) bool {
	if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
		return false
	}
	if ok, err := bc.MatchFile(filepath.Dir(file), filepath.Base(file)); err != nil || !ok {
		return false
	}
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly)
	return err == nil && f.Name.Name == "main"
}

// dotted returns a relative folder in the form of a package pattern, for example
// "./cmd/x".
func dotted(rel string) string {
	if rel == "." {
		return "."
	}
	return "./" + filepath.ToSlash(rel)
}

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
	for _, dir := range s.scope {
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

package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// link is a symbolic link through which a build can read files that are not in the
// scope.
type link struct {
	file   string // the link, absolute
	target string // absolute, without symbolic links
	dir    bool   // whether the target is a folder
}

// walk finds the files that the ignore file excludes, which it adds to s.Excluded, and
// returns the symbolic links through which a build can read other files.
func (s *Source) walk(ctx context.Context, ignore *Ignore) ([]link, error) {
	var links []link
	for _, dir := range outermost(s.scope) {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			continue // the go command reports it if it is needed
		}
		err := visit(ctx, dir, func(file string, d fs.DirEntry) error {
			switch {
			case ignore.Match(file):
				if !d.IsDir() { // a later pattern may include some files of a folder again
					s.Excluded = append(s.Excluded, file)
				}
			case d.Type()&fs.ModeSymlink != 0:
				if l, ok := s.follow(dir, file); ok {
					links = append(links, l)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return links, nil
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
		case file == dir && d.IsDir():
			return nil
		}
		return fn(file, d)
	})
}

// follow returns the link at file, which is below dir. ok is false if the go command
// reads nothing through the link: because of the link's name or place, because the
// target is not a folder or a source file, or because it is in the scope anyway.
func (s *Source) follow(dir, file string) (l link, ok bool) {
	rel, err := filepath.Rel(dir, file)
	if err != nil {
		return link{}, false
	}
	// The go command ignores these folders
	// (https://pkg.go.dev/cmd/go#hdr-Package_lists_and_patterns).
	for name := range strings.SplitSeq(filepath.ToSlash(rel), "/") {
		if name[0] == '.' || name[0] == '_' || name == "testdata" {
			return link{}, false
		}
	}
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return link{}, false // a dangling link adds nothing to an image
	}
	fi, err := os.Stat(target)
	if err != nil || !fi.IsDir() && (!fi.Mode().IsRegular() || !isSource(file)) || s.inScope(target) {
		return link{}, false
	}
	return link{file, target, fi.IsDir()}, true
}

// isSource reports whether the go command reads a file with that name
// (https://pkg.go.dev/cmd/go#hdr-File_types).
func isSource(file string) bool {
	switch filepath.Ext(file) {
	case ".go", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".m", ".s", ".S", ".sx", ".f", ".F", ".for", ".f90", ".syso", ".swig", ".swigcxx",
		".mod", ".sum":
		return true
	}
	return false
}

// resolveLinks adds to the scope what the program reads through links. A target outside
// the repository is an error: it is not part of the commit, so the same commit would
// give another image on another machine.
func (s *Source) resolveLinks(ctx context.Context, o Options, links []link) error {
	for _, l := range links {
		if isBelow(s.Top, l.target) {
			s.linked = append(s.linked, l.target)
		}
	}
	if len(links) == 0 || o.NoMain || o.Go == nil {
		return nil
	}
	used, err := s.reads(ctx, o, links)
	if err != nil {
		return err
	}
	for _, l := range used {
		if isBelow(s.Top, l.target) {
			s.scope = append(s.scope, l.target)
			continue
		}
		shown, err := filepath.Rel(s.Root, l.file)
		if err != nil {
			shown = l.file
		}
		return fault.Inputf("source.link-leaves", "the program is built from files outside the repository: symbolic link %s points to %s", shown, l.target).
			WithFix("replace the link with what it points to, or exclude it in %s", IgnoreFile)
	}
	return nil
}

// outermost returns the sorted paths without those below others.
func outermost(paths []string) []string {
	var all []string
	for _, path := range slices.Compact(slices.Sorted(slices.Values(paths))) {
		if !slices.ContainsFunc(all, func(other string) bool { return isBelow(other, path) }) {
			all = append(all, path)
		}
	}
	return all
}

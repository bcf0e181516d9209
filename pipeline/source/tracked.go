package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tracked returns the absolute paths of the files at or below the given absolute paths
// that git tracks, those in submodules included. The value is false for a file whose
// changes git has been told to ignore (git update-index --assume-unchanged or
// --skip-worktree). Paths outside the work tree are ignored.
func (r *Repository) Tracked(ctx context.Context, paths ...string) (map[string]bool, error) {
	inside := r.relative(paths)
	files := map[string]bool{}
	if len(inside) == 0 {
		return files, nil
	}
	if r.git == "" {
		return files, r.libraryTracked(files, inside)
	}
	args := []string{"ls-files", "-z", "-v", "--recurse-submodules", "--"}
	if !slices.Contains(inside, ".") {
		args = append(args, inside...) // pathspecs are literal, see environ
	}
	out, err := r.git.output(ctx, r.Top, nil, args...)
	if err != nil {
		return nil, unreadable("listing the tracked files of", r.Top, err)
	}
	for entry := range strings.SplitSeq(string(out), "\x00") {
		if tag, name, ok := strings.Cut(entry, " "); ok {
			files[filepath.Join(r.Top, filepath.FromSlash(name))] = tag == "H"
		}
	}
	return files, nil
}

func (r *Repository) libraryTracked(files map[string]bool, inside []string) error {
	repo, err := libraryRepository(r.dir)
	if err != nil {
		return err
	}
	index, err := repo.Storer.Index()
	if err != nil {
		return needsGit("reading the index of", r.Top, err)
	}
	for _, e := range index.Entries {
		for _, p := range inside {
			if isBelow(p, filepath.FromSlash(e.Name)) {
				files[filepath.Join(r.Top, filepath.FromSlash(e.Name))] = !e.SkipWorktree
			}
		}
	}
	return nil
}

// NotCommitted returns the files at or below the given absolute paths that no commit
// determines: files that git does not track, because they are new or ignored, files whose
// changes git ignores, and files outside the repository, to which symbolic links lead too.
// It does not return tracked files with changes; see [Repository.Changes]. The result is
// sorted, relative to the work tree where possible, and has up to ten files.
func (r *Repository) NotCommitted(ctx context.Context, paths ...string) ([]string, error) {
	files := map[string]bool{} // what is read
	seen := map[string]bool{}  // paths that were searched
	for _, p := range paths {
		if err := reach(ctx, p, files, seen); err != nil {
			return nil, err
		}
	}
	tracked, err := r.Tracked(ctx, r.Top)
	if err != nil {
		return nil, err
	}
	var out []string
	for file := range files {
		if tracked[file] {
			continue
		}
		if rel, err := filepath.Rel(r.Top, file); err == nil && filepath.IsLocal(rel) {
			file = filepath.ToSlash(rel)
		}
		out = append(out, file)
	}
	slices.Sort(out)
	return out[:min(len(out), 10)], nil
}

// Escape returns a file at or below a path to which a symbolic link leads out of the folder
// top, or "" if there is none. What such a file has is in no repository, but what reads the
// folder reads it too. Both paths are absolute.
func Escape(ctx context.Context, top, path string) (string, error) {
	files := map[string]bool{}
	if err := reach(ctx, path, files, map[string]bool{}); err != nil {
		return "", err
	}
	inside, err := filepath.EvalSymlinks(top)
	if err != nil {
		return "", unreadable("resolving", top, err)
	}
	for file := range files {
		if !isBelow(inside, file) {
			return file, nil
		}
	}
	return "", nil
}

// reach adds the files at or below a path to files, and those to which symbolic links
// lead.
func reach(ctx context.Context, path string, files, seen map[string]bool) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return unreadable("reading", path, err)
	}
	return filepath.WalkDir(filepath.Join(dir, filepath.Base(path)), func(file string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return unreadable("reading", file, err)
		case ctx.Err() != nil:
			return ctx.Err()
		case seen[file]:
			return skipped(d)
		}
		seen[file] = true
		if d.IsDir() {
			return nil
		}
		files[file] = true
		if d.Type()&fs.ModeSymlink == 0 {
			return nil
		}
		target, err := os.Readlink(file)
		if err != nil {
			return unreadable("reading", file, err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(file), target)
		}
		if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
			return nil // whatever reads it reports that
		}
		return reach(ctx, target, files, seen)
	})
}

// skipped returns the error that makes a walk leave out an entry.
func skipped(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// stampGit reads the revision and the time from the git repository that contains
// the app. It does not run the git program, so that it also works in container
// images without git.
func (s *Source) stampGit(ctx context.Context, ignore *Ignore) error {
	s.Time = time.Unix(0, 0).UTC()
	repo, err := repository(s.Dir)
	if err != nil {
		return err
	}
	if repo == nil {
		progress.Warnf(ctx, "no git repository: version is %s and time is %s", Unversioned, s.Time.Format(time.DateOnly))
		return nil
	}
	head, err := repo.Head()
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		progress.Warnf(ctx, "no commit yet: version is %s and time is %s", Unversioned, s.Time.Format(time.DateOnly))
		return nil
	}
	if err != nil {
		return unreadable("reading HEAD of", s.Dir, err)
	}
	commit, err := repo.CommitObject(head.Hash())
	if err != nil {
		return unreadable("reading the commit of", s.Dir, err)
	}
	s.Revision = head.Hash().String()
	s.Time = commit.Committer.When.UTC()
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.compare(repo, ignore)
}

// repository opens the git repository that contains dir. It returns nil if there
// is none.
func repository(dir string) (*git.Repository, error) {
	repo, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable("opening the git repository of", dir, err)
	}
	return repo, nil
}

// compare sets s.Changed to the app's files that differ from the commit. Files
// that are excluded or outside the app do not count, because they cannot change
// the image.
func (s *Source) compare(repo *git.Repository, ignore *Ignore) error {
	tree, err := repo.Worktree()
	if errors.Is(err, git.ErrIsBareRepository) {
		return nil
	}
	if err != nil {
		return unreadable("reading the work tree of", s.Dir, err)
	}
	root := osfs.New(string(filepath.Separator))
	for _, load := range []func() ([]gitignore.Pattern, error){
		func() ([]gitignore.Pattern, error) { return gitignore.LoadGlobalPatterns(root) },
		func() ([]gitignore.Pattern, error) { return gitignore.LoadSystemPatterns(root) },
	} {
		if patterns, err := load(); err == nil { // a broken git configuration of the user must not fail a build
			tree.Excludes = append(tree.Excludes, patterns...)
		}
	}
	status, err := tree.Status()
	if err != nil {
		return unreadable("comparing the files with the commit in", s.Dir, err)
	}
	top, err := filepath.EvalSymlinks(tree.Filesystem.Root())
	if err != nil {
		return unreadable("resolving", tree.Filesystem.Root(), err)
	}
	dir, err := filepath.EvalSymlinks(s.Dir)
	if err != nil {
		return unreadable("resolving", s.Dir, err)
	}
	for name, st := range status {
		if st.Worktree == git.Unmodified && st.Staging == git.Unmodified {
			continue
		}
		file := filepath.Join(top, filepath.FromSlash(name))
		if rel, err := filepath.Rel(dir, file); err == nil && filepath.IsLocal(rel) {
			file = filepath.Join(s.Dir, rel)
		}
		if !s.inScope(file) || ignore.Match(file) || strings.HasPrefix(file, filepath.Join(s.Root, OutputDir)+string(filepath.Separator)) {
			continue
		}
		s.Changed = append(s.Changed, name)
	}
	slices.Sort(s.Changed)
	s.Dirty = len(s.Changed) > 0
	if more := len(s.Changed) - 10; more > 0 {
		s.Changed = append(s.Changed[:10], "...")
	}
	return nil
}

func unreadable(doing, what string, err error) error {
	e := fault.Inputf("source.unreadable", "%s %s: %w", doing, what, err)
	if errors.Is(err, os.ErrPermission) {
		return e
	}
	return e.WithFix("to build without reading the git repository, pass the commit with --revision")
}

// Tags returns the sorted names of the tags that point at the commit checked out
// in the git repository that contains dir, annotated tags included. If there is
// no repository, found is false.
func Tags(dir string) (tags []string, found bool, err error) {
	repo, err := repository(dir)
	if repo == nil {
		return nil, false, err
	}
	head, err := repo.Head()
	if err != nil {
		return nil, true, unreadable("reading HEAD of", dir, err)
	}
	refs, err := repo.Tags()
	if err != nil {
		return nil, true, unreadable("reading the tags of", dir, err)
	}
	err = refs.ForEach(func(r *plumbing.Reference) error {
		at := r.Hash()
		if annotated, err := repo.TagObject(at); err == nil {
			at = annotated.Target
		}
		if at == head.Hash() {
			tags = append(tags, r.Name().Short())
		}
		return nil
	})
	if err != nil {
		return nil, true, unreadable("reading the tags of", dir, err)
	}
	slices.Sort(tags)
	return tags, true, nil
}

// Changes returns up to ten files that differ from the commit, in the whole git
// repository that contains dir. Without a repository it returns nil.
func Changes(dir string) ([]string, error) {
	repo, err := repository(dir)
	if repo == nil {
		return nil, err
	}
	tree, err := repo.Worktree()
	if err != nil {
		return nil, unreadable("reading the work tree of", dir, err)
	}
	status, err := tree.Status()
	if err != nil {
		return nil, unreadable("comparing the files with the commit in", dir, err)
	}
	var changed []string
	for file, st := range status {
		if st.Worktree != git.Unmodified || st.Staging != git.Unmodified {
			changed = append(changed, file)
		}
	}
	slices.Sort(changed)
	return changed[:min(len(changed), 10)], nil
}

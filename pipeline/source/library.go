package source

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// openLibrary opens the repository that contains dir with the library go-git.
func openLibrary(dir string) (*Repository, error) {
	repo, err := libraryRepository(dir)
	if repo == nil {
		return nil, err
	}
	tree, err := repo.Worktree()
	if errors.Is(err, gogit.ErrIsBareRepository) {
		return nil, nil
	}
	if err != nil {
		return nil, needsGit("reading the work tree of", dir, err)
	}
	top, err := filepath.EvalSymlinks(tree.Filesystem.Root())
	if err != nil {
		return nil, unreadable("resolving", tree.Filesystem.Root(), err)
	}
	return &Repository{Top: top, dir: dir}, nil
}

func libraryRepository(dir string) (*gogit.Repository, error) {
	repo, err := gogit.PlainOpenWithOptions(dir, &gogit.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, gogit.ErrRepositoryNotExists) {
		return nil, nil
	}
	if err != nil {
		return nil, needsGit("opening the git repository of", dir, err)
	}
	return repo, nil
}

// needsGit returns the error for what the library cannot read.
func needsGit(doing, what string, err error) error {
	return fault.Inputf("source.unreadable", "%s %s without the git program: %w", doing, what, err).WithFix("install git, or pass the commit with --revision")
}

func (r *Repository) libraryStatus() (commit, []string, error) {
	repo, err := libraryRepository(r.dir)
	if err != nil {
		return commit{}, nil, err
	}
	var c commit
	switch head, err := repo.Head(); {
	case errors.Is(err, plumbing.ErrReferenceNotFound): // no commit yet
	case err != nil:
		return commit{}, nil, needsGit("reading HEAD of", r.Top, err)
	default:
		object, err := repo.CommitObject(head.Hash())
		if err != nil {
			return commit{}, nil, needsGit("reading the commit of", r.Top, err)
		}
		c = commit{head.Hash().String(), object.Committer.When.UTC()}
	}
	tree, err := repo.Worktree()
	if err != nil {
		return commit{}, nil, needsGit("reading the work tree of", r.Top, err)
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
	st, err := tree.Status()
	if err != nil {
		return commit{}, nil, needsGit("comparing the files with the commit in", r.Top, err)
	}
	var changed []string
	for name, s := range st {
		if s.Worktree != gogit.Unmodified || s.Staging != gogit.Unmodified {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	if len(changed) > 0 {
		// What the library takes for a change may be none.
		if err := r.undecidable(repo); err != nil {
			return commit{}, nil, needsGit("comparing the files with the commit in", r.Top, err)
		}
	}
	return c, changed, nil
}

// undecidable returns an error if the library cannot decide which files have changed,
// because it does not support what the repository uses.
func (r *Repository) undecidable(repo *gogit.Repository) error {
	if fi, err := os.Lstat(filepath.Join(r.Top, ".git")); err == nil && !fi.IsDir() {
		return errors.New("it is a linked work tree or a submodule")
	}
	for _, name := range []string{"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_COUNT"} {
		if os.Getenv(name) != "" {
			return errors.New(name + " is set")
		}
	}
	for _, load := range []func() (*config.Config, error){
		repo.Config,
		func() (*config.Config, error) { return config.LoadConfig(config.GlobalScope) },
		func() (*config.Config, error) { return config.LoadConfig(config.SystemScope) },
	} {
		cfg, err := load()
		if err != nil {
			return err
		}
		core := cfg.Raw.Section("core")
		for _, name := range []string{"autocrlf", "eol", "filemode", "attributesfile", "sparsecheckout", "ignorecase"} {
			switch value := strings.ToLower(core.Option(name)); {
			case value == "", name == "filemode" && value == "true", value == "false" && name != "filemode":
			default:
				return errors.New("the configuration of git sets core." + name)
			}
		}
	}
	index, err := repo.Storer.Index()
	if err != nil {
		return err
	}
	for _, e := range index.Entries {
		switch {
		case e.SkipWorktree:
			return errors.New("a file is marked skip-worktree")
		case e.Mode == filemode.Submodule:
			return errors.New("it has submodules")
		case filepath.Base(e.Name) == ".gitattributes" && attributes(filepath.Join(r.Top, e.Name)):
			return errors.New("its .gitattributes convert files")
		}
	}
	if attributes(filepath.Join(r.Top, ".git", "info", "attributes")) {
		return errors.New("its .git/info/attributes convert files")
	}
	return nil
}

// attributes reports whether a file of attributes may convert the content of files
// (https://git-scm.com/docs/gitattributes). A file that cannot be read may do so.
func attributes(file string) bool {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		for field := range strings.FieldsSeq(lines.Text()) {
			name, _, _ := strings.Cut(strings.TrimLeft(field, "-!"), "=")
			switch name {
			case "text", "eol", "crlf", "filter", "ident", "working-tree-encoding", "binary":
				return true
			}
		}
	}
	return false
}

func (r *Repository) libraryTags() ([]string, error) {
	repo, err := libraryRepository(r.dir)
	if err != nil {
		return nil, err
	}
	head, err := repo.Head()
	if err != nil {
		return nil, needsGit("reading HEAD of", r.Top, err)
	}
	refs, err := repo.Tags()
	if err != nil {
		return nil, needsGit("reading the tags of", r.Top, err)
	}
	var tags []string
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		at := ref.Hash()
		if annotated, err := repo.TagObject(at); err == nil {
			at = annotated.Target
		}
		if at == head.Hash() {
			tags = append(tags, ref.Name().Short())
		}
		return nil
	})
	if err != nil {
		return nil, needsGit("reading the tags of", r.Top, err)
	}
	slices.Sort(tags)
	return tags, nil
}

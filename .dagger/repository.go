package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"dagger/slipway/internal/dagger"
	"dagger/slipway/scope"
)

// repository is the caller's source: the workspace in which dagger is called, of which
// only what is selected is uploaded, or a directory that the caller gives.
type repository struct {
	ws  *dagger.Workspace
	dir *dagger.Directory
}

func (r repository) files(f scope.Filter) *dagger.Directory {
	if r.dir != nil {
		return r.dir.Filter(dagger.DirectoryFilterOpts{Include: f.Include, Exclude: f.Exclude, Gitignore: f.Unignored})
	}
	return r.ws.Directory("/", dagger.WorkspaceDirectoryOpts{Include: f.Include, Exclude: f.Exclude, Gitignore: f.Unignored})
}

// place is where the app is, as the caller says.
type place struct {
	config string // path of slipway.yaml; empty: the nearest one
	dir    string // the app's folder, from the folder of slipway.yaml; empty: what slipway.yaml says
}

// read finds slipway.yaml and the small files that determine what else is needed.
func (r repository) read(ctx context.Context, at place) (scope.Files, error) {
	f := scope.Files{Modules: map[string][]byte{}}
	var err error
	if f.Config, err = r.find(ctx, at.config); err != nil {
		return f, err
	}
	f.Root = path.Dir(f.Config)
	// The app is usually in the folder of slipway.yaml; then one query is enough.
	first, err := r.contents(ctx, append(appFiles(f.Root), f.Config, ".git")...)
	if err != nil {
		return f, err
	}
	f.Versioned, f.Link = first.has(".git"), string(first[".git"])
	f.Found = first.has(f.Config)
	if !f.Found && at.config != "" {
		return f, fmt.Errorf("there is no %s in the repository", f.Config)
	}
	f.Settings = scope.Read(first[f.Config])
	if at.dir != "" {
		f.Settings.App.Dir = at.dir
	}
	f.RootIgnore = first[path.Join(f.Root, scope.IgnoreFile)]
	f.App = path.Join(f.Root, f.Settings.App.Dir)
	if !filepath.IsLocal(f.App) {
		return f, fmt.Errorf("the app's folder %q leaves the repository", f.Settings.App.Dir)
	}
	second := first
	if f.App != f.Root {
		if second, err = r.contents(ctx, appFiles(f.App)...); err != nil {
			return f, err
		}
		f.Ignore = second[path.Join(f.App, scope.IgnoreFile)]
	}
	if mod := path.Join(f.App, "go.mod"); second.has(mod) {
		f.Modules[f.App] = second[mod]
	}
	for dir := f.App; ; dir = path.Dir(dir) {
		if work := path.Join(dir, "go.work"); second.has(work) {
			f.Workspace, f.Work = dir, second[work]
			return f, r.readModules(ctx, &f)
		}
		if dir == "." {
			return f, nil
		}
	}
}

// readModules reads the go.mod files of the modules in go.work, whose replace directives
// apply too.
func (r repository) readModules(ctx context.Context, f *scope.Files) error {
	var names []string
	for _, use := range scope.Uses(f.Work) {
		if name := path.Join(f.Workspace, use, "go.mod"); !path.IsAbs(use) && filepath.IsLocal(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	found, err := r.contents(ctx, names...)
	for name, module := range found {
		f.Modules[path.Dir(name)] = module
	}
	return err
}

// appFiles are the small files of an app that determine what else it needs. The go
// command searches for go.work from the app's folder upwards.
func appFiles(app string) []string {
	names := []string{path.Join(app, scope.IgnoreFile), path.Join(app, "go.mod")}
	for dir := app; ; dir = path.Dir(dir) {
		names = append(names, path.Join(dir, "go.work"))
		if dir == "." {
			return names
		}
	}
}

// find returns the path of slipway.yaml from the root of the repository, or the path
// that it would have if there is none: in the folder in which dagger is called.
func (r repository) find(ctx context.Context, config string) (string, error) {
	const name = "slipway.yaml"
	here := "."
	if r.dir == nil {
		var err error
		if here, err = r.ws.Path(ctx); err != nil {
			return "", fmt.Errorf("finding the current folder in the repository: %w", err)
		}
	}
	if config != "" {
		found := path.Join(here, config)
		if path.IsAbs(config) {
			found = strings.TrimPrefix(path.Clean(config), "/")
		}
		if !filepath.IsLocal(found) {
			return "", fmt.Errorf("--config %s leaves the repository", config)
		}
		return found, nil
	}
	if r.dir != nil {
		return name, nil
	}
	found, err := r.ws.FindUp(ctx, name)
	if err != nil {
		return "", fmt.Errorf("looking for %s: %w", name, err)
	}
	if found == "" {
		return path.Join(here, name), nil
	}
	return strings.TrimPrefix(found, "/"), nil
}

// found holds the contents of files by path. A folder has no contents.
type found map[string][]byte

func (f found) has(name string) bool {
	_, ok := f[name]
	return ok
}

// contents reads those of the files that exist. It uploads nothing else.
func (r repository) contents(ctx context.Context, names ...string) (found, error) {
	dir := r.files(scope.Filter{Include: names, Exclude: []string{"**/.git/**"}})
	there, err := dir.Glob(ctx, "**")
	if err != nil {
		return nil, fmt.Errorf("reading the repository: %w", err)
	}
	contents := found{}
	var lock sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range names {
		if slices.Contains(there, name+"/") {
			contents[name] = nil
		}
	}
	for _, name := range names {
		if !slices.Contains(there, name) {
			continue
		}
		g.Go(func() error {
			text, err := dir.File(name).Contents(gctx)
			if err != nil {
				return fmt.Errorf("reading %s: %w", name, err)
			}
			lock.Lock()
			defer lock.Unlock()
			contents[name] = []byte(text)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return contents, nil
}

// history selects what is needed of git's folder, as it would be in the repository.
// elsewhere is that folder if it is not in the repository: of a linked work tree the
// folder of the main one, of a submodule its own.
func (r repository) history(ctx context.Context, f scope.Files, elsewhere *dagger.Directory) (*dagger.Directory, error) {
	if elsewhere == nil {
		return r.files(scope.Git(".git", f.References()...)).Directory(".git"), nil
	}
	include := scope.Git(".", f.References()...).Include
	all := elsewhere.Filter(dagger.DirectoryFilterOpts{Include: include})
	_, at, isLink := strings.Cut(f.Link, "gitdir:")
	if !isLink {
		return all, nil
	}
	// HEAD and index of a linked work tree are in a folder of its own.
	own := path.Join("worktrees", path.Base(strings.TrimSpace(at)))
	linked, err := elsewhere.Exists(ctx, own)
	if err != nil {
		return nil, fmt.Errorf("reading --git-dir: %w", err)
	}
	if linked {
		return all.WithDirectory("/", elsewhere.Directory(own), dagger.DirectoryWithDirectoryOpts{Include: include}), nil
	}
	if there, err := all.Exists(ctx, "HEAD"); err != nil || !there {
		return nil, errors.Join(err, errors.New("--git-dir is not git's folder of this repository: give $(git rev-parse --git-common-dir)"))
	}
	return all, nil
}

// withSubmodules adds git's folders of submodules to that of the repository, each at its
// path below modules.
func (r repository) withSubmodules(git *dagger.Directory, modules []scope.Submodule, elsewhere *dagger.Directory) *dagger.Directory {
	for _, m := range modules {
		var dir *dagger.Directory
		switch {
		case !m.Inside:
			dir = r.files(scope.Git(m.Dir)).WithNewDirectory(m.Dir).Directory(m.Dir)
		case elsewhere != nil:
			dir = elsewhere.Filter(dagger.DirectoryFilterOpts{Include: scope.Git(m.Dir).Include}).WithNewDirectory(m.Dir).Directory(m.Dir)
		default:
			at := path.Join(".git", m.Dir)
			dir = r.files(scope.Git(at)).WithNewDirectory(at).Directory(at)
		}
		git = git.WithDirectory(path.Join("modules", m.Path), dir)
	}
	return git
}

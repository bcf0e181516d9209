package main

import (
	"context"
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
		return r.dir.Filter(dagger.DirectoryFilterOpts{Include: f.Include, Exclude: f.Exclude})
	}
	return r.ws.Directory("/", dagger.WorkspaceDirectoryOpts{Include: f.Include, Exclude: f.Exclude})
}

// read finds slipway.yaml and the small files that determine what else is needed.
func (r repository) read(ctx context.Context, config string) (scope.Files, error) {
	var f scope.Files
	var err error
	if f.Config, err = r.find(ctx, config); err != nil {
		return f, err
	}
	f.Root = path.Dir(f.Config)
	// The app is usually in the folder of slipway.yaml; then one query is enough.
	first, err := r.contents(ctx, append(appFiles(f.Root, f.Root), f.Config, ".git")...)
	if err != nil {
		return f, err
	}
	_, f.Linked = first[".git"] // a folder has no contents
	var data []byte
	data, f.Found = first[f.Config]
	if !f.Found && config != "" {
		return f, fmt.Errorf("there is no %s in the repository", config)
	}
	f.Settings = scope.Read(data)
	f.RootIgnore = first[path.Join(f.Root, scope.IgnoreFile)]
	f.App = path.Join(f.Root, f.Settings.App.Dir)
	if !filepath.IsLocal(f.App) {
		return f, fmt.Errorf("app.dir %q leaves the repository", f.Settings.App.Dir)
	}
	second, names := first, appFiles(f.App, f.Root)
	if f.App != f.Root {
		if second, err = r.contents(ctx, names...); err != nil {
			return f, err
		}
		f.Ignore = second[path.Join(f.App, scope.IgnoreFile)]
	}
	f.Module = second[path.Join(f.App, "go.mod")]
	for _, name := range names {
		if _, ok := second[name]; ok && path.Base(name) == "go.work" {
			f.Workspace = path.Dir(name)
			break
		}
	}
	return f, nil
}

// appFiles are the small files of an app that determine what else it needs. go.work is
// searched for from the app's folder up to root, as the program does.
func appFiles(app, root string) []string {
	names := []string{path.Join(app, scope.IgnoreFile), path.Join(app, "go.mod")}
	for dir := app; ; dir = path.Dir(dir) {
		names = append(names, path.Join(dir, "go.work"))
		if dir == "." || dir == root {
			return names
		}
	}
}

// find returns the path of slipway.yaml from the root of the repository, or the path
// that it would have if there is none.
func (r repository) find(ctx context.Context, config string) (string, error) {
	const name = "slipway.yaml"
	if config != "" || r.dir != nil {
		if config == "" {
			config = name
		}
		config = path.Clean(strings.TrimPrefix(config, "/"))
		if !filepath.IsLocal(config) {
			return "", fmt.Errorf("--config %s leaves the repository", config)
		}
		return config, nil
	}
	found, err := r.ws.FindUp(ctx, name)
	if err != nil {
		return "", fmt.Errorf("looking for %s: %w", name, err)
	}
	if found == "" {
		return name, nil
	}
	return strings.TrimPrefix(found, "/"), nil
}

// contents reads those of the files that exist. It uploads nothing else.
func (r repository) contents(ctx context.Context, names ...string) (map[string][]byte, error) {
	dir := r.files(scope.Filter{Include: names, Exclude: []string{".git/**"}})
	there, err := dir.Glob(ctx, "**")
	if err != nil {
		return nil, fmt.Errorf("reading the repository: %w", err)
	}
	contents := map[string][]byte{}
	var lock sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
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

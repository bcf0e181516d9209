package ship

import (
	"context"
	"os"
	"path/filepath"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// OpenSource reads the source of the app. builds is whether the program is built, which needs
// a main package.
func (o Options) OpenSource(ctx context.Context, builds bool) (source.Source, error) {
	s, err := SourceOptions(ctx, o.Root, o.Config.App)
	if err != nil {
		return source.Source{}, err
	}
	s.Version, s.Revision, s.Epoch, s.Top, s.NoMain = o.Version, o.Revision, o.Epoch, o.Top, !builds
	return source.Open(ctx, s)
}

// SourceOptions returns the options to read the source of an app, with its toolchain.
// Root is the folder of slipway.yaml.
//
// It returns the errors of [toolchain.Find], together with options for [source.Open]
// that have no toolchain.
func SourceOptions(ctx context.Context, root string, app config.App) (source.Options, error) {
	o := source.Options{Root: root, Dir: app.Dir, Main: app.Main, Name: app.Name, Tags: app.Tags, Env: toolchain.Environ(app.Env)}
	dir := filepath.Join(root, app.Dir)
	if fi, _ := os.Stat(filepath.Join(dir, "go.mod")); fi == nil {
		return o, nil // source.Open reports it, with a fix
	}
	var err error
	o.Go, err = toolchain.Find(ctx, dir, app.Toolchain, o.Env...)
	return o, err
}

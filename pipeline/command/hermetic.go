package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/slipway-ci/slipway/pipeline/cache"
)

// hermeticFlag adds the flag for a run without caches.
func hermeticFlag(r *request, f *pflag.FlagSet) {
	f.BoolVar(&r.hermetic, "hermetic", false, "use nothing that another run has left on this machine: neither slipway's cache nor those of the go command (default: true in CI for a protected branch or tag)")
	r.hermeticDefault = func() bool { return !f.Changed("hermetic") }
}

// isHermetic reports whether the run must not use caches.
func (a *app) isHermetic(r *request) bool {
	if r.hermeticDefault == nil || !r.hermeticDefault() {
		return r.hermetic
	}
	return a.system.Protected()
}

// withoutCaches gives the run empty caches of its own, which the returned function
// removes. The embedded registry and the key of this machine, which are no caches, stay
// where they are.
func withoutCaches(r *request) (remove func() error, err error) {
	work, err := r.Cache.Run()
	if err != nil {
		return nil, err
	}
	r.Kept, r.Cache = r.Cache, cache.Dir(filepath.Join(work.Dir, "slipway"))
	for name, folder := range map[string]string{"GOCACHE": "go-build", "GOMODCACHE": "mod", "SLIPWAY_CACHE": "slipway"} {
		path := filepath.Join(work.Dir, folder)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Setenv(name, path)); err != nil {
			return nil, errors.Join(fmt.Errorf("making an empty cache: %w", err), work.Close())
		}
	}
	return func() error { return errors.Join(makeWritable(work.Dir), work.Close()) }, nil
}

// makeWritable makes the folders below dir writable, because the go command makes those in
// its cache of modules read-only.
func makeWritable(dir string) error {
	root, err := os.OpenRoot(dir) // links that tests have left lead nowhere
	if err != nil {
		return fmt.Errorf("removing the caches of this run: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = root.Chmod(path, 0o700)
		}
		if err != nil {
			return fmt.Errorf("removing the caches of this run: %w", err)
		}
		return nil
	})
}

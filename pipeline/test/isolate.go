package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Isolation keeps tests from writing what a later build reads, and from reading
// credentials. The tests run in a sandbox and on a copy of the source, and the go command
// has a cache of its own for them.
type Isolation struct {
	Program string    // path of the slipway program, which enters the sandbox
	Top     string    // root of the repository, without symbolic links
	Copied  []string  // folders below Top that the tests get a copy of
	Skip    string    // name of folders that are not copied
	Hidden  []string  // folders and files that the tests must not read
	Secret  []string  // files in Top that the tests must not read, without symbolic links
	Cache   cache.Dir // for the lock and the records of the copy
}

// place is where the tests run.
type place struct {
	dir  string // folder of the module
	env  []string
	run  string // a folder that the tests can write to, for this run
	top  string // root of the repository
	from string // what top is a copy of, or the same
	box  *sandbox.Sandbox
	free func()
}

// place prepares where the tests run. Without isolation that is the source itself.
func (o Options) place(ctx context.Context, tmp string) (place, error) {
	run := filepath.Join(tmp, "run")
	home := filepath.Join(run, "home")
	err := errors.Join(toolchain.MakeHome(home), os.Mkdir(filepath.Join(run, "tmp"), 0o700))
	if err != nil {
		return place{}, fmt.Errorf("creating a temporary folder for the tests: %w", err)
	}
	// A go command that is killed cannot remove its temporary folders, so they are
	// created in tmp. The tests do not see the home folder of the user.
	env := []string{"GOTMPDIR=" + run, "TMPDIR=" + filepath.Join(run, "tmp"), "HOME=" + home}
	if o.Isolation == nil {
		return place{dir: o.Dir, env: env, run: run, top: o.Dir, from: o.Dir, free: func() {}}, nil
	}
	return o.isolated(ctx, run, env)
}

// isolated makes the copy of the source and the sandbox.
func (o Options) isolated(ctx context.Context, run string, env []string) (_ place, err error) {
	i := o.Isolation
	for _, missing := range sandbox.Missing() {
		progress.Warnf(ctx, "tests can %s", missing)
	}
	if err := o.Go.Download(ctx, o.Dir, o.Env, o.BuildTags, o.Settings.Packages...); err != nil {
		return place{}, err
	}
	sum := sha256.Sum256([]byte(i.Top))
	name := hex.EncodeToString(sum[:16])
	area := o.Go.TestArea()
	p := place{run: run, from: i.Top, top: filepath.Join(area, "work", name)}
	gocache := filepath.Join(area, "go-build")
	if err := os.MkdirAll(gocache, 0o700); err != nil {
		return place{}, fmt.Errorf("creating a cache for the tests: %w", err)
	}
	if p.free, err = i.Cache.Lock(ctx, "tests", name+".lock"); err != nil {
		return place{}, err
	}
	var records map[string]sandbox.Record
	i.Cache.Load(&records, "tests", name+".json")
	progress.Statusf(ctx, "copying the source")
	copied := sandbox.Below(i.Top, i.Copied)
	skip := func(path string) bool { return filepath.Base(path) == i.Skip || slices.Contains(i.Secret, path) }
	if records, err = sandbox.Mirror(ctx, i.Top, p.top, copied, skip, records); err != nil {
		p.free()
		return place{}, err
	}
	if err := i.Cache.Store(records, "tests", name+".json"); err != nil {
		progress.Warnf(ctx, "the next run copies all files again: %v", err)
	}
	p.dir = sandbox.Inside(i.Top, p.top, o.Dir)
	p.env = slices.Concat(env, []string{"GOCACHE=" + gocache, "GOPROXY=off", "GOWORK=" + sandbox.Inside(i.Top, p.top, o.Go.Workspace)})
	hidden := slices.Concat([]string{string(i.Cache)}, i.Hidden, i.Secret)
	read := slices.Concat(sandbox.System(o.Go, hidden...), sandbox.AllBut(i.Top, i.Secret...))
	read = append(read, slices.DeleteFunc(slices.Clone(i.Copied), func(dir string) bool { return slices.Contains(copied, dir) })...)
	p.box = &sandbox.Sandbox{Program: i.Program, Policy: sandbox.Policy{Read: read, List: []string{i.Top}, Write: []string{run, gocache, p.top}}}
	return p, nil
}

// command returns the command that runs a program with the given environment there.
func (p place) command(ctx context.Context, tmp string, env []string, program string, args ...string) (*exec.Cmd, error) {
	if p.box == nil {
		cmd := toolchain.Command(ctx, program, args...)
		cmd.Dir, cmd.Env = p.dir, env
		return cmd, nil
	}
	box := *p.box
	box.Policy.Env = env
	cmd, err := box.Command(ctx, tmp, program, args...)
	if err != nil {
		return nil, err
	}
	cmd.Dir = p.dir // slipway's own environment is that of the command until it enters the sandbox
	return cmd, nil
}

// renamer is a writer that replaces the paths of the copy by those of the source in every
// line that it passes on.
type renamer struct {
	w        io.Writer
	from, to []byte
	rest     []byte // the current line, as long as it is not complete
}

func (r *renamer) Write(p []byte) (int, error) {
	n := len(p)
	end := bytes.LastIndexByte(p, '\n') + 1
	if end == 0 && len(r.rest)+n < maxKept {
		r.rest = append(r.rest, p...)
		return n, nil
	}
	if end == 0 {
		end = n // a line that is too long is passed on in parts
	}
	r.rest = append(r.rest, p[:end]...)
	if err := r.flush(); err != nil {
		return 0, err
	}
	r.rest = append(r.rest, p[end:]...)
	return n, nil
}

func (r *renamer) flush() error {
	_, err := r.w.Write(bytes.ReplaceAll(r.rest, r.from, r.to))
	r.rest = r.rest[:0]
	return err
}

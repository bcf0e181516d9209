package lint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Isolation keeps golangci-lint from writing what a later build reads, and from reading
// credentials. Its configuration, which is part of the source, can name plugins, and the
// go command runs a C compiler on the source.
type Isolation struct {
	Program string   // path of the slipway program, which enters the sandbox
	Source  []string // folders and files of the source, which can be read and not written
	Hidden  []string // other folders and files that must not be read
	Secret  []string // files in Source that must not be read, without symbolic links
}

// command returns the command that runs golangci-lint, with the variables env in addition
// to its environment. out is a folder that it can write to.
func (o Options) command(ctx context.Context, program, config, out string, env []string, args ...string) (*exec.Cmd, error) {
	results := filepath.Join(o.CacheDir, "golangci-lint")
	env = append(env, "GOLANGCI_LINT_CACHE="+results)
	if o.Isolation == nil {
		cmd := toolchain.Command(ctx, program, args...)
		cmd.Dir, cmd.Env = o.Dir, o.Go.TestEnv(o.Pass, env...)
		return cmd, nil
	}
	for _, missing := range sandbox.Missing() {
		progress.Warnf(ctx, "linters can %s", missing)
	}
	if err := o.Go.Download(ctx, o.Dir, o.Env, o.BuildTags, "./..."); err != nil {
		return nil, err
	}
	gocache := filepath.Join(o.Go.TestArea(), "go-build")
	if err := errors.Join(os.MkdirAll(gocache, 0o700), os.MkdirAll(results, 0o755)); err != nil {
		return nil, fmt.Errorf("creating a cache for golangci-lint: %w", err)
	}
	source := slices.Concat(o.Isolation.Source, []string{o.Dir})
	read := append(sandbox.System(o.Go, slices.Concat([]string{o.CacheDir}, o.Isolation.Hidden, o.Isolation.Secret)...), program)
	for _, path := range source {
		read = append(read, sandbox.AllBut(path, o.Isolation.Secret...)...)
	}
	if config != "" {
		read = append(read, config)
	}
	box := sandbox.Sandbox{Program: o.Isolation.Program, Policy: sandbox.Policy{
		Read: read, List: source, Write: []string{out, results, gocache}, Env: o.Go.TestEnv(o.Pass, append(env, "GOCACHE="+gocache, "GOPROXY=off")...),
	}}
	cmd, err := box.Command(ctx, out, program, args...)
	if err != nil {
		return nil, err
	}
	cmd.Dir = o.Dir // slipway's own environment is that of the command until it enters the sandbox
	return cmd, nil
}

// Package hook installs the git pre-push hook that runs slipway's gate, lint
// and test, before anything leaves the machine.
//
// The hook decides nothing: it calls slipway check, whose exit code is the
// verdict (https://git-scm.com/docs/githooks#_pre_push).
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// FileName is the hook's name in git's folder of hooks.
const FileName = "pre-push"

// KeptName is what [Install] renames a foreign hook to. Git runs no hook of
// that name.
const KeptName = FileName + ".before-slipway"

// marker begins the second line of every hook slipway ever wrote, and so must
// never change; what follows it may.
const marker = "# slipway pre-push hook"

// script is the hook. Its arguments are the program and the folder's flag,
// both quoted for sh.
//
// Git hands it a line "local-ref local-name remote-ref remote-name" for each
// ref, with a local name of zeros for one to delete. A reference of the remote
// holds no space while a local one may, so the pattern counts from the end.
// Grep reads to the end, which spares whoever feeds the hook a SIGPIPE, and
// where it fails there is no count and the check runs.
const script = `#!/bin/sh
` + marker + `, written by slipway init --hooks, which replaces it
# Skip it once with: git push --no-verify

# A push that only deletes has nothing to check.
[ "$(grep -cv ' 00* [^ ]* [^ ]*$')" = 0 ] && exit 0

# Git points at this repository by GIT_DIR and others; a test that runs git in a
# folder of its own would write here.
unset $(git rev-parse --local-env-vars)

slipway=%s
command -v "$slipway" >/dev/null 2>&1 || slipway=slipway
command -v "$slipway" >/dev/null 2>&1 && exec "$slipway" check%s
command -v dagger >/dev/null 2>&1 && exec dagger call check
echo "slipway: neither slipway nor dagger is on PATH to check this push (install slipway with: go install github.com/slipway-ci/slipway/pipeline/cmd/slipway@latest, or skip the check with: git push --no-verify)" >&2
exit 1
`

// Options says what to install, and where.
type Options struct {
	Dir     string // folder the check is for, in the repository's work tree; default: the current one
	Program string // slipway, absolute; default: the program that runs. Where it has gone, the hook takes the one on PATH
	Force   bool   // replace a hook that is not slipway's, keeping it as KeptName
}

// Result tells what [Install] did.
type Result struct {
	Path    string // the hook
	Written bool   // false where it was there already
	Kept    string // where the foreign hook is now; empty where there was none
	Shared  bool   // core.hooksPath leads out of the repository: others run the hook too
}

// Install writes the hook where git looks for it in the repository around
// o.Dir: the folder of core.hooksPath, or hooks in the git folder that all
// linked worktrees share
// (https://git-scm.com/docs/git-config#Documentation/git-config.txt-corehooksPath).
// An older hook of slipway's is replaced.
//
// It returns [fault.Input] errors for a folder outside a work tree, for a
// hook that is not slipway's ("hook.foreign") or cannot be kept ("hook.kept"),
// and where git is missing or the hook cannot be written.
func Install(ctx context.Context, o Options) (Result, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return Result{}, fmt.Errorf("resolving %s: %w", o.Dir, err)
	}
	program := o.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return Result{}, fmt.Errorf("finding the program to run before a push: %w", err)
		}
	}
	at, err := locate(ctx, dir)
	if err != nil {
		return Result{}, err
	}
	r := Result{Path: at.hook, Shared: at.shared}
	flag := ""
	if at.folder != "" {
		flag = " -C " + quote(at.folder)
	}
	text := fmt.Appendf(nil, script, quote(program), flag)

	foreign := false
	switch fi, err := os.Lstat(at.hook); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Result{}, unwritable(at.hook, err)
	default:
		old, err := os.ReadFile(at.hook)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a link to nothing is somebody's all the same
			return Result{}, fault.Inputf("hook.unreadable", "reading the hook that is there: %w", err)
		}
		if bytes.Equal(old, text) && fi.Mode().IsRegular() && fi.Mode().Perm() == 0o755 {
			return r, nil
		}
		foreign = !ours(old)
	}
	if foreign && !o.Force {
		return Result{}, fault.Inputf("hook.foreign", "%s is there already and not slipway's", at.hook).
			WithFix("add to it: (unset $(git rev-parse --local-env-vars); %s check%s </dev/null) || exit 1; or replace it with --force, which keeps it as %s", quote(program), flag, KeptName)
	}
	if foreign {
		r.Kept = filepath.Join(filepath.Dir(at.hook), KeptName)
	}
	if err := write(at.hook, r.Kept, text); err != nil {
		return Result{}, err
	}
	r.Written = true
	return r, nil
}

// write puts the hook in place whole or not at all. The hook that is there
// goes to kept first, unless that is empty, and comes back on failure.
func write(hook, kept string, text []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		return unwritable(hook, err)
	}
	// Git passes over a hook that is not executable, so neither the umask nor
	// the old file's mode may have a say.
	f, err := renameio.NewPendingFile(hook, renameio.WithStaticPermissions(0o755))
	if err != nil {
		return unwritable(hook, err)
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if _, err := f.Write(text); err != nil {
		return unwritable(hook, err)
	}
	if kept != "" {
		if _, err := os.Lstat(kept); !errors.Is(err, fs.ErrNotExist) {
			return fault.Inputf("hook.kept", "%s cannot be kept as %s, which is there already", hook, filepath.Base(kept)).WithFix("move one of them away")
		}
		if err := os.Rename(hook, kept); err != nil {
			return unwritable(kept, err)
		}
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		if kept != "" {
			err = errors.Join(err, os.Rename(kept, hook))
		}
		return unwritable(hook, err)
	}
	return nil
}

func unwritable(path string, err error) error {
	return fault.Inputf("output.unwritable", "writing %s: %w", path, err).WithFix("if that is not where hooks belong, see: git config --show-origin core.hooksPath")
}

// ours tells a hook of slipway's from one that has grown around its text.
func ours(text []byte) bool {
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return bytes.HasPrefix(rest, []byte(marker))
}

// quote makes s one word of sh
// (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_02_02).
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// place is where the hook of a repository goes.
type place struct {
	hook   string
	folder string // the check's, relative to the work tree, where git starts hooks; empty for the work tree itself
	shared bool
}

// locate asks git, which alone knows every setting that moves hooks.
func locate(ctx context.Context, dir string) (place, error) {
	// Those that steer git to one repository are for the caller's, not dir's.
	local, err := ask(ctx, dir, nil, "--local-env-vars")
	if err != nil {
		return place{}, err
	}
	names := strings.Fields(local)
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(names, name)
	})
	top, err := ask(ctx, dir, env, "--show-toplevel")
	if err != nil {
		return place{}, err
	}
	prefix, err := ask(ctx, dir, env, "--show-prefix")
	if err != nil {
		return place{}, err
	}
	// From the top, because that is what git takes relative answers and a
	// relative core.hooksPath from.
	hook, err := ask(ctx, top, env, "--git-path", "hooks/"+FileName)
	if err != nil {
		return place{}, err
	}
	common, err := ask(ctx, top, env, "--git-common-dir")
	if err != nil {
		return place{}, err
	}
	hook, common = under(top, hook), under(top, common)
	if filepath.Dir(hook) == filepath.Dir(filepath.Dir(hook)) {
		return place{}, fault.Inputf("hook.no-folder", "core.hooksPath is empty or the root folder, so %s has no folder for hooks", top).
			WithFix("see: git config --show-origin core.hooksPath")
	}
	return place{hook, strings.TrimSuffix(prefix, "/"), !within(top, hook) && !within(common, hook)}, nil
}

// under resolves a path that git gave relative to dir.
func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// ask runs git rev-parse in dir and returns its one answer; env is as in
// [exec.Cmd].
func ask(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", append([]string{"rev-parse"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	cmd.Env = append(cmd.Environ(), "LC_ALL=C") // its messages are read below
	err := cmd.Run()
	said, _, _ := strings.Cut(strings.TrimPrefix(stderr.String(), "fatal: "), "\n")
	switch {
	case err == nil:
		return strings.TrimSuffix(stdout.String(), "\n"), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("asking git about %s: %w", dir, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return "", fault.Inputf("hook.no-git", "git is not installed or not on PATH")
	case strings.HasPrefix(said, "not a git repository"):
		return "", fault.Inputf("hook.no-repository", "%s is not in a git repository", dir).WithFix("make one with: git init")
	case said != "":
		return "", fault.Inputf("hook.repository", "asking git about %s: %s", dir, said)
	default:
		return "", fault.Inputf("hook.repository", "asking git about %s: %w", dir, err)
	}
}

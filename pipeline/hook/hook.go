// Package hook installs a git pre-push hook that runs the gates of slipway, lint
// and test, before a push.
//
// The hook runs slipway check. If that exits with an error, git aborts the push
// (https://git-scm.com/docs/githooks#_pre_push).
//
// The package promises no compatibility to programs other than slipway.
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

// FileName is the name of the hook in the hooks folder of git.
const FileName = "pre-push"

// KeptName is the name that [Install] gives to another hook that it replaces. Git
// does not run a hook of this name.
const KeptName = FileName + ".before-slipway"

// marker begins the second line of every hook that slipway has written. It must
// never change, unlike the text after it.
const marker = "# slipway pre-push hook"

// script is the format of the hook. Its arguments are the program and the flag for
// the folder, both quoted for sh.
//
// Git writes a line "local-ref local-oid remote-ref remote-oid" for every ref to the
// hook's standard input. The local-oid of a deleted ref consists of zeros. The
// pattern matches from the end of the line, because a local-ref may contain spaces,
// but a remote-ref may not. The grep program reads all lines, so that git does not
// receive SIGPIPE. If grep fails, the count is empty and the check runs.
const script = `#!/bin/sh
` + marker + `, written by slipway init --hooks, which replaces it
# To skip it once, run: git push --no-verify

# A push that only deletes refs needs no check.
[ "$(grep -cv ' 00* [^ ]* [^ ]*$')" = 0 ] && exit 0

# Git sets GIT_DIR and other variables to this repository. Unset them, or a test
# that runs git in another folder would change this repository.
unset $(git rev-parse --local-env-vars)

slipway=%s
command -v "$slipway" >/dev/null 2>&1 || slipway=slipway
command -v "$slipway" >/dev/null 2>&1 && exec "$slipway" check%s
command -v dagger >/dev/null 2>&1 && exec dagger call check
echo "slipway: neither slipway nor dagger is on PATH, so this push cannot be checked (install slipway with: go install github.com/slipway-ci/slipway/pipeline/cmd/slipway@latest, or skip the check with: git push --no-verify)" >&2
exit 1
`

// Options are the options of [Install].
type Options struct {
	// Dir is the folder to check, in the work tree of the repository; default: the
	// current folder.
	Dir string
	// Program is the absolute path of slipway; default: the running program. If it
	// is missing when the hook runs, the hook uses slipway on PATH.
	Program string
	// Force replaces a hook that slipway did not write, and keeps it as KeptName.
	Force bool
}

// Result is the result of [Install].
type Result struct {
	Path    string // path of the hook
	Written bool   // whether the hook was written; false if it was up to date
	Kept    string // new path of another hook that was replaced; empty if there was none
	Shared  bool   // core.hooksPath is outside the repository, so other repositories run the hook too
}

// Install writes the hook for the repository that contains o.Dir. It writes it to
// the folder in which git searches for hooks: that of core.hooksPath, or else hooks
// in the git folder that all linked worktrees share
// (https://git-scm.com/docs/git-config#Documentation/git-config.txt-corehooksPath).
// An older hook of slipway is replaced.
//
// It returns [fault.Input] errors if the folder is not in a work tree, if another
// hook exists ("hook.foreign") or cannot be kept ("hook.kept"), if git is missing,
// and if the hook cannot be written.
func Install(ctx context.Context, o Options) (Result, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return Result{}, fmt.Errorf("resolving %s: %w", o.Dir, err)
	}
	program := o.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return Result{}, fmt.Errorf("finding the path of the slipway program: %w", err)
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
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a dangling link is treated as another hook
			return Result{}, fault.Inputf("hook.unreadable", "reading the existing hook: %w", err)
		}
		if bytes.Equal(old, text) && fi.Mode().IsRegular() && fi.Mode().Perm() == 0o755 {
			return r, nil
		}
		foreign = !writtenBySlipway(old)
	}
	if foreign && !o.Force {
		return Result{}, fault.Inputf("hook.foreign", "%s exists and was not written by slipway", at.hook).
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

// write writes the hook atomically. If kept is not empty, it renames the existing
// hook to kept before that, and restores it if writing fails.
func write(hook, kept string, text []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		return unwritable(hook, err)
	}
	// Git ignores a hook that is not executable, so its mode must not depend on the
	// umask or on the mode of the old file.
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
			return fault.Inputf("hook.kept", "%s cannot be kept as %s, which exists already", hook, filepath.Base(kept)).WithFix("move or remove one of them")
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

// unwritable returns the error for a hook that cannot be written.
func unwritable(path string, err error) error {
	return fault.Inputf("output.unwritable", "writing %s: %w", path, err).WithFix("if this is not the folder for hooks, correct the setting that git config --show-origin core.hooksPath shows")
}

// writtenBySlipway reports whether slipway wrote a hook. It is false for a hook with
// more text before the marker.
func writtenBySlipway(text []byte) bool {
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return bytes.HasPrefix(rest, []byte(marker))
}

// quote quotes s as one word for sh
// (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_02_02).
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// location is the location of the hook of a repository.
type location struct {
	hook   string // path of the hook
	folder string // folder to check, relative to the work tree, in which git runs hooks; empty for the work tree itself
	shared bool   // the hook is outside the repository
}

// locate returns the location of the hook for dir. It runs git, because only git
// knows all settings for the folder of hooks.
func locate(ctx context.Context, dir string) (location, error) {
	// The caller's variables may select another repository than that of dir.
	local, err := revParse(ctx, dir, nil, "--local-env-vars")
	if err != nil {
		return location{}, err
	}
	names := strings.Fields(local)
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(names, name)
	})
	top, err := revParse(ctx, dir, env, "--show-toplevel")
	if err != nil {
		return location{}, err
	}
	prefix, err := revParse(ctx, dir, env, "--show-prefix")
	if err != nil {
		return location{}, err
	}
	// These run in the top folder, because git resolves a relative core.hooksPath
	// and prints relative paths from there.
	hook, err := revParse(ctx, top, env, "--git-path", "hooks/"+FileName)
	if err != nil {
		return location{}, err
	}
	common, err := revParse(ctx, top, env, "--git-common-dir")
	if err != nil {
		return location{}, err
	}
	hook, common = resolve(top, hook), resolve(top, common)
	if filepath.Dir(hook) == filepath.Dir(filepath.Dir(hook)) {
		return location{}, fault.Inputf("hook.no-folder", "core.hooksPath is empty or the root folder, so %s has no folder for hooks", top).
			WithFix("correct the setting that git config --show-origin core.hooksPath shows")
	}
	return location{hook, strings.TrimSuffix(prefix, "/"), !within(top, hook) && !within(common, hook)}, nil
}

// resolve returns the absolute path for a path that is relative to dir.
func resolve(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// revParse runs git rev-parse in dir and returns its output. If env is nil, git
// inherits the environment.
func revParse(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", append([]string{"rev-parse"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	cmd.Env = append(cmd.Environ(), "LC_ALL=C") // the messages are parsed below
	err := cmd.Run()
	message, _, _ := strings.Cut(strings.TrimPrefix(stderr.String(), "fatal: "), "\n")
	switch {
	case err == nil:
		return strings.TrimSuffix(stdout.String(), "\n"), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("running git rev-parse in %s: %w", dir, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return "", fault.Inputf("hook.no-git", "git is not installed or not on PATH").WithFix("install it as described at https://git-scm.com/downloads")
	case strings.HasPrefix(message, "not a git repository"):
		return "", fault.Inputf("hook.no-repository", "%s is not in a git repository", dir).WithFix("create one with: git init")
	case message != "":
		return "", fault.Inputf("hook.repository", "running git rev-parse in %s: %s", dir, message)
	default:
		return "", fault.Inputf("hook.repository", "running git rev-parse in %s: %w", dir, err)
	}
}

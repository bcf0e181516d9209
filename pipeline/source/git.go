package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Repository is a git repository with a work tree. It is only ever read: nothing in it
// is written or locked, and no program that the repository's own configuration names
// is run.
//
// The git program decides what has changed and what is ignored. If it is not installed,
// the library go-git does, which reports an error for what it cannot read.
type Repository struct {
	Top string // root of the work tree, without symbolic links

	git git    // empty if the program is not installed
	dir string // a folder in the work tree
}

// commit is the commit that is checked out.
type commit struct {
	hash string // empty if there is no commit yet
	time time.Time
}

// OpenRepository returns the git repository that contains dir, or nil if there is none.
// It returns [fault.Input] errors for repositories that cannot be read.
func OpenRepository(ctx context.Context, dir string) (*Repository, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return openLibrary(dir)
	}
	r := &Repository{git: git(program), dir: dir}
	out, err := r.git.output(ctx, dir, nil, "rev-parse", "--show-toplevel")
	switch failed, _ := errors.AsType[*gitError](err); {
	case failed != nil && strings.HasPrefix(failed.message, "not a git repository (or any"):
		return nil, nil
	case failed != nil && strings.HasPrefix(failed.message, "this operation must be run in a work tree"):
		return nil, nil // a bare repository, or the folder .git
	case err != nil:
		return nil, unreadable("opening the git repository of", dir, err)
	}
	if r.Top, err = filepath.EvalSymlinks(strings.TrimSuffix(string(out), "\n")); err != nil {
		return nil, unreadable("resolving the root of the git repository of", dir, err)
	}
	here, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, unreadable("resolving", dir, err)
	}
	if !isBelow(r.Top, here) {
		return nil, fault.Inputf("source.unreadable", "the git repository of %s has its work tree in %s", dir, r.Top).
			WithFix("remove core.worktree from the configuration of the repository")
	}
	return r, nil
}

// status is the output of git status.
type status struct {
	commit  string   // hash of the commit; empty if there is none yet
	changed []string // files that differ from the commit, relative to the work tree
}

// status returns the commit, and the files that differ from it and are in one of the
// given folders, including those in submodules. Without folders it returns all of them.
func (r *Repository) status(ctx context.Context, dirs ...string) (commit, []string, error) {
	if r.git == "" {
		return r.libraryStatus()
	}
	paths := r.relative(dirs)
	if len(dirs) > 0 && len(paths) == 0 {
		paths = []string{"."} // the commit is needed in any case
	}
	st, err := r.git.status(ctx, r.Top, paths)
	if err != nil {
		return commit{}, nil, unreadable("comparing the files with the commit in", r.Top, err)
	}
	c := commit{hash: st.commit}
	if c.hash == "" {
		return c, st.changed, nil
	}
	if c.time, err = r.git.time(ctx, r.Top, c.hash); err != nil {
		return commit{}, nil, unreadable("reading the commit of", r.Top, err)
	}
	return c, st.changed, nil
}

// relative returns those of the absolute paths that are in the work tree, relative to it.
func (r *Repository) relative(paths []string) []string {
	var inside []string
	for _, p := range paths {
		if rel, err := filepath.Rel(r.Top, p); err == nil && filepath.IsLocal(rel) {
			inside = append(inside, rel)
		}
	}
	return inside
}

// Tags returns the sorted names of the tags that point at the commit that is checked
// out, annotated tags included.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	if r.git == "" {
		return r.libraryTags()
	}
	out, err := r.git.output(ctx, r.Top, nil, "for-each-ref", "--points-at=HEAD", "--format=%(refname:lstrip=2)", "refs/tags")
	if err != nil {
		return nil, unreadable("reading the tags of", r.Top, err)
	}
	tags := strings.Fields(string(out)) // the name of a tag contains no space
	slices.Sort(tags)
	return tags, nil
}

// Changes returns up to ten files that differ from the commit, in the whole repository.
func (r *Repository) Changes(ctx context.Context) ([]string, error) {
	_, changed, err := r.status(ctx)
	return changed[:min(len(changed), 10)], err
}

// unreadable returns the error for a repository that cannot be read.
func unreadable(doing, what string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: %w", doing, what, err)
	}
	e := fault.Inputf("source.unreadable", "%s %s: %w", doing, what, err)
	if errors.Is(err, os.ErrPermission) {
		return e
	}
	return e.WithFix("to build without reading the git repository, pass the commit with --revision")
}

// isBelow reports whether path is dir or a path below it.
func isBelow(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// git is the path of the git program.
type git string

// gitError is the error of a git program that ran and failed.
type gitError struct {
	command string
	message string // the last line that begins with "fatal:", or the last line
}

func (e *gitError) Error() string { return fmt.Sprintf("git %s: %s", e.command, e.message) }

// harmless are settings that keep git from running programs, from writing and from
// connecting to other machines. They override the configuration of the repository,
// which can be hostile (https://git-scm.com/docs/git-config).
//
// A repository of another user is read as well, which git rejects by default because it
// would run programs that its configuration names.
func harmless() [][2]string {
	return [][2]string{
		{"core.fsmonitor", "false"}, {"core.hooksPath", os.DevNull}, {"core.sshCommand", "false"}, {"core.pager", "cat"},
		{"credential.helper", ""}, {"protocol.allow", "never"}, {"gc.auto", "0"}, {"maintenance.auto", "false"},
		{"safe.directory", "*"}, {"safe.bareRepository", "explicit"},
		// With other values, git can take a file with changes for one without.
		{"core.trustctime", "true"}, {"core.checkStat", "default"}, {"core.ignoreStat", "false"},
	}
}

// environ returns the environment for git with additional settings. Variables that
// select another repository are removed; git sets them for hooks.
func (g git) environ(settings [][2]string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY",
			"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE",
			"GIT_SHALLOW_FILE", "GIT_NAMESPACE", "GIT_REPLACE_REF_BASE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_ATTR_SOURCE",
			"GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT":
			return true
		}
		return strings.HasPrefix(name, "GIT_TRACE")
	})
	n, err := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT")) // settings of the caller, for example of a CI system
	if err != nil || n < 0 {
		n = 0
	}
	for _, s := range slices.Concat(harmless(), settings) {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, s[1]))
		n++
	}
	return append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(n), "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=none", "GIT_NO_LAZY_FETCH=1",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_LITERAL_PATHSPECS=1", "LC_ALL=C")
}

// output runs git in dir with additional settings and returns its output. The error of
// a git that failed is a [*gitError].
func (g git) output(ctx context.Context, dir string, settings [][2]string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, string(g), args...)
	cmd.Dir, cmd.Env = dir, g.environ(settings)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, &gitError{args[0], fatal(stderr.String())}
	}
	return stdout.Bytes(), err
}

// fatal returns the message of the error that ended git.
func fatal(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	for _, line := range lines {
		if message, ok := strings.CutPrefix(line, "fatal: "); ok {
			return message
		}
	}
	return lines[len(lines)-1]
}

// time returns the time of a commit.
func (g git) time(ctx context.Context, top, hash string) (time.Time, error) {
	out, err := g.output(ctx, top, nil, "cat-file", "commit", hash)
	if err != nil {
		return time.Time{}, err
	}
	return commitTime(out)
}

// commitTime returns the time of the committer from the content of a commit object
// (https://git-scm.com/docs/git-commit-tree#_commit_information).
func commitTime(object []byte) (time.Time, error) {
	header, _, _ := bytes.Cut(object, []byte("\n\n"))
	for line := range bytes.Lines(header) {
		rest, ok := bytes.CutPrefix(line, []byte("committer "))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest[bytes.LastIndexByte(rest, '>')+1:])
		if len(fields) == 0 {
			break
		}
		seconds, err := strconv.ParseInt(string(fields[0]), 10, 64)
		if err != nil || seconds < 0 || seconds > maxEpoch {
			break
		}
		return time.Unix(seconds, 0).UTC(), nil
	}
	return time.Time{}, errors.New("the commit has no valid time")
}

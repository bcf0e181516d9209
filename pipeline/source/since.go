package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// sinceCode is the code of all errors of [Repository.Since].
const sinceCode = "lint.new-from"

// Since returns what has changed in dir and below since the checked-out commit and
// revision had a common commit, as a patch with paths relative to dir. It includes changes
// that are not committed, and new files that git does not ignore.
//
// It returns [fault.Input] errors if the revision is unknown, if it has no commit in common
// with the one that is checked out, or if git is not installed.
func (r *Repository) Since(ctx context.Context, dir, revision string) ([]byte, error) {
	if r.git == "" {
		return nil, fault.Inputf(sinceCode, "finding what has changed since %s: git is not installed", revision).WithFix("install git")
	}
	base, err := r.mergeBase(ctx, revision)
	if err != nil {
		return nil, err
	}
	explain := func(err error) error {
		return unreadable("finding what has changed since "+revision+" in", dir, err)
	}
	filters, err := r.git.localFilters(ctx, r.Top)
	if err != nil {
		return nil, explain(err)
	}
	// The settings of the user must not change the form of the patch.
	settings := slices.Concat(filters, [][2]string{{"core.quotePath", "false"}})
	patch, err := r.git.output(ctx, dir, settings, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
		"--src-prefix=a/", "--dst-prefix=b/", "--relative", "--submodule=short", "--ignore-submodules=dirty", base, "--")
	if err != nil {
		return nil, explain(err)
	}
	names, err := r.git.output(ctx, dir, nil, "ls-files", "--others", "--exclude-standard", "-z")
	if err != nil {
		return nil, explain(err)
	}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		added, err := addedFile(dir, string(name))
		if err != nil {
			return nil, explain(err)
		}
		patch = append(patch, added...)
	}
	return patch, nil
}

// MainBranch returns the revision that changes are compared with: the default branch of the
// remote repository origin, for example origin/main. Without one it returns the hash of the
// checked-out commit, which every clone with the whole history has. It returns "" if there
// is no commit yet, or if git is not installed.
func (r *Repository) MainBranch(ctx context.Context) (string, error) {
	if r.git == "" {
		return "", nil
	}
	candidates := []string{"origin/main", "origin/master"}
	head, err := r.git.output(ctx, r.Top, nil, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
	if err == nil {
		candidates = slices.Insert(candidates, 0, strings.TrimSpace(string(head)))
	}
	for _, name := range candidates {
		// A local branch can have the same name.
		if _, err = r.git.output(ctx, r.Top, nil, "rev-parse", "--verify", "--quiet", "refs/remotes/"+name+"^{commit}"); err == nil {
			return name, nil
		}
	}
	out, err := r.git.output(ctx, r.Top, nil, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	if failed, _ := errors.AsType[*gitError](err); failed != nil {
		return "", nil //nolint:nilerr // there is no commit yet
	}
	if err != nil {
		return "", unreadable("reading the commit of", r.Top, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// mergeBase returns the hash of the newest commit that the checked-out commit and revision
// have in common.
func (r *Repository) mergeBase(ctx context.Context, revision string) (string, error) {
	const fix = "fetch it, for example with git fetch origin main; in CI fetch the whole history (fetch-depth: 0 of actions/checkout, GIT_DEPTH: 0 in GitLab)"
	_, err := r.git.output(ctx, r.Top, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", revision+"^{commit}")
	if failed, _ := errors.AsType[*gitError](err); failed != nil {
		return "", fault.Inputf(sinceCode, "finding what has changed since %s: %s has no such revision", revision, r.Top).WithFix("%s", fix)
	}
	if err != nil {
		return "", unreadable("finding "+revision+" in", r.Top, err)
	}
	out, err := r.git.output(ctx, r.Top, nil, "merge-base", "--end-of-options", revision, "HEAD")
	if failed, _ := errors.AsType[*gitError](err); failed != nil {
		return "", fault.Inputf(sinceCode, "finding what has changed since %s: in %s it has no commit in common with the one that is checked out", revision, r.Top).
			WithFix("%s", fix)
	}
	if err != nil {
		return "", unreadable("finding what "+revision+" has in common with the checked-out commit of", r.Top, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// addedFile returns a patch that adds a file. For a file that is not a regular file, or that
// has been removed in the meantime, it returns nothing.
func addedFile(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, filepath.FromSlash(name))
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := slices.Collect(bytes.Lines(text))
	var b bytes.Buffer
	fmt.Fprintf(&b, "diff --git a/%s b/%s\nnew file mode 100644\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n", name, name, name, len(lines))
	for _, line := range lines {
		b.WriteByte('+')
		b.Write(bytes.TrimSuffix(line, []byte{'\n'}))
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

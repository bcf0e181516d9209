package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/cache"
)

// Record describes a file that [Mirror] has copied. A file that was changed since, even
// with its size and modification time restored, does not match its record.
type Record struct {
	Size           int64       `json:"size"`
	Time           int64       `json:"time"` // modification time of the original, in nanoseconds since 1970
	Mode           fs.FileMode `json:"mode"`
	cache.Identity             // of the copy
}

// Mirror makes the folder to a copy of the folder from, in which programs in a sandbox can
// write. Only the given folders, which are below from, are copied; what is beside them is
// a symbolic link to the original, and so is everything in .git except its configuration,
// which can have credentials: the copy has only the settings that say how git stores files.
// Paths of from for which skip is true are left out.
// Files that were copied before and have not changed on either side are left alone; records
// are those that Mirror returned then.
func Mirror(ctx context.Context, from, to string, copied []string, skip func(path string) bool, records map[string]Record) (map[string]Record, error) {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return nil, fmt.Errorf("creating the work folder: %w", err)
	}
	// The root keeps links that a program has left there from leading elsewhere.
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, fmt.Errorf("opening the work folder: %w", err)
	}
	defer root.Close()
	m := mirror{ctx: ctx, from: from, root: root, copied: copied, skip: skip, before: records, after: map[string]Record{}}
	if err := m.folder("."); err != nil {
		return nil, fmt.Errorf("copying %s to the work folder: %w", from, err)
	}
	return m.after, nil
}

type mirror struct {
	ctx           context.Context
	from          string
	root          *os.Root
	copied        []string
	skip          func(path string) bool
	before, after map[string]Record
}

// isCopied reports whether a path is copied, or a folder in which something is.
func (m *mirror) isCopied(path string) (whole, partly bool) {
	for _, dir := range m.copied {
		whole = whole || within(dir, path)
		partly = partly || within(path, dir)
	}
	return whole, partly
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// folder makes the folder rel of the work folder like the original.
func (m *mirror) folder(rel string) error {
	if m.ctx.Err() != nil {
		return m.ctx.Err()
	}
	entries, err := os.ReadDir(filepath.Join(m.from, rel))
	if errors.Is(err, fs.ErrPermission) {
		return nil // the go command cannot read it either
	}
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, e := range entries {
		if m.skip(filepath.Join(m.from, rel, e.Name())) {
			continue
		}
		keep[e.Name()] = true
		if err := m.entry(filepath.Join(rel, e.Name()), e); err != nil {
			return err
		}
	}
	dir, err := m.root.Open(rel)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	for _, name := range names {
		if !keep[name] {
			if err := m.root.RemoveAll(filepath.Join(rel, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// git makes the folder .git of the repository.
func (m *mirror) git(rel, original string) error {
	if err := errors.Join(m.root.RemoveAll(rel), m.root.Mkdir(rel, 0o755)); err != nil {
		return err
	}
	entries, err := os.ReadDir(original)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(rel, e.Name())
		switch e.Name() {
		case "config.worktree":
		case "config", "HEAD": // git takes a link for HEAD to be one to a reference
			text, err := os.ReadFile(filepath.Join(original, e.Name()))
			if err != nil {
				return err
			}
			if e.Name() == "config" {
				text = storageSettings(text)
			}
			if err := m.root.WriteFile(path, text, 0o644); err != nil {
				return err
			}
		default:
			if err := m.root.Symlink(filepath.Join(original, e.Name()), path); err != nil {
				return err
			}
		}
	}
	return nil
}

// storageSettings returns the sections of a configuration of git that say how it stores
// files and references
// (https://git-scm.com/docs/repository-version).
func storageSettings(config []byte) []byte {
	var kept bytes.Buffer
	keep := false
	for line := range bytes.Lines(config) {
		text := strings.ToLower(strings.TrimSpace(string(line)))
		if strings.HasPrefix(text, "[") {
			keep = text == "[core]" || text == "[extensions]"
		}
		name, _, _ := strings.Cut(text, "=")
		switch name = strings.TrimSpace(name); {
		case !keep, strings.HasSuffix(text, "\\"), name == "partialclone", name == "worktreeconfig":
		case strings.HasPrefix(text, "["), name == "repositoryformatversion", name == "filemode", name == "bare", name == "ignorecase",
			name == "precomposeunicode", name == "symlinks", name == "objectformat", name == "refstorage", name == "logallrefupdates":
			kept.Write(bytes.TrimRight(line, "\r\n"))
			kept.WriteByte('\n')
		}
	}
	return kept.Bytes()
}

// entry makes one entry of the work folder like the original.
func (m *mirror) entry(rel string, e fs.DirEntry) error {
	original := filepath.Join(m.from, rel)
	whole, partly := m.isCopied(original)
	switch {
	case rel == ".git" && e.IsDir():
		return m.git(rel, original)
	case e.Name() == ".git" || !whole && (!partly || !e.IsDir()):
		return m.link(rel, original)
	case e.IsDir():
		if fi, err := m.root.Lstat(rel); err != nil || !fi.IsDir() {
			if err := errors.Join(m.root.RemoveAll(rel), m.root.Mkdir(rel, 0o755)); err != nil {
				return err
			}
		}
		if err := m.root.Chmod(rel, 0o755); err != nil {
			return err
		}
		return m.folder(rel)
	case e.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(original)
		if err != nil {
			return err
		}
		return m.link(rel, target)
	case e.Type().IsRegular():
		return m.file(rel, original)
	}
	return m.root.RemoveAll(rel) // a socket or the like
}

// link creates a symbolic link, unless it is there.
func (m *mirror) link(rel, target string) error {
	if now, err := m.root.Readlink(rel); err == nil && now == target {
		return nil
	}
	return errors.Join(m.root.RemoveAll(rel), m.root.Symlink(target, rel))
}

// file copies a file, unless the copy and the original are as they were.
func (m *mirror) file(rel, original string) error {
	source, err := os.Stat(original)
	if errors.Is(err, fs.ErrNotExist) {
		return m.root.RemoveAll(rel) // it was removed in the meantime
	}
	if err != nil {
		return err
	}
	r := Record{Size: source.Size(), Time: source.ModTime().UnixNano(), Mode: source.Mode().Perm()}
	if fi, err := m.root.Lstat(rel); err == nil && fi.Mode().IsRegular() {
		r.Identity = cache.Identify(fi)
		if m.before[rel] == r {
			m.after[rel] = r
			return nil
		}
	}
	fi, err := m.copy(rel, original, r.Mode, source.ModTime())
	if errors.Is(err, fs.ErrPermission) {
		return m.root.RemoveAll(rel) // only its user can read it
	}
	if err != nil {
		return err
	}
	r.Identity = cache.Identify(fi)
	m.after[rel] = r
	return nil
}

// copy replaces the file rel by a copy.
func (m *mirror) copy(rel, original string, mode fs.FileMode, at time.Time) (fs.FileInfo, error) {
	in, err := os.Open(original)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := m.root.RemoveAll(rel); err != nil {
		return nil, err
	}
	out, err := m.root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	// The time is that of the original, so that the go command can use cached results.
	if err := errors.Join(m.root.Chmod(rel, mode), m.root.Chtimes(rel, at, at)); err != nil {
		return nil, err
	}
	return m.root.Lstat(rel)
}

// Inside returns the path in the copy that stands for a path in the original, or the path
// itself if it is not below the original.
func Inside(from, to, path string) string {
	rel, err := filepath.Rel(from, path)
	if err != nil || !filepath.IsLocal(rel) {
		return path
	}
	return filepath.Join(to, rel)
}

// Below returns those paths that are the folder or below it.
func Below(dir string, paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !within(dir, p) })
}

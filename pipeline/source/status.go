package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// status returns the commit and the changed files below paths, relative to top.
func (g git) status(ctx context.Context, top string, paths []string) (status, error) {
	filters, err := g.localFilters(ctx, top)
	if err != nil {
		return status{}, err
	}
	args := []string{
		"status", "--porcelain=v2", "-z", "--branch", "--no-ahead-behind", "--no-renames", "--untracked-files=all", "--ignore-submodules=dirty", "--",
	}
	out, err := g.output(ctx, top, filters, append(args, paths...)...)
	if err != nil {
		return status{}, err
	}
	st, err := parseStatus(out)
	if err != nil {
		return status{}, fmt.Errorf("reading the output of git status: %w", err)
	}
	modules, err := g.submodules(ctx, top, paths)
	if err != nil {
		return status{}, err
	}
	for _, m := range modules {
		sub, err := g.status(ctx, filepath.Join(top, filepath.FromSlash(m)), nil)
		if err != nil {
			return status{}, fmt.Errorf("in submodule %s: %w", m, err)
		}
		for _, file := range sub.changed {
			st.changed = append(st.changed, path.Join(m, file))
		}
	}
	return st, nil
}

// localFilters returns settings that disable the filters whose programs only the
// configuration of the repository itself names, because anybody who can write to the
// repository's folder could run a program with them. Filters of the user and of the
// system, for example those of Git LFS, are kept.
func (g git) localFilters(ctx context.Context, top string) ([][2]string, error) {
	out, err := g.output(ctx, top, nil, "config", "--list", "--show-scope", "-z")
	if err != nil {
		return nil, err
	}
	return parseFilters(out), nil
}

// parseFilters reads the output of git config --list --show-scope -z, which consists
// of pairs of a scope and a setting. The setting is a key, a newline and a value.
func parseFilters(out []byte) [][2]string {
	trusted, local := map[string]string{}, map[string]bool{}
	var order []string
	fields := bytes.Split(bytes.TrimSuffix(out, []byte{0}), []byte{0})
	for i := 0; i+1 < len(fields); i += 2 {
		key, value, _ := strings.Cut(string(fields[i+1]), "\n")
		if !strings.HasPrefix(key, "filter.") || !filterProgram(key) {
			continue
		}
		switch string(fields[i]) {
		case "local", "worktree", "submodule", "unknown":
			if !local[key] {
				local[key] = true
				order = append(order, key)
			}
		default:
			trusted[key] = value
		}
	}
	settings := make([][2]string, 0, len(order))
	for _, key := range order {
		settings = append(settings, [2]string{key, trusted[key]}) // an empty value disables a filter
	}
	return settings
}

// filterProgram reports whether a setting of a filter names a program, or makes git
// fail without it.
func filterProgram(key string) bool {
	switch key[strings.LastIndexByte(key, '.')+1:] {
	case "clean", "smudge", "process", "required":
		return true
	}
	return false
}

// parseStatus reads the output of git status --porcelain=v2 -z --branch
// (https://git-scm.com/docs/git-status#_porcelain_format_version_2).
func parseStatus(out []byte) (status, error) {
	var st status
	for len(out) > 0 {
		line, rest, found := bytes.Cut(out, []byte{0})
		if !found {
			return status{}, errors.New("it is cut off")
		}
		out = rest
		fields := map[byte]int{'1': 8, '2': 9, 'u': 10, '?': 1, '!': 1}
		kind := byte(0)
		if len(line) > 0 {
			kind = line[0]
		}
		if kind == '#' {
			if oid, ok := bytes.CutPrefix(line, []byte("# branch.oid ")); ok && string(oid) != "(initial)" {
				st.commit = string(oid)
			}
			continue
		}
		n, ok := fields[kind]
		if !ok {
			return status{}, fmt.Errorf("unknown entry %.80q", line)
		}
		parts := bytes.SplitN(line, []byte{' '}, n+1)
		if len(parts) != n+1 || len(parts[n]) == 0 {
			return status{}, fmt.Errorf("malformed entry %.80q", line)
		}
		if kind == '2' { // the former path follows
			_, rest, found := bytes.Cut(out, []byte{0})
			if !found {
				return status{}, errors.New("it is cut off")
			}
			out = rest
		}
		if kind != '!' {
			st.changed = append(st.changed, string(parts[n]))
		}
	}
	if strings.Trim(st.commit, "0123456789abcdef") != "" {
		return status{}, fmt.Errorf("%.80q is not a commit hash", st.commit)
	}
	return st, nil
}

// submodules returns the submodules below paths that are checked out, relative to top.
func (g git) submodules(ctx context.Context, top string, paths []string) ([]string, error) {
	out, err := g.output(ctx, top, nil, append([]string{"ls-files", "--stage", "-z", "--"}, paths...)...)
	if err != nil {
		return nil, err
	}
	var modules []string
	for entry := range bytes.SplitSeq(out, []byte{0}) {
		rest, ok := bytes.CutPrefix(entry, []byte("160000 "))
		if !ok {
			continue
		}
		_, file, _ := bytes.Cut(rest, []byte{'\t'})
		if _, err := os.Lstat(filepath.Join(top, filepath.FromSlash(string(file)), ".git")); err == nil {
			modules = append(modules, string(file))
		}
	}
	return modules, nil
}

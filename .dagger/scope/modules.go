package scope

import (
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/mod/modfile"
)

// Uses returns the folders of the modules that a go.work uses, relative to the folder of
// the go.work, as they are written. The go command reports a malformed file.
func Uses(work []byte) []string {
	file, err := modfile.ParseWork("go.work", work, nil)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, u := range file.Use {
		dirs = append(dirs, u.Path)
	}
	return dirs
}

// folders returns the folders that the go command reads for the app: that of the app,
// those of the modules in go.work, and those that replace them or what they require. No
// folder lies in another one. Folders outside the repository are returned separately.
func (f Files) folders() (inside, outside []string) {
	all := []string{f.App}
	add := func(base, target string) {
		// A folder elsewhere on the caller's machine is not in the repository, even if
		// its path leads there.
		if path.IsAbs(target) || !filepath.IsLocal(path.Join(base, target)) {
			outside = append(outside, target)
			return
		}
		all = append(all, path.Join(base, target))
	}
	if f.Workspace != "" {
		for _, dir := range Uses(f.Work) {
			add(f.Workspace, dir)
		}
		if file, err := modfile.ParseWork("go.work", f.Work, nil); err == nil {
			for _, target := range replaced(file.Replace) {
				add(f.Workspace, target)
			}
		}
	}
	for dir, module := range f.Modules {
		// Not ParseLax, which ignores replace directives.
		if file, err := modfile.Parse("go.mod", module, nil); err == nil {
			for _, target := range replaced(file.Replace) {
				add(dir, target)
			}
		}
	}
	slices.Sort(all)
	slices.Sort(outside)
	for _, dir := range slices.Compact(all) {
		within := func(above string) bool {
			rel, err := filepath.Rel(above, dir)
			return err == nil && filepath.IsLocal(rel)
		}
		if !slices.ContainsFunc(inside, within) {
			inside = append(inside, dir)
		}
	}
	return inside, slices.Compact(outside)
}

// replaced returns the folders that replace directives name.
func replaced(directives []*modfile.Replace) []string {
	var dirs []string
	for _, r := range directives {
		if r.New.Version == "" {
			dirs = append(dirs, r.New.Path)
		}
	}
	return dirs
}

package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// findScope sets s.Workspace, s.Go and the folders whose files can change what is built:
// those of the app's module, of the other modules of a workspace, and of modules that a
// replace directive takes from a folder. A folder outside the repository makes the source
// count as changed, because it cannot be left out.
func (s *Source) findScope(ctx context.Context, o Options, mod *modfile.File, ignore *Ignore) error {
	s.scope = []string{s.Dir}
	s.replaced("go.mod", s.Dir, mod.Replace)
	var err error
	if s.Workspace, err = s.findWorkspace(ctx, o, ignore); err != nil {
		return err
	}
	if o.Go != nil {
		s.Go = o.Go.WithWorkspace(s.Workspace)
	}
	if s.Workspace == toolchain.WorkspaceOff {
		return nil
	}
	data, err := os.ReadFile(s.Workspace)
	if err != nil {
		return fault.Inputf("source.workspace", "reading the workspace: %w", err)
	}
	work, err := modfile.ParseWork(s.Workspace, data, nil)
	if err != nil {
		return fault.Inputf("source.workspace", "%s", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	}
	dir := filepath.Dir(s.Workspace)
	s.scope = append(s.scope, s.Workspace, filepath.Join(dir, "go.work.sum"), filepath.Join(dir, "vendor"))
	s.replaced("go.work", dir, work.Replace)
	used := false
	for _, use := range work.Use {
		module := filepath.FromSlash(use.Path)
		if !filepath.IsAbs(module) {
			module = filepath.Join(dir, module)
		}
		s.add("go.work uses", module)
		used = used || s.scope[len(s.scope)-1] == s.Dir
		// The other modules of a workspace can have replace directives of their own. The
		// go command reports a module that is missing or malformed.
		file := filepath.Join(module, "go.mod")
		if data, err := os.ReadFile(file); err == nil {
			if mod, err := parseModule(file, data); err == nil {
				s.replaced(file, module, mod.Replace)
			}
		}
	}
	if !used {
		return fault.Inputf("source.workspace", "%s does not use the module in %s", s.shown(s.Workspace), s.shown(s.Dir)).
			WithFix("run go work use %s, or set app.env: {GOWORK: off} in slipway.yaml to build without the workspace", s.shown(s.Dir))
	}
	return nil
}

// findWorkspace returns the go.work file that is used, or "off".
//
// A file outside the repository is not used, because it is not part of the commit. If
// GOWORK in the environment makes a difference, the source counts as changed, because
// then the commit alone does not determine the image.
func (s *Source) findWorkspace(ctx context.Context, o Options, ignore *Ignore) (string, error) {
	if o.Go == nil {
		return toolchain.WorkspaceOff, nil
	}
	if o.Go.WorkspaceSet {
		s.outside = append(s.outside, "GOWORK="+o.Go.Workspace+" in the environment")
	}
	if o.Go.Workspace == toolchain.WorkspaceOff {
		return toolchain.WorkspaceOff, nil
	}
	file, err := filepath.EvalSymlinks(o.Go.Workspace)
	switch {
	case err != nil:
		return "", fault.Inputf("source.workspace", "reading the workspace: %w", err)
	case !isBelow(s.Top, file):
		progress.Warnf(ctx, "%s is outside the repository, so it is not used", o.Go.Workspace)
		return toolchain.WorkspaceOff, nil
	case ignore.Match(file) && !o.NoMain:
		return toolchain.WorkspaceOff, nil // as in a docker build, which does not get the file
	}
	return file, nil
}

// replaced adds the folders that replace directives name.
func (s *Source) replaced(in, dir string, replacements []*modfile.Replace) {
	for _, r := range replacements {
		if r.New.Version != "" {
			continue
		}
		target := filepath.FromSlash(r.New.Path)
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		s.add(in+" replaces "+r.Old.Path+" by", target)
	}
}

// add adds a folder to the scope. If it is outside the repository, the source counts as
// changed, for the given reason.
func (s *Source) add(reason, dir string) {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	s.scope = append(s.scope, dir)
	if why := reason + " " + dir; !isBelow(s.Top, dir) && !slices.Contains(s.outside, why) {
		s.outside = append(s.outside, why+", outside the repository")
	}
}

// checkExcluded sets s.NoVendor. It returns an error if the ignore file excludes a file
// without which nothing can be built, because a docker build would fail as well.
func (s *Source) checkExcluded(o Options, ignore *Ignore) error {
	slices.Sort(s.Excluded)
	excluded := func(file string) bool {
		_, found := slices.BinarySearch(s.Excluded, file)
		return found
	}
	s.NoVendor = excluded(filepath.Join(toolchain.VendorDir(s.Workspace, s.Dir), "modules.txt"))
	if o.NoMain {
		return nil // lint and test see all files
	}
	for _, dir := range s.scope {
		for _, name := range []string{"go.mod", "go.sum"} {
			if file := filepath.Join(dir, name); excluded(file) {
				return s.excludedError(file, ignore)
			}
		}
	}
	return nil
}

// excludedError returns the error for a file that the build needs and the ignore file
// excludes.
func (s *Source) excludedError(file string, ignore *Ignore) error {
	e := fault.Inputf("source.excluded", "%s excludes %s, which the build needs", ignore.Reason(file), s.shown(file))
	if ignore.excludesAll(file) {
		// Such a file is made for a Dockerfile that copies a finished program. One line
		// would only lead to the next error.
		return e.WithFix("add the lines !go.mod, !go.sum and !**/*.go to %s, and one for each embedded file", ignore.name)
	}
	return e.WithFix("add the line !%s to %s", ignore.relative(file), ignore.name)
}

// shown returns a path relative to the repository, for messages.
func (s *Source) shown(file string) string {
	if rel, err := filepath.Rel(s.Top, file); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return file
}

// Exclusion returns the file and the line of the ignore file that excludes a file, for
// example ".dockerignore:3 (*.md)", or "" if nothing does. The path must be absolute.
func (s *Source) Exclusion(file string) string {
	if _, found := slices.BinarySearch(s.Excluded, file); !found {
		return ""
	}
	return s.shown(file) + " by " + s.rules.Reason(file)
}

// Scope returns the folders and files that the app is built from, and those that links in
// them point to, without those that are below another one.
func (s *Source) Scope() []string { return outermost(slices.Concat(s.scope, s.linked)) }

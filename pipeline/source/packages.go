package source

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// listed is a package as go list describes it
// (https://pkg.go.dev/cmd/go#hdr-List_packages_or_modules).
type listed struct {
	Dir, Name         string
	GoFiles, CgoFiles []string
	Module            *struct{ Path string }

	CFiles, CXXFiles, MFiles, HFiles, FFiles, SFiles, SwigFiles, SwigCXXFiles, SysoFiles []string

	EmbedFiles []string
	Standard   bool // whether it is in Go's standard library
}

// compiledFields are the fields with the folder of a package and the files that are compiled.
const compiledFields = "Dir,GoFiles,CgoFiles,CFiles,CXXFiles,MFiles,HFiles,FFiles,SFiles,SwigFiles,SwigCXXFiles,SysoFiles"

// compiled returns the absolute paths of the files that are compiled.
func (p listed) compiled() []string {
	return p.paths(p.GoFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.MFiles, p.HFiles, p.FFiles, p.SFiles, p.SwigFiles, p.SwigCXXFiles, p.SysoFiles)
}

// paths returns the absolute paths of files that the go command names relative to the
// package.
func (p listed) paths(names ...[]string) []string {
	var paths []string
	for _, name := range slices.Concat(names...) {
		paths = append(paths, filepath.Join(p.Dir, name))
	}
	return paths
}

// list asks the go command for packages.
func (s *Source) list(ctx context.Context, o Options, args ...string) ([]listed, error) {
	if len(o.Tags) > 0 {
		args = append([]string{"-tags=" + strings.Join(o.Tags, ",")}, args...)
	}
	out, messages, err := s.Go.ListPackages(ctx, s.Dir, o.Env, args...)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if _, ran := toolchain.ExitStatus(err); !ran {
			return nil, fmt.Errorf("running go list: %w", err)
		}
		return nil, fault.Inputf("source.packages", "listing the packages of %s: %s", s.Module, goMessage(messages, err))
	}
	packages, err := toolchain.Values[listed](out)
	if err != nil {
		return nil, fmt.Errorf("reading the output of go list: %w", err)
	}
	return packages, nil
}

// goMessage returns the first line of the go command's output that is a message.
func goMessage(stderr string, err error) string {
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "go: downloading ") {
			return strings.TrimPrefix(line, "go: ")
		}
	}
	return err.Error()
}

// findMain sets s.Main to the configured main package, or to the only one.
func (s *Source) findMain(ctx context.Context, o Options, ignore *Ignore) error {
	if o.Main != "" {
		return s.findConfigured(ctx, o, ignore)
	}
	if o.Go == nil {
		return nil
	}
	mains, err := s.mains(ctx, o, ignore)
	switch {
	case len(mains) == 1:
		s.Main = mains[0]
		return nil
	case o.NoMain: // lint and test report what is wrong with the packages
		return ctx.Err()
	case err != nil:
		return err
	case len(mains) == 0:
		return fault.Inputf("source.no-main", "module %s has no main package", s.Module).
			WithFix("slipway builds programs; set app.dir in slipway.yaml if the program is in another module")
	}
	return fault.Inputf("source.several-mains", "module %s has %d main packages", s.Module, len(mains)).
		WithFix("set app.main in slipway.yaml to one of %s", strings.Join(mains, ", "))
}

// findConfigured sets s.Main to the configured main package.
func (s *Source) findConfigured(ctx context.Context, o Options, ignore *Ignore) error {
	dir := filepath.Join(s.Dir, filepath.FromSlash(strings.TrimPrefix(o.Main, s.Module)))
	rel, err := filepath.Rel(s.Dir, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return fault.Inputf("source.no-main", "main package %s is outside the module %s", o.Main, s.Module)
	}
	s.Main = dotted(rel)
	if o.Go == nil {
		return nil
	}
	if o.NoMain {
		ignore = nil // lint and test see all files
	}
	packages, err := s.list(ctx, o, "-find", "-json=Dir,Name,GoFiles,CgoFiles,Module", "--", s.Main)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(packages, s.isMain); i >= 0 {
		return s.checkVisible(packages[i], ignore)
	}
	fix := "the module has no main package"
	mains, err := s.mains(ctx, o, ignore)
	if err != nil {
		return err
	}
	if len(mains) > 0 {
		fix = "set app.main in slipway.yaml to one of " + strings.Join(mains, ", ")
	}
	return fault.Inputf("source.no-main", "%s is not a main package of %s", s.Main, s.Module).WithFix("%s", fix)
}

// mains returns the sorted main packages of the module that a build sees, relative to it.
// It returns an error if there are main packages but the ignore file excludes all of them.
func (s *Source) mains(ctx context.Context, o Options, ignore *Ignore) ([]string, error) {
	packages, err := s.list(ctx, o, "-find", "-json=Dir,Name,GoFiles,CgoFiles,Module", "--", "./...")
	if err != nil {
		return nil, err
	}
	var mains []string
	var excluded error
	for _, p := range packages {
		rel, err := filepath.Rel(s.Dir, p.Dir)
		if err != nil || !filepath.IsLocal(rel) || !s.isMain(p) {
			continue
		}
		if err := s.checkVisible(p, ignore); err != nil {
			excluded = cmp.Or(excluded, err)
			continue
		}
		mains = append(mains, dotted(rel))
	}
	if len(mains) == 0 {
		return nil, excluded
	}
	slices.Sort(mains)
	return mains, nil
}

// isMain reports whether a package is a main package of the module. The pattern ./... also
// matches other modules of a workspace.
func (s *Source) isMain(p listed) bool {
	return p.Name == "main" && p.Module != nil && p.Module.Path == s.Module && len(p.GoFiles)+len(p.CgoFiles) > 0
}

// checkVisible returns an error if the ignore file excludes all files of a main package.
func (s *Source) checkVisible(p listed, ignore *Ignore) error {
	files := slices.Concat(p.GoFiles, p.CgoFiles)
	if slices.ContainsFunc(files, func(name string) bool { return !ignore.Match(filepath.Join(p.Dir, name)) }) {
		return nil
	}
	return s.excludedError(filepath.Join(p.Dir, files[0]), ignore)
}

// reads returns the links through which the program is built.
func (s *Source) reads(ctx context.Context, o Options, links []link) ([]link, error) {
	packages, err := s.list(ctx, o, "-deps", "-json="+compiledFields, "--", s.Main)
	if err != nil {
		return nil, err
	}
	read := map[string]bool{}
	for _, p := range packages {
		read[p.Dir] = true
		for _, file := range p.compiled() {
			read[file] = true
		}
	}
	return slices.DeleteFunc(links, func(l link) bool {
		if !l.dir {
			return !read[l.file] && !moduleFile(l.file)
		}
		for path := range read {
			if isBelow(l.file, path) {
				return false
			}
		}
		return true
	}), nil
}

// moduleFiles are the names of the files that the go command reads for every package of a
// module.
func moduleFiles() []string { return []string{"go.mod", "go.sum", "go.work", "go.work.sum"} }

func moduleFile(file string) bool { return slices.Contains(moduleFiles(), filepath.Base(file)) }

// Files returns the absolute paths of the files in the repository that the program is
// compiled from, the embedded ones and those of its modules included, as the go command says.
// Of o only Tags and Env are used; Env says for which platform.
func (s *Source) Files(ctx context.Context, o Options) ([]string, error) {
	packages, err := s.list(ctx, o, "-deps", "-json="+compiledFields+",EmbedFiles,Standard", "--", s.Main)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, p := range packages {
		if !p.Standard && isBelow(s.Top, p.Dir) {
			files = slices.Concat(files, p.compiled(), p.paths(p.EmbedFiles))
		}
	}
	for _, dir := range []string{s.Dir, filepath.Dir(s.Workspace)} {
		for _, name := range append(moduleFiles(), "vendor/modules.txt") {
			file := filepath.Join(dir, name)
			if _, err := os.Lstat(file); err == nil && filepath.IsAbs(dir) {
				files = append(files, file)
			}
		}
	}
	return files, nil
}

// dotted returns a relative folder in the form of a package pattern, for example
// "./cmd/x".
func dotted(rel string) string {
	if rel == "." {
		return "."
	}
	return "./" + filepath.ToSlash(rel)
}

// Mains returns the sorted main packages of the module in o.Dir, relative to it. It
// returns the same errors as [Open].
func Mains(ctx context.Context, o Options) ([]string, error) {
	o.Main, o.NoMain = "", true
	s, ignore, _, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return s.mains(ctx, o, ignore)
}

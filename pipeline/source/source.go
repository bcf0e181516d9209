// Package source determines what is built: the app's module and main package,
// the files that belong to it, and the revision and time that are stamped into
// it.
//
// The contents of an image are derived from a [Source]. Therefore no field that
// ends up in an image depends on the machine: not on the folder, the clock or the
// user, and not on tags or remotes, which differ between clones.
//
// The package promises no compatibility to programs other than slipway.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// OutputDir is the name of the folder, next to slipway.yaml, that slipway writes
// reports and images to. It is never part of a source.
const OutputDir = ".slipway"

// Unversioned is the version of an app that is not in a git repository.
const Unversioned = "v0.0.0-unversioned"

// Options are the options of [Open], [Name] and [Mains].
type Options struct {
	Root string // folder of slipway.yaml, absolute
	Dir  string // folder of the app's module, relative to Root; default "."
	Main string // main package, relative to Dir; default: the only one
	Name string // the app's name; default: the last element of the module path
	// NoMain accepts a module without a main package and a module with several, for
	// runs that compile no program. Source.Main is then empty.
	NoMain bool
	Tags   []string // build tags
	Env    []string // environment variables of the build, NAME=value
	// Go is the toolchain that is asked for packages. If it is nil, NoMain or Main
	// must be set, and no workspace is used.
	Go *toolchain.Go
	// Top is the root of the repository. It is only used if there is no git
	// repository, for example in a container that has the files but not the .git
	// folder. Default: Root.
	Top string
	// Version is stamped instead of the version derived from the commit.
	Version string
	// Revision is used instead of the git repository, for example in a container
	// that has the files but not the .git folder. It is a full commit hash,
	// followed by "-dirty" if files differ from the commit.
	Revision string
	// Epoch is the value of SOURCE_DATE_EPOCH in seconds since 1970. It overrides
	// the time of the commit
	// (https://reproducible-builds.org/specs/source-date-epoch/).
	Epoch string
}

// Source is the source of an app.
type Source struct {
	Root     string    `json:"-"`                  // folder of slipway.yaml, without symbolic links
	Dir      string    `json:"-"`                  // folder of the app's module, without symbolic links
	Top      string    `json:"-"`                  // root of the repository, without symbolic links
	Name     string    `json:"name"`               // the app's name
	Module   string    `json:"module"`             // module path
	Main     string    `json:"main,omitempty"`     // main package, relative to Dir: "." or "./cmd/x"
	Revision string    `json:"revision,omitempty"` // commit hash; empty without a git repository
	Dirty    bool      `json:"dirty"`              // whether files of the app differ from the commit
	Changed  []string  `json:"changed,omitempty"`  // the files that differ, relative to the repository; after ten of them "..."
	Time     time.Time `json:"time"`               // SOURCE_DATE_EPOCH, or the time of the commit, or 1970-01-01
	Version  string    `json:"version"`            // version that is stamped
	// Workspace is the go.work file that the go command must use, or "off".
	Workspace string `json:"-"`
	// Go is the toolchain of the options, with that workspace. It is nil if the options
	// have none.
	Go *toolchain.Go `json:"-"`
	// Excluded lists the files that the ignore file excludes from the build, as
	// absolute paths.
	Excluded []string `json:"-"`
	// NoVendor says that the ignore file excludes the folder vendor, so that the go
	// command must use the module cache instead.
	NoVendor bool `json:"-"`

	scope   []string // folders and files that can change what is built
	rules   *Ignore  // what excludes files
	linked  []string // folders and files that links in the scope point to
	outside []string // why the build depends on more than the commit
}

// Open reads the source of an app.
//
// It returns [fault.Input] errors for everything that the user must fix: a
// missing go.mod, no or several main packages, unreadable files, symbolic links
// that point outside the source tree, and a malformed ignore file, revision or
// epoch.
func Open(ctx context.Context, o Options) (Source, error) {
	s, ignore, repo, err := open(ctx, o)
	if err != nil {
		return Source{}, err
	}
	links, err := s.walk(ctx, ignore)
	if err != nil {
		return Source{}, err
	}
	if err := s.checkExcluded(o, ignore); err != nil {
		return Source{}, err
	}
	// Git and the go command take some time, so they are asked at the same time.
	var changed []string
	var at commit
	scope := slices.Concat(s.scope, s.settings())
	if len(links) > 0 {
		scope = nil // they can make it larger
	}
	var asking errgroup.Group
	if o.Revision == "" && repo != nil {
		asking.Go(func() (err error) {
			at, changed, err = repo.status(ctx, scope...)
			return err
		})
	}
	err = s.findMain(ctx, o, ignore)
	if err == nil {
		err = s.resolveLinks(ctx, o, links)
	}
	if repoErr := asking.Wait(); err == nil {
		err = repoErr
	}
	if err != nil {
		return Source{}, err
	}
	if err := s.stamp(ctx, o, repo, at, s.relevant(changed, ignore)); err != nil {
		return Source{}, err
	}
	return s, nil
}

// open finds the module, the repository, the workspace and the ignore file.
func open(ctx context.Context, o Options) (s Source, ignore *Ignore, repo *Repository, err error) {
	s.Name = o.Name
	if err := s.locate(o); err != nil {
		return Source{}, nil, nil, err
	}
	mod, err := s.readModule()
	if err != nil {
		return Source{}, nil, nil, err
	}
	if repo, err = OpenRepository(ctx, s.Dir); err != nil && o.Revision == "" {
		return Source{}, nil, nil, err
	}
	s.Top = s.Root
	switch {
	case err == nil && repo != nil:
		s.Top = repo.Top
	case o.Top != "":
		if s.Top, err = filepath.EvalSymlinks(o.Top); err != nil || !isBelow(s.Top, s.Root) {
			return Source{}, nil, nil, fault.Inputf("source.top", "%s is not a folder that contains %s", o.Top, s.Root).
				WithFix("give a folder above slipway.yaml with --repository-root")
		}
	}
	if ignore, err = s.ignore(); err != nil {
		return Source{}, nil, nil, err
	}
	s.rules = ignore
	if err := s.findScope(ctx, o, mod, ignore); err != nil {
		return Source{}, nil, nil, err
	}
	return s, ignore, repo, nil
}

// locate sets s.Root and s.Dir.
func (s *Source) locate(o Options) (err error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return fmt.Errorf("resolving %s: %w", o.Root, err)
	}
	if s.Root, err = filepath.EvalSymlinks(root); err != nil {
		return fault.Inputf("source.unreadable", "resolving %s: %w", root, err)
	}
	s.Dir, err = filepath.EvalSymlinks(filepath.Join(s.Root, o.Dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Inputf("source.no-module", "app.dir %s does not exist in %s", o.Dir, s.Root)
	case err != nil:
		return fault.Inputf("source.unreadable", "resolving app.dir: %w", err)
	}
	if fi, err := os.Stat(s.Dir); err == nil && !fi.IsDir() {
		return fault.Inputf("source.no-module", "app.dir %s is not a folder in %s", o.Dir, s.Root)
	}
	return nil
}

// Name returns the name of an app. It reads nothing but go.mod, and returns the
// same errors as [Open] for it.
func Name(o Options) (string, error) {
	s := Source{Root: o.Root, Dir: filepath.Join(o.Root, o.Dir), Name: o.Name}
	if s.Name != "" {
		return s.Name, nil
	}
	_, err := s.readModule()
	return s.Name, err
}

// ShortRevision returns the first twelve digits of the revision, followed by
// "-dirty" if files differ from the commit. Without a git repository it returns
// "".
func (s *Source) ShortRevision() string {
	if s.Revision == "" {
		return ""
	}
	short := s.Revision[:min(12, len(s.Revision))]
	if s.Dirty {
		short += "-dirty"
	}
	return short
}

// readModule sets the module path and the name, and returns the content of go.mod.
func (s *Source) readModule() (*modfile.File, error) {
	file := filepath.Join(s.Dir, "go.mod")
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := fault.Inputf("source.no-module", "there is no go.mod in %s", s.Dir)
		if found := modulesBelow(s.Dir); len(found) > 0 {
			return nil, e.WithFix("set app.dir in slipway.yaml to one of %s", strings.Join(found, ", "))
		}
		return nil, e.WithFix("run slipway in a Go module, or create one with: go mod init")
	case err != nil:
		return nil, fault.Inputf("source.unreadable", "reading the module: %w", err)
	}
	mod, err := parseModule(file, data)
	if err != nil {
		return nil, fault.Inputf("source.bad-module", "%s", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	}
	if mod.Module == nil {
		return nil, fault.Inputf("source.bad-module", "%s has no module line", file)
	}
	s.Module = mod.Module.Mod.Path
	if s.Name == "" {
		prefix, _, _ := module.SplitPathVersion(s.Module)
		s.Name = appName(path.Base(prefix))
	}
	return mod, nil
}

// parseModule parses a go.mod file. Directives of a newer Go are ignored; the go command
// reports those that are invalid.
func parseModule(name string, data []byte) (*modfile.File, error) {
	mod, err := modfile.Parse(name, data, nil)
	if err == nil {
		return mod, nil
	}
	if lax, laxErr := modfile.ParseLax(name, data, nil); laxErr == nil && lax.Module != nil {
		return lax, nil // without its replace directives, so only as a last resort
	}
	return nil, err
}

// appName converts the last element of a module path to a valid component of a
// repository name (https://github.com/opencontainers/distribution-spec, "name").
func appName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '-'
		}
	}, s)
	for strings.Contains(s, "--") {
		s = strings.ReplaceAll(s, "--", "-")
	}
	if s = strings.Trim(s, "-"); s == "" {
		return "app"
	}
	return s
}

// modulesBelow returns up to eight folders with a go.mod, at most three levels
// below dir, for the fix of an error.
func modulesBelow(dir string) []string {
	var found []string
	for _, pattern := range []string{"*/go.mod", "*/*/go.mod", "*/*/*/go.mod"} {
		matches, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			continue // dir contains an unbalanced bracket
		}
		for _, m := range matches {
			if rel, err := filepath.Rel(dir, filepath.Dir(m)); err == nil {
				found = append(found, rel)
			}
		}
	}
	return found[:min(len(found), 8)]
}

// maxEpoch is the last second of the year 9999, in seconds since 1970.
const maxEpoch = 253402300799

// stamp sets the revision, the time and the version. repo is nil if there is no git
// repository.
func (s *Source) stamp(ctx context.Context, o Options, repo *Repository, at commit, changed []string) error {
	if o.Revision == "" {
		s.stampGit(ctx, repo, at, changed)
	} else if err := s.stampGiven(o.Revision); err != nil {
		return err
	}
	if o.Epoch != "" {
		seconds, err := strconv.ParseInt(o.Epoch, 10, 64)
		if err != nil || seconds < 0 || seconds > maxEpoch {
			return fault.Inputf("source.epoch", "SOURCE_DATE_EPOCH=%q is not a number of seconds since 1970", o.Epoch).
				WithFix("for example SOURCE_DATE_EPOCH=$(git log -1 --format=%%ct)")
		}
		s.Time = time.Unix(seconds, 0).UTC()
	}
	switch {
	case o.Version != "":
		s.Version = o.Version
	case s.Revision == "":
		s.Version = Unversioned
	default:
		// This is the form of Go's pseudo-versions
		// (https://go.dev/ref/mod#pseudo-versions). Tags are not used, because a
		// shallow clone in CI does not have them and the digest would differ.
		s.Version = module.PseudoVersion("", "", s.Time, s.Revision[:min(12, len(s.Revision))])
		if s.Dirty {
			s.Version += "+dirty"
		}
	}
	if s.Dirty {
		progress.Warnf(ctx, "the work tree differs from commit %.12s: %s", s.Revision, strings.Join(s.Changed, ", "))
	}
	return nil
}

func (s *Source) stampGiven(revision string) error {
	hash, dirty := strings.CutSuffix(revision, "-dirty")
	if len(hash) < 12 || strings.Trim(hash, "0123456789abcdef") != "" {
		return fault.Inputf("source.revision", "%q is not a commit hash", revision).
			WithFix("pass the full output of git rev-parse HEAD")
	}
	s.Revision, s.Dirty = hash, dirty
	if dirty {
		s.Changed = []string{"the given revision ends in -dirty"}
	}
	s.Time = time.Unix(0, 0).UTC()
	return nil
}

// stampGit sets the revision, the time and the changed files of the repository.
func (s *Source) stampGit(ctx context.Context, repo *Repository, at commit, changed []string) {
	s.Time = time.Unix(0, 0).UTC()
	if repo == nil || at.hash == "" {
		why := "no git repository"
		if repo != nil {
			why = "no commit yet"
		}
		progress.Warnf(ctx, "%s: version is %s and time is %s", why, Unversioned, s.Time.Format(time.DateOnly))
		return
	}
	s.Revision, s.Time = at.hash, at.time
	s.Changed = slices.Concat(s.outside, changed)
	s.Dirty = len(s.Changed) > 0
	if more := len(s.Changed) - 10; more > 0 {
		s.Changed = append(s.Changed[:10], "...")
	}
}

// relevant returns the sorted files that can change the image, of all files that differ
// from the commit. Both are relative to the repository.
func (s *Source) relevant(changed []string, ignore *Ignore) []string {
	var files []string
	for _, name := range changed {
		file := filepath.Join(s.Top, filepath.FromSlash(name))
		if (s.inScope(file) || slices.Contains(s.settings(), file)) && !ignore.Match(file) && !isBelow(filepath.Join(s.Root, OutputDir), file) {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	return files
}

// settings returns the files that say how the program is built. They can be outside the
// scope if the module is in a subfolder. The linters and the tests do not read them.
func (s *Source) settings() []string {
	files := []string{filepath.Join(s.Root, config.FileName)}
	if s.rules != nil {
		files = append(files, filepath.Join(s.rules.base, IgnoreFile))
	}
	return files
}

// inScope reports whether a file can change what is built.
func (s *Source) inScope(file string) bool {
	return slices.ContainsFunc(s.scope, func(path string) bool { return isBelow(path, file) })
}

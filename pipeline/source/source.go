// Package source finds out what is to be built: the app's module and main
// package, the files that belong to it, and the revision and time that are
// stamped into it.
//
// Everything that reaches an image comes from here, so nothing in a [Source]
// that ends up in one depends on the machine: not the folder, not the clock,
// not the user, not tags or remotes that one clone has and another lacks.
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

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// OutputDir is the folder slipway writes reports and images to, in the folder
// of slipway.yaml. It is never part of a source.
const OutputDir = ".slipway"

// Unversioned is the version of an app outside git.
const Unversioned = "v0.0.0-unversioned"

// Options says where to look.
type Options struct {
	Root string // folder of slipway.yaml, absolute
	Dir  string // the app's module folder, relative to Root; default "."
	Main string // main package relative to Dir; default: the only one
	Name string // the app's name; default: last element of the module path
	Tags []string
	// Version is stamped in place of the one made from the commit.
	Version string
	// Revision stands in for git where its folder is not at hand, as in a
	// container that was given the files alone: a full commit hash, followed
	// by "-dirty" where files were changed.
	Revision string
	// Epoch is the text of SOURCE_DATE_EPOCH: seconds since 1970, overriding
	// the commit's time (https://reproducible-builds.org/specs/source-date-epoch/).
	Epoch string
}

// Source is an app's source.
type Source struct {
	Root     string    `json:"-"`                  // folder of slipway.yaml
	Dir      string    `json:"-"`                  // the app's module folder
	Name     string    `json:"name"`               // the app's name
	Module   string    `json:"module"`             // module path
	Main     string    `json:"main"`               // main package, ./-relative to Dir
	Revision string    `json:"revision,omitempty"` // commit hash; empty outside git
	Dirty    bool      `json:"dirty"`              // files of the app differ from the commit
	Changed  []string  `json:"changed,omitempty"`  // which, relative to the repository, at most ten
	Time     time.Time `json:"time"`               // the commit's, or SOURCE_DATE_EPOCH, or 1970-01-01
	Version  string    `json:"version"`            // what is stamped
	// Excluded lists the files under Dir that the ignore file hides from the
	// build, absolute.
	Excluded []string `json:"-"`

	scope []string // folders that can change what is built
}

// Open reads an app's source. It returns [fault.Input] errors for everything
// its owner has to mend: no go.mod, no or several main packages, unreadable
// files, symbolic links that leave the tree, a malformed ignore file or epoch.
func Open(ctx context.Context, o Options) (Source, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return Source{}, fmt.Errorf("resolving %s: %w", o.Root, err)
	}
	s := Source{Root: root, Dir: filepath.Join(root, o.Dir), Name: o.Name}
	if err := s.readModule(); err != nil {
		return Source{}, err
	}
	ignore, err := s.ignore()
	if err != nil {
		return Source{}, err
	}
	files, err := s.walk(ctx, ignore)
	if err != nil {
		return Source{}, err
	}
	if err := s.findMain(o, files); err != nil {
		return Source{}, err
	}
	if err := s.stamp(ctx, o, ignore); err != nil {
		return Source{}, err
	}
	return s, nil
}

// Name is an app's name, read from its module alone. It returns the errors of
// [Open].
func Name(o Options) (string, error) {
	s := Source{Root: o.Root, Dir: filepath.Join(o.Root, o.Dir), Name: o.Name}
	if s.Name != "" {
		return s.Name, nil
	}
	err := s.readModule()
	return s.Name, err
}

// ShortRevision is the revision as people quote it: twelve digits, with
// "-dirty" where files were changed; empty outside git.
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

func (s *Source) readModule() error {
	file := filepath.Join(s.Dir, "go.mod")
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := fault.Inputf("source.no-module", "there is no go.mod in %s", s.Dir)
		if found := modulesBelow(s.Dir); len(found) > 0 {
			return e.WithFix("set app.dir in slipway.yaml to one of %s", strings.Join(found, ", "))
		}
		return e.WithFix("run slipway in a Go module, or make one with: go mod init")
	case err != nil:
		return fault.Inputf("source.unreadable", "reading the module: %w", err)
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		// A directive of a newer Go is for the go command to judge.
		if lax, laxErr := modfile.ParseLax(file, data, nil); laxErr == nil && lax.Module != nil {
			mod, err = lax, nil
		}
	}
	if err != nil {
		return fault.Inputf("source.bad-module", "%s", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	}
	if mod.Module == nil {
		return fault.Inputf("source.bad-module", "%s has no module line", file)
	}
	s.Module = mod.Module.Mod.Path
	if s.Name == "" {
		prefix, _, _ := module.SplitPathVersion(s.Module)
		s.Name = appName(path.Base(prefix))
	}
	s.scope = []string{s.Dir}
	for _, r := range mod.Replace {
		if r.New.Version == "" {
			s.scope = append(s.scope, filepath.Join(s.Dir, filepath.FromSlash(r.New.Path)))
		}
	}
	if work := workspace(s.Root, s.Dir); work != "" {
		s.scope = []string{filepath.Dir(work)}
	}
	return nil
}

// appName makes a repository path component of a module's last element
// (https://github.com/opencontainers/distribution-spec, "name").
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

// workspace is the go.work that governs dir, looked for no higher than root.
func workspace(root, dir string) string {
	for {
		file := filepath.Join(dir, "go.work")
		if _, err := os.Stat(file); err == nil {
			return file
		}
		if dir == root || dir == filepath.Dir(dir) {
			return ""
		}
		dir = filepath.Dir(dir)
	}
}

// modulesBelow lists module folders at most three levels down, to help who
// stands a few steps off.
func modulesBelow(dir string) []string {
	var found []string
	for _, pattern := range []string{"*/go.mod", "*/*/go.mod", "*/*/*/go.mod"} {
		matches, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			continue // the pattern is fixed; the folder's name has a bracket
		}
		for _, m := range matches {
			if rel, err := filepath.Rel(dir, filepath.Dir(m)); err == nil {
				found = append(found, rel)
			}
		}
	}
	return found[:min(len(found), 8)]
}

// stamp settles revision, time and version.
func (s *Source) stamp(ctx context.Context, o Options, ignore *Ignore) error {
	var err error
	switch {
	case o.Revision != "":
		err = s.stampGiven(o.Revision)
	default:
		err = s.stampGit(ctx, ignore)
	}
	if err != nil {
		return err
	}
	if o.Epoch != "" {
		seconds, err := strconv.ParseInt(o.Epoch, 10, 64)
		if err != nil || seconds < 0 || seconds > 253402300799 {
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
		// The form of Go's pseudo-versions. Tags stay out of it: a shallow
		// clone in CI lacks those a laptop has, and the digest would differ.
		s.Version = module.PseudoVersion("", "", s.Time, s.Revision[:min(12, len(s.Revision))])
		if s.Dirty {
			s.Version += "+dirty"
		}
	}
	if s.Dirty {
		progress.Warnf(ctx, "the tree differs from commit %.12s: %s", s.Revision, strings.Join(s.Changed, ", "))
	}
	return nil
}

func (s *Source) stampGiven(revision string) error {
	hash, dirty := strings.CutSuffix(revision, "-dirty")
	if len(hash) < 12 || strings.Trim(hash, "0123456789abcdef") != "" {
		return fault.Inputf("source.revision", "%q is not a commit hash", revision).
			WithFix("give all of what git rev-parse HEAD prints")
	}
	s.Revision, s.Dirty = hash, dirty
	if dirty {
		s.Changed = []string{"as the caller says"}
	}
	s.Time = time.Unix(0, 0).UTC()
	return nil
}

func (s *Source) inScope(file string) bool {
	return slices.ContainsFunc(s.scope, func(dir string) bool {
		rel, err := filepath.Rel(dir, file)
		return err == nil && filepath.IsLocal(rel)
	})
}

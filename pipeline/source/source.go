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

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
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
	Root     string    `json:"-"`                  // folder of slipway.yaml
	Dir      string    `json:"-"`                  // folder of the app's module
	Name     string    `json:"name"`               // the app's name
	Module   string    `json:"module"`             // module path
	Main     string    `json:"main,omitempty"`     // main package, relative to Dir: "." or "./cmd/x"
	Revision string    `json:"revision,omitempty"` // commit hash; empty without a git repository
	Dirty    bool      `json:"dirty"`              // whether files of the app differ from the commit
	Changed  []string  `json:"changed,omitempty"`  // the files that differ, relative to the repository; after ten of them "..."
	Time     time.Time `json:"time"`               // SOURCE_DATE_EPOCH, or the time of the commit, or 1970-01-01
	Version  string    `json:"version"`            // version that is stamped
	// Excluded lists the files below Dir that the ignore file excludes from the
	// build, as absolute paths.
	Excluded []string `json:"-"`

	scope []string // folders whose files can change what is built
}

// Open reads the source of an app.
//
// It returns [fault.Input] errors for everything that the user must fix: a
// missing go.mod, no or several main packages, unreadable files, symbolic links
// that point outside the source tree, and a malformed ignore file, revision or
// epoch.
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

// Name returns the name of an app. It reads nothing but go.mod, and returns the
// same errors as [Open] for it.
func Name(o Options) (string, error) {
	s := Source{Root: o.Root, Dir: filepath.Join(o.Root, o.Dir), Name: o.Name}
	if s.Name != "" {
		return s.Name, nil
	}
	err := s.readModule()
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

func (s *Source) readModule() error {
	file := filepath.Join(s.Dir, "go.mod")
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := fault.Inputf("source.no-module", "there is no go.mod in %s", s.Dir)
		if found := modulesBelow(s.Dir); len(found) > 0 {
			return e.WithFix("set app.dir in slipway.yaml to one of %s", strings.Join(found, ", "))
		}
		return e.WithFix("run slipway in a Go module, or create one with: go mod init")
	case err != nil:
		return fault.Inputf("source.unreadable", "reading the module: %w", err)
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		// The go.mod may have a directive of a newer Go; the go command will
		// report it if it is invalid.
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

// workspace returns the path of the go.work that applies to dir, or "". It does
// not search above root.
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

// stamp sets the revision, the time and the version.
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

// inScope reports whether a file can change what is built.
func (s *Source) inScope(file string) bool {
	return slices.ContainsFunc(s.scope, func(dir string) bool {
		rel, err := filepath.Rel(dir, file)
		return err == nil && filepath.IsLocal(rel)
	})
}

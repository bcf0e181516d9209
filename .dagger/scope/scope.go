// Package scope determines which files of a repository are uploaded to the engine.
//
// A build gets the app's folder without what its ignore file excludes, and the folders
// that its module uses in replace directives. Nothing else is uploaded, so nothing else
// can change a cache key. Lint and tests also get the excluded files.
package scope

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"github.com/moby/patternmatcher/ignorefile"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/modfile"
)

// IgnoreFile is the name of the ignore file, in the app's folder or next to
// slipway.yaml.
const IgnoreFile = ".dockerignore"

// OutputDir is the folder that slipway itself writes to. It is never uploaded.
const OutputDir = ".slipway"

// Settings are the few settings of slipway.yaml that determine what a container needs.
// The program reads the whole file and reports its mistakes.
type Settings struct {
	App struct {
		Dir       string   `yaml:"dir"`
		CGO       bool     `yaml:"cgo"`
		Platforms []string `yaml:"platforms"`
	} `yaml:"app"`
	Image struct {
		Repository string `yaml:"repository"`
		UPX        bool   `yaml:"upx"`
	} `yaml:"image"`
	Lint struct {
		Config string `yaml:"config"`
	} `yaml:"lint"`
	Test struct {
		Services []string `yaml:"services"`
	} `yaml:"test"`
	Scan struct {
		IgnoreFile string   `yaml:"ignoreFile"`
		VEX        []string `yaml:"vex"`
		Charts     []string `yaml:"charts"`
	} `yaml:"scan"`
	Sign struct {
		Key     string `yaml:"key"`
		Keyless Trust  `yaml:"keyless"`
	} `yaml:"sign"`
	Verify Trust `yaml:"verify"`
	Deploy struct {
		Chart        string `yaml:"chart"`
		Environments map[string]struct {
			Values   []string `yaml:"values"`
			Clusters []struct {
				Values []string `yaml:"values"`
			} `yaml:"clusters"`
			Verify Trust `yaml:"verify"`
		} `yaml:"environments"`
	} `yaml:"deploy"`
	Registry struct {
		CA string `yaml:"ca"`
	} `yaml:"registry"`
}

// Trust names the files that determine whose signature counts.
type Trust struct {
	Keys        []string `yaml:"keys"`
	TrustedRoot string   `yaml:"trustedRoot"`
}

func (t Trust) files() []string { return append(slices.Clone(t.Keys), t.TrustedRoot) }

// policies are the files and folders outside the app that determine what a scan passes
// and whose signature counts.
func (s Settings) policies() []string {
	files := []string{".trivyignore", ".trivyignore.yaml", s.Scan.IgnoreFile}
	files = slices.Concat(files, s.Scan.VEX, s.Scan.Charts, s.Sign.Keyless.files(), s.Verify.files())
	for _, e := range s.Deploy.Environments {
		files = append(files, e.Verify.files()...)
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "" || strings.Contains(f, "://") })
}

// Read reads slipway.yaml. Of a malformed file it returns what could be read.
func Read(data []byte) Settings {
	var s Settings
	_ = yaml.Unmarshal(data, &s) // the program reports the line and the fix
	return s
}

// Files are the small files that determine the rest. A nil field is a file that does
// not exist.
type Files struct {
	Config string // path of slipway.yaml, or of where it would be, from the repository's root
	Found  bool   // there is a slipway.yaml
	Root   string // its folder
	App    string // the app's folder, from the repository's root
	Ignore []byte // the app's ignore file
	// RootIgnore is the ignore file next to slipway.yaml. It is used if the app has
	// none.
	RootIgnore []byte
	Module     []byte // the app's go.mod
	Workspace  string // folder of the go.work that governs the app; "" for none
	Linked     bool   // .git is a file: this is a linked work tree or a submodule
	Settings   Settings
}

// Filter selects the files that are uploaded, with patterns from the root of the
// repository.
type Filter struct {
	Include []string // empty: all files
	Exclude []string
}

// Check selects what lint and tests get.
func (f Files) Check() Filter {
	return Filter{Include: f.include(), Exclude: f.never()}
}

// Build selects what a build, and everything after it, gets. It returns an error if the
// ignore file is malformed.
func (f Files) Build() (Filter, error) {
	exclude := f.never()
	for _, ignore := range []struct {
		base string
		data []byte
	}{{f.App, f.Ignore}, {f.Root, f.RootIgnore}} {
		if ignore.data == nil {
			continue
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(ignore.data))
		if err != nil {
			return Filter{}, err
		}
		for _, p := range patterns {
			p, negated := strings.CutPrefix(p, "!")
			if p = path.Join(ignore.base, p); !inside(f.App, p) {
				continue // it excludes nothing of the app
			}
			if negated {
				p = "!" + p
			}
			exclude = append(exclude, p)
		}
		break // the app's own ignore file replaces the one next to slipway.yaml
	}
	// The program reads these even if the ignore file excludes them.
	for _, name := range []string{f.Config, path.Join(f.App, IgnoreFile), path.Join(f.Root, IgnoreFile)} {
		exclude = append(exclude, "!"+name)
	}
	return Filter{Include: f.include(f.Settings.policies()...), Exclude: exclude}, nil
}

// Deploy selects what a deployment needs in addition: the chart and its values. They are
// uploaded separately because they do not change the image.
func (f Files) Deploy() Filter {
	charts := []string{"chart", "charts"}
	if c := f.Settings.Deploy.Chart; c != "" {
		charts = []string{c}
	}
	for _, e := range f.Settings.Deploy.Environments {
		charts = append(charts, e.Values...)
		for _, c := range e.Clusters {
			charts = append(charts, c.Values...)
		}
	}
	var include []string
	for _, c := range charts {
		include = append(include, path.Join(f.Root, c))
	}
	slices.Sort(include)
	return Filter{Include: slices.Compact(include), Exclude: f.never()}
}

func (f Files) never() []string {
	never := []string{".git", "**/" + OutputDir}
	if key := f.Settings.Sign.Key; key != "" && !strings.Contains(key, "://") {
		never = append(never, path.Join(f.Root, key)) // it is given as a secret
	}
	return never
}

// include lists the folders of the app and of the modules that it uses from the
// repository, and the files above them that the program reads. The paths in more are
// relative to slipway.yaml.
func (f Files) include(more ...string) []string {
	dirs := []string{f.App}
	if f.Workspace != "" {
		dirs = append(dirs, f.Workspace)
	}
	// Not ParseLax, which ignores replace directives. The go command reports a
	// malformed file.
	if mod, err := modfile.Parse("go.mod", f.Module, nil); err == nil {
		for _, r := range mod.Replace {
			if r.New.Version == "" && !path.IsAbs(r.New.Path) {
				dirs = append(dirs, path.Join(f.App, r.New.Path))
			}
		}
	}
	if slices.Contains(dirs, ".") {
		return nil
	}
	include := []string{f.Config, path.Join(f.Root, IgnoreFile)}
	for _, file := range append(more, f.Settings.Lint.Config, f.Settings.Registry.CA) {
		if file != "" {
			include = append(include, path.Join(f.Root, file))
		}
	}
	for dir := f.App; dir != "."; {
		dir = path.Dir(dir)
		for _, suffix := range []string{"yml", "yaml", "toml", "json"} {
			include = append(include, path.Join(dir, ".golangci."+suffix))
		}
	}
	include = append(include, dirs...)
	slices.Sort(include)
	return slices.Compact(include)
}

// inside reports whether a pattern can match something in dir.
func inside(dir, pattern string) bool {
	if dir == "." {
		return true
	}
	parts := strings.Split(pattern, "/")
	for i, d := range strings.Split(dir, "/") {
		if i >= len(parts) || parts[i] == "**" {
			return true
		}
		if ok, err := path.Match(parts[i], d); err != nil || !ok {
			return false
		}
	}
	return true
}

// Package scope determines which files of a repository are uploaded to the engine.
//
// These are the folders of the modules that the go command reads for the app: the app's
// own, those of the modules in go.work, and those that replace directives name. What git
// ignores is not uploaded, except what the go command reads anyway; see [Needs]. Nothing
// else can change a cache key. Lint and tests get all of that, and a build gets it
// without what the ignore file excludes.
package scope

import (
	"bytes"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher/ignorefile"
	"go.yaml.in/yaml/v3"
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
		Config  string `yaml:"config"`
		NewFrom string `yaml:"newFrom"`
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
		ChartKeyring string `yaml:"chartKeyring"`
		Environments map[string]struct {
			Values   []string `yaml:"values"`
			Sealed   string   `yaml:"sealed"`
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
// not exist. All paths are slash-separated and relative to the repository's root.
type Files struct {
	Config string // path of slipway.yaml, or of where it would be
	Found  bool   // there is a slipway.yaml
	Root   string // its folder
	App    string // the app's folder
	Ignore []byte // the app's ignore file
	// RootIgnore is the ignore file next to slipway.yaml. It is used if the app has
	// none.
	RootIgnore []byte
	Workspace  string            // folder of the go.work that governs the app; "" for none
	Work       []byte            // that go.work
	Modules    map[string][]byte // go.mod by folder: that of the app and those in go.work
	Versioned  bool              // the repository is a git repository
	Link       string            // what .git contains if it is a file: this is a linked work tree or a submodule
	Settings   Settings
	// Further are patterns of files that the caller wants although git ignores them.
	Further []string
}

// Filter selects the files that are uploaded, with patterns from the root of the
// repository.
type Filter struct {
	Include []string // empty: all files
	Exclude []string
	// Unignored leaves out what git ignores.
	Unignored bool
}

// Check selects what lint and tests get, except what git ignores.
func (f Files) Check() Filter {
	return Filter{Include: f.include(), Exclude: f.never(), Unignored: f.Versioned}
}

// Ignored selects what is uploaded even if git ignores it and before the files are
// examined for [Needs]: what the go command compiles, the files that slipway.yaml names,
// and what the caller wants. It must not be empty.
func (f Files) Ignored() Filter {
	include := slices.Clone(f.Further)
	for _, file := range append(f.Settings.policies(), f.Settings.Lint.Config, f.Settings.Registry.CA) {
		if file != "" {
			include = append(include, path.Join(f.Root, file))
		}
	}
	include = append(include, f.Config)
	dirs, _ := f.folders()
	for _, dir := range dirs {
		for _, name := range sources() {
			include = append(include, path.Join(escape(dir), "**", name))
		}
	}
	return Filter{Include: sorted(include), Exclude: f.never()}
}

// Needed selects what [Needs] has found.
func (f Files) Needed(needs []string) Filter {
	return Filter{Include: needs, Exclude: f.never()}
}

// Hidden returns the patterns of what a build, and everything after it, does not get of
// what is uploaded. It returns an error if the ignore file is malformed.
//
// The go.mod, and what is embedded according to needs, stay even if the ignore file
// excludes them, so that the program can say which line of the ignore file hides them.
func (f Files) Hidden(needs []string) ([]string, error) {
	var exclude []string
	for _, ignore := range []struct {
		base string
		data []byte
	}{{f.App, f.Ignore}, {f.Root, f.RootIgnore}} {
		if ignore.data == nil {
			continue
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(ignore.data))
		if err != nil {
			return nil, err
		}
		for _, p := range patterns {
			p, negated := strings.CutPrefix(p, "!")
			p = path.Join(escape(ignore.base), p)
			if negated {
				p = "!" + p
			}
			exclude = append(exclude, p)
		}
		break // the app's own ignore file replaces the one next to slipway.yaml
	}
	if exclude == nil {
		return nil, nil
	}
	kept := []string{f.Config, path.Join(f.App, IgnoreFile), path.Join(f.Root, IgnoreFile)}
	for _, dir := range f.Folders() {
		for _, name := range []string{"go.mod", "go.sum", "vendor/modules.txt"} {
			kept = append(kept, path.Join(escape(dir), name))
		}
	}
	for _, file := range append(f.Settings.policies(), f.Settings.Registry.CA) {
		if file != "" {
			kept = append(kept, path.Join(f.Root, file))
		}
	}
	for _, name := range append(sorted(kept), needs...) {
		exclude = append(exclude, "!"+name)
	}
	return exclude, nil
}

// Deploy selects what a deployment needs in addition: the chart and its values. They are
// uploaded separately because they do not change the image.
func (f Files) Deploy() Filter {
	// Dependencies of a chart, given as file:// in its Chart.yaml, are usually beside it.
	charts := []string{"chart", "charts"}
	switch c := f.Settings.Deploy.Chart; {
	case strings.Contains(c, "://"):
		charts = nil
	case c != "":
		charts = []string{c}
		if dir := path.Dir(path.Clean(c)); dir != "." && dir != ".." && dir != "/" {
			charts = append(charts, dir)
		}
	}
	if k := f.Settings.Deploy.ChartKeyring; k != "" {
		charts = append(charts, k)
	}
	for _, e := range f.Settings.Deploy.Environments {
		charts = append(charts, e.Values...)
		if e.Sealed != "" {
			charts = append(charts, e.Sealed)
		}
		for _, c := range e.Clusters {
			charts = append(charts, c.Values...)
		}
	}
	include := []string{f.Config} // never empty, which would be everything
	for _, c := range charts {
		include = append(include, path.Join(f.Root, c))
	}
	return Filter{Include: sorted(include), Exclude: f.never()}
}

// Git selects what is needed to read the commit, its time and the changed files. Git's
// configuration, hooks and logs are not uploaded, because CI systems keep tokens in
// them. dir is git's folder, and more are further files in it.
func Git(dir string, more ...string) Filter {
	var f Filter
	for _, name := range append([]string{
		"HEAD", "index", "sharedindex.*", "shallow", "packed-refs", "refs/heads", "objects", "reftable",
		"info/attributes", "info/exclude", "info/sparse-checkout",
	}, more...) {
		f.Include = append(f.Include, path.Join(escape(dir), name))
	}
	return f
}

// References returns the files of git's folder with the branches and tags that lint.newFrom
// can name.
func (f Files) References() []string {
	if f.Settings.Lint.NewFrom == "" {
		return nil
	}
	return []string{"refs/remotes", "refs/tags"}
}

// Outside returns the folders that the app's modules name in replace and use directives
// and that are outside the repository, so that they cannot be uploaded.
func (f Files) Outside() []string {
	_, outside := f.folders()
	return outside
}

// Folders returns the folders of all modules that the go command reads for the app.
func (f Files) Folders() []string {
	inside, _ := f.folders()
	return inside
}

// Above returns the files outside these folders that determine what is built.
func (f Files) Above() []string {
	files := []string{f.Config, path.Join(f.Root, IgnoreFile)}
	if f.Workspace != "" {
		for _, name := range []string{"go.work", "go.work.sum", "vendor"} {
			files = append(files, path.Join(f.Workspace, name))
		}
	}
	return files
}

func (f Files) never() []string {
	// The contents of a folder .git are never uploaded with the source. A file .git is,
	// because git reads it in a submodule.
	never := []string{".git", "**/.git/**", "**/" + OutputDir}
	if key := f.Settings.Sign.Key; key != "" && !strings.Contains(key, "://") {
		never = append(never, path.Join(f.Root, key)) // it is given as a secret
	}
	return never
}

// include lists the folders of the modules and the files above them that the programs
// read.
func (f Files) include() []string {
	dirs, _ := f.folders()
	if slices.Contains(dirs, ".") {
		return nil
	}
	include := append(f.Above(), ".gitmodules")
	for _, file := range append(f.Settings.policies(), f.Settings.Lint.Config, f.Settings.Registry.CA) {
		if file != "" {
			include = append(include, path.Join(f.Root, file))
		}
	}
	for dir := f.App; dir != "."; {
		dir = path.Dir(dir)
		// Git reads these to decide what it ignores and what a file looks like.
		include = append(include, path.Join(dir, ".gitignore"), path.Join(dir, ".gitattributes"))
		for _, suffix := range []string{"yml", "yaml", "toml", "json"} {
			include = append(include, path.Join(dir, ".golangci."+suffix))
		}
	}
	for _, dir := range dirs {
		include = append(include, escape(dir))
	}
	return sorted(include)
}

// sorted sorts patterns, drops those that occur twice and those that leave the
// repository.
func sorted(patterns []string) []string {
	slices.Sort(patterns)
	patterns = slices.DeleteFunc(patterns, func(p string) bool { return !filepath.IsLocal(p) })
	return slices.Compact(patterns)
}

// escape makes a pattern that matches a path and nothing else.
func escape(path string) string {
	if strings.ContainsAny(path, `\*?[`) || strings.HasPrefix(path, "!") {
		path = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
		if strings.HasPrefix(path, "!") {
			path = `\` + path
		}
	}
	return path
}

// Package license checks that every module in the compiled programs has a licence
// that is allowed. Which modules these are is read from the programs themselves, so
// that a module that only tests need is not checked.
//
// The package promises no compatibility to programs other than slipway.
package license

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Options are the options of [Run].
type Options struct {
	Dir      string        // folder of the app's module, absolute
	Go       *toolchain.Go // the app's toolchain
	Settings config.License
	Programs []string // paths of the compiled programs, before they are packed
	Env      []string // additional environment variables of the build, NAME=value
}

// Module is a module that is linked into a program.
type Module struct {
	// Path is the path of the module whose code is linked. If a module is replaced,
	// that is the replacement: a module path, or a folder that begins with ./ or /.
	Path     string `json:"path"`
	Version  string `json:"version,omitempty"`  // empty if Path is a folder
	Replaces string `json:"replaces,omitempty"` // path of the module that Path replaces

	Licenses  []string `json:"licenses"`            // SPDX identifiers and expressions; all of them must be allowed
	Files     []string `json:"files"`               // names of the files that were read
	Exception string   `json:"exception,omitempty"` // reason why the module is not checked
	Problem   string   `json:"problem,omitempty"`   // why the module fails the gate; empty if it passes
}

// String returns the module and its version, for messages.
func (m Module) String() string {
	s := strings.TrimSpace(m.Path + " " + m.Version)
	if m.Replaces != "" {
		s += " (in place of " + m.Replaces + ")"
	}
	return s
}

// key returns the module path by which license.exceptions names the module. A
// replacement by another module needs an exception of its own, because it is other
// code. A folder has no module path, so it has that of the module it replaces.
func (m Module) key() string {
	if modfile.IsDirectoryPath(m.Path) && m.Replaces != "" {
		return m.Replaces
	}
	return m.Path
}

// Result is the result of [Run].
type Result struct {
	Passed  bool     `json:"passed"`
	Allow   []string `json:"allow"`   // SPDX identifiers that are allowed
	Modules []Module `json:"modules"` // sorted by path and version
	Seconds float64  `json:"seconds"`
	Reports []string `json:"reports,omitempty"` // absolute paths of the files written
}

// Denied returns the modules that fail the gate.
func (r Result) Denied() []Module {
	return slices.DeleteFunc(slices.Clone(r.Modules), func(m Module) bool { return m.Problem == "" })
}

// Run checks the licences of all modules that are linked into the programs, except
// the main module and the standard library.
//
// If a module fails, Run reports each of them as progress and returns a complete
// result and a [fault.Gate] error. It returns a [fault.Failed] error if the folder of
// a module cannot be found: a gate that cannot look must not pass.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	r := Result{Allow: o.Settings.Allow}
	linked, err := linkedModules(o.Programs)
	if err != nil {
		return r, err
	}
	progress.Statusf(ctx, "reading the licences of %d modules", len(linked))
	folders, err := findFolders(ctx, o, linked)
	if err != nil {
		return r, err
	}
	r.Modules = make([]Module, 0, len(linked))
	for _, dep := range linked {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		m, err := check(dep, folders[dep.Path], o.Settings)
		if err != nil {
			return r, err
		}
		r.Modules = append(r.Modules, m)
	}
	slices.SortFunc(r.Modules, func(a, b Module) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
	})
	r.Seconds = time.Since(start).Seconds()
	denied := r.Denied()
	r.Passed = len(denied) == 0
	for _, m := range denied {
		progress.Line(ctx, m.String()+": "+m.Problem)
	}
	return r, gateError(denied, len(r.Modules))
}

// linkedModules returns the modules that are linked into any of the programs, each
// once. Platforms can differ in what they link.
func linkedModules(programs []string) ([]*debug.Module, error) {
	byPath := map[string]*debug.Module{}
	for _, path := range programs {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading which modules are linked into the program: %w", err)
		}
		for _, dep := range info.Deps {
			byPath[dep.Path] = dep // all programs are built from one go.mod, so there is one version
		}
	}
	all := make([]*debug.Module, 0, len(byPath))
	for _, dep := range byPath {
		all = append(all, dep)
	}
	slices.SortFunc(all, func(a, b *debug.Module) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// check judges the licences in the folder of a module.
func check(dep *debug.Module, folder string, s config.License) (Module, error) {
	m := Module{Path: dep.Path, Version: dep.Version, Licenses: []string{}, Files: []string{}}
	if dep.Replace != nil {
		m.Path, m.Version, m.Replaces = dep.Replace.Path, dep.Replace.Version, dep.Path
	}
	if modfile.IsDirectoryPath(m.Path) {
		m.Version = "" // "(devel)" says nothing
	}
	if m.Replaces == m.Path {
		m.Replaces = "" // another version of the same module
	}
	files, err := readFiles(folder)
	if err != nil {
		return m, fault.Failedf("license.unreadable", "reading the licence of %s: %w", m, err)
	}
	for _, f := range files {
		m.Files = append(m.Files, f.name)
	}
	m.Licenses = append(m.Licenses, combine(files)...)
	if reason, ok := s.Exceptions[m.key()]; ok {
		m.Exception = reason
		return m, nil
	}
	m.Problem = problem(m, files, s.Allow)
	return m, nil
}

// problem returns why a module fails the gate, or "" if it passes.
func problem(m Module, files []file, allow []string) string {
	fix := fmt.Sprintf("find out its licence, then add %s with a reason to license.exceptions", m.key())
	if len(files) == 0 {
		return "no licence: its root folder has no file such as LICENSE or COPYING (" + fix + ")"
	}
	var denied []string
	for _, l := range m.Licenses {
		if !allowed(l, allow) {
			denied = append(denied, l)
		}
	}
	if len(denied) > 0 {
		return fmt.Sprintf("%s, not in license.allow (read from %s)", strings.Join(denied, ", "), strings.Join(m.Files, ", "))
	}
	if unknown := unrecognized(files); len(unknown) > 0 {
		return fmt.Sprintf("no recognised licence in %s (%s)", strings.Join(unknown, ", "), fix)
	}
	return ""
}

// gateError returns the error for the modules that fail the gate, or nil if there
// are none.
func gateError(denied []Module, total int) error {
	if len(denied) == 0 {
		return nil
	}
	names := make([]string, 0, len(denied))
	for _, m := range denied {
		names = append(names, m.String())
	}
	const shown = 3 // the others are in the output above the error
	if n := len(names) - shown; n > 0 {
		names = append(names[:shown], fmt.Sprintf("%d more", n))
	}
	return fault.Gatef("license.denied", "%d of %d modules do not have an allowed licence: %s", len(denied), total, strings.Join(names, ", ")).
		WithFix("use other modules, or add the licence to license.allow, or add the module with a reason to license.exceptions")
}

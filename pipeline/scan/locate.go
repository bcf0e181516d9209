package scan

import (
	"os"
	"path"
	"path/filepath"

	"golang.org/x/mod/modfile"
)

// Locate sets the path and line of each Go vulnerability to the line of the app's
// go.mod that requires the vulnerable module. The folder of go.mod is module;
// paths are relative to root. Locate changes nothing if it cannot read go.mod.
func Locate(findings []Finding, root, module string) {
	file := filepath.Join(module, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		return
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		return
	}
	rel, err := filepath.Rel(root, file)
	if err != nil {
		rel = file
	}
	lines := map[string]int{}
	for _, r := range mod.Require {
		lines[r.Mod.Path] = r.Syntax.Start.Line
	}
	for _, r := range mod.Replace { // findings have the module path of the replacement
		if r.New.Version != "" {
			lines[r.New.Path] = r.Syntax.Start.Line
		}
	}
	switch { // the version of the toolchain is the version of the standard library
	case mod.Toolchain != nil:
		lines["stdlib"] = mod.Toolchain.Syntax.Start.Line
	case mod.Go != nil:
		lines["stdlib"] = mod.Go.Syntax.Start.Line
	}
	for i := range findings {
		f := &findings[i]
		if line, ok := lines[f.Package]; ok && f.IsGo() && f.Path == "" {
			f.Path, f.Line = filepath.ToSlash(rel), line
		}
	}
}

// Rebase makes the paths of all findings in the source relative to another folder. The
// prefix is the path from there to the folder that they are relative to, with slashes.
func (r *Result) Rebase(prefix string) {
	for i, f := range r.Findings {
		if f.Path != "" {
			r.Findings[i].Path = path.Join(prefix, f.Path)
		}
	}
	for i, f := range r.Ignored {
		if f.Path != "" {
			r.Ignored[i].Path = path.Join(prefix, f.Path)
		}
	}
}

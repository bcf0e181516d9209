// Package listener finds out from the source whether a program listens on a port.
//
// The package promises no compatibility to programs other than slipway.
package listener

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// listed is a package as go list describes it.
type listed struct {
	ImportPath, Dir, Name string
	GoFiles, CgoFiles     []string
	Deps                  []string
	Module                *struct{ Path string }
}

// Options are the options of [Find].
type Options struct {
	Dir    string        // folder of the app's module, absolute
	Module string        // module path
	Mains  []string      // main packages relative to Dir: "." or "./cmd/x"
	Tags   []string      // build tags
	Go     *toolchain.Go // the app's toolchain; without it, no program is found
	Env    []string      // additional environment variables for the go command, NAME=value
}

// Find returns where each main package listens on a port, as file:line: the first call in its
// own files or, if there is none, in another package of the module that it uses. The text is
// empty for a program that does not listen. Programs that the go command cannot list are
// missing, and so are calls in other modules, for example in a framework that is not given an
// address. It reads the packages that the go command names for linux/amd64.
func Find(ctx context.Context, o Options) map[string]string {
	found := map[string]string{}
	for _, main := range list(ctx, o) {
		if main.Name != "main" || main.Module == nil || main.Module.Path != o.Module {
			continue
		}
		rel, err := filepath.Rel(o.Dir, main.Dir)
		if err != nil {
			continue
		}
		at := main.listens(o.Dir)
		for _, dep := range main.uses {
			if at != "" {
				break
			}
			at = dep.listens(o.Dir)
		}
		if key := "./" + filepath.ToSlash(rel); rel == "." {
			found["."] = at
		} else {
			found[key] = at
		}
	}
	return found
}

// program is a package with the packages of the same module that it uses.
type program struct {
	listed
	uses []*program
}

// list returns the packages of the module that the main packages consist of.
func list(ctx context.Context, o Options) []*program {
	if o.Go == nil {
		return nil
	}
	args := []string{"-deps", "-json=ImportPath,Dir,Name,GoFiles,CgoFiles,Deps,Module", "--"}
	if len(o.Tags) > 0 {
		args = append([]string{"-tags=" + strings.Join(o.Tags, ",")}, args...)
	}
	args = append(args, o.Mains...)
	out, _, err := o.Go.ListPackages(ctx, o.Dir, o.Env, args...)
	if err != nil {
		return nil // the build reports what is wrong with the packages
	}
	packages, _ := toolchain.Values[listed](out) // what follows a malformed value is left out
	byPath := map[string]*program{}
	var all []*program
	for _, p := range packages {
		if p.Module == nil || p.Module.Path != o.Module {
			continue
		}
		all = append(all, &program{listed: p})
		byPath[p.ImportPath] = all[len(all)-1]
	}
	for _, p := range all {
		for _, dep := range p.Deps {
			if used, ok := byPath[dep]; ok {
				p.uses = append(p.uses, used)
			}
		}
	}
	return all
}

// listens returns the position of the first call in a package that listens on a port,
// relative to dir, or "".
func (p *program) listens(dir string) string {
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		file := filepath.Join(p.Dir, name)
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if tree == nil || err != nil && len(tree.Decls) == 0 {
			continue
		}
		calls := listeners(tree)
		at := token.NoPos
		ast.Inspect(tree, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && at == token.NoPos && calls.match(call) {
				at = call.Pos()
			}
			return at == token.NoPos
		})
		if at == token.NoPos {
			continue
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			rel = file
		}
		return fmt.Sprintf("%s:%d", filepath.ToSlash(rel), set.Position(at).Line)
	}
	return ""
}

// imports are the packages that a file imports, by the name that it gives them.
type imports map[string]string

func listeners(file *ast.File) imports {
	all := imports{}
	for _, spec := range file.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		name := PackageName(importPath)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		all[name] = importPath
	}
	return all
}

// addressText matches an address to listen on, such as ":8080" or "0.0.0.0:80".
var addressText = regexp.MustCompile(`^"[^" /]*:[0-9]{1,5}"$`)

// match reports whether a call listens on a port: a function of the standard library that
// listens or serves, a method of the names that servers have, or one that is called Run,
// Start or Listen with an address, as in the usual web frameworks.
func (i imports) match(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	name := selector.Sel.Name
	if x, ok := selector.X.(*ast.Ident); ok {
		switch i[x.Name] {
		case "net":
			return name == "Listen" && !unix(call) || name == "ListenTCP" || name == "ListenPacket" || name == "ListenUDP"
		case "crypto/tls":
			return name == "Listen"
		case "net/http":
			return strings.HasPrefix(name, "ListenAndServe") || name == "Serve" || name == "ServeTLS"
		case "net/http/httptest":
			return false
		}
	}
	switch name {
	case "ListenAndServe", "ListenAndServeTLS", "ServeTLS":
		return true
	case "Serve":
		return len(call.Args) > 0
	case "Run", "RunTLS", "Start", "StartTLS", "Listen", "ListenTLS":
		return slices.ContainsFunc(call.Args, func(arg ast.Expr) bool {
			text, ok := arg.(*ast.BasicLit)
			return ok && text.Kind == token.STRING && addressText.MatchString(text.Value)
		})
	}
	return false
}

// unix reports whether the first argument of a call is the network of a Unix socket, which
// is no port.
func unix(call *ast.CallExpr) bool {
	if len(call.Args) == 0 {
		return false
	}
	text, ok := call.Args[0].(*ast.BasicLit)
	return ok && path.Base(strings.Trim(text.Value, "`\"")) == "unix"
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// PackageName returns the name that a package has by its import path: the last element that
// is not a major version.
func PackageName(module string) string {
	dir, name := path.Split(module)
	if majorVersion.MatchString(name) && dir != "" {
		name = path.Base(path.Clean(dir))
	}
	if name, _, ok := strings.Cut(name, ".v"); ok { // gopkg.in/yaml.v3
		return name
	}
	return name
}

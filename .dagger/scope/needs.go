package scope

import (
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sources are the names of the files that the go command compiles or reads as they are,
// whether or not git ignores them: generated code often is. The list of suffixes is that
// of the package go/build.
func sources() []string {
	return []string{
		"*.go", "go.mod", "go.sum", "go.work", "go.work.sum", "modules.txt",
		"*.[sS]", "*.sx", "*.c", "*.cc", "*.cpp", "*.cxx", "*.m", "*.h", "*.hh", "*.hpp", "*.hxx",
		"*.f", "*.F", "*.for", "*.f90", "*.swig", "*.swigcxx", "*.syso",
	}
}

// Examine is a shell script that examines the files in the working folder, of which its
// arguments are the folders of the modules. [Needs] reads its output.
//
// It prints the tracked files that are missing, because a file can be tracked although
// git ignores its name; submodules and what their file .git contains, if it is a file; the
// directives of Go for embedded files; and links to files that are missing. If there is no
// git program, no repository or no find program, that part is left out, and the programs
// that need the files report it.
const Examine = `tab=$(printf '\t')
export GIT_LITERAL_PATHSPECS=1
if [ -e .git ] && command -v git >/dev/null; then
	git -c core.quotePath=false --no-optional-locks ls-files --deleted -- "$@" | sed "s/^/tracked$tab/"
	git -c core.quotePath=false --no-optional-locks ls-files --stage -- "$@" | sed -n "s/^160000 [^$tab]*$tab//p" | while read -r module; do
		[ ! -e "$module/.git" ] || printf 'submodule\t%s\t%s\n' "$module" "$(cat "$module/.git" 2>/dev/null)"
	done
fi
find "$@" -name '*.go' -type f -exec grep -H '^//go:embed[[:space:]]' {} + | sed "s/^/embed$tab/"
find "$@" -type l ! -exec test -e {} ';' -exec sh -c 'printf "link\t%s\t%s\n" "$1" "$(readlink "$1")"' sh {} ';'
true`

// Submodule is a submodule that is checked out in the folders of the app.
type Submodule struct {
	Path string // from the root of the repository
	// Dir is its git folder: in the git folder of the repository if Inside, and otherwise
	// from the root of the repository.
	Dir    string
	Inside bool
}

// Submodules reads the output of [Examine]. link is what .git of the repository contains
// if it is a file.
func Submodules(output, link string) []Submodule {
	own, _ := insideGit(link)
	var all []Submodule
	for line := range strings.Lines(output) {
		rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "submodule\t")
		if !ok {
			continue
		}
		module, at, _ := strings.Cut(rest, "\t")
		if name, err := strconv.Unquote(module); err == nil && strings.HasPrefix(module, `"`) {
			module = name // git quotes a name with a special character
		}
		if at == "" { // it has a folder .git of its own
			all = append(all, Submodule{Path: module, Dir: path.Join(module, ".git")})
			continue
		}
		dir, found := insideGit(at)
		// The git folder of a submodule is itself in that of another repository.
		if !strings.HasPrefix(own, "worktrees/") {
			dir = strings.TrimPrefix(dir, own+"/")
		}
		if found && filepath.IsLocal(dir) {
			all = append(all, Submodule{Path: module, Dir: dir, Inside: true})
		}
	}
	return all
}

// insideGit returns the part of a path, as it is in a file .git, below the first folder
// .git in it.
func insideGit(link string) (dir string, found bool) {
	_, at, ok := strings.Cut(link, "gitdir:")
	if !ok {
		return "", false
	}
	_, dir, found = strings.Cut(strings.TrimSpace(at), "/.git/")
	return dir, found
}

// maxTracked is the number of missing tracked files from which on their folders are
// uploaded, because every pattern is compared with every file.
const maxTracked = 200

// Needs reads the output of [Examine]. It returns patterns of the files that are needed
// although git may ignore them.
func Needs(output string) []string {
	var tracked, others []string
	for line := range strings.Lines(output) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		switch kind {
		case "tracked":
			if name, err := strconv.Unquote(rest); err == nil && strings.HasPrefix(rest, `"`) {
				rest = name // git quotes a name with a special character
			}
			tracked = append(tracked, rest)
		case "embed":
			file, directive, ok := strings.Cut(rest, ":"+embedDirective)
			if ok {
				for _, p := range embedded(directive) {
					// The syntax of these patterns is that of path.Match, which is a part
					// of that of the engine.
					others = append(others, path.Join(escape(path.Dir(file)), p))
				}
			}
		case "link":
			if file, target, ok := strings.Cut(rest, "\t"); ok && !path.IsAbs(target) {
				others = append(others, escape(path.Join(path.Dir(file), target)))
			}
		}
	}
	if len(tracked) > maxTracked {
		for i := range tracked {
			tracked[i] = path.Dir(tracked[i])
		}
	}
	for _, name := range tracked {
		if name == "." {
			others = append(others, "*")
			continue
		}
		others = append(others, escape(name))
	}
	return sorted(others)
}

const embedDirective = "//go:embed"

// embedded returns the patterns of a go:embed directive, of which text is what follows
// the word. A pattern may be quoted, and may begin with "all:".
func embedded(text string) []string {
	var patterns []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		var p string
		if quoted, err := strconv.QuotedPrefix(text); err == nil {
			text = text[len(quoted):]
			if p, err = strconv.Unquote(quoted); err != nil {
				return patterns
			}
		} else if i := strings.IndexAny(text, " \t"); i >= 0 {
			p, text = text[:i], text[i:]
		} else {
			p, text = text, ""
		}
		p = strings.TrimPrefix(p, "all:")
		if filepath.IsLocal(p) {
			patterns = append(patterns, p)
		}
	}
	return slices.Clip(patterns)
}

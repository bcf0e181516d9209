package starter

import (
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// maxDockerfiles and maxDepth bound the search in large repositories.
const (
	maxDockerfiles = 50
	maxDepth       = 4
)

// dockerfiles returns, for each main package that a Dockerfile builds, the path of that
// file relative to the root of the repository. The first one counts; one that is nearer to
// the root comes first.
func dockerfiles(ctx context.Context, o Options) map[string]string {
	root := o.Repository
	if root == "" {
		root = o.Dir
	}
	builds := map[string]string{}
	for _, file := range findDockerfiles(ctx, root) {
		rel, err := filepath.Rel(root, file)
		if err != nil {
			continue
		}
		for _, main := range builtBy(o, file) {
			if builds[main] == "" {
				builds[main] = filepath.ToSlash(rel)
			}
		}
	}
	return builds
}

// findDockerfiles returns the Dockerfiles below root, those in the root first.
func findDockerfiles(ctx context.Context, root string) []string {
	var files []string
	_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error { // what cannot be read is left out
		if err != nil || ctx.Err() != nil || len(files) == maxDockerfiles {
			return filepath.SkipDir
		}
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() {
			name := d.Name()
			if rel != "." && (strings.HasPrefix(name, ".") || name == "vendor" || name == "node_modules" || name == "testdata" || strings.Count(rel, string(filepath.Separator)) >= maxDepth) {
				return filepath.SkipDir
			}
			return nil
		}
		if name := strings.ToLower(d.Name()); d.Type().IsRegular() &&
			(name == "dockerfile" || name == "containerfile" || strings.HasPrefix(name, "dockerfile.") || strings.HasSuffix(name, ".dockerfile")) {
			files = append(files, p)
		}
		return nil
	})
	slices.SortStableFunc(files, func(a, b string) int {
		return strings.Count(a, string(filepath.Separator)) - strings.Count(b, string(filepath.Separator))
	})
	return files
}

// builtBy returns the main packages that a Dockerfile builds.
func builtBy(o Options, file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	parsed, err := parser.Parse(f)
	if err != nil {
		return nil
	}
	// A Dockerfile in the folder of a main package is about that, unless it names one.
	here, err := filepath.Rel(o.Dir, filepath.Dir(file))
	if err != nil {
		here = "."
	}
	own := "./" + filepath.ToSlash(here)
	if here == "." {
		own = "."
	}
	var mains []string
	compiles := false
	for _, instruction := range parsed.AST.Children {
		if !strings.EqualFold(instruction.Value, "run") {
			continue
		}
		script := []string{instruction.Original}
		for _, doc := range instruction.Heredocs {
			script = append(script, doc.Content)
		}
		for _, command := range goCommands(strings.Join(script, "\n")) {
			compiles = true
			for _, arg := range command {
				if main := mainOf(o, arg); main != "" && !slices.Contains(mains, main) {
					mains = append(mains, main)
				}
			}
		}
	}
	if len(mains) == 0 && compiles && slices.Contains(o.Mains, own) {
		mains = []string{own}
	}
	return mains
}

// goCommands returns the arguments of every go build and go install in a shell script.
func goCommands(script string) [][]string {
	separators := strings.NewReplacer("&&", "\n", "||", "\n", ";", "\n", "|", "\n", "\\\n", " ")
	var all [][]string
	for line := range strings.Lines(separators.Replace(script)) {
		words := strings.Fields(strings.NewReplacer(`"`, " ", `'`, " ", "[", " ", "]", " ", ",", " ").Replace(line))
		for i, word := range words {
			if path.Base(word) == "go" && i+1 < len(words) && (words[i+1] == "build" || words[i+1] == "install") {
				args := words[i+2:]
				if o := slices.Index(args, "-o"); o >= 0 { // the next word is a file, no package
					args = slices.Delete(args, o, min(o+2, len(args)))
				}
				all = append(all, args)
				break
			}
			if !prefix(word) {
				break // go is an argument of another command
			}
		}
	}
	return all
}

// prefix reports whether a word can come before a command: the instruction RUN and its
// flags, variables, and commands that run another one.
func prefix(word string) bool {
	switch strings.ToLower(word) {
	case "run", "env", "exec", "time", "sudo":
		return true
	}
	return strings.HasPrefix(word, "-") || strings.Contains(word, "=")
}

// mainOf returns the main package that an argument of go build names, or "". The folder in
// which go build runs is not known, so the argument may also end in the package.
func mainOf(o Options, arg string) string {
	if strings.HasPrefix(arg, "-") {
		return ""
	}
	arg = strings.TrimSuffix(arg, "/...")
	if strings.HasSuffix(arg, ".go") {
		arg = path.Dir(arg)
	}
	if rest, ok := strings.CutPrefix(arg, o.Module); ok && (rest == "" || rest[0] == '/') {
		arg = "." + rest
	}
	if arg = path.Clean(arg); arg == "." {
		return "" // the folder of the build decides
	}
	arg = "./" + strings.TrimPrefix(arg, "/")
	best := ""
	for _, main := range o.Mains {
		if main != "." && (arg == main || strings.HasSuffix(arg, strings.TrimPrefix(main, "."))) && len(main) > len(best) {
			best = main
		}
	}
	return best
}

package build

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The messages of the go command that a file which the ignore file excludes can cause.
var (
	noMatch   = regexp.MustCompile(`^(.+?):\d+:\d+: pattern (?:all:)?(.+): (?:no matching files found|cannot embed .*)$`)
	undefined = regexp.MustCompile(`^(.+?):\d+:\d+: undefined: `)
	missing   = regexp.MustCompile(`(?:no required module provides package|package|cannot find package|no Go files in) "?([^\s":;]+)`)
)

// excluded returns the files that the ignore file excludes and whose absence can be the
// cause of the go command's messages, each with the line that excludes it.
func (c *compiler) excluded(lines []string) []string {
	var found []string
	for _, file := range c.Source.Excluded {
		if slices.ContainsFunc(lines, func(line string) bool { return c.misses(line, file) }) {
			found = append(found, c.Source.Exclusion(file))
		}
	}
	return found
}

// misses reports whether a message of the go command says that a file is missing. The file
// is absolute.
func (c *compiler) misses(line, file string) bool {
	abs := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(c.Source.Dir, name)
	}
	isGo := filepath.Ext(file) == ".go" && !strings.HasSuffix(file, "_test.go")
	if m := noMatch.FindStringSubmatch(line); m != nil {
		rel, err := filepath.Rel(filepath.Dir(abs(m[1])), file)
		return err == nil && embeds(m[2], filepath.ToSlash(rel))
	}
	if m := undefined.FindStringSubmatch(line); m != nil {
		return isGo && filepath.Dir(file) == filepath.Dir(abs(m[1]))
	}
	if m := missing.FindStringSubmatch(line); m != nil && isGo {
		rel, ok := strings.CutPrefix(m[1], c.Source.Module)
		return ok && filepath.Dir(file) == filepath.Join(c.Source.Dir, filepath.FromSlash(rel)) || filepath.Dir(file) == filepath.Clean(m[1])
	}
	return false
}

// embeds reports whether a pattern of a go:embed line matches a file or a folder that
// contains it (https://pkg.go.dev/embed#hdr-Directives).
func embeds(pattern, file string) bool {
	for ; file != "." && file != ".." && file != "/"; file = path.Dir(file) {
		if ok, err := path.Match(pattern, file); err == nil && ok {
			return true
		}
	}
	return pattern == "."
}

// excludedFix returns the fix for a build that needs excluded files.
func excludedFix(files []string) string {
	const shown = 3
	more := ""
	if n := len(files) - shown; n > 0 {
		files, more = files[:shown], fmt.Sprintf(" and %d more files", n)
	}
	return "the build does not see files that are excluded: " + strings.Join(files, ", ") + more + "; correct the ignore file"
}

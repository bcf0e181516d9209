package source

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// IgnoreFile is the name of the ignore file. An ignore file in the app's folder
// takes precedence over one next to slipway.yaml. Patterns are relative to the
// folder of the ignore file.
const IgnoreFile = ".dockerignore"

// Ignore is a set of patterns for files that are excluded from a build
// (https://docs.docker.com/build/concepts/context/#dockerignore-files).
// A nil Ignore excludes nothing.
type Ignore struct {
	base     string
	name     string // of the ignore file
	patterns []string
	lines    []int // the line of each pattern, from 1
	matcher  *patternmatcher.PatternMatcher
}

// ParseIgnore parses the content of an ignore file. The patterns are relative to
// base, and name is used in errors. It returns a [fault.Input] error for a
// malformed pattern.
func ParseIgnore(name, base string, data []byte) (*Ignore, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("source.ignore", "%s: %w", name, err)
	}
	var lines []int
	for i, line := range bytes.Split(data, []byte("\n")) {
		// The library does not return the lines of the patterns.
		if found, err := ignorefile.ReadAll(bytes.NewReader(line)); err == nil && len(found) > 0 {
			lines = append(lines, i+1)
		}
	}
	for _, p := range patterns {
		// Patterns are checked one at a time because the library's error does not
		// name the malformed one.
		if _, err := patternmatcher.New([]string{p}); err != nil {
			return nil, fault.Inputf("source.ignore", "%s: pattern %q: %w", name, p, err)
		}
		if _, err := patternmatcher.MatchesOrParentMatches("x", []string{p}); err != nil {
			return nil, fault.Inputf("source.ignore", "%s: pattern %q: %w", name, p, err)
		}
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fault.Inputf("source.ignore", "%s: %w", name, err)
	}
	return &Ignore{base, name, patterns, lines, m}, nil
}

// relative returns the path of a file relative to the folder of the ignore file, with
// slashes.
func (i *Ignore) relative(file string) string {
	rel, err := filepath.Rel(i.base, file)
	if err != nil {
		return file
	}
	return filepath.ToSlash(rel)
}

// Reason returns the line that excludes a file, in the form "FILE:LINE (PATTERN)". The
// path must be absolute. It returns the name of the ignore file if no line does.
func (i *Ignore) Reason(file string) string {
	n := i.rule(file)
	if n < 0 || n >= len(i.lines) {
		return i.name
	}
	return fmt.Sprintf("%s:%d (%s)", i.name, i.lines[n], i.patterns[n])
}

// rule returns the index of the pattern that excludes a file, or -1 if none does.
func (i *Ignore) rule(file string) int {
	rule, excluded := -1, false
	for n := range i.patterns {
		m, err := patternmatcher.New(i.patterns[:n+1])
		if err != nil {
			return rule
		}
		now, err := m.MatchesOrParentMatches(i.relative(file))
		if err == nil && now && !excluded {
			rule = n
		}
		excluded = now
	}
	return rule
}

// excludesAll reports whether the pattern that excludes a file excludes all files.
func (i *Ignore) excludesAll(file string) bool {
	n := i.rule(file)
	return n >= 0 && (i.patterns[n] == "*" || i.patterns[n] == "**")
}

// Match reports whether a file is excluded. The path must be absolute.
func (i *Ignore) Match(file string) bool {
	if i == nil {
		return false
	}
	rel, err := filepath.Rel(i.base, file)
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return false
	}
	excluded, err := i.matcher.MatchesOrParentMatches(filepath.ToSlash(rel))
	return err == nil && excluded
}

// ignore reads the ignore file of the app. Without one it returns nil.
func (s *Source) ignore() (*Ignore, error) {
	for _, base := range []string{s.Dir, s.Root} {
		file := filepath.Join(base, IgnoreFile)
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.Inputf("source.unreadable", "reading the ignore file: %w", err)
		}
		return ParseIgnore(s.shown(file), base, data)
	}
	return nil, nil
}

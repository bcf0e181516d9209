package source

import (
	"bytes"
	"errors"
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
	base    string
	matcher *patternmatcher.PatternMatcher
}

// ParseIgnore parses the content of an ignore file. The patterns are relative to
// base, and name is used in errors. It returns a [fault.Input] error for a
// malformed pattern.
func ParseIgnore(name, base string, data []byte) (*Ignore, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("source.ignore", "%s: %w", name, err)
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
	return &Ignore{base: base, matcher: m}, nil
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
		return ParseIgnore(file, base, data)
	}
	return nil, nil
}

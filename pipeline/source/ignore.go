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

// IgnoreFile is the name of the ignore file. The one in the app's folder wins
// over the one beside slipway.yaml; patterns are relative to its own folder.
const IgnoreFile = ".dockerignore"

// Ignore tells which files never enter a build, by the rules of
// https://docs.docker.com/build/concepts/context/#dockerignore-files.
// The nil Ignore excludes nothing.
type Ignore struct {
	base    string
	matcher *patternmatcher.PatternMatcher
}

// ParseIgnore reads an ignore file whose patterns are relative to base. It
// returns a [fault.Input] error for a malformed pattern.
func ParseIgnore(name, base string, data []byte) (*Ignore, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Inputf("source.ignore", "%s: %w", name, err)
	}
	for _, p := range patterns {
		// One at a time, because the library does not say which one is wrong.
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

// Match reports whether the file, an absolute path, is excluded.
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

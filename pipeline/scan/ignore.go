package scan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/package-url/packageurl-go"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/semver"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Rule is one entry of an ignore file.
type Rule struct {
	File      string // as the user named it
	Line      int
	Kind      Kind // what it is for; "" is for everything
	ID        string
	Paths     []string // globs, one of which must match; none match everything
	PURLs     []packageurl.PackageURL
	Expires   time.Time // the first day on which it no longer ignores; zero is never
	Statement string

	used bool
}

// Place is the entry's file and line.
func (r *Rule) Place() string { return fmt.Sprintf("%s:%d", r.File, r.Line) }

func (r *Rule) expired(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }

func (r *Rule) date() string {
	if r.Expires.IsZero() {
		return ""
	}
	return r.Expires.Format(time.DateOnly)
}

// Rules are the entries of an ignore file.
type Rules []*Rule

// DefaultIgnoreFiles are looked for beside slipway.yaml, in this order.
func DefaultIgnoreFiles() []string {
	return []string{".trivyignore.yaml", ".trivyignore.yml", ".trivyignore"}
}

// maxIgnoreFile bounds an ignore file.
const maxIgnoreFile = 4 << 20

// LoadRules reads the ignore file, or the default one where name is empty and
// there is one. A named file that is missing and a malformed entry are
// [fault.Input] errors.
func LoadRules(root, name string) (Rules, error) {
	names := []string{name}
	if name == "" {
		names = DefaultIgnoreFiles()
	}
	for _, n := range names {
		path := n
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, n)
		}
		fi, err := os.Stat(path)
		if name == "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.Inputf("scan.ignore-file", "reading the ignore file: %w", err).
				WithFix("correct scan.ignoreFile in slipway.yaml, or make the file")
		}
		if fi.Size() > maxIgnoreFile || !fi.Mode().IsRegular() {
			return nil, fault.Inputf("scan.ignore-file", "%s is not an ignore file: it must be a file of at most 4 MiB", n)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.Inputf("scan.ignore-file", "reading the ignore file: %w", err)
		}
		return ParseRules(n, data)
	}
	return nil, nil
}

// ParseRules reads an ignore file in Trivy's formats
// (https://trivy.dev/docs/latest/configuration/filtering/): YAML where the
// name ends in .yaml or .yml, else one identifier a line.
func ParseRules(name string, data []byte) (Rules, error) {
	if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" {
		return parseYAML(name, data)
	}
	return parseLines(name, data)
}

func malformed(name string, line int, format string, args ...any) error {
	return fault.Inputf("scan.ignore-file", "%s:%d: %s", name, line, fmt.Sprintf(format, args...))
}

// identifiers look like CVE-2023-45288, KSV-0001, aws-access-key-id.
var identifiers = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$`)

func identifier(s string) bool { return identifiers.MatchString(s) }

func parseLines(name string, data []byte) (Rules, error) {
	var rules Rules
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		text, comment, _ := strings.Cut(" "+strings.TrimSpace(line), " #")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		rule := &Rule{File: name, Line: number, ID: fields[0], Statement: strings.TrimSpace(comment)}
		if !identifier(rule.ID) {
			return nil, malformed(name, number, "%q is not an identifier such as CVE-2023-45288", fields[0])
		}
		for _, field := range fields[1:] {
			date, ok := strings.CutPrefix(field, "exp:")
			if !ok {
				return nil, malformed(name, number, "%q is not understood; behind an identifier there may be exp:2026-12-31 and a # comment", field)
			}
			expires, err := time.Parse(time.DateOnly, date)
			if err != nil {
				return nil, malformed(name, number, "%q is not a date such as exp:2026-12-31", field)
			}
			rule.Expires = expires
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// parseYAML reads the YAML form node by node: every complaint needs a line.
func parseYAML(name string, data []byte) (rules Rules, err error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
		if _, scanErr := fmt.Sscanf(text, "line %d:", &line); scanErr == nil {
			_, text, _ = strings.Cut(text, ": ")
		}
		return nil, malformed(name, line, "not YAML: %s", text)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, malformed(name, top.Line, "want the lists vulnerabilities, misconfigurations and secrets")
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, list := top.Content[i], top.Content[i+1]
		kind := map[string]Kind{"vulnerabilities": Vulnerability, "misconfigurations": Misconfiguration, "secrets": Secret}[key.Value]
		switch {
		case key.Value == "licenses":
			continue // Trivy's, and not scanned for here
		case kind == "":
			return nil, malformed(name, key.Line, "unknown list %q; there are vulnerabilities, misconfigurations and secrets", key.Value)
		case list.Tag == "!!null":
			continue
		case list.Kind != yaml.SequenceNode:
			return nil, malformed(name, key.Line, "%s is not a list", key.Value)
		}
		for _, entry := range list.Content {
			rule, err := parseEntry(name, kind, entry)
			if err != nil {
				return nil, err
			}
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

func parseEntry(name string, kind Kind, entry *yaml.Node) (*Rule, error) {
	if entry.Kind != yaml.MappingNode {
		return nil, malformed(name, entry.Line, "an entry has an id, and may have paths, purls, expired_at and a statement")
	}
	rule := &Rule{File: name, Line: entry.Line, Kind: kind}
	for i := 0; i+1 < len(entry.Content); i += 2 {
		key, value := entry.Content[i], entry.Content[i+1]
		switch key.Value {
		case "id":
			if value.Kind != yaml.ScalarNode || !identifier(value.Value) {
				return nil, malformed(name, value.Line, "%q is not an identifier such as CVE-2023-45288", value.Value)
			}
			rule.ID = value.Value
		case "statement":
			if value.Kind != yaml.ScalarNode {
				return nil, malformed(name, value.Line, "a statement is text")
			}
			rule.Statement = value.Value
		case "expired_at":
			expires, err := time.Parse(time.DateOnly, value.Value)
			if err != nil {
				expires, err = time.Parse(time.RFC3339, value.Value)
			}
			if err != nil {
				return nil, malformed(name, value.Line, "%q is not a date such as 2026-12-31", value.Value)
			}
			rule.Expires = expires
		case "paths":
			paths, err := texts(name, key.Value, value)
			if err != nil {
				return nil, err
			}
			for _, p := range paths {
				if !doublestar.ValidatePattern(p) {
					return nil, malformed(name, value.Line, "%q is not a path pattern", p)
				}
			}
			rule.Paths = paths
		case "purls":
			purls, err := texts(name, key.Value, value)
			if err != nil {
				return nil, err
			}
			for _, text := range purls {
				p, err := packageurl.FromString(text)
				if err != nil {
					return nil, malformed(name, value.Line, "%q is not a package URL such as pkg:golang/golang.org/x/net: %v", text, err)
				}
				rule.PURLs = append(rule.PURLs, p)
			}
		default:
			return nil, malformed(name, key.Line, "unknown key %q; there are id, paths, purls, expired_at and statement", key.Value)
		}
	}
	if rule.ID == "" {
		return nil, malformed(name, entry.Line, "the entry has no id")
	}
	return rule, nil
}

func texts(name, key string, node *yaml.Node) ([]string, error) {
	if node.Kind != yaml.SequenceNode {
		return nil, malformed(name, node.Line, "%s is not a list", key)
	}
	var list []string
	for _, n := range node.Content {
		if n.Kind != yaml.ScalarNode {
			return nil, malformed(name, n.Line, "%s is a list of texts", key)
		}
		list = append(list, n.Value)
	}
	return list, nil
}

// match returns the first rule that ignores f, and marks every rule that would.
func (rules Rules) match(f Finding, now time.Time) (first *Rule) {
	for _, r := range rules {
		if !r.covers(f) {
			continue
		}
		r.used = true
		if first == nil && !r.expired(now) {
			first = r
		}
	}
	return first
}

func (r *Rule) covers(f Finding) bool {
	if r.Kind != "" && r.Kind != f.Kind || !r.names(f) {
		return false
	}
	return matchPaths(r.Paths, f) && matchPURLs(r.PURLs, f.PURL)
}

func (r *Rule) names(f Finding) bool {
	return r.ID == f.ID || slices.Contains(f.Aliases, r.ID)
}

func matchPaths(patterns []string, f Finding) bool {
	for _, p := range patterns {
		for _, path := range []string{f.Path, f.ImagePath, strings.TrimPrefix(f.ImagePath, "/")} {
			if ok, _ := doublestar.Match(p, path); ok && path != "" { // patterns are valid: they were parsed
				return true
			}
		}
	}
	return len(patterns) == 0
}

// matchPURLs compares as Trivy does: what a rule leaves out matches anything.
func matchPURLs(purls []packageurl.PackageURL, text string) bool {
	if len(purls) == 0 {
		return true
	}
	have, err := packageurl.FromString(text)
	if err != nil {
		return false
	}
	for _, want := range purls {
		if want.Type != have.Type || want.Namespace != have.Namespace || want.Name != have.Name ||
			want.Version != "" && want.Version != have.Version || want.Subpath != "" && want.Subpath != have.Subpath {
			continue
		}
		all := have.Qualifiers.Map()
		covered := true
		for k, v := range want.Qualifiers.Map() {
			covered = covered && all[k] == v
		}
		if covered {
			return true
		}
	}
	return false
}

// compareVersions compares versions with or without a leading v or go; those
// of other forms are equal to everything.
func compareVersions(a, b string) int {
	canonical := func(s string) string {
		return "v" + strings.TrimPrefix(strings.TrimPrefix(s, "go"), "v")
	}
	a, b = canonical(a), canonical(b)
	if !semver.IsValid(a) || !semver.IsValid(b) {
		return 0
	}
	return semver.Compare(a, b)
}

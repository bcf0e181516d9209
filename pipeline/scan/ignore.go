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
	File      string // as the user wrote it
	Line      int
	Kind      Kind // the kind of findings it matches; "" for all kinds
	ID        string
	Paths     []string                // globs, one of which must match; empty for every path
	PURLs     []packageurl.PackageURL // one of which must match; empty for every package
	Expires   time.Time               // the first day on which it has no effect; zero for never
	Statement string                  // the reason

	used bool
}

// Place returns the file and line of the entry.
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

// DefaultIgnoreFiles returns the names of the ignore files that are searched for
// in the folder of slipway.yaml, in this order.
func DefaultIgnoreFiles() []string {
	return []string{".trivyignore.yaml", ".trivyignore.yml", ".trivyignore"}
}

// maxIgnoreFile is the maximal size of an ignore file.
const maxIgnoreFile = 4 << 20

// LoadRules reads the ignore file name, which may be relative to root. If name is
// empty, it reads the first of [DefaultIgnoreFiles] that exists in root, if any.
// It returns a [fault.Input] error if the file name is missing or an entry is
// malformed.
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
				WithFix("correct scan.ignoreFile in slipway.yaml, or create the file")
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

// ParseRules parses an ignore file in Trivy's formats
// (https://trivy.dev/docs/latest/configuration/filtering/): YAML if the name ends
// in .yaml or .yml, and otherwise one identifier per line.
func ParseRules(name string, data []byte) (Rules, error) {
	if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" {
		return parseYAML(name, data)
	}
	return parseLines(name, data)
}

func malformed(name string, line int, format string, args ...any) error {
	return fault.Inputf("scan.ignore-file", "%s:%d: %s", name, line, fmt.Sprintf(format, args...))
}

// identifiers matches identifiers, for example CVE-2023-45288, KSV-0001 and
// aws-access-key-id.
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
				return nil, malformed(name, number, "%q is not valid here; only exp:2026-12-31 and a # comment can follow an identifier", field)
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

// parseYAML parses the YAML form. It walks over the nodes, because every error
// has a line number.
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
		return nil, malformed(name, top.Line, "the file must be a mapping with the lists vulnerabilities, misconfigurations and secrets")
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, list := top.Content[i], top.Content[i+1]
		kind := map[string]Kind{"vulnerabilities": Vulnerability, "misconfigurations": Misconfiguration, "secrets": Secret}[key.Value]
		switch {
		case key.Value == "licenses":
			continue // valid for Trivy; slipway does not scan licences
		case kind == "":
			return nil, malformed(name, key.Line, "unknown list %q; the lists are vulnerabilities, misconfigurations and secrets", key.Value)
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
		return nil, malformed(name, entry.Line, "an entry must be a mapping with id and optionally paths, purls, expired_at and statement")
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
				return nil, malformed(name, value.Line, "statement must be a string")
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
			paths, err := stringList(name, key.Value, value)
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
			purls, err := stringList(name, key.Value, value)
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
			return nil, malformed(name, key.Line, "unknown key %q; the keys are id, paths, purls, expired_at and statement", key.Value)
		}
	}
	if rule.ID == "" {
		return nil, malformed(name, entry.Line, "the entry has no id")
	}
	return rule, nil
}

// stringList returns the strings of a list.
func stringList(name, key string, node *yaml.Node) ([]string, error) {
	if node.Kind != yaml.SequenceNode {
		return nil, malformed(name, node.Line, "%s is not a list", key)
	}
	var list []string
	for _, n := range node.Content {
		if n.Kind != yaml.ScalarNode {
			return nil, malformed(name, n.Line, "%s must be a list of strings", key)
		}
		list = append(list, n.Value)
	}
	return list, nil
}

// match returns the first rule that matches f and has not expired. It marks all
// rules that match f as used.
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

// matchPURLs compares package URLs as Trivy does: a version, subpath or qualifier
// that a rule does not have matches any value.
func matchPURLs(purls []packageurl.PackageURL, text string) bool {
	if len(purls) == 0 {
		return true
	}
	got, err := packageurl.FromString(text)
	if err != nil {
		return false
	}
	for _, want := range purls {
		if want.Type != got.Type || want.Namespace != got.Namespace || want.Name != got.Name ||
			want.Version != "" && want.Version != got.Version || want.Subpath != "" && want.Subpath != got.Subpath {
			continue
		}
		all := got.Qualifiers.Map()
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

// compareVersions compares semantic versions with or without a leading "v" or
// "go". It returns 0 if one of them is not a semantic version.
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

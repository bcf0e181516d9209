package sign

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// ProvenancePolicy holds the requirements for the provenance of an image. Empty fields
// require nothing.
type ProvenancePolicy struct {
	Repository string   // URL of the source, for example https://github.com/acme/orders
	Revision   string   // the commit
	Builders   []string // Go regular expressions, one of which must match the whole builder ID
	Clean      bool     // the files must be those of the commit
}

// IsZero reports whether the policy requires nothing.
func (p ProvenancePolicy) IsZero() bool {
	return p.Repository == "" && p.Revision == "" && len(p.Builders) == 0 && !p.Clean
}

// facts are what a provenance says about a build.
type facts struct {
	builder string
	sources []source
	dirty   *bool // nil if the provenance does not say
	// uncommitted are files that were compiled although they are not committed.
	uncommitted []string
}

type source struct{ uri, commit string }

// Check returns the reason for which a SLSA provenance
// (https://slsa.dev/spec/v1.0/provenance, or version 0.2) does not satisfy the policy, as
// a predicate whose subject is the image, or "" if it does. What the provenance does not
// say does not satisfy a requirement.
func (p ProvenancePolicy) Check(predicate []byte) string {
	if p.IsZero() {
		return ""
	}
	f, err := readFacts(predicate)
	if err != nil {
		return "has a provenance that cannot be read"
	}
	var main source
	if len(f.sources) > 0 {
		main = f.sources[0]
	}
	switch {
	case p.Clean && f.dirty == nil:
		return "has a provenance that does not say whether the source had changes without a commit"
	case p.Clean && *f.dirty:
		return "was built from a source with changes without a commit, according to its provenance"
	case p.Clean && len(f.uncommitted) > 0:
		return "was built from files that are not committed, according to its provenance: " + strings.Join(f.uncommitted[:min(len(f.uncommitted), 3)], ", ")
	case p.Repository != "" && main.uri == "":
		return "has a provenance without a source; it must be " + p.Repository
	case p.Repository != "" && repositoryOf(main.uri) != repositoryOf(p.Repository):
		return fmt.Sprintf("was built from %s, according to its provenance, and not from %s", main.uri, p.Repository)
	case p.Revision != "" && main.commit == "":
		return "has a provenance without a commit; it must be " + p.Revision
	case p.Revision != "" && main.commit != p.Revision:
		return fmt.Sprintf("was built from commit %s, according to its provenance, and not from %s", main.commit, p.Revision)
	case len(p.Builders) > 0 && !matchesAny(p.Builders, f.builder):
		return fmt.Sprintf("was built by %q, according to its provenance, which the policy does not allow", f.builder)
	}
	return ""
}

// matchesAny reports whether one of the patterns matches the whole text. A pattern that
// is malformed matches nothing.
func matchesAny(patterns []string, text string) bool {
	for _, pattern := range patterns {
		if _, err := regexp.Compile(pattern); err != nil {
			continue
		}
		if whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`); err == nil && whole.MatchString(text) {
			return true
		}
	}
	return false
}

// readFacts reads a provenance of version 1 or 0.2.
func readFacts(predicate []byte) (facts, error) {
	var p struct {
		BuildDefinition *struct {
			ExternalParameters struct {
				Dirty       *bool    `json:"dirty"`
				Uncommitted []string `json:"uncommitted"`
			} `json:"externalParameters"`
			ResolvedDependencies []Material `json:"resolvedDependencies"`
		} `json:"buildDefinition"`
		RunDetails struct {
			Builder struct {
				ID string `json:"id"`
			} `json:"builder"`
		} `json:"runDetails"`
		Builder struct { // version 0.2
			ID string `json:"id"`
		} `json:"builder"`
		Invocation struct {
			ConfigSource Material `json:"configSource"`
		} `json:"invocation"`
	}
	if err := json.Unmarshal(predicate, &p); err != nil {
		return facts{}, fmt.Errorf("reading the provenance: %w", err)
	}
	f := facts{builder: p.Builder.ID}
	materials := []Material{p.Invocation.ConfigSource}
	if p.BuildDefinition != nil {
		f.uncommitted = p.BuildDefinition.ExternalParameters.Uncommitted
		f.builder, f.dirty, materials = p.RunDetails.Builder.ID, p.BuildDefinition.ExternalParameters.Dirty, p.BuildDefinition.ResolvedDependencies
	}
	for _, m := range materials {
		commit := m.Digest["gitCommit"]
		if commit == "" {
			commit = m.Digest["sha1"]
		}
		if commit != "" || strings.HasPrefix(m.URI, "git+") {
			f.sources = append(f.sources, source{m.URI, commit})
		}
	}
	return f, nil
}

// repositoryOf returns a source or the URL of a repository in one spelling: host and path
// without scheme, account, port of the scheme, ref and the ending .git.
func repositoryOf(uri string) string {
	uri = strings.TrimPrefix(uri, "git+")
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.RawQuery != "" || !slices.Contains([]string{"https", "http", "ssh", "git"}, u.Scheme) {
		return uri
	}
	path, _, _ := strings.Cut(u.Path, "@")
	path = strings.TrimSuffix(strings.TrimRight(path, "/"), ".git")
	host := strings.ToLower(u.Host)
	for scheme, port := range map[string]string{"https": ":443", "http": ":80", "ssh": ":22"} {
		if u.Scheme == scheme {
			host = strings.TrimSuffix(host, port)
		}
	}
	if host == "github.com" { // names on GitHub have no case
		path = strings.ToLower(path)
	}
	return host + path
}

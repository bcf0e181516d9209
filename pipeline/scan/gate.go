package scan

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// rank returns the position of a severity in the order from UNKNOWN to CRITICAL.
func rank(severity string) int {
	return slices.Index([]string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}, severity)
}

// IsGo reports whether the finding is a vulnerability of a Go module or of Go's
// standard library.
func (f Finding) IsGo() bool {
	return f.Kind == Vulnerability && (f.Type == "gobinary" || f.Type == "gomod")
}

// Judge applies the gate to the findings in r. It merges findings that several
// images have in common, applies the ignore rules and o.Settings, and sets the
// counts. It returns a [fault.Gate] error if a finding fails the gate. Findings
// that a VEX document excludes must already be in r.Ignored.
func Judge(ctx context.Context, o Options, rules Rules, r *Result) error {
	now := cmp.Or(o.Now, time.Now())
	findings := merge(r.Findings)
	r.Findings = []Finding{}
	for _, f := range findings {
		switch by, rule := o.exclude(f, rules, now); {
		case rule != nil:
			r.Ignored = append(r.Ignored, Ignored{Finding: f, By: rule.Place(), Reason: rule.Statement, Expires: rule.date()})
		case by != "":
			r.Ignored = append(r.Ignored, Ignored{Finding: f, By: by})
		default:
			f.Fails = slices.Contains(o.Settings.Severities, f.Severity)
			r.Findings = append(r.Findings, f)
		}
	}
	for _, rule := range rules {
		if rule.expired(now) {
			r.Warn(ctx, "%s: the entry for %s expired on %s and no longer has an effect", rule.Place(), rule.ID, rule.date())
		} else if !rule.used {
			progress.Statusf(ctx, "%s: the entry for %s matches no finding", rule.Place(), rule.ID)
		}
	}
	r.Ignored = mergeIgnored(r.Ignored)
	slices.SortFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(-compareBool(a.Fails, b.Fails), compare(a, b))
	})
	slices.SortFunc(r.Ignored, func(a, b Ignored) int { return cmp.Or(compare(a.Finding, b.Finding), cmp.Compare(a.By, b.By)) })
	r.count()
	r.Passed = r.Counts.Failing == 0
	if r.Passed {
		return nil
	}
	return gateError(r.Findings)
}

// Warn adds a warning to the result and reports it, unless the result already has
// it.
func (r *Result) Warn(ctx context.Context, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.Warnings, text) {
		r.Warnings = append(r.Warnings, text)
		progress.Warnf(ctx, "%s", text)
	}
}

// exclude returns the setting or the rule because of which a finding does not
// count. It returns "" and nil if the finding counts.
func (o Options) exclude(f Finding, rules Rules, now time.Time) (by string, rule *Rule) {
	if rule := rules.match(f, now); rule != nil {
		return "", rule
	}
	switch {
	case f.Kind != Vulnerability:
	case o.Settings.IgnoreUnfixed && f.Fixed == "":
		return ByUnfixed, nil
	case o.Settings.FailOn.ReachableOnly && f.IsGo() && f.Reachability == NotCalled:
		return ByNotCalled, nil
	}
	return "", nil
}

func (r *Result) count() {
	c := Counts{Total: len(r.Findings), Ignored: len(r.Ignored)}
	for _, f := range r.Findings {
		switch f.Severity {
		case "CRITICAL":
			c.Critical++
		case "HIGH":
			c.High++
		case "MEDIUM":
			c.Medium++
		case "LOW":
			c.Low++
		default:
			c.Unknown++
		}
		if f.Fails {
			c.Failing++
		}
	}
	r.Counts = c
}

// merge combines findings that differ only in the image into one.
func merge(findings []Finding) []Finding {
	type key struct {
		kind                                         Kind
		id, pkg, typ, installed, imagePath, path, at string
	}
	index := map[key]int{}
	var merged []Finding
	for _, f := range findings {
		k := key{f.Kind, f.ID, f.Package, f.Type, f.Installed, f.ImagePath, f.Path, fmt.Sprint(f.Line, f.EndLine)}
		i, ok := index[k]
		if !ok {
			index[k] = len(merged)
			f.Targets, f.Platforms, f.Aliases = unique(f.Targets), unique(f.Platforms), unique(f.Aliases)
			merged = append(merged, f)
			continue
		}
		m := &merged[i]
		m.Targets = unique(append(m.Targets, f.Targets...))
		m.Platforms = unique(append(m.Platforms, f.Platforms...))
		m.Aliases = unique(append(m.Aliases, f.Aliases...))
		if rank(f.Severity) > rank(m.Severity) {
			m.Severity = f.Severity
		}
		if worse(f.Reachability, m.Reachability) {
			m.Reachability, m.Trace = f.Reachability, f.Trace
		}
	}
	return merged
}

func mergeIgnored(all []Ignored) []Ignored {
	merged := []Ignored{}
	for _, i := range all {
		same := slices.IndexFunc(merged, func(m Ignored) bool {
			return m.By == i.By && m.Kind == i.Kind && m.ID == i.ID && m.Package == i.Package && m.Installed == i.Installed &&
				m.ImagePath == i.ImagePath && m.Path == i.Path && m.Line == i.Line
		})
		if same < 0 {
			merged = append(merged, i)
			continue
		}
		m := &merged[same]
		m.Targets, m.Platforms = unique(append(m.Targets, i.Targets...)), unique(append(m.Platforms, i.Platforms...))
	}
	return merged
}

// worse reports whether a is a stronger reason for concern than b.
func worse(a, b Reachability) bool {
	order := []Reachability{"", NotCalled, Unknown, Called}
	return slices.Index(order, a) > slices.Index(order, b)
}

func unique(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

func compare(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(rank(b.Severity), rank(a.Severity)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Package, b.Package), cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.ImagePath, b.ImagePath),
		cmp.Compare(a.Installed, b.Installed), cmp.Compare(a.Type, b.Type), cmp.Compare(a.EndLine, b.EndLine),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// named is the maximal number of findings, and of fixes, in the text of the error.
const named = 3

// gateError returns the error for findings that fail the gate.
func gateError(findings []Finding) error {
	var failing []Finding
	for _, f := range findings {
		if f.Fails {
			failing = append(failing, f)
		}
	}
	var list []string
	for _, f := range failing[:min(len(failing), named)] {
		list = append(list, f.Short())
	}
	if more := len(failing) - named; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	verb := "fail"
	if len(failing) == 1 {
		verb = "fails"
	}
	noun := "findings"
	if len(findings) == 1 {
		noun = "finding"
	}
	err := fault.Gatef("scan.findings", "%d of %d %s %s the gate: %s", len(failing), len(findings), noun, verb, strings.Join(list, "; "))
	return err.WithFix("%s", remedy(failing))
}

// Short returns the finding on one line.
func (f Finding) Short() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)", f.ID, f.Severity)
	switch f.Kind {
	case Vulnerability:
		fmt.Fprintf(&b, " in %s %s", f.Package, f.Installed)
		switch f.Reachability {
		case Called:
			b.WriteString(", called")
		case NotCalled:
			b.WriteString(", not called")
		case Unknown:
		}
		if f.Fixed != "" {
			b.WriteString(", fixed in " + f.Fixed)
		} else {
			b.WriteString(", no fix yet")
		}
	default:
		if place := f.Place(); place != "" {
			b.WriteString(" in " + place)
		}
		if f.Title != "" {
			b.WriteString(": " + f.Title)
		}
	}
	return b.String()
}

// Place returns the location of the finding: file:line in the source, or the path
// of a file in the image. It returns "" if neither is known.
func (f Finding) Place() string {
	switch {
	case f.Path != "" && f.Line > 0:
		return fmt.Sprintf("%s:%d", f.Path, f.Line)
	case f.Path != "":
		return f.Path
	case f.ImagePath != "":
		return "/" + strings.TrimPrefix(f.ImagePath, "/")
	}
	return ""
}

// remedy returns the fix for the failing findings: the upgrades of modules first,
// then everything else.
func remedy(failing []Finding) string {
	var modules []string
	var others []string
	add := func(to *[]string, what string) {
		if !slices.Contains(*to, what) {
			*to = append(*to, what)
		}
	}
	for _, f := range failing {
		switch {
		case f.Kind == Secret:
			add(&others, "revoke the secret and remove it from the git history")
		case f.Kind == Misconfiguration:
			add(&others, "correct the chart")
		case f.IsGo() && f.Package == "stdlib" && f.Fixed != "":
			add(&others, "build with Go "+f.bestFix())
		case f.IsGo() && f.Fixed != "":
			add(&modules, f.Package+"@v"+strings.TrimPrefix(f.bestFix(), "v"))
		case f.Fixed != "":
			add(&others, "use a base image with "+f.Package+" "+f.bestFix())
		}
	}
	var advice []string
	if len(modules) > 0 {
		advice = append(advice, "go get "+strings.Join(latest(modules), " "))
	}
	advice = append(advice, others...)
	if len(advice) > named {
		advice = append(advice[:named], "see the report for the rest")
	}
	advice = append(advice, "or ignore it with a reason in .trivyignore.yaml")
	return strings.Join(advice, "; ")
}

// latest keeps the highest version of each module.
func latest(modules []string) []string {
	var kept []string
	for _, m := range modules {
		name, version, _ := strings.Cut(m, "@")
		same := slices.IndexFunc(kept, func(k string) bool { return strings.HasPrefix(k, name+"@") })
		switch {
		case same < 0:
			kept = append(kept, m)
		case compareVersions(version, strings.TrimPrefix(kept[same], name+"@")) > 0:
			kept[same] = m
		}
	}
	return kept
}

// bestFix returns the lowest fixed version that is higher than the installed one.
// An advisory lists a fixed version for each release line.
func (f Finding) bestFix() string {
	best := ""
	for fix := range strings.SplitSeq(f.Fixed, ", ") {
		if compareVersions(fix, f.Installed) > 0 && (best == "" || compareVersions(fix, best) < 0) {
			best = fix
		}
	}
	if best == "" {
		best, _, _ = strings.Cut(f.Fixed, ", ")
	}
	return best
}

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// lintProposal is how an app can begin with the linter.
type lintProposal struct {
	tried    bool
	problem  string         // why golangci-lint could not be run
	findings []lint.Finding // of the whole app
	newFrom  string         // the setting that is proposed; empty if none is
	left     int            // findings that still fail with it
}

// tryLint lints the app as slipway lint will and, if there are findings, proposes a start
// that they do not block. If golangci-lint cannot be run, that is no error.
func (a *app) tryLint(ctx context.Context, dir string) (p lintProposal, err error) {
	p.tried = true
	findings, problem, err := a.lintOnce(ctx, dir, "")
	if err != nil || problem != "" || len(findings) == 0 {
		p.problem = problem
		return p, err
	}
	p.findings = findings
	repository, err := source.OpenRepository(ctx, dir)
	if err != nil || repository == nil {
		return p, ctx.Err() // without a repository, nothing is older than anything else
	}
	revision, err := repository.MainBranch(ctx)
	if err != nil || revision == "" {
		return p, ctx.Err()
	}
	left, problem, err := a.lintOnce(ctx, dir, revision)
	if err != nil {
		return p, err
	}
	// If it leaves everything, for example because nothing compiles, it is no help.
	if problem == "" && len(left) < len(findings) {
		p.newFrom, p.left = revision, len(left)
	}
	return p, nil
}

// lintOnce runs golangci-lint with the defaults of slipway. problem says why it could not
// be run.
func (a *app) lintOnce(ctx context.Context, dir, newFrom string) (findings []lint.Finding, problem string, err error) {
	folder, err := cache.User()
	if err != nil {
		return nil, err.Error(), nil
	}
	reports, err := os.MkdirTemp("", "slipway-init-")
	if err != nil {
		return nil, "", fmt.Errorf("making a folder for the reports of golangci-lint: %w", err)
	}
	defer os.RemoveAll(reports)
	o := ship.Options{Root: dir, Config: config.Default(), Goals: []graph.Name{ship.Lint}, Reports: reports, Cache: folder, Sink: a.quiet()}
	o.Config.Lint.NewFrom = newFrom
	report, err := ship.Run(ctx, o)
	switch {
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case err == nil:
		return nil, "", nil
	case fault.CodeOf(err) == "lint.findings" && report.Lint != nil:
		return report.Lint.Findings, "", nil
	}
	problem, _, _ = strings.Cut(err.Error(), "\n")
	return nil, problem, nil
}

// statuses is a sink that passes on what a stage is doing and drops its results.
type statuses struct{ progress.Sink }

func (s statuses) Emit(e progress.Event) {
	if e.Kind == progress.Status {
		s.Sink.Emit(e)
	}
}

// quiet returns a sink for runs whose findings are only counted.
func (a *app) quiet() progress.Sink {
	return statuses{a.plainDisplay()}
}

// lines returns what slipway init says of the linter.
func (p lintProposal) lines() []string {
	switch {
	case p.problem != "":
		return []string{"golangci-lint was not tried: " + display.Clean(p.problem)}
	case !p.tried:
		return nil
	case len(p.findings) == 0:
		return []string{"golangci-lint finds nothing"}
	}
	lines := []string{fmt.Sprintf("golangci-lint finds %s, at which slipway check and ship would stop: %s", problems(len(p.findings)), p.linters())}
	if p.newFrom == "" {
		return append(lines, "  to begin in spite of them: slipway check --allow lint, slipway ship --allow lint")
	}
	lines = append(lines, "  slipway.yaml therefore sets lint.newFrom: "+p.newFrom+", so that only findings in changed lines fail; remove it to see all")
	if p.left > 0 {
		lines = append(lines, fmt.Sprintf("  %s in lines that are newer still stop them; to begin in spite of that: --allow lint", problems(p.left)))
	}
	return lines
}

// config returns the section lint of slipway.yaml, or "".
func (p lintProposal) config() string {
	if p.newFrom == "" {
		return ""
	}
	return fmt.Sprintf("\nlint:\n  # golangci-lint finds %s today. Only findings in changed lines fail. CI must fetch\n  # the whole history for that. Remove this setting when golangci-lint finds nothing.\n  newFrom: %s\n",
		problems(len(p.findings)), yamlText(p.newFrom))
}

// report returns the proposal for -o json.
func (p lintProposal) report() map[string]any {
	r := map[string]any{"findings": len(p.findings)}
	if p.problem != "" {
		r["problem"] = p.problem
	}
	if p.newFrom != "" {
		r["newFrom"], r["left"] = p.newFrom, p.left
	}
	return r
}

// linters returns the linters with findings, the one with most first.
func (p lintProposal) linters() string {
	counts := map[string]int{}
	for _, f := range p.findings {
		counts[f.Linter]++
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	texts := make([]string, 0, len(names))
	for _, name := range names {
		texts = append(texts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(texts, ", ")
}

func problems(n int) string {
	if n == 1 {
		return "1 problem"
	}
	return fmt.Sprintf("%d problems", n)
}

// yamlText returns a text as a YAML scalar. It is quoted only if it would otherwise mean
// something else.
func yamlText(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("./_-", r)
	}) < 0
	if plain && strings.Trim(s, "0123456789.e-") != "" {
		return s
	}
	if s == "." {
		return s
	}
	text, err := json.Marshal(s) // a JSON string is a YAML scalar
	if err != nil {
		return s // encoding a string does not fail
	}
	return string(text)
}

package ship

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/service"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/test"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

func (p *run) lint(ctx context.Context) (graph.Outcome, error) {
	changes, err := p.lintChanges(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	given := []any{p.lintConfigs()}
	if changes != nil {
		given = append(given, sha256.Sum256(changes))
	}
	key, err := p.verdictKey("lint", p.Config.Lint, given)
	if err != nil {
		return graph.Outcome{}, err
	}
	summary := "no findings"
	if p.Config.Lint.NewFrom != "" {
		summary = "no new findings since " + p.Config.Lint.NewFrom
	}
	var v verdict[lint.Result]
	if p.loadVerdict(&v, key) && allExist(v.Result.Reports) {
		p.report.Lint = &v.Result
		return graph.Outcome{Kind: progress.Unchanged, Summary: summary + " " + v.age()}, nil
	}
	r, err := lint.Run(ctx, lint.Options{
		Root: p.Root, Dir: p.source.Dir, Go: p.toolchain, Settings: p.Config.Lint, CacheDir: string(p.Cache),
		Reports: p.Reports, Prefix: p.prefix(), BuildTags: p.Config.App.Tags, Env: toolchain.Environ(p.Config.App.Env), Changes: changes, Pass: p.pass(),
		Isolation: p.lintIsolation(),
	})
	p.report.Lint = &r
	if err != nil {
		return graph.Outcome{}, err
	}
	p.storeVerdict(ctx, verdict[lint.Result]{time.Now(), r}, key)
	return graph.Outcome{Kind: progress.Passed, Summary: summary}, nil
}

// lintChanges returns the patch whose lines count for the setting lint.newFrom, or nil if
// all lines count.
func (p *run) lintChanges(ctx context.Context) ([]byte, error) {
	revision := p.Config.Lint.NewFrom
	if revision == "" {
		return nil, nil
	}
	repository, err := source.OpenRepository(ctx, p.source.Dir)
	if err != nil {
		return nil, err
	}
	if repository == nil {
		return nil, fault.Inputf("lint.new-from", "lint.newFrom is %s, but %s is not in a git repository", revision, p.source.Dir).
			WithFix("remove lint.newFrom from slipway.yaml, or lint in a clone that has the folder .git")
	}
	patch, err := repository.Since(ctx, p.source.Dir, revision)
	if patch == nil {
		patch = []byte{} // nothing has changed
	}
	return patch, err
}

// lintConfigs returns the hashes of all files from which golangci-lint may read its
// configuration. The app's fingerprint does not include files above the app.
func (p *run) lintConfigs() map[string]string {
	sums := map[string]string{}
	add := func(file string) {
		if sum, err := cache.HashFile(file); err == nil {
			sums[file] = sum
		}
	}
	if p.Config.Lint.Config != "" {
		add(config.Resolve(p.Root, p.Config.Lint.Config))
	}
	for dir := p.source.Dir; ; dir = filepath.Dir(dir) {
		for _, name := range []string{".golangci.yml", ".golangci.yaml", ".golangci.toml", ".golangci.json"} {
			add(filepath.Join(dir, name))
		}
		if dir == filepath.Dir(dir) {
			return sums
		}
	}
}

func (p *run) test(ctx context.Context) (graph.Outcome, error) {
	given := map[string]string{}
	for _, s := range p.Config.Test.Services {
		name := service.Kind(s).Variable()
		given[name] = os.Getenv(name)
	}
	// A test can read any variable, so the verdict counts only for the same environment.
	// With another one, the go command still uses the results of the tests that do not
	// read what differs.
	pass := p.pass()
	environment := sha256.Sum256([]byte(strings.Join(p.toolchain.TestInputs(pass), "\x00")))
	key, err := p.verdictKey("test", p.Config.Test, []any{given, hex.EncodeToString(environment[:])})
	if err != nil {
		return graph.Outcome{}, err
	}
	var v verdict[test.Result]
	if p.loadVerdict(&v, key) && allExist([]string{v.Result.Reports.JUnit, v.Result.Reports.Cobertura}) {
		p.report.Test = &v.Result
		return graph.Outcome{Kind: progress.Unchanged, Summary: summarizeTests(v.Result) + " " + v.age()}, nil
	}
	r, err := test.Run(ctx, test.Options{
		Dir: p.source.Dir, Go: p.toolchain, Settings: p.Config.Test, Env: toolchain.Environ(p.Config.App.Env),
		BuildTags: p.Config.App.Tags, Reports: p.Reports, Prefix: p.prefix(), Force: p.Force, Pass: pass, Isolation: p.isolation(),
	})
	p.report.Test = &r
	if err != nil {
		return graph.Outcome{}, err
	}
	p.storeVerdict(ctx, verdict[test.Result]{time.Now(), r}, key)
	return graph.Outcome{Kind: progress.Passed, Summary: summarizeTests(r)}, nil
}

func summarizeTests(r test.Result) string {
	s := fmt.Sprintf("%d tests", r.Tests)
	if r.Skipped > 0 {
		s += fmt.Sprintf(" (%d skipped)", r.Skipped)
	}
	if r.CoverageLine != "" {
		s += fmt.Sprintf(", coverage %.1f%%", r.Coverage)
	}
	return s
}

// prefix returns the app's folder relative to the repository, with slashes, or "" if the
// two are the same. Paths in reports are relative to the repository, because that is what
// GitHub and GitLab expect.
func (p *run) prefix() string {
	rel, err := filepath.Rel(p.source.Top, p.source.Dir)
	if err != nil || rel == "." {
		return ""
	}
	return filepath.ToSlash(rel)
}

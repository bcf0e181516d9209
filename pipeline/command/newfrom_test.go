package command

import (
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// TestLintNewFrom lints a repository with old findings. Only those in changed lines fail,
// and a verdict is used again only while the same lines count.
func TestLintNewFrom(t *testing.T) {
	finding := func(name string) string {
		return "package main\n\nimport \"os\"\n\nfunc " + name + "() { os.Remove(\"x\") }\n\nvar _ = " + name + "\n"
	}
	files := helloApp()
	files["old.go"] = finding("old")
	files["slipway.yaml"] = "lint: {newFrom: main}\n"
	dir := testkit.Repository(t, files)
	p := newProgram(t, dir)
	withLinter(t, p)
	want := func(outcome progress.Outcome, summary string) {
		t.Helper()
		r := p.report(t, "lint")
		if s := r.Stages[0]; s.Outcome != outcome || !strings.HasPrefix(s.Summary, summary) || r.Lint.NewFrom != "main" {
			t.Errorf("%s: %s, want %s: %s", s.Outcome, s.Summary, outcome, summary)
		}
	}
	want(progress.Passed, "no new findings since main")
	want(progress.Unchanged, "no new findings since main (")

	testkit.Git(t, dir, "checkout", "-q", "-b", "work")
	testkit.Write(t, dir, map[string]string{"fresh.go": finding("fresh")})
	for _, state := range []string{"untracked", "committed"} {
		if _, r := failed(t, p, "lint"); len(r.Lint.Findings) != 1 || r.Lint.Findings[0].File != "fresh.go" {
			t.Errorf("%s: %+v", state, r.Lint.Findings)
		}
		testkit.Commit(t, dir)
	}
	// If main has the finding, it is old. The files are the same, so only the lines that
	// count tell the verdicts apart.
	before := testkit.Git(t, dir, "rev-parse", "main")
	testkit.Git(t, dir, "branch", "-f", "main", "work")
	want(progress.Passed, "no new findings")
	testkit.Git(t, dir, "branch", "-f", "main", before)
	if _, r := failed(t, p, "lint"); len(r.Lint.Findings) != 1 {
		t.Errorf("a verdict on other lines was used: %+v", r.Stages)
	}

	testkit.Git(t, dir, "branch", "-D", "main")
	e := p.run(t, "lint", "--progress", "json")
	if e.code != fault.ExitInput || !strings.Contains(e.stderr, "slipway: lint: finding what has changed since main: "+dir+" has no such revision (fetch it") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	outside := testkit.Tree(t, files)
	p.dir = outside
	if e := p.run(t, "lint"); e.code != fault.ExitInput || !strings.Contains(e.stderr, "lint.newFrom is main, but "+outside+" is not in a git repository") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

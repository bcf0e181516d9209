package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestInitThenBuild(t *testing.T) {
	files := helloApp()
	delete(files, "slipway.yaml")
	delete(files, ".dockerignore")
	dir := testkit.Repository(t, files)
	p := newProgram(t, dir)
	withLinter(t, p)
	if e := p.run(t, "init"); e.code != fault.ExitOK || !strings.Contains(e.stdout, "wrote") {
		t.Fatalf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	testkit.Commit(t, dir)
	if r := p.report(t, "build", "--platforms", "linux/amd64"); r.Source.Dirty {
		t.Errorf("the build changed the source tree: %v", r.Source.Changed)
	}
	e := p.run(t, "doctor", "-o", "json")
	var d struct{ Findings []finding }
	if err := json.Unmarshal([]byte(e.stdout), &d); err != nil || len(d.Findings) < 5 {
		t.Errorf("doctor: %v\n%s%s", err, e.stdout, e.stderr)
	}
}

// manyApp returns the files of an app with several main packages and old findings.
func manyApp() map[string]string {
	return map[string]string{
		"go.mod":            "module example.com/acme/orders\n\ngo 1.26\n",
		"cmd/api/main.go":   "// Command api serves.\npackage main\n\nimport (\n\t\"net/http\"\n\t\"os\"\n)\n\nfunc main() {\n\tos.Remove(\"x\")\n\thttp.ListenAndServe(\":8080\", nil)\n}\n",
		"cmd/job/main.go":   "// Command job does nothing.\npackage main\n\nfunc main() {}\n",
		"tools/gen/main.go": "// Command gen generates.\npackage main\n\nfunc main() {}\n",
		"Dockerfile":        "FROM golang AS build\nRUN go build -o /api ./cmd/api\n",
	}
}

// initReport is the JSON report of slipway init.
type initReport struct {
	Written, Mains, Reasons []string
	Main                    string
	Files                   map[string]string
	Lint                    struct {
		Findings, Left   int
		NewFrom, Problem string
	}
}

// initialize runs slipway init and returns its report and its slipway.yaml.
func initialize(t *testing.T, p *program, args ...string) (r initReport, text string) {
	t.Helper()
	e := p.run(t, append([]string{"init", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil || e.code != fault.ExitOK {
		t.Fatalf("exit %d, %v\n%s%s", e.code, err, e.stdout, e.stderr)
	}
	if r.Files != nil {
		return r, r.Files[filepath.Join(p.dir, config.FileName)]
	}
	data, err := os.ReadFile(filepath.Join(p.dir, config.FileName))
	if err != nil {
		t.Fatal(err)
	}
	return r, string(data)
}

// TestInitChoosesTheService checks that init chooses the main package that is the service,
// says why, and offers the others; and that the start that it proposes does not block.
func TestInitChoosesTheService(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	origin := testkit.Repository(t, manyApp())
	dir := filepath.Join(t.TempDir(), "clone")
	testkit.Git(t, origin, "clone", "-q", origin, dir)
	p := newProgram(t, dir)
	withLinter(t, p)
	r, text := initialize(t, p)
	const why = "is built by Dockerfile, listens on a port (cmd/api/main.go:11), api is a usual name for a service"
	if r.Main != "./cmd/api" || strings.Join(r.Mains, " ") != "./cmd/api ./cmd/job ./tools/gen" || strings.Join(r.Reasons, ", ") != why {
		t.Errorf("%+v", r)
	}
	if r.Lint.Findings != 2 || r.Lint.NewFrom != "origin/main" || r.Lint.Left != 0 {
		t.Errorf("lint %+v", r.Lint)
	}
	for _, want := range []string{
		"  main: ./cmd/api # it " + why + "\n", "  # others: ./cmd/job, ./tools/gen\n",
		"  # golangci-lint finds 2 problems today. Only findings in changed lines fail.", "\n  newFrom: origin/main\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("slipway.yaml does not contain %q:\n%s", want, text)
		}
	}
	if s := p.report(t, "lint").Stages[0]; !strings.HasPrefix(s.Summary, "no new findings since origin/main") {
		t.Errorf("lint: %s %s", s.Outcome, s.Summary)
	}
	e := p.run(t, "init", "--force")
	for _, want := range []string{
		"main package ./cmd/api: it " + why + "\n",
		"others, for app.main: ./cmd/job, ./tools/gen (tools is a usual name for something else)\n",
		"golangci-lint finds 2 problems, at which slipway check and ship would stop: errcheck 2\n",
		"slipway.yaml therefore sets lint.newFrom: origin/main", "see --allow in slipway ship --help\n",
	} {
		if e.code != fault.ExitOK || !strings.Contains(e.stdout, want) {
			t.Errorf("exit %d, want %q in\n%s%s", e.code, want, e.stdout, e.stderr)
		}
	}

	// What is not in origin/main yet still fails, which the output says.
	testkit.Write(t, dir, map[string]string{"cmd/job/main.go": "// Command job removes.\npackage main\n\nimport \"os\"\n\nfunc main() { os.Remove(\"x\") }\n"})
	e = p.run(t, "init", "--force")
	if !strings.Contains(e.stdout, "finds 3 problems") || !strings.Contains(e.stdout, "  1 problem in lines that are newer still stop them") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
}

// TestInitWithoutOldFindings checks what init proposes if lint.newFrom is no help or not
// needed.
func TestInitWithoutOldFindings(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	const mod = "module example.com/x\n\ngo 1.26\n"
	clean := map[string]string{"go.mod": mod, "main.go": "package main\n\nfunc main() {}\n"}
	broken := map[string]string{"go.mod": mod, "main.go": "package main\n\nfunc main() { undefined() }\n"}
	for name, tt := range map[string]struct {
		dir  string
		want string // of the output
		rest []string
	}{
		"no findings":   {testkit.Repository(t, clean), "golangci-lint finds nothing\n", nil},
		"no repository": {testkit.Tree(t, manyApp()), "  to begin in spite of them: slipway check --allow lint, slipway ship --allow lint\n", nil},
		"no commit":     {uncommitted(t, manyApp()), "  to begin in spite of them: slipway check --allow lint, slipway ship --allow lint\n", nil},
		"no compile":    {testkit.Repository(t, broken), "finds 1 problem, at which slipway check and ship would stop: typecheck 1\n  to begin in spite", nil},
		"no linter":     {testkit.Repository(t, manyApp()), "golangci-lint was not tried: lint: building golangci-lint", []string{"GOPROXY=off", "GOFLAGS=-mod=mod", "GOMODCACHE=" + t.TempDir()}},
		"asked not to":  {testkit.Repository(t, manyApp()), "is a usual name for a service\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProgram(t, tt.dir)
			if p.env = append(p.env, tt.rest...); tt.rest == nil {
				withLinter(t, p)
			}
			args := []string{"init"}
			if name == "asked not to" {
				args = append(args, "--no-lint")
			}
			e := p.run(t, args...)
			text, err := os.ReadFile(filepath.Join(tt.dir, config.FileName))
			if e.code != fault.ExitOK || !strings.Contains(e.stdout, tt.want) || err != nil || strings.Contains(string(text), "newFrom") {
				t.Errorf("exit %d, %v\n%s%s%s", e.code, err, e.stdout, e.stderr, text)
			}
			if name == "asked not to" && strings.Contains(e.stdout+e.stderr, "golangci-lint") {
				t.Errorf("golangci-lint is mentioned:\n%s%s", e.stdout, e.stderr)
			}
		})
	}
}

// uncommitted returns a git repository without a commit.
func uncommitted(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := testkit.Tree(t, files)
	testkit.Git(t, dir, "init", "--quiet", "--initial-branch=main")
	return dir
}

// TestInitDryRun checks that init prints the files on a source that cannot be written to.
func TestInitDryRun(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	source := testkit.Repository(t, manyApp())
	p := newProgram(t, readOnly(t, source))
	withLinter(t, p)
	r, text := initialize(t, p, "--dry-run")
	if len(r.Written) != 0 || len(r.Files) != 2 || !strings.Contains(text, "  newFrom: "+testkit.Git(t, source, "rev-parse", "HEAD")+"\n") {
		t.Errorf("written %v\n%s", r.Written, text)
	}
	if e := p.run(t, "init", "--dry-run", "--no-lint"); e.code != fault.ExitOK || !strings.Contains(e.stdout, "slipway.yaml\n# yaml-language-server") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	e := p.run(t, "init", "--no-lint")
	if e.code != fault.ExitInput || strings.Count(e.stderr, "\n") != 1 || !strings.Contains(e.stderr, "read-only file system (print it with --dry-run)") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	if changed := testkit.Git(t, source, "status", "--porcelain"); changed != "" {
		t.Errorf("the source has changed:\n%s", changed)
	}
}

// TestInitKeepsEmbeddedMarkdown checks that the .dockerignore that init writes does not
// exclude files that the program embeds.
func TestInitKeepsEmbeddedMarkdown(t *testing.T) {
	files := map[string]string{"go.mod": "module example.com/x\n\ngo 1.26\n", "help.md": "help\n", "main.go": "package main\n\nimport _ \"embed\"\n\n//go:embed help.md\nvar help string\n\nfunc main() { println(help) }\n"}
	p := newProgram(t, testkit.Repository(t, files))
	r, _ := initialize(t, p, "--no-lint")
	if !slices.Contains(r.Written, filepath.Join(p.dir, ".dockerignore")) {
		t.Errorf("written %v", r.Written)
	}
	p.report(t, "build", "--platforms", "linux/amd64")
}

// TestYAMLText checks that a text is read back as it was written.
func TestYAMLText(t *testing.T) {
	for _, s := range []string{".", "./cmd/a", "origin/main", "0123456789012345678901234567890123456789", "1e5", "12e4", "./cmd/a b", "./cmd/a#b", "./ü", "a: b", "-x", ""} {
		c, err := config.Parse("x.yaml", []byte("image: {labels: {x: "+yamlText(s)+"}}\n"))
		if err != nil || c.Image.Labels["x"] != s {
			t.Errorf("%q is written as %s and read as %q, %v", s, yamlText(s), c.Image.Labels["x"], err)
		}
	}
}

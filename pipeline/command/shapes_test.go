package command

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// payments are the files of a repository with a workspace. The app is in services/pay, and
// its tests depend on the module in libs/money.
func payments() map[string]string {
	return map[string]string{
		"go.work":                     "go 1.26\n\nuse (\n\t./libs/money\n\t./services/pay\n)\n",
		"libs/money/go.mod":           "module example.com/money\n\ngo 1.26\n",
		"libs/money/money.go":         "package money\n\nfunc Cents(n int) int { return n * 100 }\n",
		"services/pay/slipway.yaml":   "app: {platforms: [linux/amd64]}\ntest: {race: false}\n",
		"services/pay/go.mod":         "module example.com/pay\n\ngo 1.26\n",
		"services/pay/main.go":        "package main\n\nimport \"example.com/pay/calc\"\n\nfunc main() { println(calc.Sum(1, 2)) }\n",
		"services/pay/calc/calc.go":   "package calc\n\nimport \"example.com/money\"\n\nfunc Sum(a, b int) int { return money.Cents(a + b) }\n",
		"services/pay/calc/c_test.go": "package calc\n\nimport \"testing\"\n\nfunc TestSum(t *testing.T) {\n\tif Sum(1, 2) != 300 {\n\t\tt.Error(\"wrong sum\")\n\t}\n}\n",
	}
}

// outcome returns how a stage of a report ended.
func outcome(t *testing.T, r ship.Report, stage graph.Name) progress.Outcome {
	t.Helper()
	for _, s := range r.Stages {
		if s.Name == stage {
			return s.Outcome
		}
	}
	t.Fatalf("there is no stage %s", stage)
	return ""
}

// TestWorkspace: another module of the workspace belongs to the app, and paths in reports
// are relative to the repository.
func TestWorkspace(t *testing.T) {
	dir := testkit.Repository(t, payments())
	p := newProgram(t, dir)
	p.env = append(p.env, "GITHUB_ACTIONS=true")
	p.report(t, "-C", "services/pay", "test")
	first := p.report(t, "-C", "services/pay", "build")
	if first.Source.Dirty || outcome(t, p.report(t, "-C", "services/pay", "test"), ship.Test) != progress.Unchanged {
		t.Errorf("changed %v", first.Source.Changed)
	}
	cobertura, err := os.ReadFile(filepath.Join(dir, "services", "pay", ".slipway", "reports", "cobertura.xml"))
	if err != nil || !strings.Contains(string(cobertura), `filename="services/pay/calc/calc.go"`) {
		t.Errorf("%v\n%s", err, cobertura)
	}

	testkit.Write(t, dir, map[string]string{"libs/money/money.go": "package money\n\nfunc Cents(n int) int { return n * 10 }\n"})
	e := p.run(t, "-C", "services/pay", "test")
	if e.code != fault.ExitFailed || !strings.Contains(e.stdout+e.stderr, "::error file=services/pay/calc/c_test.go,line=7") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	second := p.report(t, "-C", "services/pay", "build")
	if !second.Source.Dirty || second.Digest == first.Digest {
		t.Errorf("dirty %v, digest %s", second.Source.Dirty, second.Digest)
	}
}

// TestForceRunsTests: neither slipway nor the go command uses a result that it has.
func TestForceRunsTests(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	files := helloApp()
	files["slipway.yaml"] = "test: {race: false}\n"
	files["dial_test.go"] = "package main\n\nimport (\n\t\"net\"\n\t\"testing\"\n)\n\nfunc TestDial(t *testing.T) {\n\tc, err := net.Dial(\"tcp\", \"" +
		l.Addr().String() + "\")\n\tif err != nil {\n\t\tt.Fatal(err)\n\t}\n\tc.Close()\n}\n"
	p := newProgram(t, testkit.Repository(t, files))
	p.report(t, "test")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, p.report(t, "test"), ship.Test); got != progress.Unchanged {
		t.Errorf("without --force: %s", got)
	}
	if e := p.run(t, "test", "--force"); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "connection refused") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
}

// TestEnvironmentOfTests: tests see variables that are no settings of the go command, and a
// verdict counts only for the same environment.
func TestEnvironmentOfTests(t *testing.T) {
	files := helloApp()
	files["slipway.yaml"] = "test: {race: false}\n"
	files["env_test.go"] = "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnv(t *testing.T) {\n\tif got := os.Getenv(\"GORM_DIALECT\"); got != \"postgres\" {\n\t\tt.Errorf(\"dialect %q\", got)\n\t}\n}\n"
	p := newProgram(t, testkit.Repository(t, files))
	with := append(p.env, "GORM_DIALECT=postgres") //nolint:gocritic // p.env is changed below
	p.env = with
	p.report(t, "test")
	p.env = append(with, "SHLVL=7") //nolint:gocritic // with is used again
	if got := outcome(t, p.report(t, "test"), ship.Test); got != progress.Unchanged {
		t.Errorf("in another shell: %s", got)
	}
	p.env = append(with, "GORM_DIALECT=mysql") //nolint:gocritic // with is used again
	if e := p.run(t, "test", "--progress", "plain"); e.code != fault.ExitFailed || !strings.Contains(e.stderr, `dialect "mysql"`) {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
}

// TestExcludedFilesOfTheBuild: a build does not see excluded files. If it needs them, the
// error names the line that excludes them.
func TestExcludedFilesOfTheBuild(t *testing.T) {
	t.Run("vendor", func(t *testing.T) {
		dir := testkit.Repository(t, serverApp(t, "v0.44.0"))
		p := newProgram(t, dir)
		cmd := exec.CommandContext(t.Context(), "go", "mod", "vendor")
		cmd.Dir, cmd.Env = dir, p.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		// The build fails if it uses the folder.
		testkit.Write(t, dir, map[string]string{"vendor/golang.org/x/net/http2/broken.go": "package http2\n\nvar broken = undefined\n", ".dockerignore": "vendor\n"})
		p.report(t, "build", "--platforms", "linux/amd64")
		testkit.Write(t, dir, map[string]string{".dockerignore": "**/*.md\n"})
		if e := p.run(t, "build", "--platforms", "linux/amd64"); e.code != fault.ExitFailed {
			t.Errorf("the folder vendor was not used: exit %d", e.code)
		}
	})
	t.Run("embedded file", func(t *testing.T) {
		files := helloApp()
		files["readme.go"] = "package main\n\nimport _ \"embed\"\n\n//go:embed README.md\nvar readme string\n"
		files[".dockerignore"] = "# documentation\n**/*.md\n"
		e := newProgram(t, testkit.Repository(t, files)).run(t, "build", "--platforms", "linux/amd64")
		if want := "README.md by .dockerignore:2 (**/*.md); correct the ignore file"; e.code != fault.ExitFailed || !strings.Contains(e.stderr, want) {
			t.Errorf("exit %d, want %s\n%s", e.code, want, e.stderr)
		}
	})
}

// TestLinkedFolder: slipway runs in a folder that was entered through a link.
func TestLinkedFolder(t *testing.T) {
	dir := testkit.Repository(t, map[string]string{"real/go.mod": "module example.com/hello\n\ngo 1.26\n", "real/main.go": "package main\n\nfunc main() {}\n"})
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, filepath.Join(dir, "link"))
	p.env = append(p.env, "PWD="+filepath.Join(dir, "link")) // as a shell sets it
	if r := p.report(t, "build", "--platforms", "linux/amd64"); r.Source.Main != "." {
		t.Errorf("main %s", r.Source.Main)
	}
}

package test

import (
	"context"
	"encoding/xml"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// runCase is a module and the expected result of testing it.
type runCase struct {
	files   map[string]string
	change  func(*Options)
	code    string // error code; empty if Run passes
	message string // part of the error
	want    Result // without Output, Seconds and Reports, which are not compared
	warning string
}

//nolint:funlen // a table
func runCases() map[string]runCase {
	return map[string]runCase{
		"passing": {
			files: half,
			want:  Result{Packages: 1, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%"},
		},
		"coverage at the minimum": {
			files: half, change: func(o *Options) { o.Settings.Coverage = 50 },
			want: Result{Packages: 1, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%"},
		},
		"coverage below the minimum": {
			files: half, change: func(o *Options) { o.Settings.Coverage = 70 },
			code: "test.coverage", message: "coverage is 50.0%, below the minimum of 70.0%",
			want: Result{Packages: 1, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%"},
		},
		"failing subtest": {
			files: with(half, map[string]string{"half/more_test.go": "package half\n\nimport \"testing\"\n\nfunc TestTable(t *testing.T) {\n\tt.Run(\"row\", func(t *testing.T) {\n\t\tt.Errorf(\"got %d\", 1)\n\t})\n\tt.Run(\"good\", func(t *testing.T) {})\n}\n"}),
			code:  "test.failed", message: "2 of 5 tests failed: example.com/app/half.TestTable/row (half/more_test.go:7): got 1",
			want: Result{
				Packages: 1, Tests: 5, Passed: 3, Failed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%",
				Failures: []Failure{{Package: "example.com/app/half", Test: "TestTable/row", Cause: Failed, Message: "got 1", File: "half/more_test.go", Line: 7}},
			},
		},
		"with a prefix": {
			files:  testFile("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tt.Fatal(\"no\")\n}\n"),
			change: func(o *Options) { o.Prefix = "services/app" },
			code:   "test.failed", message: "1 of 1 tests failed: example.com/app.TestX (services/app/x_test.go:5): no",
			want: Result{
				Packages: 1, Tests: 1, Failed: 1,
				Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Failed, Message: "no", File: "services/app/x_test.go", Line: 5}},
			},
		},
		"panic": {
			files: testFile("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tvar m map[string]int\n\tm[\"a\"] = 1\n}\n"),
			code:  "test.panic", message: "example.com/app.TestX panicked (x_test.go:6): panic: assignment to entry in nil map",
			want: Result{
				Packages: 1, Tests: 1, Failed: 1,
				Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Panic, Message: "panic: assignment to entry in nil map", File: "x_test.go", Line: 6}},
			},
		},
		"data race": {
			files:  testFile("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tn, done := 0, make(chan bool)\n\tgo func() {\n\t\tn++\n\t\tdone <- true\n\t}()\n\tn++\n\t<-done\n\tprintln(n)\n}\n"),
			change: func(o *Options) { o.Settings.Race = new(true) },
			code:   "test.race", message: "the race detector found a data race in example.com/app.TestX (x_test.go:",
			want: Result{
				Packages: 1, Tests: 1, Failed: 1, Races: true,
				Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Race, Message: "data race", File: "x_test.go", Line: 7}},
			},
		},
		"tests that do not compile": {
			files: with(half, map[string]string{"bad/x_test.go": "package bad\n\nfunc f() { undefined() }\n"}),
			code:  "test.build", message: "example.com/app/bad does not compile: bad/x_test.go:3:12: undefined: undefined",
			want: Result{
				Packages: 2, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%",
				Failures: []Failure{{Package: "example.com/app/bad", Cause: Build, Message: "bad/x_test.go:3:12: undefined: undefined", File: "bad/x_test.go", Line: 3}},
			},
		},
		"missing import": {
			files: testFile("import _ \"example.com/nowhere\"\n"),
			code:  "test.build", message: "x_test.go:2:8: no required module provides package example.com/nowhere",
			want: Result{
				Packages: 1,
				Failures: []Failure{{Package: "example.com/app", Cause: Build, Message: "x_test.go:2:8: no required module provides package example.com/nowhere; to add it:", File: "x_test.go", Line: 2}},
			},
		},
		"timeout": {
			files:  testFile("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tselect {}\n}\n"),
			change: func(o *Options) { o.Settings.Timeout = config.Duration(50 * time.Millisecond) },
			code:   "test.timeout", message: "example.com/app.TestX did not finish within 50ms",
		},
		"failing test program": {
			files: testFile("import (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) {\n\tprintln(\"no database\")\n\tos.Exit(3)\n}\n\nfunc TestX(t *testing.T) {}\n"),
			code:  "test.exit", message: "the test program of example.com/app failed: no database",
			want: Result{Packages: 1, Failures: []Failure{{Package: "example.com/app", Cause: Exit, Message: "no database"}}},
		},
		"skipped test": {
			files: testFile("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tt.Skip(\"needs a database\")\n}\n"),
			want:  Result{Packages: 1, Tests: 1, Skipped: 1, Skips: []Skip{{"example.com/app", "TestX", "needs a database"}}},
		},
		"no tests": {
			files:   map[string]string{"go.mod": gomod, "x.go": "package x\n"},
			want:    Result{Packages: 1},
			warning: "there are no tests",
		},
		"no tests below the minimum": {
			files: map[string]string{"go.mod": gomod, "x.go": "package x\n\nfunc F() { println() }\n"}, change: func(o *Options) { o.Settings.Coverage = 1 },
			code: "test.coverage", warning: "there are no tests",
			want: Result{Packages: 1, CoverageLine: "total: (statements) 0.0%"},
		},
		"no packages": {
			files: map[string]string{"go.mod": gomod},
			code:  "test.no-packages", message: "no package matches ./...",
		},
		"broken go.mod": {
			files: map[string]string{"go.mod": gomod + "nonsense\n", "x.go": "package x\n"},
			code:  "test.run", message: "unknown directive: nonsense",
		},
		"tags, arguments, environment and coverage packages": {
			files: with(half, map[string]string{
				"use/use.go":      "package use\n\nimport \"example.com/app/half\"\n\nfunc Use() { half.Never() }\n",
				"use/use_test.go": "//go:build extra\n\npackage use\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestUse(t *testing.T) {\n\tif os.Getenv(\"GREETING\") != \"hello\" || !testing.Short() {\n\t\tt.Fatal(\"options were not passed on\")\n\t}\n\tUse()\n}\n",
			}),
			change: func(o *Options) {
				o.BuildTags, o.Args, o.Env = []string{"extra"}, []string{"-short"}, []string{"GREETING=hello"}
				o.Settings.CoverPackages, o.Settings.Packages = []string{"./..."}, []string{"./use", "./half"}
			},
			want: Result{Packages: 2, Tests: 3, Passed: 3, Coverage: 80, CoverageLine: "total: (statements) 80.0%"},
		},
	}
}

func TestRun(t *testing.T) { testRun(t, runCases()) }

func testRun(t *testing.T, cases map[string]runCase) {
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t, testkit.Tree(t, tc.files))
			if tc.change != nil {
				tc.change(&o)
			}
			sink := &sink{}
			got, err := Run(progress.With(t.Context(), sink, "test"), o)
			if (err == nil) != (tc.code == "") || fault.CodeOf(err) != tc.code {
				t.Fatalf("got %q (%v), want %q\n%s", fault.CodeOf(err), err, tc.code, sink.text())
			}
			if err != nil && (!strings.Contains(err.Error(), tc.message) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got error %q, want one line with %q", err, tc.message)
			}
			if tc.warning != "" && !slices.ContainsFunc(sink.events, func(e progress.Event) bool { return e.Kind == progress.Warned && e.Text == tc.warning }) {
				t.Errorf("there is no warning %q in\n%s", tc.warning, sink.text())
			}
			if tc.want.Packages > 0 {
				compareResult(t, tc.want, got, sink)
			}
			for _, f := range got.Failures {
				if f.File != "" && !slices.ContainsFunc(sink.events, func(e progress.Event) bool { return e.File == f.File && e.Row == f.Line }) {
					t.Errorf("no event has the location of %s", f.title())
				}
			}
			if got.CoverageLine != "" && !regexp.MustCompile(`total:\s+\(statements\)\s+(\d+\.\d+)%`).MatchString(sink.text()) {
				t.Errorf("GitLab's expression does not match\n%s", sink.text())
			}
			checkReports(t, got, o)
		})
	}
}

// compareResult compares the parts of a result that are the same in every run.
func compareResult(t *testing.T, want, got Result, sink *sink) {
	t.Helper()
	got.Seconds, got.Reports, got.Failures = 0, Reports{}, slices.Clone(got.Failures)
	for i, f := range got.Failures {
		if f.Output == "" {
			t.Errorf("%s has no output", f.title())
		}
		got.Failures[i].Output = ""
		if f.Cause == Race && f.File == "x_test.go" && (f.Line == 7 || f.Line == 10) {
			got.Failures[i].Line = 7 // the race detector reports the two accesses in any order
		}
	}
	want.Skips, want.Failures = append([]Skip{}, want.Skips...), append([]Failure{}, want.Failures...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, sink.text())
	}
}

// checkReports compares the reports with the result.
func checkReports(t *testing.T, r Result, o Options) {
	t.Helper()
	for _, file := range []string{r.Reports.JUnit, r.Reports.Cobertura, r.Reports.Profile, r.Reports.Events} {
		if filepath.Dir(file) != o.Reports {
			t.Errorf("report %q is not in %s", file, o.Reports)
		}
	}
	if data, err := os.ReadFile(r.Reports.Profile); err != nil || !strings.HasPrefix(string(data), "mode: atomic\n") {
		t.Errorf("coverage.out: %q, %v", data, err)
	}
	data, err := os.ReadFile(r.Reports.Cobertura)
	if err != nil {
		t.Fatal(err)
	}
	validateCobertura(t, data)
	if data, err = os.ReadFile(r.Reports.JUnit); err != nil {
		t.Fatal(err)
	}
	var suites struct {
		Tests   int `xml:"tests,attr"`
		Skipped int `xml:"skipped,attr"`
		Bad     int `xml:"failures,attr"`
		Errors  int `xml:"errors,attr"`
		Cases   []struct {
			Name string `xml:"name,attr"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(data, &suites); err != nil {
		t.Fatalf("junit.xml: %v\n%s", err, data)
	}
	if suites.Tests != r.Tests+suites.Errors || suites.Tests != len(suites.Cases) || suites.Bad != r.Failed || suites.Skipped != r.Skipped {
		t.Errorf("junit.xml does not match %+v:\n%s", r, data)
	}
	if len(r.Failures) > 0 && suites.Bad+suites.Errors == 0 {
		t.Errorf("junit.xml has no failures:\n%s", data)
	}
}

func TestServicesAreAvailableToTests(t *testing.T) {
	t.Parallel()
	o := options(t, testkit.Tree(t, testFile(`import (
	"net"
	"net/url"
	"os"
	"testing"
)

func TestX(t *testing.T) {
	u, err := url.Parse(os.Getenv("REDIS_URL"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
`)))
	o.Settings.Services = []string{"redis"}
	_, err := Run(t.Context(), o)
	if fault.CodeOf(err) == "program.missing" {
		t.Skipf("redis-server is missing: %v", err)
	}
	if err != nil {
		t.Error(err)
	}
	o.Env = []string{"REDIS_URL=redis://127.0.0.1:1"}
	if _, err := Run(t.Context(), o); fault.CodeOf(err) != "test.failed" {
		t.Errorf("REDIS_URL in the environment was ignored: %v", err)
	}
}

func TestMissingCompiler(t *testing.T) {
	o := options(t, testkit.Tree(t, half))
	o.Settings.Race = new(true)
	t.Setenv("PATH", t.TempDir())
	_, err := Run(t.Context(), o)
	if fault.CodeOf(err) != "program.missing" || fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), "test.race: false") {
		t.Errorf("got %v", err)
	}
	if cc, err := compiler([]string{"CC=zig cc"}); cc != "zig cc" || err != nil {
		t.Errorf("with CC in the environment: got %q, %v, want zig cc", cc, err)
	}
}

// A cancelled run ends a test that ignores SIGINT and its child process.
func TestCancelled(t *testing.T) {
	t.Parallel()
	dir := testkit.Tree(t, testFile(`import (
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
)

func TestX(t *testing.T) {
	signal.Ignore(syscall.SIGINT)
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pids := strconv.Itoa(os.Getpid()) + " " + strconv.Itoa(child.Process.Pid)
	if err := os.WriteFile("pids", []byte(pids), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("FIFO"), []byte("running"), 0); err != nil {
		t.Fatal(err)
	}
	select {}
}
`))
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, dir)
	o.Env = []string{"FIFO=" + fifo}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		_, _ = os.ReadFile(fifo) // blocks until the test writes to it
	}()
	_, err := Run(ctx, o)
	if !errors.Is(err, context.Canceled) || fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("got %v, want context.Canceled", err)
	}
	pids, err := os.ReadFile(filepath.Join(dir, "pids"))
	if err != nil {
		t.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if _, state, _ := strings.Cut(string(stat), ") "); err == nil && !strings.HasPrefix(state, "Z") {
			t.Errorf("process %s is still running: %s", pid, stat)
		}
	}
	if _, err := os.Stat(o.Reports); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cancelled run wrote reports: %v", err)
	}
}

package test

import (
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// TestMain looks for goroutines and temporary files that are left behind, after
// every run whether it passed, failed or was cancelled.
func TestMain(m *testing.M) {
	flag.Parse()
	tmp, err := os.MkdirTemp("", "slipway-test-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // the services' user passes through
		panic(err)
	}
	os.Setenv("TMPDIR", tmp)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			fmt.Fprintln(os.Stderr, "left behind:", left, err)
			code = 1
		}
		os.RemoveAll(tmp)
		os.Exit(code)
	}))
}

const gomod = "module example.com/app\n\ngo 1.22\n"

// half is a package whose test covers two of its four statements.
var half = map[string]string{
	"go.mod": gomod,
	"half/half.go": `package half

type T struct{}

func (*T) Sign(n int) string {
	if n < 0 {
		return "-"
	}
	return "+"
}

func Never() {
	println()
}
`,
	"half/half_test.go": `package half

import "testing"

func TestSign(t *testing.T) {
	t.Run("positive", func(t *testing.T) {
		if new(T).Sign(1) != "+" {
			t.Error("no plus")
		}
	})
}
`,
}

// with is base and more files, which win.
func with(base, more map[string]string) map[string]string {
	files := map[string]string{}
	for _, m := range []map[string]string{base, more} {
		maps.Copy(files, m)
	}
	return files
}

func one(test string) map[string]string {
	return map[string]string{"go.mod": gomod, "x_test.go": "package x\n" + test}
}

func options(t *testing.T, dir string) Options {
	t.Helper()
	g, err := toolchain.Find(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Go: g, Settings: config.Default().Test, Reports: filepath.Join(t.TempDir(), "reports")}
	o.Settings.Race = new(false) // it takes its time, and the tests that are about it turn it on
	return o
}

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		files  map[string]string
		change func(*Options)
		code   string // of the error
		says   string // part of the error
		want   Result // Output, Seconds and Reports are not compared
		warns  string
	}{
		"passing": {
			files: half,
			want:  Result{Packages: 1, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%"},
		},
		"coverage on the floor": {
			files: half, change: func(o *Options) { o.Settings.Coverage = 50 },
			want: Result{Packages: 1, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%"},
		},
		"coverage under the floor": {
			files: half, change: func(o *Options) { o.Settings.Coverage = 70 },
			code: "test.coverage", says: "coverage 50.0% is under the floor of 70.0%",
			want: Result{Packages: 1, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%"},
		},
		"failing subtest": {
			files: with(half, map[string]string{"half/more_test.go": "package half\n\nimport \"testing\"\n\nfunc TestTable(t *testing.T) {\n\tt.Run(\"row\", func(t *testing.T) {\n\t\tt.Errorf(\"got %d\", 1)\n\t})\n\tt.Run(\"good\", func(t *testing.T) {})\n}\n"}),
			code:  "test.failed", says: "2 of 5 tests failed: example.com/app/half.TestTable/row (half/more_test.go:7): got 1",
			want: Result{
				Packages: 1, Tests: 5, Passed: 3, Failed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%",
				Failures: []Failure{{Package: "example.com/app/half", Test: "TestTable/row", Cause: Failed, Message: "got 1", File: "half/more_test.go", Line: 7}},
			},
		},
		"below a prefix": {
			files:  one("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tt.Fatal(\"no\")\n}\n"),
			change: func(o *Options) { o.Prefix = "services/app" },
			code:   "test.failed", says: "1 of 1 tests failed: example.com/app.TestX (services/app/x_test.go:5): no",
			want: Result{
				Packages: 1, Tests: 1, Failed: 1,
				Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Failed, Message: "no", File: "services/app/x_test.go", Line: 5}},
			},
		},
		"panicking": {
			files: one("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tvar m map[string]int\n\tm[\"a\"] = 1\n}\n"),
			code:  "test.panic", says: "example.com/app.TestX crashed (x_test.go:6): panic: assignment to entry in nil map",
			want: Result{
				Packages: 1, Tests: 1, Failed: 1,
				Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Panic, Message: "panic: assignment to entry in nil map", File: "x_test.go", Line: 6}},
			},
		},
		"racing": {
			files:  one("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tn, done := 0, make(chan bool)\n\tgo func() {\n\t\tn++\n\t\tdone <- true\n\t}()\n\tn++\n\t<-done\n\tprintln(n)\n}\n"),
			change: func(o *Options) { o.Settings.Race = new(true) },
			code:   "test.race", says: "the race detector found a data race in example.com/app.TestX (x_test.go:",
			want: Result{
				Packages: 1, Tests: 1, Failed: 1, Races: true,
				Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Race, Message: "data race", File: "x_test.go", Line: 7}},
			},
		},
		"tests that do not compile": {
			files: with(half, map[string]string{"bad/x_test.go": "package bad\n\nfunc f() { undefined() }\n"}),
			code:  "test.build", says: "example.com/app/bad does not compile: bad/x_test.go:3:12: undefined: undefined",
			want: Result{
				Packages: 2, Tests: 2, Passed: 2, Coverage: 50, CoverageLine: "total: (statements) 50.0%",
				Failures: []Failure{{Package: "example.com/app/bad", Cause: Build, Message: "bad/x_test.go:3:12: undefined: undefined", File: "bad/x_test.go", Line: 3}},
			},
		},
		"an import that is not there": {
			files: one("import _ \"example.com/nowhere\"\n"),
			code:  "test.build", says: "x_test.go:2:8: no required module provides package example.com/nowhere",
			want: Result{
				Packages: 1,
				Failures: []Failure{{Package: "example.com/app", Cause: Build, Message: "x_test.go:2:8: no required module provides package example.com/nowhere; to add it:", File: "x_test.go", Line: 2}},
			},
		},
		"out of time": {
			files:  one("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tselect {}\n}\n"),
			change: func(o *Options) { o.Settings.Timeout = config.Duration(50 * time.Millisecond) },
			code:   "test.timeout", says: "example.com/app.TestX was not done within 50ms",
		},
		"a test program that fails": {
			files: one("import (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) {\n\tprintln(\"no database\")\n\tos.Exit(3)\n}\n\nfunc TestX(t *testing.T) {}\n"),
			code:  "test.exit", says: "the test program of example.com/app failed: no database",
			want: Result{Packages: 1, Failures: []Failure{{Package: "example.com/app", Cause: Exit, Message: "no database"}}},
		},
		"skipping": {
			files: one("import \"testing\"\n\nfunc TestX(t *testing.T) {\n\tt.Skip(\"needs a moon\")\n}\n"),
			want:  Result{Packages: 1, Tests: 1, Skipped: 1, Skips: []Skip{{"example.com/app", "TestX", "needs a moon"}}},
		},
		"no tests": {
			files: map[string]string{"go.mod": gomod, "x.go": "package x\n"},
			want:  Result{Packages: 1},
			warns: "there are no tests",
		},
		"no tests under a floor": {
			files: map[string]string{"go.mod": gomod, "x.go": "package x\n\nfunc F() { println() }\n"}, change: func(o *Options) { o.Settings.Coverage = 1 },
			code: "test.coverage", warns: "there are no tests",
			want: Result{Packages: 1, CoverageLine: "total: (statements) 0.0%"},
		},
		"no packages": {
			files: map[string]string{"go.mod": gomod},
			code:  "test.no-packages", says: "no package matches ./...",
		},
		"broken go.mod": {
			files: map[string]string{"go.mod": gomod + "nonsense\n", "x.go": "package x\n"},
			code:  "test.run", says: "unknown directive: nonsense",
		},
		"tags, arguments, environment and coverage packages": {
			files: with(half, map[string]string{
				"use/use.go":      "package use\n\nimport \"example.com/app/half\"\n\nfunc Use() { half.Never() }\n",
				"use/use_test.go": "//go:build extra\n\npackage use\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestUse(t *testing.T) {\n\tif os.Getenv(\"GREETING\") != \"hello\" || !testing.Short() {\n\t\tt.Fatal(\"not told\")\n\t}\n\tUse()\n}\n",
			}),
			change: func(o *Options) {
				o.BuildTags, o.Args, o.Env = []string{"extra"}, []string{"-short"}, []string{"GREETING=hello"}
				o.Settings.CoverPackages, o.Settings.Packages = []string{"./..."}, []string{"./use", "./half"}
			},
			want: Result{Packages: 2, Tests: 3, Passed: 3, Coverage: 80, CoverageLine: "total: (statements) 80.0%"},
		},
	} {
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
			if err != nil && (!strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("it says %q, want %q", err, tc.says)
			}
			if tc.warns != "" && !slices.ContainsFunc(sink.events, func(e progress.Event) bool { return e.Kind == progress.Warned && e.Text == tc.warns }) {
				t.Errorf("no warning %q in\n%s", tc.warns, sink.text())
			}
			if tc.want.Packages > 0 {
				bare := got
				bare.Seconds, bare.Reports, bare.Failures = 0, Reports{}, slices.Clone(got.Failures)
				for i, f := range bare.Failures {
					if f.Output == "" {
						t.Errorf("%s: no output", f.title())
					}
					bare.Failures[i].Output = ""
					if f.Cause == Race && f.File == "x_test.go" && (f.Line == 7 || f.Line == 10) {
						bare.Failures[i].Line = 7 // either side may come first
					}
				}
				want := tc.want
				want.Skips, want.Failures = append([]Skip{}, want.Skips...), append([]Failure{}, want.Failures...)
				if diff := cmp.Diff(want, bare); diff != "" {
					t.Errorf("%s\n%s", diff, sink.text())
				}
			}
			for _, f := range got.Failures {
				if f.File != "" && !slices.ContainsFunc(sink.events, func(e progress.Event) bool { return e.File == f.File && e.Row == f.Line }) {
					t.Errorf("no event places %s", f.title())
				}
			}
			if got.CoverageLine != "" && !regexp.MustCompile(`total:\s+\(statements\)\s+(\d+\.\d+)%`).MatchString(sink.text()) {
				t.Errorf("GitLab finds no coverage in\n%s", sink.text())
			}
			checkReports(t, got, o)
		})
	}
}

// checkReports holds the reports against the result.
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
	conform(t, data)
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
		t.Errorf("junit.xml does not agree with %+v:\n%s", r, data)
	}
	if len(r.Failures) > 0 && suites.Bad+suites.Errors == 0 {
		t.Errorf("junit.xml has no failure:\n%s", data)
	}
}

// TestCoverageAgreesWithGo holds the total against go tool cover -func.
func TestCoverageAgreesWithGo(t *testing.T) {
	t.Parallel()
	dir := testkit.Tree(t, with(half, map[string]string{
		"gen/gen.go":      "package gen\n\nvar Outside = func() int { return 1 }\n\ntype G[K comparable, V any] struct{}\n\nfunc (g G[K, V]) Do() int { f := func() int { return 2 }; return f() }\n\nfunc Two() int { return 2 }\n",
		"gen/gen_test.go": "package gen\n\nimport \"testing\"\n\nfunc TestDo(t *testing.T) { G[int, int]{}.Do() }\n",
	}))
	o := options(t, dir)
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(o.Go.Program, "tool", "cover", "-func="+r.Reports.Profile)
	cmd.Dir, cmd.Env = dir, o.Go.Env()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(out))
	if total := words[len(words)-1]; r.CoverageLine != "total: (statements) "+total {
		t.Errorf("%q, but go tool cover says:\n%s", r.CoverageLine, out)
	}
}

func TestServicesReachTheTests(t *testing.T) {
	t.Parallel()
	o := options(t, testkit.Tree(t, one(`import (
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
		t.Skipf("SKIPPED, not tested: %v", err)
	}
	if err != nil {
		t.Error(err)
	}
	o.Env = []string{"REDIS_URL=redis://127.0.0.1:1"}
	if _, err := Run(t.Context(), o); fault.CodeOf(err) != "test.failed" {
		t.Errorf("the environment did not win: %v", err)
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
		t.Errorf("CC of the environment: %q, %v", cc, err)
	}
}

// TestCancelled interrupts a test that ignores SIGINT, as a server under test
// may, and whose child does so too.
func TestCancelled(t *testing.T) {
	t.Parallel()
	dir := testkit.Tree(t, one(`import (
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
		_, _ = os.ReadFile(fifo) // blocks until the test writes
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
			t.Errorf("process %s still runs: %s", pid, stat)
		}
	}
	if _, err := os.Stat(o.Reports); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cancelled run wrote reports: %v", err)
	}
}

// TestGolden runs recorded event streams through the watcher and compares the
// reports. The streams hold what real runs rarely do: control characters, CDATA
// ends, tests without an end.
func TestGolden(t *testing.T) {
	streams, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(streams) == 0 {
		t.Fatalf("no streams: %v", err)
	}
	for _, stream := range streams {
		t.Run(filepath.Base(stream), func(t *testing.T) {
			f, err := os.Open(stream)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sink := &sink{}
			w := newWatcher(progress.With(t.Context(), sink, "test"), Options{Dir: t.TempDir()})
			if w.execution, err = testjson.ScanTestOutput(testjson.ScanConfig{Stdout: f, Handler: w, IgnoreNonJSONOutputLines: true}); err != nil {
				t.Fatal(err)
			}
			got, err := w.junit()
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(stream, ".jsonl")
			testkit.Golden(t, name+".junit.xml", got)
			testkit.Golden(t, name+".txt", []byte(sink.text()+"\n"))
			reparse(t, got)
		})
	}
}

func TestCauseAndPlace(t *testing.T) {
	dir := testkit.Tree(t, map[string]string{"go.mod": gomod, "in/x_test.go": ""})
	w := newWatcher(t.Context(), Options{Dir: dir})
	for name, tc := range map[string]struct {
		output  string
		cause   Cause
		message string
		file    string
		line    int
	}{
		"logged": {"    x_test.go:7: no\n    x_test.go:9: neither", Failed, "no", "in/x_test.go", 7},
		"testify": {
			"    x_test.go:7: \n        \tError Trace:\t" + dir + "/in/x_test.go:7\n        \tError:      \tNot equal: \n        \t\tmore",
			Failed, "Not equal:", "in/x_test.go", 7,
		},
		"another module's helper": {"    helper.go:7: no\n        x_test.go:3: shown", Failed, "no", "in/x_test.go", 3},
		"recovered panic": {
			"panic: boom [recovered, repanicked]\n\ngoroutine 7 [running]:\ntesting.tRunner()\n\t/go/testing/testing.go:1 +0x1\nx.f()\n\t" + dir + "/in/x_test.go:8 +0x2",
			Panic, "panic: boom", "in/x_test.go", 8,
		},
		"deadlock":      {"fatal error: all goroutines are asleep - deadlock!", Panic, "fatal error: all goroutines are asleep - deadlock!", "", 0},
		"race, in test": {"WARNING: DATA RACE\nRead at 0x1 by goroutine 8:\n      " + dir + "/in/x_test.go:4 +0x1\n    testing.go:1712: race detected during execution of test", Race, "data race", "in/x_test.go", 4},
	} {
		t.Run(name, func(t *testing.T) {
			var stream []string
			for _, line := range strings.SplitAfter(tc.output, "\n") {
				stream = append(stream, fmt.Sprintf(`{"Action":"output","Package":"example.com/app/in","Test":"TestX","Output":%q}`, line))
			}
			stream = append(stream, `{"Action":"fail","Package":"example.com/app/in","Test":"TestX"}`, `{"Action":"fail","Package":"example.com/app/in"}`)
			var err error
			w.execution, err = testjson.ScanTestOutput(testjson.ScanConfig{Stdout: strings.NewReader(strings.Join(stream, "\n"))})
			if err != nil {
				t.Fatal(err)
			}
			got := w.result().Failures
			want := []Failure{{"example.com/app/in", "TestX", tc.cause, tc.message, strings.TrimRight(tc.output, "\n"), tc.file, tc.line}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCobertura(t *testing.T) {
	dir := testkit.Tree(t, half)
	profile := filepath.Join(dir, "c.out")
	text := "mode: atomic\n" +
		"example.com/app/half/half.go:12.14,14.2 1 0\n" + // out of order on purpose
		"example.com/app/half/half.go:5.30,6.11 1 3\n" +
		"example.com/app/half/half.go:6.11,8.3 1 0\n" +
		"example.com/app/half/half.go:9.2,9.12 1 3\n" +
		"example.com/app/half/half.go:9.2,9.12 1 2\n" +
		"example.org/other/b.go:1.1,2.2 1 1\n"
	if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := readCoverage(profile, dir, "example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.cobertura("services/app", time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	conform(t, got)
	testkit.Golden(t, "testdata/cobertura.xml", got)

	if c, err = readCoverage(filepath.Join(dir, "missing"), dir, "example.com/app"); err != nil {
		t.Fatal(err)
	}
	if got, err = c.cobertura(".", time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	conform(t, got)
}

func reparse(t *testing.T, data []byte) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
	}
}

// schema is Cobertura's coverage-04.dtd: the children each element has, in
// order, and the attributes it must have.
var schema = map[string]struct{ children, attributes []string }{
	"coverage": {[]string{"sources", "packages"}, []string{
		"line-rate", "branch-rate", "lines-covered", "lines-valid", "branches-covered", "branches-valid", "complexity", "version", "timestamp",
	}},
	"sources":  {[]string{"source*"}, nil},
	"source":   {nil, nil},
	"packages": {[]string{"package*"}, nil},
	"package":  {[]string{"classes"}, []string{"name", "line-rate", "branch-rate", "complexity"}},
	"classes":  {[]string{"class*"}, nil},
	"class":    {[]string{"methods", "lines"}, []string{"name", "filename", "line-rate", "branch-rate", "complexity"}},
	"methods":  {[]string{"method*"}, nil},
	"method":   {[]string{"lines"}, []string{"name", "signature", "line-rate", "branch-rate", "complexity"}},
	"lines":    {[]string{"line*"}, nil},
	"line":     {nil, []string{"number", "hits"}},
}

type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []node     `xml:",any"`
}

// conform checks a Cobertura report against the DTD.
func conform(t *testing.T, data []byte) {
	t.Helper()
	var root node
	if err := xml.Unmarshal(data, &root); err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	if root.XMLName.Local != "coverage" {
		t.Fatalf("the root is %s", root.XMLName.Local)
	}
	var check func(node)
	check = func(n node) {
		name := n.XMLName.Local
		rule, ok := schema[name]
		if !ok {
			t.Errorf("unknown element %s", name)
		}
		var attrs, children []string
		for _, a := range n.Attrs {
			attrs = append(attrs, a.Name.Local)
		}
		slices.Sort(attrs)
		want := slices.Sorted(slices.Values(rule.attributes))
		if !slices.Equal(attrs, want) {
			t.Errorf("%s has %v, want %v", name, attrs, want)
		}
		for _, c := range n.Children {
			children = append(children, c.XMLName.Local)
			check(c)
		}
		if len(rule.children) == 1 && strings.HasSuffix(rule.children[0], "*") {
			children = slices.Compact(children)
			if len(children) == 1 && children[0]+"*" == rule.children[0] {
				return
			}
			rule.children = nil
		}
		if !slices.Equal(children, rule.children) {
			t.Errorf("%s holds %v, want %v", name, children, rule.children)
		}
	}
	check(root)
}

// sink keeps the events.
type sink struct {
	mu     sync.Mutex
	events []progress.Event
}

func (s *sink) Emit(e progress.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, e := range s.events {
		if e.Kind != progress.Counted {
			lines = append(lines, string(e.Kind)+": "+e.Text)
		}
	}
	return strings.Join(lines, "\n")
}

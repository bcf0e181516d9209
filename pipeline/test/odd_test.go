package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
)

// oddCases are modules that are unusual but valid, and test programs that misbehave.
//
//nolint:funlen // a table
func oddCases() map[string]runCase {
	generated := "package gen\n\n//line grammar.y:10\nfunc first(a int) int { return a + 1 }\n\n//line grammar.y:10\nfunc second(a int) int { a++; return a }\n\nfunc Both(a int) int { return first(a) + second(a) }\n"
	generatedTest := "package gen\n\nimport \"testing\"\n\nfunc TestBoth(t *testing.T) {\n\tif Both(1) != 4 {\n\t\tt.Error(Both(1))\n\t}\n}\n"
	elsewhere := map[string]string{
		"go.mod":            gomod + "\nrequire example.com/app/api v0.0.0\n\nreplace example.com/app/api => ./shared/api\n",
		"x.go":              "package app\n\nimport \"example.com/app/api\"\n\nfunc X() int { return api.One() }\n",
		"x_test.go":         "package app\n\nimport \"testing\"\n\nfunc TestX(t *testing.T) {\n\tif X() != 1 {\n\t\tt.Error()\n\t}\n}\n",
		"shared/api/go.mod": "module example.com/app/api\n\ngo 1.20\n",
		"shared/api/api.go": "package api\n\nfunc One() int { return 1 }\n\nfunc Two() int { return 2 }\n",
	}
	stop := "import (\n\t\"os\"\n\t\"syscall\"\n\t\"testing\"\n)\n\n"
	return map[string]runCase{
		"line comments with a missing file": {
			files: map[string]string{"go.mod": gomod, "gen/gen.go": generated, "gen/gen_test.go": generatedTest},
			want:  Result{Packages: 1, Tests: 1, Passed: 1, Coverage: 100, CoverageLine: "total: (statements) 100.0%"},
		},
		"line comments with a file that is not Go": {
			files: map[string]string{"go.mod": gomod, "gen/gen.go": generated, "gen/gen_test.go": generatedTest, "gen/grammar.y": "%{\n%}\n"},
			want:  Result{Packages: 1, Tests: 1, Passed: 1, Coverage: 100, CoverageLine: "total: (statements) 100.0%"},
		},
		"a failing test with line comments": {
			files: map[string]string{"go.mod": gomod, "gen/gen.go": generated, "gen/gen_test.go": strings.Replace(generatedTest, "!= 4", "!= 5", 1)},
			code:  "test.failed", message: "1 of 1 tests failed: example.com/app/gen.TestBoth (gen/gen_test.go:7): 4",
		},
		"a module elsewhere whose path begins with the app's": {
			files: elsewhere, change: func(o *Options) { o.Settings.CoverPackages = []string{"example.com/app/..."} },
			want: Result{Packages: 1, Tests: 1, Passed: 1, Coverage: 200. / 3, CoverageLine: "total: (statements) 66.7%"},
		},
		"a coverage profile that cannot be read": {
			files: testFile("import (\n\t\"flag\"\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) {\n\tflag.Parse()\n\tos.Remove(flag.Lookup(\"test.coverprofile\").Value.String())\n\tos.Exit(m.Run())\n}\n\nfunc TestX(t *testing.T) { t.Error(\"no\") }\n"),
			code:  "test.failed", message: "1 of 1 tests failed: example.com/app.TestX (x_test.go:14): no",
		},
		"a test that exits": {
			files: testFile("import (\n\t\"log\"\n\t\"testing\"\n)\n\nfunc TestX(t *testing.T) {\n\tlog.SetFlags(0)\n\tlog.Fatal(\"no database\")\n}\n\nfunc TestY(t *testing.T) {}\n"),
			code:  "test.exit", message: "the test program ended in example.com/app.TestX: no database",
			want: Result{Packages: 1, Tests: 1, Failed: 1, Failures: []Failure{{Package: "example.com/app", Test: "TestX", Cause: Exit, Message: "no database"}}},
		},
		"a test that prints a panic": {
			files: testFile("import (\n\t\"fmt\"\n\t\"testing\"\n)\n\nfunc TestX(t *testing.T) {\n\tfmt.Println(\"panic: handled\")\n\tt.Error(\"no\")\n}\n"),
			code:  "test.failed", message: "1 of 1 tests failed: example.com/app.TestX (x_test.go:9): no",
		},
		"a failing example": {
			files: testFile("import \"fmt\"\n\nfunc Example() {\n\tfmt.Println(\"a\")\n\tfmt.Println(\"b\")\n\t// Output:\n\t// a\n\t// c\n}\n"),
			code:  "test.failed", message: `1 of 1 tests failed: example.com/app.Example: the output is "b", want "c"`,
		},
		"a test that imitates go test": {
			files: testFile("import (\n\t\"fmt\"\n\t\"testing\"\n)\n\nfunc TestX(t *testing.T) {\n\tfmt.Println(\"\\x16--- FAIL: TestNone/a (0.00s)\")\n\tfmt.Println(\"\\x16--- PASS: TestX (0.00s)\")\n\tt.Error(\"no\")\n}\n"),
			code:  "test.failed", message: "tests failed",
		},
		"compiler output of 80 KB in one event": {
			files: map[string]string{
				"go.mod": gomod, "c.go": "package c\n\n// int one(void);\nimport \"C\"\n\nfunc One() int { return int(C.one()) }\n",
				"c_test.go": "package c\n\nimport \"testing\"\n\nfunc TestOne(t *testing.T) {\n\tif One() != 1 {\n\t\tt.Error()\n\t}\n}\n",
				"one.c":     warnings(),
			},
			change: func(o *Options) { o.Env = append(o.Env, "CGO_ENABLED=1") },
			want:   Result{Packages: 1, Tests: 1, Passed: 1, Coverage: 100, CoverageLine: "total: (statements) 100.0%"},
		},
		"a long line on standard error": {
			files: map[string]string{"go.mod": gomod + "\nreplace x => " + strings.Repeat("y", 100_000) + "\n", "x.go": "package x\n"},
			code:  "test.run", message: "go.mod:",
		},
		"a test that stops its program": {
			files:  testFile(stop + "func TestX(t *testing.T) {\n\tfor {\n\t\tsyscall.Kill(os.Getpid(), syscall.SIGSTOP)\n\t}\n}\n"),
			change: func(o *Options) { o.Settings.Timeout = config.Duration(50 * time.Millisecond) },
			code:   "test.timeout", message: "example.com/app.TestX did not finish within 50ms",
		},
		"a program that stops before its tests": {
			files:  testFile(stop + "func TestMain(m *testing.M) {\n\tfor {\n\t\tsyscall.Kill(os.Getpid(), syscall.SIGSTOP)\n\t}\n}\n"),
			change: func(o *Options) { o.Settings.Timeout = config.Duration(50 * time.Millisecond) },
			code:   "test.timeout", message: "example.com/app did not finish within 50ms",
			want: Result{Packages: 1, Failures: []Failure{{Package: "example.com/app", Cause: Timeout, Message: "the timeout was exceeded, and the test program did not end"}}},
		},
	}
}

// warnings is a C file whose warnings take up more than 64 KiB.
func warnings() string {
	var c strings.Builder
	c.WriteString("int one(void) { return 1; }\nvoid *make(void);\n")
	for i := range 300 {
		fmt.Fprintf(&c, "long number_%d(void) { long *p; int *q = make(); p = q; return *p; }\n", i)
	}
	c.WriteString("void *make(void) { return 0; }\n")
	return c.String()
}

func TestRunOdd(t *testing.T) { testRun(t, oddCases()) }

func TestParseProfile(t *testing.T) {
	for name, tt := range map[string]struct {
		profile   string
		files     []string
		blocks    int
		malformed int
	}{
		"empty": {"mode: atomic\n", nil, 0, 0},
		"two files": {
			"mode: atomic\nb/b.go:1.1,2.2 1 1\na/a.go:1.1,2.2 1 0\na/a.go:1.1,2.2 1 5\n",
			[]string{"a/a.go", "b/b.go"}, 2, 0,
		},
		"equal positions with different numbers of statements": {
			"mode: atomic\na/grammar.y:10.24,10.40 1 1\na/grammar.y:10.24,10.40 2 0\na/grammar.y:10.24,10.40 2 3\nb/b.go:1.1,2.2 1 1\n",
			[]string{"a/grammar.y", "b/b.go"}, 3, 0,
		},
		"malformed lines": {
			"mode: atomic\na/a.go:1.1,2.2 1 0\na/a.go:nonsense\n\x00\xff\nc/c.go:1.1\nb/b.go:1.1,2.2 1 1\r\n",
			[]string{"a/a.go", "b/b.go"}, 2, 3,
		},
		"cut off": {"mode: atomic\na/a.go:1.1,2.2 1 0\na/a.go:3.", []string{"a/a.go"}, 1, 1},
		"no mode": {"a/a.go:1.1,2.2 1 0\na/a.go:1.1,2.2 1 0\n", nil, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			profiles, malformed := parseProfile([]byte(tt.profile))
			var files []string
			blocks := 0
			for _, p := range profiles {
				files = append(files, p.FileName)
				blocks += len(p.Blocks)
			}
			if diff := cmp.Diff(tt.files, files); diff != "" || blocks != tt.blocks || malformed != tt.malformed {
				t.Errorf("%d blocks, %d malformed lines\n%s", blocks, malformed, diff)
			}
		})
	}
}

func FuzzCoverage(f *testing.F) {
	f.Add("mode: atomic\nexample.com/app/half/half.go:5.30,6.11 1 3\nexample.com/app/../x.go:1.1,2.2 1 1\n")
	f.Add("mode: atomic\nexample.com/app/grammar.y:10.24,10.40 1 1\nexample.com/app/grammar.y:10.24,10.40 2 0\n")
	f.Fuzz(func(t *testing.T, profile string) {
		dir := testkit.Tree(t, half)
		file := filepath.Join(dir, "c.out")
		if err := os.WriteFile(file, []byte(profile), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := readCoverage(file, dir, "example.com/app")
		if err != nil {
			t.Fatal(err)
		}
		report, err := c.cobertura(".", time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, report)
	})
}

// FuzzEvents feeds what a test program and the go command might print. Any test can
// print lines that look like results.
func FuzzEvents(f *testing.F) {
	streams, err := filepath.Glob("testdata/*.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for _, stream := range streams {
		data, err := os.ReadFile(stream)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("{\"Action\":\"skip\",\"Package\":\"p\",\"Test\":\"T\"}\n{\"Action\":\"fail\",\"Package\":\"p\",\"Test\":\"T/x\"}\n{\"Action\":\"fail\",\"Package\":\"p\"}\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var lines bytes.Buffer
		s := &lineSplitter{w: &lines}
		if _, err := s.Write(stream); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		w := newWatcher(t.Context(), Options{Dir: t.TempDir()})
		execution, err := testjson.ScanTestOutput(testjson.ScanConfig{Stdout: &lines, Handler: w, IgnoreNonJSONOutputLines: true})
		if err != nil {
			t.Fatal(err)
		}
		w.end(execution)
		for _, failure := range w.result().Failures {
			if strings.Contains(failure.Message, "\n") {
				t.Errorf("the message %q has more than one line", failure.Message)
			}
		}
		report, err := w.junit()
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, report)
	})
}

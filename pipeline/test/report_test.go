package test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/gotestsum/testjson"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// The coverage is the total of go tool cover -func.
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
		t.Errorf("got %q, want the total of go tool cover:\n%s", r.CoverageLine, out)
	}
}

// TestGolden compares the reports for recorded events. The events contain what is
// rare in real runs: control characters, the end of CDATA and a test that does not
// end.
func TestGolden(t *testing.T) {
	streams, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(streams) == 0 {
		t.Fatalf("found no recorded events: %v", err)
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
			wellFormed(t, got)
		})
	}
}

func TestCauseAndLocation(t *testing.T) {
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
		"deadlock":      {"fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:", Panic, "fatal error: all goroutines are asleep - deadlock!", "", 0},
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
		"example.com/app/half/half.go:12.14,14.2 1 0\n" + // deliberately not in order
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
	validateCobertura(t, got)
	testkit.Golden(t, "testdata/cobertura.xml", got)

	if c, err = readCoverage(filepath.Join(dir, "missing"), dir, "example.com/app"); err != nil {
		t.Fatal(err)
	}
	if got, err = c.cobertura(".", time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	validateCobertura(t, got)
}

// wellFormed checks that data is well-formed XML.
func wellFormed(t *testing.T, data []byte) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, data)
		}
	}
}

// dtd is Cobertura's coverage-04.dtd: the children of every element, in order, and
// its required attributes.
var dtd = map[string]struct{ children, attributes []string }{
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

// node is an XML element.
type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []node     `xml:",any"`
}

// validateCobertura validates a Cobertura report against the DTD.
func validateCobertura(t *testing.T, data []byte) {
	t.Helper()
	var root node
	if err := xml.Unmarshal(data, &root); err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	if root.XMLName.Local != "coverage" {
		t.Fatalf("the root element is %s, want coverage", root.XMLName.Local)
	}
	var check func(node)
	check = func(n node) {
		name := n.XMLName.Local
		rule, ok := dtd[name]
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
			t.Errorf("element %s has attributes %v, want %v", name, attrs, want)
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
			t.Errorf("element %s has children %v, want %v", name, children, rule.children)
		}
	}
	check(root)
}

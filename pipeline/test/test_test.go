package test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// TestMain checks that no run leaves goroutines or temporary files, whether it
// passes, fails or is cancelled.
func TestMain(m *testing.M) {
	flag.Parse()
	tmp, err := os.MkdirTemp("", "slipway-test-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // the user of the services needs access
		panic(err)
	}
	os.Setenv("TMPDIR", tmp)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			fmt.Fprintln(os.Stderr, "temporary files were not removed:", left, err)
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

// with returns the files in base and in more. Those in more override those in base.
func with(base, more map[string]string) map[string]string {
	files := map[string]string{}
	for _, m := range []map[string]string{base, more} {
		maps.Copy(files, m)
	}
	return files
}

// testFile returns a module that has a test file with the given declarations.
func testFile(test string) map[string]string {
	return map[string]string{"go.mod": gomod, "x_test.go": "package x\n" + test}
}

// options returns options for the module in dir, without the race detector.
func options(t *testing.T, dir string) Options {
	t.Helper()
	g, err := toolchain.Find(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Go: g, Settings: config.Default().Test, Reports: filepath.Join(t.TempDir(), "reports")}
	o.Settings.Race = new(false) // it is slow; the tests that need it enable it
	return o
}

// sink stores the events.
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

package lint

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// sharedCache is a cache for all tests, so that the standard library is analysed
// only once.
var sharedCache string

// TestMain checks that no run leaves goroutines or temporary files, whether it
// passes, fails or is cancelled.
func TestMain(m *testing.M) {
	root, err := os.MkdirTemp("", "slipway-test-lint-")
	if err != nil {
		panic(err)
	}
	sharedCache = filepath.Join(root, "cache")
	tmp := filepath.Join(root, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		panic(err)
	}
	os.Setenv("TMPDIR", tmp)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			fmt.Fprintln(os.Stderr, "temporary files were not removed:", left, err)
			code = 1
		}
		os.RemoveAll(root)
		os.Exit(code)
	}))
}

const (
	clean = "package main\n\nfunc main() {}\n"
	dirty = "package main\n\nimport \"os\"\n\nfunc main() {\n\tos.Remove(\"x\")\n}\n"
	gomod = "module example.com/app\n\ngo 1.22\n"
)

// goFor returns the toolchain for the module in dir.
func goFor(t *testing.T, dir string) *toolchain.Go {
	t.Helper()
	g, err := toolchain.Find(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// options returns options for the real golangci-lint. If it is neither on PATH nor
// in the user's cache, the test is skipped, because building it takes minutes.
func options(t *testing.T, dir string) Options {
	t.Helper()
	o := Options{Dir: dir, Go: goFor(t, dir), Settings: config.Default().Lint, Reports: filepath.Join(t.TempDir(), "reports")}
	if user, err := os.UserCacheDir(); err == nil {
		t.Setenv("PATH", os.Getenv("PATH")+":"+filepath.Join(user, "slipway", "tools", "golangci-lint-"+o.Settings.Version+"-"+o.Go.Version))
	}
	if _, err := find(t.Context(), o); err != nil {
		t.Skipf("golangci-lint is missing: %v", err)
	}
	o.CacheDir = sharedCache
	return o
}

// runCase is a module and the expected result of linting it.
type runCase struct {
	files    map[string]string
	dir      string // folder of the module, relative to the root of files
	change   func(*Options)
	findings []Finding
	code     string // error code; empty if Run passes
	message  string // part of the error
	reports  []string
}

//nolint:funlen // a table
func runCases() map[string]runCase {
	finding := func(file string) []Finding {
		return []Finding{{Linter: "errcheck", File: file, Line: 6, Column: 11, Text: "Error return value of `os.Remove` is not checked"}}
	}
	return map[string]runCase{
		"clean": {
			files:   map[string]string{"go.mod": gomod, "main.go": clean},
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"finding": {
			files:    map[string]string{"go.mod": gomod, "main.go": dirty},
			findings: finding("main.go"), code: "lint.findings", message: "golangci-lint found 1 problem: main.go:6:11: Error return value of `os.Remove` is not checked (errcheck)",
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"only the app's own module": {
			files: map[string]string{
				"go.mod": gomod, "main.go": clean,
				"nested/go.mod": "module example.com/nested\n\ngo 1.22\n", "nested/main.go": dirty,
			},
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"paths are relative to the module, not to the configuration": {
			files: map[string]string{
				".git/HEAD": "", ".golangci.yml": "version: \"2\"\n",
				"app/go.mod": gomod, "app/cmd/x/main.go": dirty,
			},
			dir:      "app",
			findings: finding("cmd/x/main.go"), code: "lint.findings",
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"with a prefix": {
			files:    map[string]string{"go.mod": gomod, "main.go": dirty},
			change:   func(o *Options) { o.Prefix = "services/app" },
			findings: finding("services/app/main.go"), code: "lint.findings",
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"the configuration cannot change the exit status for findings": {
			files: map[string]string{
				"go.mod": gomod, "main.go": dirty,
				".golangci.yml": "version: \"2\"\nrun:\n  issues-exit-code: 3\n",
			},
			findings: finding("main.go"), code: "lint.findings",
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"a configuration above the repository is not read": {
			files: map[string]string{
				".golangci.yml": "not: [valid", "repo/.git/HEAD": "",
				"repo/go.mod": gomod, "repo/main.go": clean,
			},
			dir:     "repo",
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"build tags": {
			files: map[string]string{
				"go.mod": gomod, "main.go": clean,
				"extra.go": "//go:build extra\n\npackage main\n\nimport \"os\"\n\nfunc init() {\n\tos.Remove(\"x\")\n}\n",
			},
			change:   func(o *Options) { o.BuildTags = []string{"extra"} },
			findings: []Finding{{Linter: "errcheck", File: "extra.go", Line: 8, Column: 11, Text: "Error return value of `os.Remove` is not checked"}},
			code:     "lint.findings",
			reports:  []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"broken configuration": {
			files:  map[string]string{"go.mod": gomod, "main.go": clean, ".golangci.yml": "version: \"2\"\nlinters: [\n"},
			change: func(o *Options) { o.Root = o.Dir },
			code:   "lint.config", message: "the configuration of golangci-lint is invalid: .golangci.yml: ", reports: []string{"lint.txt"},
		},
		"configuration of v1": {
			files:  map[string]string{"go.mod": gomod, "main.go": clean, ".golangci.yml": "run:\n  timeout: 5m\n"},
			change: func(o *Options) { o.Root = o.Dir },
			code:   "lint.config", message: ".golangci.yml is not a configuration for golangci-lint v2 (convert it with: golangci-lint migrate --config .golangci.yml)", reports: []string{"lint.txt"},
		},
		"unknown linter": {
			files: map[string]string{
				"go.mod": gomod, "main.go": clean,
				".golangci.yml": "version: \"2\"\nlinters:\n  enable: [nosuchlinter]\n",
			},
			code: "lint.config", message: "nosuchlinter", reports: []string{"lint.txt"},
		},
		"missing configuration": {
			files:  map[string]string{"go.mod": gomod, "main.go": clean},
			change: func(o *Options) { o.Settings.Config = "nowhere.yml" },
			code:   "lint.config", message: "nowhere.yml",
		},
		"no Go files": {
			files: map[string]string{"go.mod": gomod},
			code:  "lint.no-go-files", message: "no Go files", reports: []string{"lint.txt"},
		},
		"does not compile": {
			files:    map[string]string{"go.mod": gomod, "main.go": "package main\n\nfunc main() { x() }\n"},
			findings: []Finding{{Linter: "typecheck", File: "main.go", Line: 3, Column: 15, Text: "undefined: x"}},
			code:     "lint.findings",
			reports:  []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"nothing has changed": {
			files:   map[string]string{"go.mod": gomod, "main.go": dirty},
			change:  func(o *Options) { o.Changes = []byte{} },
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"another line has changed": {
			files: map[string]string{"go.mod": gomod, "main.go": dirty},
			change: func(o *Options) {
				o.Changes = []byte("diff --git a/main.go b/main.go\n--- a/main.go\n+++ b/main.go\n@@ -1 +1,2 @@\n+package main\n+\n")
			},
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"the line has changed": {
			files: map[string]string{"go.mod": gomod, "main.go": dirty, "old.go": "package main\n\nimport \"os\"\n\nfunc init() {\n\tos.Remove(\"x\")\n}\n"},
			change: func(o *Options) {
				o.Changes = []byte("diff --git a/main.go b/main.go\n--- a/main.go\n+++ b/main.go\n@@ -5,2 +5,3 @@\n func main() {\n+\tos.Remove(\"x\")\n }\n")
			},
			findings: finding("main.go"), code: "lint.findings", message: "golangci-lint found 1 problem",
			reports: []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"does not compile, and nothing has changed": {
			files:    map[string]string{"go.mod": gomod, "main.go": "package main\n\nfunc main() { x() }\n"},
			change:   func(o *Options) { o.Changes = []byte{} },
			findings: []Finding{{Linter: "typecheck", File: "main.go", Line: 3, Column: 15, Text: "undefined: x"}},
			code:     "lint.findings",
			reports:  []string{"lint.json", "lint.sarif", "lint.txt"},
		},
		"timeout": {
			files:  map[string]string{"go.mod": gomod, "main.go": clean},
			change: func(o *Options) { o.Settings.Timeout = config.Duration(time.Nanosecond) },
			code:   "lint.timeout", message: "increase lint.timeout", reports: []string{"lint.txt"},
		},
	}
}

func TestRun(t *testing.T) {
	for name, tc := range runCases() {
		t.Run(name, func(t *testing.T) {
			root := testkit.Tree(t, tc.files)
			o := options(t, filepath.Join(root, tc.dir))
			if tc.change != nil {
				tc.change(&o)
			}
			sink := &sink{}
			result, err := Run(progress.With(t.Context(), sink, "lint"), o)
			if (err == nil) != (tc.code == "") || fault.CodeOf(err) != tc.code {
				t.Fatalf("got %q (%v), want %q", fault.CodeOf(err), err, tc.code)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.message) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("got error %q, want one line with %q", err, tc.message)
			}
			if want := append([]Finding{}, tc.findings...); !cmp.Equal(want, result.Findings) {
				t.Error(cmp.Diff(want, result.Findings))
			}
			names := []string{}
			for _, file := range result.Reports {
				names = append(names, filepath.Base(file))
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(data), root) {
					t.Errorf("%s contains a path of this machine:\n%s", file, data)
				}
				if filepath.Ext(file) != ".txt" && !json.Valid(data) {
					t.Errorf("%s is not JSON", file)
				}
				for _, f := range tc.findings {
					if !strings.Contains(string(data), f.File) {
						t.Errorf("%s does not contain %s", file, f.File)
					}
				}
			}
			if want := append([]string{}, tc.reports...); !slices.Equal(names, want) {
				t.Errorf("reports %v, want %v", names, want)
			}
			for _, f := range tc.findings {
				if !slices.ContainsFunc(sink.events, func(e progress.Event) bool {
					return e.File == f.File && e.Row == f.Line && e.Column == f.Column && strings.Contains(e.Text, f.Text)
				}) {
					t.Errorf("there is no event for %v", f)
				}
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	o := options(t, testkit.Tree(t, map[string]string{"go.mod": gomod, "main.go": dirty}))
	ctx, cancel := context.WithCancel(t.Context())
	ctx = progress.With(ctx, sinkFunc(func(e progress.Event) {
		if e.Kind == progress.Status {
			cancel()
		}
	}), "lint")
	_, err := Run(ctx, o)
	if !errors.Is(err, context.Canceled) || fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if _, err := os.Stat(o.Reports); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cancelled run wrote reports: %v", err)
	}
}

func TestUnusable(t *testing.T) {
	for name, tc := range map[string]struct{ script, want string }{
		"usable":         {`echo '{"goVersion":"go1.26.1","version":"2.15.0"}'`, ""},
		"newer Go":       {`echo '{"goVersion":"go1.27","version":"v2.15.0"}'`, ""},
		"other version":  {`echo '{"goVersion":"go1.26.1","version":"2.14.0"}'`, "its version is v2.14.0, but v2.15.0 is pinned"},
		"older Go":       {`echo '{"goVersion":"go1.25.9","version":"2.15.0"}'`, "it was built with go1.25.9, but the app uses go1.26.8"},
		"another format": {`echo golangci-lint has version 1.2`, "it does not report its version"},
		"fails":          {`exit 3`, "it does not report its version"},
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "golangci-lint")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+tc.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := unusable(t.Context(), Options{Settings: config.Lint{Version: "v2.15.0"}, Go: &toolchain.Go{Version: "go1.26.8"}}, program)
			if err != nil || got != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestRunError(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		logged string
		code   string
		exit   int
	}{
		"timeout":  {exitTimeout, "Timeout exceeded", "lint.timeout", fault.ExitFailed},
		"no files": {exitNoGoFiles, "no go files to analyze", "lint.no-go-files", fault.ExitInput},
		"go version": {
			exitFailure, "can't load config: the Go language version (go1.25) used to build golangci-lint is lower than the targeted Go version (1.26)",
			"lint.go-version", fault.ExitInput,
		},
		"config":  {exitFailure, "can't load config: no such key", "lint.config", fault.ExitInput},
		"logged":  {exitLogged, "[linters_context] typechecking error", "lint.failed", fault.ExitFailed},
		"unknown": {99, "", "lint.failed", fault.ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			err := runError(Options{}, "/x/.golangci.yml", tc.status, tc.logged, errors.New("exit status"))
			if fault.CodeOf(err) != tc.code || fault.ExitCode(err) != tc.exit {
				t.Errorf("got %s, exit %d: %v", fault.CodeOf(err), fault.ExitCode(err), err)
			}
		})
	}
}

// Two concurrent runs build a missing golangci-lint only once. A fake module proxy
// serves a fake golangci-lint.
func TestBuiltOnce(t *testing.T) {
	const v = "v2.99.0"
	proxy, cache := t.TempDir(), t.TempDir()
	serve(t, proxy, v)
	t.Setenv("GOPROXY", "file://"+proxy)
	t.Setenv("GOSUMDB", "off")
	modcache := t.TempDir()
	t.Setenv("GOMODCACHE", modcache)
	t.Cleanup(func() { // the go command makes its module cache read-only
		_ = filepath.WalkDir(modcache, func(path string, _ fs.DirEntry, _ error) error { return os.Chmod(path, 0o755) })
	})
	dir := testkit.Tree(t, map[string]string{"go.mod": gomod})
	o := Options{Dir: dir, Go: goFor(t, dir), Settings: config.Lint{Version: v}, CacheDir: cache}
	home := filepath.Join(cache, "tools", "golangci-lint-"+v+"-"+o.Go.Version)
	if err := os.MkdirAll(home+".building", 0o755); err != nil { // as left by a killed build
		t.Fatal(err)
	}
	sink := &sink{}
	ctx := progress.With(t.Context(), sink, "lint")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			program, err := find(ctx, o)
			if err != nil {
				t.Error(err)
			} else if fi, err := os.Stat(program); err != nil || fi.Mode()&0o100 == 0 {
				t.Errorf("%s: %v, %v", program, fi, err)
			}
		})
	}
	wg.Wait()
	builds := 0
	for _, e := range sink.events {
		if strings.HasPrefix(e.Text, "building golangci-lint "+v) {
			builds++
		}
	}
	if builds != 1 {
		t.Errorf("built %d times, want once", builds)
	}
	entries, err := os.ReadDir(filepath.Join(cache, "tools"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("got %v, want the folder of the program and the lock only", entries)
	}

	t.Run("unreachable proxy", func(t *testing.T) {
		t.Setenv("GOPROXY", "file://"+filepath.Join(proxy, "nowhere"))
		o := o
		o.Go, o.Settings.Version = goFor(t, dir), "v2.98.0"
		_, err := find(t.Context(), o)
		if fault.CodeOf(err) != "lint.tool" || !strings.Contains(err.Error(), "GOPROXY") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no cache folder", func(t *testing.T) {
		o := o
		o.CacheDir = ""
		if _, err := find(t.Context(), o); fault.CodeOf(err) != "program.missing" {
			t.Errorf("got %v", err)
		}
	})
}

// serve writes the files of a module proxy with a fake golangci-lint
// (https://go.dev/ref/mod#goproxy-protocol).
func serve(t *testing.T, proxy, v string) {
	t.Helper()
	const path = "github.com/golangci/golangci-lint/v2"
	dir := filepath.Join(proxy, path, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mod := "module " + path + "\n\ngo 1.22\n"
	for name, text := range map[string]string{v + ".mod": mod, v + ".info": fmt.Sprintf(`{"Version":%q}`, v), "list": v + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, v+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	for name, text := range map[string]string{"go.mod": mod, "cmd/golangci-lint/main.go": clean} {
		w, err := z.Create(path + "@" + v + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
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

// sinkFunc is called for every event.
type sinkFunc func(progress.Event)

func (f sinkFunc) Emit(e progress.Event) { f(e) }

// The message leads to the first finding, also where only the last line is shown.
func TestSummary(t *testing.T) {
	for want, findings := range map[string][]Finding{
		"a.go:6:11: not checked (errcheck)":             {{Linter: "errcheck", File: "a.go", Line: 6, Column: 11, Text: "not checked"}},
		"a.go:6: not checked (errcheck) and 2 more":     {{Linter: "errcheck", File: "a.go", Line: 6, Text: "not checked"}, {}, {}},
		"a.go: could not import (typecheck) and 1 more": {{Linter: "typecheck", File: "a.go", Text: "could not import\nline 2"}, {}},
	} {
		if got := summary(findings); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

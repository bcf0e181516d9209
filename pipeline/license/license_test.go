package license

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// The modules of the tests are requirements of this repository, so they are in the
// module cache.
const (
	gomod = "module example.com/app\n\ngo 1.26\n\nrequire (\n" +
		"\tgithub.com/google/uuid v1.6.0\n" + // BSD-3-Clause
		"\tgo.yaml.in/yaml/v3 v3.0.6\n" + // MIT and Apache-2.0 in one file
		"\tgithub.com/google/go-cmp v0.7.0\n" + // BSD-3-Clause, for tests only
		")\n"
	uuidOnly = "package main\n\nimport \"github.com/google/uuid\"\n\nfunc main() { println(uuid.NewString()) }\n"
	both     = "package main\n\nimport (\n\t\"github.com/google/uuid\"\n\t\"go.yaml.in/yaml/v3\"\n)\n\n" +
		"func main() { out, _ := yaml.Marshal(uuid.NewString()); println(string(out)) }\n"
	fork    = "replace github.com/google/uuid => ./uuid\n"
	forkMod = "module github.com/google/uuid\n\ngo 1.26\n"
	forkGo  = "package uuid\n\nfunc NewString() string { return \"\" }\n"
)

// app writes an app and compiles it without a network. The module is in the folder
// sub, or in that of the files.
func app(t *testing.T, sub string, files map[string]string, before ...[]string) Options {
	t.Helper()
	sums, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	files[path.Join(sub, "go.sum")] = string(sums)
	files[path.Join(sub, "app_test.go")] = "package main\n\nimport _ \"github.com/google/go-cmp/cmp\"\n"
	dir := filepath.Join(testkit.Tree(t, files), sub)
	g := goFor(t, dir)
	program := filepath.Join(t.TempDir(), "app")
	for _, args := range append(before, []string{"build", "-o", program, "."}) {
		cmd := exec.CommandContext(t.Context(), g.Program, args...)
		cmd.Dir, cmd.Env = dir, g.Env("GOPROXY=off", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return Options{Dir: dir, Go: g, Programs: []string{program}}
}

// goFor returns the toolchain for the module in dir.
func goFor(t *testing.T, dir string) *toolchain.Go {
	t.Helper()
	g, err := toolchain.Find(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// recorder keeps the lines that a stage prints.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Emit(e progress.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == progress.Output {
		r.lines = append(r.lines, e.Text)
	}
}

// runCase is an app and what its modules are judged to be.
type runCase struct {
	dir        string // folder of the module
	files      map[string]string
	before     [][]string // go commands to run before the build
	allow      []string
	exceptions map[string]string
	want       []Module // without their problems
	denied     []string // the lines that are printed
}

//nolint:funlen // a table
func runCases() map[string]runCase {
	uuid := Module{Path: "github.com/google/uuid", Version: "v1.6.0", Licenses: []string{"BSD-3-Clause"}, Files: []string{"LICENSE"}}
	yaml := Module{Path: "go.yaml.in/yaml/v3", Version: "v3.0.6", Licenses: []string{"Apache-2.0", "MIT"}, Files: []string{"LICENSE"}}
	forked := func(licenses, files []string) Module {
		return Module{Path: "./uuid", Replaces: "github.com/google/uuid", Licenses: licenses, Files: files}
	}
	replaced := func(files map[string]string) map[string]string {
		all := map[string]string{"go.mod": gomod + fork, "main.go": uuidOnly, "uuid/go.mod": forkMod, "uuid/uuid.go": forkGo}
		for name, text := range files {
			all["uuid/"+name] = text
		}
		return all
	}
	excepted := yaml
	excepted.Exception = "our lawyers agree"
	return map[string]runCase{
		"only what is linked": {
			files: map[string]string{"go.mod": gomod, "main.go": uuidOnly},
			allow: []string{"BSD-3-Clause"}, want: []Module{uuid},
		},
		"no modules": {
			files: map[string]string{"go.mod": gomod, "main.go": "package main\n\nfunc main() {}\n"},
			allow: []string{"MIT"}, want: []Module{},
		},
		"all are allowed": {
			files: map[string]string{"go.mod": gomod, "main.go": both},
			allow: []string{"MIT", "BSD-3-Clause", "Apache-2.0"}, want: []Module{uuid, yaml},
		},
		"two are denied": {
			files: map[string]string{"go.mod": gomod, "main.go": both},
			allow: []string{"MIT"}, want: []Module{uuid, yaml},
			denied: []string{
				"github.com/google/uuid v1.6.0: BSD-3-Clause, not in license.allow (read from LICENSE)",
				"go.yaml.in/yaml/v3 v3.0.6: Apache-2.0, not in license.allow (read from LICENSE)",
			},
		},
		"exception": {
			files: map[string]string{"go.mod": gomod, "main.go": both},
			allow: []string{"BSD-3-Clause"}, exceptions: map[string]string{yaml.Path: "our lawyers agree"},
			want: []Module{uuid, excepted},
		},
		"vendor folder": {
			files: map[string]string{"go.mod": gomod, "main.go": both}, before: [][]string{{"mod", "vendor"}},
			allow: []string{"BSD-3-Clause", "MIT"}, want: []Module{uuid, yaml},
			denied: []string{"go.yaml.in/yaml/v3 v3.0.6: Apache-2.0, not in license.allow (read from LICENSE)"},
		},
		"workspace": {
			files: map[string]string{
				"go.mod": gomod, "main.go": uuidOnly, "go.work": "go 1.26\n\nuse .\nuse ./uuid\n",
				"uuid/go.mod": forkMod, "uuid/uuid.go": forkGo, "uuid/LICENSE": "SPDX-License-Identifier: MIT\n",
			},
			allow: []string{"MIT"},
			want:  []Module{{Path: "github.com/google/uuid", Version: "(devel)", Licenses: []string{"MIT"}, Files: []string{"LICENSE"}}},
		},
		"workspace with a vendor folder": {
			dir: "app",
			files: map[string]string{
				"app/go.mod": gomod, "app/main.go": both, "go.work": "go 1.26\n\nuse ./app\nuse ./lib\n",
				"lib/go.mod": "module example.com/lib\n\ngo 1.26\n", "lib/lib.go": "package lib\n",
			},
			before: [][]string{{"work", "vendor"}}, allow: []string{"BSD-3-Clause", "MIT", "Apache-2.0"}, want: []Module{uuid, yaml},
		},
		"replaced by another version": {
			files: map[string]string{
				"go.mod":  strings.Replace(gomod, "uuid v1.6.0", "uuid v1.5.0", 1) + "replace github.com/google/uuid => github.com/google/uuid v1.6.0\n",
				"main.go": uuidOnly,
			},
			allow: []string{"BSD-3-Clause"}, want: []Module{uuid},
		},
		"replaced by a folder with a choice": {
			files: replaced(map[string]string{"LICENSE": "SPDX-License-Identifier: GPL-3.0-only OR MIT\n"}),
			allow: []string{"MIT"}, want: []Module{forked([]string{"GPL-3.0-only OR MIT"}, []string{"LICENSE"})},
		},
		"replaced by a folder without a licence": {
			files: replaced(nil), allow: []string{"BSD-3-Clause"}, want: []Module{forked([]string{}, []string{})},
			denied: []string{"./uuid (in place of github.com/google/uuid): no licence: its root folder has no file such as LICENSE or COPYING " +
				"(find out its licence, then add github.com/google/uuid with a reason to license.exceptions)"},
		},
		"replaced by a folder with an unknown licence": {
			files: replaced(map[string]string{"LICENSE": "All rights reserved.\n", "COPYING.md": "Ask us.\n"}),
			allow: []string{"BSD-3-Clause"}, want: []Module{forked([]string{}, []string{"COPYING.md", "LICENSE"})},
			denied: []string{"./uuid (in place of github.com/google/uuid): no recognised licence in COPYING.md, LICENSE " +
				"(find out its licence, then add github.com/google/uuid with a reason to license.exceptions)"},
		},
		"replaced by a folder, with an exception": {
			files: replaced(nil), allow: []string{"MIT"}, exceptions: map[string]string{"github.com/google/uuid": "ours"},
			want: []Module{{Path: "./uuid", Replaces: "github.com/google/uuid", Licenses: []string{}, Files: []string{}, Exception: "ours"}},
		},
		"replaced by a module, with an exception for the original": {
			files: map[string]string{
				"go.mod":  "module example.com/app\n\ngo 1.26\n\nrequire gopkg.in/yaml.v3 v3.0.1\n\nreplace gopkg.in/yaml.v3 => go.yaml.in/yaml/v3 v3.0.6\n",
				"main.go": "package main\n\nimport \"gopkg.in/yaml.v3\"\n\nfunc main() { _, _ = yaml.Marshal(1) }\n",
			},
			allow: []string{"MIT"}, exceptions: map[string]string{"gopkg.in/yaml.v3": "not what is linked"},
			want:   []Module{{Path: yaml.Path, Version: yaml.Version, Replaces: "gopkg.in/yaml.v3", Licenses: yaml.Licenses, Files: yaml.Files}},
			denied: []string{"go.yaml.in/yaml/v3 v3.0.6 (in place of gopkg.in/yaml.v3): Apache-2.0, not in license.allow (read from LICENSE)"},
		},
	}
}

func TestRun(t *testing.T) {
	for title, tt := range runCases() {
		t.Run(title, func(t *testing.T) {
			o := app(t, tt.dir, tt.files, tt.before...)
			o.Settings = config.License{Allow: tt.allow, Exceptions: tt.exceptions}
			var out recorder
			got, err := Run(progress.With(t.Context(), &out, "license"), o)
			if len(tt.denied) == 0 && err != nil {
				t.Error(err)
			}
			if len(tt.denied) > 0 {
				wantDenied(t, err)
			}
			if got.Passed != (len(tt.denied) == 0) || len(got.Denied()) != len(tt.denied) {
				t.Errorf("passed: %t, denied: %v", got.Passed, got.Denied())
			}
			if diff := cmp.Diff(tt.denied, out.lines); diff != "" {
				t.Errorf("printed -want +got:\n%s", diff)
			}
			for i := range got.Modules {
				got.Modules[i].Problem = ""
			}
			if diff := cmp.Diff(tt.want, got.Modules); diff != "" {
				t.Errorf("modules -want +got:\n%s", diff)
			}
		})
	}
}

// wantDenied checks that err is that of the gate, on one line and with a fix.
func wantDenied(t *testing.T, err error) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Gate || f.Code != "license.denied" || f.Fix == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want the gate's error license.denied", err)
	}
}

// TestSeveralPrograms: a module counts if any of the programs has it, and once.
func TestSeveralPrograms(t *testing.T) {
	o := app(t, "", map[string]string{"go.mod": gomod, "main.go": both})
	o.Programs = append(app(t, "", map[string]string{"go.mod": gomod, "main.go": uuidOnly}).Programs, o.Programs...)
	o.Settings.Allow = []string{"MIT", "BSD-3-Clause", "Apache-2.0"}
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Modules) != 2 {
		t.Errorf("got %v, %v", r.Modules, err)
	}
}

// TestNothingIsDownloaded: if a module is not in the module cache, the gate fails
// instead of downloading it or passing.
func TestNothingIsDownloaded(t *testing.T) {
	for title, setting := range map[string]string{
		"a proxy that has it": "GOPROXY=file://" + filepath.Join(goFor(t, ".").ModCache, "cache", "download"),
		"private modules":     "GOPRIVATE=*", // these do not go through a proxy
	} {
		t.Run(title, func(t *testing.T) {
			o := app(t, "", map[string]string{"go.mod": gomod, "main.go": uuidOnly})
			empty := t.TempDir()
			o.Env = []string{"GOMODCACHE=" + empty, "GOFLAGS=-modcacherw", setting}
			o.Settings.Allow = []string{"BSD-3-Clause"}
			if err := wantUnreadable(t, o); !strings.Contains(err.Error(), "disabled by GOPROXY=off") {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(empty, "github.com")); err == nil {
				t.Error("the module was downloaded")
			}
		})
	}
}

// TestIncompleteVendorFolder: a licence that has been removed does not pass.
func TestIncompleteVendorFolder(t *testing.T) {
	o := app(t, "", map[string]string{"go.mod": gomod, "main.go": uuidOnly}, []string{"mod", "vendor"})
	if err := os.RemoveAll(filepath.Join(o.Dir, "vendor", "github.com")); err != nil {
		t.Fatal(err)
	}
	o.Settings.Allow = []string{"BSD-3-Clause"}
	wantUnreadable(t, o)
}

// wantUnreadable checks that the gate fails because it cannot look.
func wantUnreadable(t *testing.T, o Options) error {
	t.Helper()
	_, err := Run(t.Context(), o)
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.Failed || f.Code != "license.unreadable" || f.Fix == "" {
		t.Fatalf("got %v, want the failure license.unreadable with a fix", err)
	}
	return err
}

func TestNotAGoProgram(t *testing.T) {
	file := filepath.Join(testkit.Tree(t, map[string]string{"x": "#!/bin/sh\n"}), "x")
	if _, err := Run(t.Context(), Options{Programs: []string{file}}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

func TestCancelled(t *testing.T) {
	o := app(t, "", map[string]string{"go.mod": gomod, "main.go": uuidOnly})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestErrorNamesTheFirst: an error with hundreds of modules would not be read.
func TestErrorNamesTheFirst(t *testing.T) {
	var denied []Module
	for _, path := range []string{"a", "b", "c", "d", "e"} {
		denied = append(denied, Module{Path: path, Version: "v1.0.0"})
	}
	for n, want := range map[int]string{
		1: "1 of 9 modules do not have an allowed licence: a v1.0.0 (",
		3: "3 of 9 modules do not have an allowed licence: a v1.0.0, b v1.0.0, c v1.0.0 (",
		5: "5 of 9 modules do not have an allowed licence: a v1.0.0, b v1.0.0, c v1.0.0, 2 more (",
	} {
		if err := gateError(slices.Clone(denied[:n]), 9); !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

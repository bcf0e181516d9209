package source_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// TestMainPackage finds the main package where the go command finds it.
func TestMainPackage(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		links map[string]string
		opts  source.Options
		at    string // folder below which slipway is run
		want  string
	}{
		"ignored by go.mod": {
			map[string]string{"go.mod": "module example.com/a\n\ngo 1.25\n\nignore ./web/node_modules\n", "main.go": goMain, "web/node_modules/x/x.go": goMain}, nil, source.Options{}, "", ".",
		},
		"the root is a link": {
			map[string]string{"real/go.mod": goMod, "real/main.go": goMain}, map[string]string{"link": "real"}, source.Options{}, "link", ".",
		},
		"app.dir is a link": {
			map[string]string{"v2/go.mod": goMod, "v2/cmd/a/a.go": goMain}, map[string]string{"current": "v2"}, source.Options{Dir: "current"}, "", "./cmd/a",
		},
		"the main package is a link": {
			map[string]string{"go.mod": goMod, "internal/srv/main.go": goMain}, map[string]string{"cmd/server": "../internal/srv"}, source.Options{Main: "./cmd/server"}, "", "./cmd/server",
		},
		"the file is a link": {
			map[string]string{"go.mod": goMod, "shared/main.go.txt": goMain}, map[string]string{"cmd/a/main.go": "../../shared/main.go.txt"}, source.Options{}, "", "./cmd/a",
		},
		"with a build tag": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": "//go:build full\n\n" + goMain, "cmd/b/b.go": "//go:build !full\n\n" + goMain}, nil, source.Options{Tags: []string{"full"}}, "", "./cmd/a",
		},
		"with cgo": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": "package main\n\nimport \"C\"\n\nfunc main() {}\n"}, nil, source.Options{}, "", "./cmd/a",
		},
		"for another system": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "cmd/b/b_windows.go": goMain}, nil, source.Options{}, "", "./cmd/a",
		},
		"excluded": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "cmd/b/b.go": goMain, ".dockerignore": "cmd/b\n"}, nil, source.Options{}, "", "./cmd/a",
		},
		"by import path": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "cmd/b/b.go": goMain}, nil, source.Options{Main: "example.com/acme/Orders_v2/v3/cmd/b"}, "", "./cmd/b",
		},
		"a nested module and files that are no Go": {
			map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "tools/go.mod": "module example.com/tools\n", "tools/t.go": goMain, "x.go/readme": "x", "_old/o.go": goMain, "b.go.tmpl": "{{ package }}"},
			nil, source.Options{}, "", "./cmd/a",
		},
		"another module of the workspace": {
			map[string]string{"go.work": "go 1.26\n\nuse (\n\t.\n\t./tools\n)\n", "go.mod": goMod, "cmd/a/a.go": goMain, "tools/go.mod": "module example.com/tools\n\ngo 1.26\n", "tools/t.go": goMain},
			nil, source.Options{}, "", "./cmd/a",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.Tree(t, tt.files)
			for name, target := range tt.links {
				link(t, dir, name, target)
			}
			testkit.Commit(t, dir)
			tt.opts.Root = filepath.Join(dir, tt.at)
			t.Chdir(tt.opts.Root) // also sets PWD
			s, err := open(t, tt.opts)
			if err != nil || s.Main != tt.want || s.Dirty {
				t.Errorf("got %q, changed %v, %v; want %q", s.Main, s.Changed, err, tt.want)
			}
		})
	}
}

// TestLinks: a link matters only if the program is built through it.
func TestLinks(t *testing.T) {
	importing := "package main\n\nimport _ \"example.com/acme/Orders_v2/v3/linked\"\n\nfunc main() {}\n"
	for name, tt := range map[string]struct {
		main   string // main.go
		link   string // the link; its target is outside the repository
		target string
		ignore string // .dockerignore
		want   string // the error, or ""
	}{
		"to a file that is no source":    {goMain, "data/big.bin", "program", "", ""},
		"of a virtual environment":       {goMain, ".venv/bin/python", "program", "", ""},
		"to a folder without packages":   {goMain, "assets", "files", "", ""},
		"to a folder that is not used":   {goMain, "linked", "package", "", ""},
		"to a folder that is imported":   {importing, "linked", "package", "", "symbolic link linked points to"},
		"to a source of the program":     {goMain, "more.go", "package/x.go", "", "symbolic link more.go points to"},
		"to a source of another package": {goMain, "cmd/other/x.go", "package/x.go", "", ""},
		"to a source, excluded":          {goMain, "more.go", "package/x.go", "more.go\n", ""},
		"dangling":                       {goMain, "more.txt", "nowhere", "", ""},
		"in testdata":                    {goMain, "testdata/x.go", "package/x.go", "", ""},
		"to itself":                      {goMain, "loop", "../app/loop", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			outside := testkit.Tree(t, map[string]string{"program": "x", "files/x.txt": "x", "package/x.go": "package main\n"})
			if strings.Contains(tt.main, "linked") {
				testkit.Write(t, outside, map[string]string{"package/x.go": "package linked\n"})
			}
			dir := testkit.Tree(t, map[string]string{"go.mod": goMod, "main.go": tt.main})
			if tt.ignore != "" {
				testkit.Write(t, dir, map[string]string{".dockerignore": tt.ignore})
			}
			link(t, dir, tt.link, filepath.Join(outside, tt.target))
			testkit.Commit(t, dir)
			s, err := open(t, source.Options{Root: dir, Main: "."})
			if tt.want == "" {
				if err != nil || s.Dirty {
					t.Errorf("changed %v, %v", s.Changed, err)
				}
				return
			}
			if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestLinkInsideTheRepository: what a link in the app points to belongs to the app if the
// program is built through it.
func TestLinkInsideTheRepository(t *testing.T) {
	dir := testkit.Tree(t, map[string]string{
		"app/go.mod": goMod, "app/main.go": "package main\n\nimport _ \"example.com/acme/Orders_v2/v3/lib\"\n\nfunc main() {}\n",
		"shared/lib.go": "package lib\n", "other/o.go": "package o\n",
	})
	link(t, dir, "app/lib", "../shared")
	link(t, dir, "app/unused", "../other")
	testkit.Commit(t, dir)
	root := filepath.Join(dir, "app")
	first, err := open(t, source.Options{Root: root})
	if err != nil || first.Dirty {
		t.Fatalf("changed %v, %v", first.Changed, err)
	}
	testkit.Write(t, dir, map[string]string{"other/o.go": "package o // changed\n"})
	if s, err := open(t, source.Options{Root: root}); err != nil || s.Dirty {
		t.Errorf("a file that the program is not built from: changed %v, %v", s.Changed, err)
	}
	testkit.Write(t, dir, map[string]string{"shared/lib.go": "package lib // changed\n"})
	s, err := open(t, source.Options{Root: root})
	if err != nil || len(s.Changed) != 1 || s.Changed[0] != "shared/lib.go" {
		t.Errorf("changed %v, %v", s.Changed, err)
	}
	before, err := first.Fingerprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, dir, map[string]string{"shared/lib.go": "package lib // changed again\n"})
	if after, err := s.Fingerprint(t.Context()); err != nil || after == before {
		t.Errorf("the fingerprint is the same: %v", err)
	}
}

// TestPackageErrors: what the go command does not accept is one line.
func TestPackageErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"malformed go.work":   {map[string]string{"go.work": "go 1.26\n\nuses .\n", "go.mod": goMod, "main.go": goMain}, "go.work:3: unknown directive: uses"},
		"not in go.work":      {map[string]string{"go.work": "go 1.26\n\nuse ./b\n", "b/go.mod": "module example.com/b\n\ngo 1.26\n", "go.mod": goMod, "main.go": goMain}, "go.work does not use the module in . (run go work use ., or set app.env: {GOWORK: off}"},
		"inconsistent vendor": {map[string]string{"go.mod": goMod + "\nrequire example.com/x v1.0.0\n", "main.go": goMain, "vendor/modules.txt": "# nothing\n"}, "inconsistent vendoring"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, source.Options{Root: testkit.Repository(t, tt.files)})
			if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestMains lists the main packages of a module for init.
func TestMains(t *testing.T) {
	dir := testkit.Repository(t, map[string]string{"go.mod": goMod, "cmd/a/a.go": goMain, "b.go": goMain, "lib/l.go": "package l\n"})
	o := source.Options{Root: dir}
	o.Go = find(t, dir)
	mains, err := source.Mains(t.Context(), o)
	if err != nil || strings.Join(mains, " ") != ". ./cmd/a" {
		t.Errorf("got %v, %v", mains, err)
	}
}

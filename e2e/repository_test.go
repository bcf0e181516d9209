package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// app is a small app. library is a module that other apps use.
var (
	app = map[string]string{
		"go.mod":       "module example.com/orders\n\ngo 1.26.0\n",
		"main.go":      "package main\n\nfunc main() { println(name) }\n\nconst name = \"orders\"\n",
		"main_test.go": "package main\n\nimport \"testing\"\n\nfunc TestName(t *testing.T) {\n\tif name != \"orders\" {\n\t\tt.Error(name)\n\t}\n}\n",
	}
	library = map[string]string{
		"go.mod": "module example.com/lib\n\ngo 1.26.0\n",
		"lib.go": "package lib\n\nfunc Name() string { return \"lib\" }\n",
	}
	// user is an app that uses the library.
	user = map[string]string{
		"go.mod":       "module example.com/user\n\ngo 1.26.0\n\nrequire example.com/lib v0.0.0\n",
		"main.go":      "package main\n\nimport \"example.com/lib\"\n\nfunc main() { println(lib.Name()) }\n",
		"main_test.go": "package main\n\nimport (\n\t\"testing\"\n\n\t\"example.com/lib\"\n)\n\nfunc TestName(t *testing.T) {\n\tif lib.Name() != \"lib\" {\n\t\tt.Error(lib.Name())\n\t}\n}\n",
	}
)

// lay writes files below a folder.
func (s *shapes) lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	(&suite{app: dir}).write(t, files)
}

func (s *shapes) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	// With the same date, the same files give the same commit.
	t.Setenv("GIT_AUTHOR_DATE", "2026-01-02T03:04:05Z")
	t.Setenv("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z")
	return strings.TrimSpace(s.must(t, dir, "git", append([]string{"-c", "protocol.file.allow=always"}, args...)...))
}

// commitAll commits all files of a folder, in a new repository if there is none.
func (s *shapes) commitAll(t *testing.T, dir string, format ...string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		s.git(t, dir, append([]string{"init", "-q", "-b", "main"}, format...)...)
	}
	s.git(t, dir, "add", "-A")
	s.git(t, dir, "commit", "-q", "-m", "state")
}

// clone returns a copy of the base repository with other files, committed.
func (s *shapes) clone(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	s.lay(t, dir, app)
	s.lay(t, dir, files)
	s.commitAll(t, dir)
}

// below returns files with their paths below a folder.
func below(dir string, files map[string]string) map[string]string {
	all := map[string]string{}
	for name, text := range files {
		all[filepath.Join(dir, name)] = text
	}
	return all
}

// monorepo writes an app that uses a module next to it.
func (s *shapes) monorepo(t *testing.T, dir string) {
	t.Helper()
	s.lay(t, dir, below("services/user", user))
	s.lay(t, dir, below("libs/lib", library))
	s.lay(t, dir, map[string]string{
		"services/user/slipway.yaml": "image: {user: \"1000\"}\n",
		"other/big.txt":              "not a part of the app\n",
	})
}

// replace adds a line to the go.mod of an app.
func replace(module, target string) map[string]string {
	return map[string]string{"go.mod": module + "\nreplace example.com/lib => " + target + "\n"}
}

const workspace = "go 1.26.0\n\nuse (\n\t./libs/lib\n\t./services/user\n)\n"

//nolint:funlen // a table
func allShapes() []shape {
	gitDir := func(t *testing.T, s *shapes, dir string) []string {
		return []string{"--git-dir", s.git(t, dir, "rev-parse", "--path-format=absolute", "--git-common-dir")}
	}
	commit := func(t *testing.T, s *shapes, dir string) []string {
		return []string{"with-commit", "--revision", s.git(t, dir, "rev-parse", "HEAD"), "--epoch", s.git(t, dir, "log", "-1", "--format=%ct")}
	}
	fixed := func(args ...string) func(*testing.T, *shapes, string) []string {
		return func(*testing.T, *shapes, string) []string { return args }
	}
	linked := func(t *testing.T, s *shapes, dir string) string {
		s.git(t, s.base, "worktree", "add", "-q", "--detach", filepath.Join(dir, "linked"))
		return filepath.Join(dir, "linked")
	}
	submodule := func(t *testing.T, s *shapes, dir string) string {
		s.lay(t, dir, map[string]string{"README.md": "above\n"})
		s.commitAll(t, dir)
		s.git(t, dir, "submodule", "--quiet", "add", s.base, "services/orders")
		s.commitAll(t, dir)
		return filepath.Join(dir, "services/orders")
	}
	ordinary := func(files map[string]string) func(*testing.T, *shapes, string) string {
		return func(t *testing.T, s *shapes, dir string) string {
			s.clone(t, dir, files)
			return dir
		}
	}
	changed := func(files map[string]string) func(*testing.T, *shapes, string) string {
		return func(t *testing.T, s *shapes, dir string) string {
			s.clone(t, dir, nil)
			s.lay(t, dir, files)
			return dir
		}
	}
	several := func(t *testing.T, s *shapes, dir string) string {
		s.lay(t, dir, below("a", app))
		s.lay(t, dir, below("b", app))
		s.lay(t, dir, map[string]string{"b/slipway.yaml": "image: {user: \"1000\"}\n"})
		s.commitAll(t, dir)
		return dir
	}
	inWorkspace := func(t *testing.T, s *shapes, dir string) string {
		s.monorepo(t, dir)
		s.lay(t, dir, map[string]string{"go.work": workspace})
		s.commitAll(t, dir)
		return filepath.Join(dir, "services/user")
	}
	replaced := func(t *testing.T, s *shapes, dir string) string {
		s.monorepo(t, dir)
		s.lay(t, dir, below("services/user", replace(user["go.mod"], "../../libs/lib")))
		s.commitAll(t, dir)
		return filepath.Join(dir, "services/user")
	}
	after := func(lay func(*testing.T, *shapes, string) string, name, text string) func(*testing.T, *shapes, string) string {
		return func(t *testing.T, s *shapes, dir string) string {
			at := lay(t, s, dir)
			s.lay(t, dir, map[string]string{name: text})
			return at
		}
	}
	return []shape{
		{name: "no slipway.yaml", lay: ordinary(nil), commit: "base"},
		{name: "no slipway.yaml, test", lay: ordinary(nil), stage: "test"},
		{name: "no git repository", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, app)
			return dir
		}},
		{name: "at the root", lay: ordinary(map[string]string{"slipway.yaml": "image: {user: \"1000\"}\n"})},
		{name: "in a subfolder", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, below("svc", app))
			s.lay(t, dir, map[string]string{"slipway.yaml": "app: {dir: svc}\n"})
			s.commitAll(t, dir)
			return dir
		}},
		{name: "several, in the folder of one", lay: func(t *testing.T, s *shapes, dir string) string { return filepath.Join(several(t, s, dir), "a") }, commit: "several/a"},
		{name: "several, --dir", lay: several, program: []string{"--dir", "a"}, module: fixed("--dir", "a"), commit: "several/a"},
		{name: "several, in the other folder", lay: func(t *testing.T, s *shapes, dir string) string { return filepath.Join(several(t, s, dir), "b") }, commit: "several/b"},
		{name: "several, --config", lay: several, program: []string{"--config", "b/slipway.yaml"}, module: fixed("--config", "b/slipway.yaml"), commit: "several/b"},
		{name: "several, --config that is missing", lay: several, program: []string{"--config", "c/slipway.yaml"}, module: fixed("--config", "c/slipway.yaml"), fails: `c/slipway\.yaml`},
		{name: "several, none chosen", lay: several, fails: `there is no go\.mod in .*set app\.dir in slipway\.yaml to one of a, b`},
		{name: "go.work above", lay: inWorkspace, commit: "workspace"},
		{name: "go.work above, test", lay: inWorkspace, stage: "test"},
		{name: "go.work above, broken module, test", lay: after(inWorkspace, "libs/lib/lib.go", "package lib\n\nfunc Name() string { return \"broken\" }\n"), stage: "test", fails: "TestName"},
		{name: "go.work above, changed module", lay: after(inWorkspace, "libs/lib/lib.go", "package lib\n\nfunc Name() string { return \"other\" }\n"), dirty: true},
		{name: "go.work above, another folder changed", lay: after(inWorkspace, "other/big.txt", "changed\n"), commit: "workspace"},
		{name: "go.work above, go.work.sum deleted", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, map[string]string{"go.work.sum": ""})
			at := inWorkspace(t, s, dir)
			if err := os.Remove(filepath.Join(dir, "go.work.sum")); err != nil {
				t.Fatal(err)
			}
			return at
		}, dirty: true},
		{name: "replace ../lib", lay: replaced, commit: "replaced"},
		{name: "replace ../lib, changed", lay: after(replaced, "libs/lib/lib.go", "package lib\n\nfunc Name() string { return \"other\" }\n"), dirty: true},
		{name: "replace out of the repository", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, filepath.Join(dir, "lib"), library)
			s.lay(t, filepath.Join(dir, "user"), user)
			s.lay(t, filepath.Join(dir, "user"), replace(user["go.mod"], "../lib"))
			s.commitAll(t, filepath.Join(dir, "user"))
			return filepath.Join(dir, "user")
		}, alone: `\.\./lib is outside the repository.*--source`},
		{name: "linked work tree, --git-dir", lay: linked, module: gitDir, commit: "base"},
		{name: "linked work tree, with-commit", lay: linked, module: commit, commit: "base"},
		{name: "linked work tree, test", lay: linked, stage: "test"},
		{name: "linked work tree, nothing given", lay: linked, alone: `--git-dir \$\(git rev-parse --git-common-dir\).*with-commit --revision`},
		{name: "linked work tree, dirty", lay: func(t *testing.T, s *shapes, dir string) string {
			at := linked(t, s, dir)
			s.lay(t, at, map[string]string{"new.go": "package main\n"})
			return at
		}, module: gitDir, dirty: true},
		{name: "submodule", lay: submodule, module: gitDir, commit: "base"},
		{name: "module in a submodule", lay: usesSubmodule},
		{name: "module in a submodule, changed", lay: after(usesSubmodule, "user/third_party/lib/lib.go", "package lib\n\nfunc Name() string { return \"other\" }\n"), dirty: true},
		{name: "module in a submodule of a linked work tree", lay: func(t *testing.T, s *shapes, dir string) string {
			s.git(t, usesSubmodule(t, s, dir), "worktree", "add", "-q", "--detach", filepath.Join(dir, "linked"))
			s.git(t, filepath.Join(dir, "linked"), "submodule", "--quiet", "update", "--init")
			s.lay(t, dir, map[string]string{"linked/third_party/lib/lib.go": "package lib\n\nfunc Name() string { return \"other\" }\n"})
			return filepath.Join(dir, "linked")
		}, module: gitDir, dirty: true},
		{name: "shallow clone", lay: func(t *testing.T, s *shapes, dir string) string {
			s.git(t, dir, "clone", "-q", "--depth", "1", "file://"+s.base, "shallow")
			return filepath.Join(dir, "shallow")
		}, commit: "base"},
		{name: "partial clone", lay: func(t *testing.T, s *shapes, dir string) string {
			s.git(t, s.base, "config", "uploadpack.allowFilter", "true")
			s.git(t, dir, "clone", "-q", "--filter=blob:none", "file://"+s.base, "partial")
			return filepath.Join(dir, "partial")
		}, commit: "base"},
		{name: "sparse checkout", lay: func(t *testing.T, s *shapes, dir string) string {
			inWorkspace(t, s, filepath.Join(dir, "whole"))
			s.git(t, dir, "clone", "-q", "--no-checkout", "file://"+filepath.Join(dir, "whole"), "sparse")
			sparse := filepath.Join(dir, "sparse")
			s.git(t, sparse, "sparse-checkout", "set", "--cone", "services/user", "libs/lib")
			s.git(t, sparse, "checkout", "-q", "main")
			return filepath.Join(sparse, "services/user")
		}, commit: "workspace"},
		{name: "SHA-256 repository", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, app)
			s.commitAll(t, dir, "--object-format=sha256")
			return dir
		}},
		{name: "no commits", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, app)
			s.git(t, dir, "init", "-q", "-b", "main")
			return dir
		}},
		{name: "dirty: a changed file", lay: changed(map[string]string{"main.go": app["main.go"] + "\n// changed\n"}), dirty: true},
		{name: "dirty: an untracked file", lay: changed(map[string]string{"notes.txt": "new\n"}), dirty: true},
		{name: "dirty: a deleted file", lay: func(t *testing.T, s *shapes, dir string) string {
			s.clone(t, dir, map[string]string{"notes.txt": "old\n"})
			if err := os.Remove(filepath.Join(dir, "notes.txt")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, dirty: true},
		{name: "names with spaces, dashes and quotes", lay: ordinary(map[string]string{
			"a b/ö ü.txt": "x\n", "-x": "x\n", "--version": "x\n", `q"[1]*?.txt`: "x\n", "größe.go": "package main\n", "!not": "x\n",
		})},
		{name: "an app in a folder with an odd name", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, below("-dienst ö [1]", app))
			s.commitAll(t, dir)
			return filepath.Join(dir, "-dienst ö [1]")
		}},
		{name: "go.mod hidden by .dockerignore", lay: ordinary(map[string]string{".dockerignore": "go.mod\n"}), fails: `go\.mod`},
		{name: "code hidden by .dockerignore", lay: ordinary(map[string]string{".dockerignore": "hidden.go\n*.md\n", "hidden.go": "package main\n\nconst name = \"twice\"\n", "README.md": "x\n"})},
		{name: "an embedded file hidden by .dockerignore", lay: ordinary(map[string]string{
			".dockerignore": "# no text\n*.txt\n", "x.txt": "x\n", "embed.go": "package main\n\nimport _ \"embed\"\n\n//go:embed x.txt\nvar _ string\n",
		}), fails: `x\.txt.*\.dockerignore:2`},
		{name: "a package hidden by .dockerignore", lay: ordinary(map[string]string{
			".dockerignore": "pkg\n", "pkg/x.go": "package pkg\n", "use.go": "package main\n\nimport _ \"example.com/orders/pkg\"\n",
		}), fails: `pkg/x\.go.*\.dockerignore:1`},
		{name: "code through a link", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, below("svc", app))
			s.lay(t, dir, map[string]string{"shared/extra.go": "package main\n\nfunc init() { println(\"linked\") }\n"})
			if err := os.Symlink("../shared/extra.go", filepath.Join(dir, "svc/extra.go")); err != nil {
				t.Fatal(err)
			}
			s.commitAll(t, dir)
			return filepath.Join(dir, "svc")
		}},
		{name: "200 MB that git ignores", lay: large},
		{name: "generated code that git ignores", lay: generated},
		{name: "generated code that git ignores, test", lay: generated, stage: "test"},
		{name: "old findings, lint", lay: findings("package main\n\nconst added = true\n\nvar _ = added\n"), stage: "lint"},
		{name: "new findings, lint", lay: findings("package main\n\nimport \"os\"\n\nfunc init() { os.Remove(\"new\") }\n"), stage: "lint", fails: `new\.go`},
		{name: "a tracked file that git ignores, test", lay: func(t *testing.T, s *shapes, dir string) string {
			s.clone(t, dir, map[string]string{".gitignore": "*.json\n", "data_test.go": needsFile("testdata/x y.json", true)})
			s.lay(t, dir, map[string]string{"testdata/x y.json": "{}\n"})
			s.git(t, dir, "add", "-f", "testdata")
			s.commitAll(t, dir)
			return dir
		}, stage: "test"},
		{name: "Git LFS", lay: lfs},
		{name: "no Go module", lay: func(t *testing.T, s *shapes, dir string) string {
			s.lay(t, dir, map[string]string{"README.md": "nothing\n"})
			s.commitAll(t, dir)
			return dir
		}, fails: `there is no go\.mod`},
	}
}

// usesSubmodule makes a repository with an app that uses a module in a submodule, whose
// name is not its path.
func usesSubmodule(t *testing.T, s *shapes, dir string) string {
	t.Helper()
	s.lay(t, filepath.Join(dir, "lib"), library)
	s.commitAll(t, filepath.Join(dir, "lib"))
	repo := filepath.Join(dir, "user")
	s.lay(t, repo, user)
	s.lay(t, repo, replace(user["go.mod"], "./third_party/lib"))
	s.commitAll(t, repo)
	s.git(t, repo, "submodule", "--quiet", "add", "--name", "the lib", "../lib", "third_party/lib")
	s.commitAll(t, repo)
	return repo
}

// lfs commits a file with the filter of Git LFS, which only the caller has.
func lfs(t *testing.T, s *shapes, dir string) string {
	t.Helper()
	const content = "a large file\n"
	pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n", sha256.Sum256([]byte(content)), len(content))
	clean := filepath.Join(t.TempDir(), "clean")
	if err := os.WriteFile(clean, []byte("#!/bin/sh\ncat >/dev/null\ncat <<'E'\n"+pointer+"E\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "filter.lfs.clean")
	t.Setenv("GIT_CONFIG_VALUE_0", clean)
	s.clone(t, dir, map[string]string{".gitattributes": "*.bin filter=lfs\n", "x.bin": content})
	if blob := s.git(t, dir, "cat-file", "blob", "HEAD:x.bin"); !strings.HasPrefix(blob, "version https://git-lfs") {
		t.Fatalf("committed %q", blob)
	}
	return dir
}

// large writes 200 MB that git ignores, and a test that fails where they are. The module
// must not upload them.
func large(t *testing.T, s *shapes, dir string) string {
	t.Helper()
	s.clone(t, dir, map[string]string{".gitignore": "/data\n", "data_test.go": needsFile("data/big", false)})
	s.lay(t, dir, map[string]string{"data/big": ""})
	if err := os.Truncate(filepath.Join(dir, "data/big"), 200<<20); err != nil {
		t.Fatal(err)
	}
	test := s.runModule(t, dir, shape{stage: "test"})
	if test.exit != 0 {
		t.Errorf("what git ignores was uploaded: %+v", test)
	}
	return dir
}

// generated writes code and an embedded folder that git ignores.
func generated(t *testing.T, s *shapes, dir string) string {
	t.Helper()
	s.clone(t, dir, map[string]string{
		".gitignore":   "*.gen.go\n/dist\n",
		"main.go":      "package main\n\nimport \"embed\"\n\n//go:embed all:dist \"with space\"\nvar files embed.FS\n\nfunc main() {\n\t_ = files\n\tprintln(name)\n}\n",
		"main_test.go": app["main_test.go"],
		"with space/x": "x\n",
	})
	s.lay(t, dir, map[string]string{
		"name.gen.go": "package main\n\nconst name = \"orders\"\n", "dist/.gitignore": "*\n", "dist/js/app.js": "1\n",
	})
	return dir
}

// findings makes a repository whose remote branch has a finding of golangci-lint, and whose
// branch adds code. lint.newFrom names the remote branch.
func findings(code string) func(*testing.T, *shapes, string) string {
	return func(t *testing.T, s *shapes, dir string) string {
		t.Helper()
		s.clone(t, dir, map[string]string{
			"slipway.yaml": "lint: {newFrom: origin/main}\n", "old.go": "package main\n\nimport \"os\"\n\nfunc init() { os.Remove(\"old\") }\n",
		})
		s.git(t, dir, "update-ref", "refs/remotes/origin/main", "HEAD")
		s.lay(t, dir, map[string]string{"new.go": code})
		s.commitAll(t, dir)
		return dir
	}
}

// needsFile is a test that fails unless a file exists, or if it exists.
func needsFile(name string, exists bool) string {
	operator := "!="
	if !exists {
		operator = "=="
	}
	return "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestFile(t *testing.T) {\n\tif _, err := os.Stat(\"" + name + "\"); err " + operator +
		" nil {\n\t\tt.Error(err)\n\t}\n}\n"
}

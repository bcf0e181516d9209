package source_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// ordinary are the files of a repository in the tests.
func ordinary() map[string]string {
	return map[string]string{
		"go.mod": goMod, "main.go": goMain, "run.sh": "x\n", ".gitignore": "bin/\n", "a b/ü.go": "package ab\n", "note.txt": "one\ntwo\n",
		"internal/x/x.go": "package x\n",
	}
}

// configured makes git read the given settings as those of the user, and no other ones.
func configured(t *testing.T, settings string) {
	t.Helper()
	for _, name := range []string{"GOCACHE", "GOPATH"} { // their defaults are in HOME
		out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(name, strings.TrimSpace(string(out)))
	}
	// The go command must not write there after the test has ended.
	home := testkit.Tree(t, map[string]string{".gitconfig": settings, ".config/go/telemetry/mode": "off 2026-01-01\n"})
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
}

// userGit runs git with the settings of configured.
func userGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=A", "-c", "user.email=a@example.com"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// clone clones a repository with further options and returns the folder.
func clone(t *testing.T, origin string, options ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "clone")
	userGit(t, origin, slices.Concat([]string{"clone", "-q"}, options, []string{"file://" + origin, dir})...)
	return dir
}

// unchanged are work trees that git considers unchanged. Each function returns the folder
// of one. A work tree with a file that makes a difference to the app is called changed.
//
//nolint:funlen // a table
func unchanged() map[string]func(t *testing.T) string {
	attributes := func(text string) func(*testing.T) string {
		return func(t *testing.T) string {
			files := ordinary()
			files[".gitattributes"] = text
			return clone(t, testkit.Repository(t, files))
		}
	}
	return map[string]func(t *testing.T) string{
		"repository":   func(t *testing.T) string { return testkit.Repository(t, ordinary()) },
		"clone":        func(t *testing.T) string { return clone(t, testkit.Repository(t, ordinary())) },
		"shallow":      func(t *testing.T) string { return clone(t, testkit.Repository(t, ordinary()), "--depth=1") },
		"shared":       func(t *testing.T) string { return clone(t, testkit.Repository(t, ordinary()), "--shared") },
		"end of line":  attributes("*.txt text eol=crlf\n"),
		"ident":        attributes("*.txt ident\n"),
		"encoding":     attributes("*.txt text working-tree-encoding=UTF-16LE\n"),
		"unused clean": attributes("*.txt filter=nobody\n"),
		"autocrlf": func(t *testing.T) string {
			configured(t, "[core]\n\tautocrlf = true\n")
			return clone(t, testkit.Repository(t, ordinary()))
		},
		"filter of the user": func(t *testing.T) string {
			configured(t, "[filter \"secret\"]\n\tclean = tr a-z b-za\n\tsmudge = tr b-za a-z\n\trequired = true\n")
			dir := testkit.Tree(t, ordinary())
			testkit.Write(t, dir, map[string]string{".gitattributes": "*.txt filter=secret\n"})
			userGit(t, dir, "init", "-q")
			userGit(t, dir, "add", "-A")
			userGit(t, dir, "commit", "-qm", "x")
			return clone(t, dir)
		},
		"file mode": func(t *testing.T) string {
			dir := testkit.Repository(t, ordinary())
			testkit.Git(t, dir, "config", "core.fileMode", "false")
			if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
				t.Fatal(err)
			}
			return dir
		},
		"ignored by the user": func(t *testing.T) string {
			excludes := filepath.Join(t.TempDir(), "ignore")
			if err := os.WriteFile(excludes, []byte("*.swp\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			configured(t, "[core]\n\texcludesFile = "+excludes+"\n")
			dir := testkit.Repository(t, ordinary())
			testkit.Write(t, dir, map[string]string{"main.go.swp": "x"})
			return dir
		},
		"linked work tree with info/exclude": func(t *testing.T) string {
			origin, work := testkit.Repository(t, ordinary()), filepath.Join(t.TempDir(), "work")
			testkit.Git(t, origin, "worktree", "add", "-q", work)
			testkit.Write(t, origin, map[string]string{".git/info/exclude": "scratch/\n"})
			testkit.Write(t, work, map[string]string{"scratch/a.go": "package a\n"})
			return work
		},
		"skip-worktree": func(t *testing.T) string {
			dir := testkit.Repository(t, ordinary())
			testkit.Git(t, dir, "update-index", "--skip-worktree", "note.txt")
			testkit.Write(t, dir, map[string]string{"note.txt": "local settings\n"})
			return dir
		},
		"sparse": func(t *testing.T) string {
			dir := clone(t, testkit.Repository(t, ordinary()))
			testkit.Git(t, dir, "sparse-checkout", "set", "internal")
			return dir
		},
		"sparse before": func(t *testing.T) string {
			dir := clone(t, testkit.Repository(t, ordinary()))
			testkit.Git(t, dir, "sparse-checkout", "set", "internal")
			testkit.Git(t, dir, "sparse-checkout", "disable")
			return dir
		},
		"partial": func(t *testing.T) string {
			origin := testkit.Repository(t, ordinary())
			testkit.Git(t, origin, "config", "uploadpack.allowFilter", "true")
			dir := clone(t, origin, "--filter=blob:none")
			testkit.Git(t, dir, "sparse-checkout", "set", "internal")
			return dir
		},
		"SHA-256": func(t *testing.T) string {
			dir := testkit.Tree(t, ordinary())
			testkit.Git(t, dir, "init", "-q", "--object-format=sha256")
			testkit.Commit(t, dir)
			return dir
		},
		"index version 4": func(t *testing.T) string {
			dir := testkit.Repository(t, ordinary())
			testkit.Git(t, dir, "update-index", "--index-version", "4", "--untracked-cache", "--split-index")
			return dir
		},
		"submodule": func(t *testing.T) string {
			configured(t, "[protocol \"file\"]\n\tallow = always\n")
			library, parent := testkit.Repository(t, ordinary()), testkit.Repository(t, map[string]string{"README": "x"})
			userGit(t, parent, "submodule", "add", "-q", "file://"+library, "services/app")
			testkit.Commit(t, parent)
			return filepath.Join(parent, "services", "app")
		},
		"detached with packed references": func(t *testing.T) string {
			dir := testkit.Repository(t, ordinary())
			testkit.Git(t, dir, "checkout", "-q", "--detach")
			testkit.Git(t, dir, "pack-refs", "--all")
			testkit.Git(t, dir, "gc", "-q")
			return dir
		},
		"link and mode": func(t *testing.T) string {
			dir := testkit.Tree(t, ordinary())
			link(t, dir, "link.txt", "note.txt")
			if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
				t.Fatal(err)
			}
			testkit.Commit(t, dir)
			return dir
		},
	}
}

// TestUnchanged: what git considers unchanged is unchanged, before git has refreshed its
// index, and a change of a file is seen. Without the git program the answer is the same,
// or a clear error.
func TestUnchanged(t *testing.T) {
	for name, prepare := range unchanged() {
		t.Run(name, func(t *testing.T) {
			configured(t, "")
			dir := prepare(t)
			testkit.Write(t, dir, map[string]string{"bin/out": "ignored"})
			// Git would refresh the time of this file in its index.
			if now := time.Now(); os.Chtimes(filepath.Join(dir, "internal", "x", "x.go"), now, now) != nil {
				t.Fatal("internal/x/x.go is missing")
			}
			index := readIndex(t, dir)
			s, err := open(t, source.Options{Root: dir})
			if err != nil || s.Dirty {
				t.Fatalf("changed %v, %v", s.Changed, err)
			}
			if now := readIndex(t, dir); now != index {
				t.Error("the index was written")
			}
			path := os.Getenv("PATH")
			t.Setenv("PATH", withoutGit(t))
			library, err := open(t, source.Options{Root: dir})
			t.Setenv("PATH", path)
			switch {
			case err != nil:
				if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), "without the git program") {
					t.Errorf("without git: %v", err)
				}
				t.Logf("without git: %v", err)
			case library.Dirty || library.Version != s.Version:
				t.Errorf("without git: %s, changed %v; with git: %s", library.Version, library.Changed, s.Version)
			}
			if want := userGit(t, dir, "rev-parse", "HEAD"); s.Revision != want {
				t.Errorf("revision %s, want %s", s.Revision, want)
			}
			if out := userGit(t, dir, "status", "--porcelain"); out != "" {
				t.Fatalf("git considers it changed:\n%s", out)
			}
			testkit.Write(t, dir, map[string]string{"internal/x/x.go": "package x // changed\n", "new.go": "package main\n"})
			s, err = open(t, source.Options{Root: dir})
			if err != nil || len(s.Changed) != 2 {
				t.Errorf("after a change: %v, %v", s.Changed, err)
			}
		})
	}
}

// readIndex returns the content of the index of a work tree.
func readIndex(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(userGit(t, dir, "rev-parse", "--path-format=absolute", "--git-path", "index"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// withoutGit returns a PATH with the go command and without git.
func withoutGit(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link(t, dir, "go", program)
	return dir
}

// TestChanged: what git considers changed is changed.
func TestChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, dir string)
		want   []string
	}{
		"staged": {func(t *testing.T, dir string) {
			testkit.Write(t, dir, map[string]string{"main.go": goMain + "// x\n"})
			testkit.Git(t, dir, "add", "main.go")
		}, []string{"main.go"}},
		"staged and changed back": {func(t *testing.T, dir string) {
			testkit.Write(t, dir, map[string]string{"main.go": goMain + "// x\n"})
			testkit.Git(t, dir, "add", "main.go")
			testkit.Write(t, dir, map[string]string{"main.go": goMain})
		}, []string{"main.go"}},
		"deleted":  {func(t *testing.T, dir string) { testkit.Git(t, dir, "rm", "-q", "note.txt") }, []string{"note.txt"}},
		"renamed":  {func(t *testing.T, dir string) { testkit.Git(t, dir, "mv", "note.txt", "other.txt") }, []string{"note.txt", "other.txt"}},
		"mode":     {func(t *testing.T, dir string) { _ = os.Chmod(filepath.Join(dir, "run.sh"), 0o755) }, []string{"run.sh"}},
		"odd name": {func(t *testing.T, dir string) { testkit.Write(t, dir, map[string]string{"-n\n\"é.go": "x"}) }, []string{"-n\n\"é.go"}},
		"tracked, then ignored": {func(t *testing.T, dir string) {
			testkit.Git(t, dir, "add", "-f", "bin/tool")
			testkit.Git(t, dir, "commit", "-qm", "x")
			testkit.Write(t, dir, map[string]string{"bin/tool": "y"})
		}, []string{"bin/tool"}},
		"type": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "note.txt")); err != nil {
				t.Fatal(err)
			}
			link(t, dir, "note.txt", "run.sh")
		}, []string{"note.txt"}},
		"in a submodule": {func(t *testing.T, dir string) {
			userGit(t, dir, "submodule", "add", "-q", "file://"+testkit.Repository(t, ordinary()), "third/party")
			testkit.Commit(t, dir)
			testkit.Write(t, dir, map[string]string{"third/party/main.go": "package main // x\n", "third/party/new.go": "package main\n"})
		}, []string{"third/party/main.go", "third/party/new.go"}},
		"commit of a submodule": {func(t *testing.T, dir string) {
			userGit(t, dir, "submodule", "add", "-q", "file://"+testkit.Repository(t, ordinary()), "third/party")
			testkit.Commit(t, dir)
			userGit(t, filepath.Join(dir, "third", "party"), "commit", "-q", "--allow-empty", "-m", "x")
		}, []string{"third/party"}},
	} {
		t.Run(name, func(t *testing.T) {
			configured(t, "[protocol \"file\"]\n\tallow = always\n")
			dir := testkit.Repository(t, ordinary())
			testkit.Write(t, dir, map[string]string{"bin/tool": "x"})
			tt.change(t, dir)
			s, err := open(t, source.Options{Root: dir})
			if err != nil || !slices.Equal(s.Changed, tt.want) {
				t.Errorf("got %q, %v; want %q", s.Changed, err, tt.want)
			}
		})
	}
}

// TestHostileRepository: nothing that the repository's own configuration names is run.
func TestHostileRepository(t *testing.T) {
	for name, settings := range map[string]map[string]string{
		"fsmonitor":      {"core.fsmonitor": "PROGRAM"},
		"hooks":          {"core.hooksPath": "hooks"},
		"pager":          {"core.pager": "PROGRAM", "pager.status": "true", "pager.config": "true"},
		"ssh command":    {"core.sshCommand": "PROGRAM"},
		"external diff":  {"diff.external": "PROGRAM"},
		"text converter": {"diff.x.textconv": "PROGRAM", "diff.x.command": "PROGRAM"},
		"alias":          {"alias.status": "!PROGRAM", "alias.config": "!PROGRAM", "alias.ls-files": "!PROGRAM"},
		"clean filter":   {"filter.x.clean": "PROGRAM", "filter.x.required": "true"},
		"filter process": {"filter.x.process": "PROGRAM", "filter.x.smudge": "PROGRAM"},
		"included":       {"include.path": "included"},
		"promisor remote": {
			"extensions.partialClone": "x", "remote.x.promisor": "true", "remote.x.url": "ext::PROGRAM", "protocol.ext.allow": "always",
			"core.repositoryFormatVersion": "1",
		},
		"upload pack": {
			"extensions.partialClone": "x", "remote.x.promisor": "true", "remote.x.url": ".", "remote.x.uploadpack": "PROGRAM",
			"core.repositoryFormatVersion": "1", "protocol.file.allow": "always",
		},
	} {
		t.Run(name, func(t *testing.T) {
			configured(t, "")
			marker := filepath.Join(t.TempDir(), "ran")
			program := filepath.Join(t.TempDir(), "program")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n: >"+marker+"\nexit 1\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			files := ordinary()
			files[".gitattributes"] = "*.txt filter=x diff=x\n"
			dir := testkit.Repository(t, files)
			testkit.Write(t, dir, map[string]string{
				".git/included":                "[filter \"x\"]\n\tclean = " + program + "\n\tprocess = " + program + "\n",
				"hooks/post-index-change":      "#!/bin/sh\n: >" + marker + "\n",
				".git/hooks/post-index-change": "#!/bin/sh\n: >" + marker + "\n",
				"note.txt":                     "one\ntWo\n",
			})
			for _, hook := range []string{"hooks/post-index-change", ".git/hooks/post-index-change"} {
				if err := os.Chmod(filepath.Join(dir, hook), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for key, value := range settings {
				testkit.Git(t, dir, "config", key, strings.ReplaceAll(value, "PROGRAM", program))
			}
			if strings.Contains(name, "p") && settings["extensions.partialClone"] != "" {
				// A missing object would be fetched.
				hash := testkit.Git(t, dir, "rev-parse", "HEAD^{tree}")
				if err := os.Remove(filepath.Join(dir, ".git", "objects", hash[:2], hash[2:])); err != nil {
					t.Fatal(err)
				}
			}
			s, err := open(t, source.Options{Root: dir})
			if _, statErr := os.Stat(marker); statErr == nil {
				t.Fatalf("the program was run; changed %v, %v", s.Changed, err)
			}
			if settings["extensions.partialClone"] == "" && (err != nil || !slices.Contains(s.Changed, "note.txt")) {
				t.Errorf("changed %v, %v", s.Changed, err)
			}
		})
	}
}

// TestLockedRepository: an index that another program has locked, and a repository that
// cannot be written, are read.
func TestLockedRepository(t *testing.T) {
	dir := testkit.Repository(t, ordinary())
	testkit.Write(t, dir, map[string]string{".git/index.lock": "", "main.go": goMain})
	s, err := open(t, source.Options{Root: dir})
	if err != nil || s.Dirty {
		t.Errorf("changed %v, %v", s.Changed, err)
	}
}

// TestSelectedRepository: variables with which git selects a repository, which git sets
// for hooks, do not select another one.
func TestSelectedRepository(t *testing.T) {
	dir := testkit.Repository(t, ordinary())
	want := testkit.Git(t, dir, "rev-parse", "HEAD")
	other := testkit.Repository(t, map[string]string{"x": "x"})
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	t.Setenv("GIT_WORK_TREE", other)
	t.Setenv("GIT_INDEX_FILE", filepath.Join(other, ".git", "index"))
	s, err := open(t, source.Options{Root: dir})
	if err != nil || s.Revision != want || s.Dirty {
		t.Errorf("got revision %s, changed %v, %v; want %s", s.Revision, s.Changed, err, want)
	}
}

// TestForeignWorkTree: a repository whose configuration puts its work tree elsewhere says
// nothing of the files here.
func TestForeignWorkTree(t *testing.T) {
	dir := testkit.Repository(t, ordinary())
	testkit.Git(t, dir, "config", "core.worktree", t.TempDir())
	_, err := open(t, source.Options{Root: dir})
	if fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), "has its work tree in") {
		t.Errorf("got %v", err)
	}
}

func TestTags(t *testing.T) {
	dir := testkit.Repository(t, ordinary())
	testkit.Git(t, dir, "tag", "v1.0.0")
	testkit.Git(t, dir, "tag", "-a", "release/v1.0.1", "-m", "x")
	testkit.Git(t, dir, "commit", "-q", "--allow-empty", "-m", "x")
	testkit.Git(t, dir, "tag", "v2.0.0")
	testkit.Git(t, dir, "checkout", "-q", "v1.0.0")
	for _, path := range []string{os.Getenv("PATH"), withoutGit(t)} {
		t.Setenv("PATH", path)
		repo, err := source.OpenRepository(t.Context(), filepath.Join(dir, "internal"))
		if err != nil {
			t.Fatal(err)
		}
		tags, err := repo.Tags(t.Context())
		if want := []string{"release/v1.0.1", "v1.0.0"}; err != nil || !slices.Equal(tags, want) {
			t.Errorf("got %v, %v; want %v", tags, err, want)
		}
	}
}

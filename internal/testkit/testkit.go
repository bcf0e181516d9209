// Package testkit contains helpers that the tests of several packages share: golden
// files, file trees, git repositories and registries. Only tests import it.
//
// The package promises no compatibility to programs other than slipway.
package testkit

import (
	"errors"
	"flag"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

//nolint:gochecknoglobals // flags of test binaries must be registered before TestMain
var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Updating reports whether the test binary runs with -update.
func Updating() bool { return *update }

// Golden compares got with the file at path, which is relative to the test's package.
// With -update it writes the file instead.
func Golden(t testing.TB, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs; if the change is intended, run go test -update (-file +got):\n%s", path, diff)
	}
}

// GoldenSection compares got with the part of the file at path that is between the
// lines "<!-- begin NAME -->" and "<!-- end NAME -->". With -update it replaces that
// part. It is for generated tables in documents that are otherwise written by hand.
func GoldenSection(t testing.TB, path, name, got string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	head, rest, found := strings.Cut(string(text), begin)
	old, tail, ended := strings.Cut(rest, end)
	switch {
	case !found || !ended:
		t.Fatalf("%s has no section %s", path, name)
	case *update:
		if err := os.WriteFile(path, []byte(head+begin+got+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		if diff := cmp.Diff(old, got); diff != "" {
			t.Errorf("section %s of %s differs; if the change is intended, run go test -update (-file +got):\n%s", name, path, diff)
		}
	}
}

// Write writes files below dir. The keys of files are slash-separated paths.
func Write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Tree writes files into a new folder and returns the folder.
func Tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	Write(t, dir, files)
	return dir
}

// CommitTime is the time of every commit that this package creates, in git's internal
// date format: seconds since 1970 and an offset from UTC.
const CommitTime = "1790000000 +0800"

// Git runs git in dir, without the configuration of the user and the system, and returns
// its standard output without the last newline.
func Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE="+CommitTime,
		"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE="+CommitTime)
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = exit.Stderr
		}
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Commit commits all files in dir and returns the hash of the commit. If dir is not a git
// repository, Commit creates one.
func Commit(t testing.TB, dir string) string {
	t.Helper()
	Git(t, dir, "init", "--quiet", "--initial-branch=main")
	Git(t, dir, "add", "--all")
	Git(t, dir, "commit", "--quiet", "--allow-empty", "--message=x")
	return Git(t, dir, "rev-parse", "HEAD")
}

// Repository writes files into a new git repository, commits them and returns the
// folder.
func Repository(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := Tree(t, files)
	Commit(t, dir)
	return dir
}

// Registry starts an empty in-memory registry on 127.0.0.1 and returns its address as
// HOST:PORT. The registry is stopped at the end of the test.
func Registry(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// WantInput checks that err is a [fault.Input] error with the given code and a fix, and
// that its text is one line.
func WantInput(t testing.TB, err error, code string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Input || f.Code != code || f.Fix == "" {
		t.Fatalf("got %v, want the input error %s with a fix", err, code)
	}
	if strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
}

// Slow skips the test if the tests run with -short, as in make test-short. reason is what
// takes the time.
func Slow(t testing.TB, reason string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("SKIPPED with -short: %s", reason)
	}
}

// Package e2e runs all functions of the Dagger module on a real engine, both with
// the dagger program, as users do, and with the Go client dagger.io/dagger.
//
// The suite is skipped if there is no dagger program or if no engine can be
// reached. Images are pulled from their public registries. If these cannot be
// reached, set SLIPWAY_IMAGES to other images, for example
// go=mirror.example.com/golang:1.26.8,lint=..., as in a file .env.
package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// suite is an application in its own repository, together with the Dagger module.
type suite struct {
	module  string // path of this repository
	program string // path of the slipway program
	app     string // path of the application's repository
}

func TestModule(t *testing.T) {
	s := suite{app: t.TempDir()}
	var err error
	if s.module, err = filepath.Abs(".."); err != nil {
		t.Fatal(err)
	}
	needEngine(t, s.module)
	s.program = filepath.Join(t.TempDir(), "slipway")
	s.must(t, s.module, "go", "build", "-o", s.program, "./pipeline/cmd/slipway")
	s.write(t, files)
	s.must(t, s.app, "git", "init", "-q", "-b", "main")
	s.commit(t)

	t.Run("functions", s.functions)
	t.Run("the digest of the program", s.digest)
	t.Run("hermetic", s.hermetic)
	t.Run("a hidden file changes nothing", s.hidden)
	t.Run("what a test plants changes nothing", s.plants)
	t.Run("the container runs", s.runs)
	t.Run("publish", s.publish)
	t.Run("scan and SBOM", s.scan)
	t.Run("licences", s.license)
	t.Run("sign and verify", s.sign)
	t.Run("check passes", func(t *testing.T) { s.must(t, s.app, "dagger", "-m", s.module, "check") })
	t.Run("a failed test keeps its report", s.failed)
	t.Run("a failed lint names the file", s.findings)
	t.Run("a service that does not start", s.services)
	t.Run("a failure is not cached", s.flaky)
	t.Run("deploy", s.deploy)
	t.Run("without slipway.yaml", s.unconfigured)
	t.Run("with the client", s.client)
	t.Run("toolchain, blueprint and dependency", s.uses)
}

// needEngine skips the test if there is no dagger program or no engine.
func needEngine(t *testing.T, dir string) {
	t.Helper()
	if _, err := exec.LookPath("dagger"); err != nil {
		t.Skip("SKIPPED: no dagger program was found in PATH, so the Dagger module was compiled but not run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dagger", "core", "version")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no Dagger engine can be reached, so the Dagger module was compiled but not run: %v\n%s", err, last(string(out)))
	}
}

// last returns the last line of a text.
func last(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// try runs a program in the directory dir.
func (s *suite) try(t *testing.T, dir, program string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "DAGGER_NO_NAG=1", "PLANTED="+planted, "SLIPWAY_CACHE="+filepath.Join(filepath.Dir(s.program), "cache"))
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// must runs a program in the directory dir and fails the test if the program fails.
func (s *suite) must(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	stdout, stderr, err := s.try(t, dir, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", program, strings.Join(args, " "), err, stderr, stdout)
	}
	return stdout
}

// call calls a function of the module in the application's repository.
func (s *suite) call(t *testing.T, args ...string) string {
	t.Helper()
	return s.must(t, s.app, "dagger", append([]string{"-m", s.module, "call"}, args...)...)
}

// write writes files to the application's repository.
func (s *suite) write(t *testing.T, files map[string]string) {
	t.Helper()
	for file, text := range files {
		file = filepath.Join(s.app, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// commit commits the application. The file .env, which selects the images, is
// ignored by git.
func (s *suite) commit(t *testing.T) {
	t.Helper()
	s.settings(t)
	s.must(t, s.app, "git", "add", "-A")
	s.must(t, s.app, "git", "commit", "-q", "--allow-empty", "-m", "state")
}

// settings writes the file .env, with the images and with other settings.
func (s *suite) settings(t *testing.T, lines ...string) {
	t.Helper()
	if v := os.Getenv("SLIPWAY_IMAGES"); v != "" {
		lines = append(lines, "SLIPWAY_IMAGES="+v)
	}
	s.write(t, map[string]string{".env": strings.Join(append(lines, ""), "\n")})
}

// planted is a secret that must not be printed.
const planted = "hunter2-planted-for-this-test"

// files are the files of the application.
var files = map[string]string{
	"go.mod":        "module example.com/orders\n\ngo 1.26.0\n",
	"slipway.yaml":  "app:\n  platforms: [linux/amd64]\nscan:\n  databases: [bundled]\n",
	".gitignore":    ".env\n.slipway\n",
	".dockerignore": "*.md\n!kept.md\nhidden\n",
	"notes.md":      "one\n",
	"kept.md":       "embedded\n",
	"main.go": `package main

import (
	_ "embed"
	"fmt"
	"os"
)

//go:embed kept.md
var text string

func main() { fmt.Println(greeting(text), os.Args[1:]) }

func greeting(s string) string { return "hello from " + s }
`,
	"main_test.go": `package main

import "testing"

func TestGreeting(t *testing.T) {
	if greeting("x") != "hello from x" {
		t.Error("wrong greeting")
	}
}
`,
}

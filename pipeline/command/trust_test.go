package command

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// needsSandbox skips a test where the kernel cannot restrict the app's tests.
func needsSandbox(t *testing.T) {
	t.Helper()
	if missing := sandbox.Missing(); len(missing) > 0 {
		t.Skipf("tests of an app can %s", strings.Join(missing, "; "))
	}
}

// hostileTest is a test file that tries to write to the given paths and to find the text
// TOP- in the environment of every process. It fails with one line for each success.
func hostileTest(paths ...string) string {
	return fmt.Sprintf(`package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostile(t *testing.T) {
	for _, path := range %#v {
		if os.WriteFile(path, []byte("planted"), 0o755) == nil || os.WriteFile(filepath.Join(path, "planted"), nil, 0o755) == nil || os.Remove(path) == nil {
			t.Error("SUCCESS: wrote to " + path)
		}
	}
	for _, kv := range os.Environ() {
		if strings.Contains(kv, "TOP-") {
			t.Error("SUCCESS: own environment has " + kv)
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		data, _ := os.ReadFile(file)
		for _, kv := range bytes.Split(data, []byte{0}) {
			if bytes.Contains(kv, []byte("TOP-")) {
				t.Error("SUCCESS: " + file + " has " + string(kv))
			}
		}
	}
	for _, file := range []string{".git/config", %q + "/.git/config"} {
		if data, _ := os.ReadFile(file); bytes.Contains(data, []byte("TOP-")) {
			t.Error("SUCCESS: " + file + " has " + string(data))
		}
	}
	if os.WriteFile("scratch.txt", nil, 0o600) != nil || os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600) != nil {
		t.Error("cannot write in the work folder")
	}
	t.Error("REACHED THE END")
}
`, paths, paths[0])
}

// TestHostileTests: tests can neither write what a later run reads nor see credentials.
func TestHostileTests(t *testing.T) {
	needsSandbox(t)
	files := helloApp()
	files["slipway.yaml"] = "test: {race: false}\nsign: {key: env://RELEASE_KEY}\ndeploy: {environments: {prod: {secrets: {orders: {password: ORDERS_DATABASE}}}}}\n"
	dir := testkit.Repository(t, files)
	p := newProgram(t, dir)
	p.report(t, "build", "--platforms", "linux/amd64")
	for _, folder := range []string{"golangci-lint", "trivy"} { // which this run has not made
		if err := os.MkdirAll(filepath.Join(p.variable("SLIPWAY_CACHE"), folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var targets []string
	for _, pattern := range []string{"build/*/hello", "build/*/sum.json", "layers/*.json", "blobs/sha256/*", "build", "verdicts", "tools", "golangci-lint", "trivy"} {
		found, err := filepath.Glob(filepath.Join(p.variable("SLIPWAY_CACHE"), pattern))
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, found...)
	}
	if len(targets) < 5 {
		t.Fatalf("the cache has only %v", targets)
	}
	home := p.variable("HOME")
	testkit.Write(t, home, map[string]string{".ssh/authorized_keys": "x"})
	config := exec.CommandContext(t.Context(), "git", "config", "http.https://github.com/.extraheader", "AUTHORIZATION: basic TOP-token")
	config.Dir = dir
	if out, err := config.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	own, err := os.Executable() // the test binary stands in for slipway
	if err != nil {
		t.Fatal(err)
	}
	targets = append([]string{dir}, targets...)
	targets = append(targets, filepath.Join(dir, "main.go"), filepath.Join(dir, ".git", "config"), filepath.Join(dir, ".git", "hooks"), home,
		filepath.Join(home, ".ssh", "authorized_keys"), filepath.Join(home, ".local", "state", "slipway", "cache.key"),
		p.variable("GOMODCACHE"), p.variable("GOCACHE"), filepath.Join(os.TempDir(), "planted"), own)
	testkit.Write(t, dir, map[string]string{"hostile_test.go": hostileTest(targets...)})
	for _, name := range []string{
		"SLIPWAY_KEY_PASSWORD", "SLIPWAY_REGISTRY_PASSWORD", "SLIPWAY_PULL_PASSWORD", "ORDERS_DATABASE", "RELEASE_KEY", "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
		"GITHUB_TOKEN", "CI_JOB_TOKEN", "GO_PASS", "GOOGLE_API_KEY", "TEST_DSN", "LC_SESSION", "KUBECONFIG_TEXT", "REGISTRY_PASSWORD", "GITHUB_ENV", "AWS_SECRET_ACCESS_KEY", "GO_REGISTRY_TOKEN",
	} {
		p.env = append(p.env, name+"=TOP-secret")
	}
	p.env = append(p.env, "GOVC_URL=https://root:TOP-secret@vcenter", "https_proxy=http://u:TOP-secret@proxy", "DATABASE_URL=postgres://u:TOP-secret@db/x")
	e := p.run(t, "test", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "REACHED THE END") || strings.Contains(e.stderr, "SUCCESS") || strings.Contains(e.stderr, "cannot write") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

// TestPoisonedProgram: a kept program that another program has changed is linked again. The
// go command alone would believe an identifier in it.
func TestPoisonedProgram(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, helloApp()))
	honest := p.report(t, "build", "--platforms", "linux/amd64")
	kept, err := filepath.Glob(filepath.Join(p.variable("SLIPWAY_CACHE"), "build", "*", "hello"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept programs %v, %v", kept, err)
	}
	program, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	poisoned := bytes.Replace(program, []byte("hello"), []byte("h4cks"), 1)
	if bytes.Equal(program, poisoned) {
		t.Fatal("the program does not contain the text")
	}
	if err := os.WriteFile(kept[0], poisoned, 0o755); err != nil {
		t.Fatal(err)
	}
	if again := p.report(t, "build", "--platforms", "linux/amd64"); again.Digest != honest.Digest {
		t.Errorf("digest %s, want %s", again.Digest, honest.Digest)
	}
	if again := p.report(t, "build", "--platforms", "linux/amd64"); again.Build.Relinked || again.Digest != honest.Digest {
		t.Errorf("afterwards: relinked %v", again.Build.Relinked)
	}
}

// TestRestoredCache: verdicts of another machine do not count.
func TestRestoredCache(t *testing.T) {
	files := helloApp()
	files["slipway.yaml"] = "test: {race: false}\n"
	p := newProgram(t, testkit.Repository(t, files))
	p.report(t, "test")
	if got := outcome(t, p.report(t, "test"), ship.Test); got != "unchanged" {
		t.Errorf("on this machine: %s", got)
	}
	if err := os.RemoveAll(filepath.Join(p.variable("HOME"), ".local", "state")); err != nil {
		t.Fatal(err)
	}
	if got := outcome(t, p.report(t, "test"), ship.Test); got != "passed" {
		t.Errorf("on another machine: %s", got)
	}
}

// TestPassEnv: a variable that slipway.yaml passes is seen. If tests fail, the message names
// the variables that they did not see.
func TestPassEnv(t *testing.T) {
	files := helloApp()
	files["slipway.yaml"] = "test: {race: false, passEnv: [ORDERS_*]}\n"
	files["env_test.go"] = "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnv(t *testing.T) {\n\tif os.Getenv(\"ORDERS_URL\") == \"\" {\n\t\tt.Error(\"no URL\")\n\t}\n}\n"
	p := newProgram(t, testkit.Repository(t, files))
	p.env = append(p.env, "ORDERS_URL=x", "PAYMENT_URL=y", "RELEASE_TOKEN=z")
	p.report(t, "test")
	testkit.Write(t, p.dir, map[string]string{"slipway.yaml": "test: {race: false}\n"})
	e := p.run(t, "test", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "ORDERS_URL, PAYMENT_URL, RELEASE_TOKEN") || !strings.Contains(e.stderr, "test.passEnv") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

package command

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// poison replaces a text in every file below dir whose path contains part, and returns how
// many files it has changed.
func poison(t *testing.T, dir, part, from, to string) (changed int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.Contains(path, part) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte(from)) {
			return err
		}
		changed++
		if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.WriteFile(path, bytes.ReplaceAll(text, []byte(from), []byte(to)), 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// TestHermetic poisons every cache that a build reads. A hermetic run does not use them, so
// its image is the same as before.
func TestHermetic(t *testing.T) {
	testkit.Slow(t, "compiles the standard library several times")
	p := newProgram(t, testkit.Repository(t, serverApp(t, "v0.44.0")))
	caches := t.TempDir()
	p.env = append(p.env, "GOCACHE="+filepath.Join(caches, "go-build"), "GOMODCACHE="+filepath.Join(caches, "mod"))
	t.Cleanup(func() { _ = makeWritable(caches) })
	registry := testkit.Registry(t) + "/acme/serves"
	publish := func(env ...string) string {
		t.Helper()
		run := *p
		run.env = slices.Concat(env, p.env)
		return run.report(t, "publish", "--platforms", "linux/amd64", "--repository", registry).Digest
	}
	honest := publish()
	if n := poison(t, filepath.Join(caches, "mod"), "golang.org/x/net@v0.44.0/http2/", "http2: ", "EVIL2: "); n == 0 {
		t.Fatal("there is nothing to poison in the cache of modules")
	}
	testkit.Write(t, p.dir, map[string]string{".slipway/x": ""})
	if err := os.RemoveAll(filepath.Join(p.variable("SLIPWAY_CACHE"), "build")); err != nil {
		t.Fatal(err)
	}
	if got := publish(); got == honest {
		t.Fatal("the poisoned cache of modules changes nothing, so this test shows nothing")
	}
	for _, protected := range []string{"GITHUB_ACTIONS=true GITHUB_REF_PROTECTED=true", "GITLAB_CI=true CI_COMMIT_REF_PROTECTED=true"} {
		if got := publish(strings.Fields(protected)...); got != honest {
			t.Errorf("%s: the digest is %s, want %s", protected, got, honest)
		}
	}
	if got := p.report(t, "publish", "--platforms", "linux/amd64", "--repository", registry, "--hermetic").Digest; got != honest {
		t.Errorf("--hermetic: the digest is %s, want %s", got, honest)
	}
	if entries, err := os.ReadDir(filepath.Join(p.variable("SLIPWAY_CACHE"), "runs")); err != nil || len(entries) > 0 {
		t.Errorf("a run has left %v, %v", entries, err)
	}
}

// TestHostileLinter replaces golangci-lint, whose plugins execute code of the app, by a fake
// that tries what a hostile test does.
func TestHostileLinter(t *testing.T) {
	needsSandbox(t)
	files := helloApp()
	files["slipway.yaml"] = "test: {race: false}\nsign: {key: env://RELEASE_KEY}\n"
	dir := testkit.Repository(t, files)
	p := newProgram(t, dir)
	p.report(t, "build", "--platforms", "linux/amd64")
	home := p.variable("HOME")
	testkit.Write(t, home, map[string]string{".docker/config.json": "{}"})
	targets := []string{
		dir, filepath.Join(dir, "main.go"), filepath.Join(dir, ".git", "config"), home, filepath.Join(home, ".docker", "config.json"),
		filepath.Join(home, ".local", "state", "slipway", "cache.key"), p.variable("GOMODCACHE"), p.variable("GOCACHE"), p.variable("SLIPWAY_CACHE"),
		filepath.Join(p.variable("SLIPWAY_CACHE"), "verdicts"), filepath.Join(p.variable("SLIPWAY_CACHE"), "build"), filepath.Join(os.TempDir(), "planted"),
	}
	source := strings.NewReplacer("func TestHostile(t *testing.T) {", "type T struct{}\n\nfunc (T) Error(s string) { os.Stderr.WriteString(\"level=error msg=\" + strings.ReplaceAll(s, \"\\n\", \" \") + \"\\n\") }\n\nfunc (T) TempDir() string { return os.Getenv(\"GOCACHE\") }\n\nfunc main() {\n\tt := T{}\n\tdefer os.Exit(3)\n",
		"\t\"testing\"\n", "", `os.WriteFile("scratch.txt", nil, 0o600) != nil || `, "").Replace(hostileTest(targets...))
	fakeLinter(t, p, source)
	for _, name := range []string{"SLIPWAY_KEY_PASSWORD", "SLIPWAY_REGISTRY_PASSWORD", "RELEASE_KEY", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_TOKEN", "KUBECONFIG_TEXT"} {
		p.env = append(p.env, name+"=TOP-secret")
	}
	e := p.run(t, "lint", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "REACHED THE END") || strings.Contains(e.stderr, "SUCCESS") || strings.Contains(e.stderr, "cannot write") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

package command

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// nowhere is a kubeconfig for a cluster that does not answer, so a deployment that passes
// all other checks ends with deploy.unreachable.
const nowhere = `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "https://127.0.0.1:9"}}], users: [{name: u, user: {token: x}}], contexts: [{name: c, context: {cluster: c, user: u}}]}`

// protectedApp is an app with a protected environment.
type protectedApp struct{ *program }

func newProtectedApp(t *testing.T) protectedApp {
	t.Helper()
	files := helloApp()
	files["chart/Chart.yaml"] = "apiVersion: v2\nname: hello\nversion: 0.1.0\n"
	files["chart/values.yaml"] = "image: {repository: '', digest: ''}\n"
	files["values.yaml"] = "replicas: 1\n"
	files[".gitignore"] = "*.key\n*.pub\n.slipway\nignored*\n"
	files["slipway.yaml"] = `app: {platforms: [linux/amd64]}
scan: {databases: [bundled]}
sign: {key: release.key, attestations: [provenance]}
verify: {keys: [release.pub]}
deploy:
  environments:
    prod: {protected: true, values: [values.yaml]}
    ignored: {protected: true, values: [values.yaml, ignored.yaml]}
    loose: {protected: true, verify: {provenance: {ref: any, clean: false, builder: ['.*'], repository: "https://example.com/acme/hello"}}}
`
	p := protectedApp{newProgram(t, testkit.Repository(t, files))}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(nowhere), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, "KUBECONFIG="+kubeconfig)
	generateKeys(t, p.program, "release", "")
	p.git(t, "tag", "v1.0.0")
	return p
}

func (p protectedApp) git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// shipped publishes, signs and attests what is in the work tree.
func (p protectedApp) shipped(t *testing.T, repository string, env ...string) string {
	t.Helper()
	other := *p.program
	other.env = slices.Concat(env, p.env)
	image := other.report(t, "publish", "--repository", repository).Reference
	other.report(t, "sign", "--image", image)
	return image
}

// deployed returns the code of the error of a deployment.
func (p protectedApp) deployed(t *testing.T, environment, image string) (code, message string) {
	t.Helper()
	e := p.run(t, "deploy", "--env", environment, "--image", image, "--yes", "-o", "json")
	var r struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil || e.code != fault.ExitFailed {
		t.Fatalf("exit %d, %v\n%s%s", e.code, err, e.stdout, e.stderr)
	}
	return r.Error.Code, r.Error.Message
}

// TestProtectedEnvironment deploys images to a protected environment that were built from
// something other than the clean tree of the tagged commit.
func TestProtectedEnvironment(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	p := newProtectedApp(t)
	registry := testkit.Registry(t)
	want := func(environment, image, code, text string) {
		t.Helper()
		if got, message := p.deployed(t, environment, image); got != code || !strings.Contains(message, text) {
			t.Errorf("%s to %s: %s: %s; want %s with %q", image, environment, got, message, code, text)
		}
	}
	honest := p.shipped(t, registry+"/acme/hello")
	want("prod", honest, "deploy.unreachable", "127.0.0.1:9")

	testkit.Write(t, p.dir, map[string]string{"greet/text.txt": "never reviewed"})
	dirty := p.shipped(t, registry+"/acme/dirty")
	p.git(t, "checkout", "greet/text.txt")
	want("prod", dirty, "verify.provenance", "changes without a commit")

	p.git(t, "update-index", "--assume-unchanged", "greet/text.txt")
	testkit.Write(t, p.dir, map[string]string{"greet/text.txt": "git does not look at this"})
	unseen := p.shipped(t, registry+"/acme/unseen")
	p.git(t, "update-index", "--no-assume-unchanged", "greet/text.txt")
	p.git(t, "checkout", "greet/text.txt")
	want("prod", unseen, "verify.provenance", "greet/text.txt")

	testkit.Write(t, p.dir, map[string]string{"ignored.go": "package main\n\nfunc init() { println(\"never reviewed\") }\n"})
	ignored := p.shipped(t, registry+"/acme/ignored")
	if err := os.Remove(filepath.Join(p.dir, "ignored.go")); err != nil {
		t.Fatal(err)
	}
	want("prod", ignored, "verify.provenance", "ignored.go")

	testkit.Write(t, p.dir, map[string]string{"greet/text.txt": "another commit"})
	p.git(t, "commit", "-qam", "another")
	another := p.shipped(t, registry+"/acme/another")
	p.git(t, "checkout", "-q", "v1.0.0")
	want("prod", another, "verify.provenance", "built from commit")

	builder := p.shipped(t, registry+"/acme/builder", "GITHUB_ACTIONS=true", "GITHUB_SERVER_URL=https://github.com", "GITHUB_WORKFLOW_REF=evil/.github/workflows/../x@refs/heads/main")
	want("prod", builder, "verify.provenance", "was built by")

	bare := p.report(t, "publish", "--repository", registry+"/acme/bare").Reference
	p.report(t, "sign", "--image", bare, "--only-signature")
	want("prod", bare, "verify.missing-attestation", "provenance")
	want("loose", honest, "verify.provenance", "without a source")

	testkit.Write(t, p.dir, map[string]string{"ignored.yaml": "image: {repository: evil}\n"})
	want("prod", honest, "deploy.unreachable", "127.0.0.1:9")
	want("ignored", honest, "deploy.protected", "ignored.yaml")
	testkit.Write(t, p.dir, map[string]string{"chart/templates/ignored.yaml": "kind: Pod\n"})
	want("prod", honest, "deploy.protected", "chart/templates/ignored.yaml")
}

// TestLinksOfCharts: a chart cannot show a file of this machine, through a link or with a
// function of templates.
func TestLinksOfCharts(t *testing.T) {
	p := newProtectedApp(t)
	secret := filepath.Join(testkit.Tree(t, map[string]string{"config.json": "TOP-secret"}), "config.json")
	if err := os.Symlink(secret, filepath.Join(p.dir, "chart", "config.json")); err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, p.dir, map[string]string{"chart/templates/leak.yaml": "kind: ConfigMap\ndata: {x: {{ .Files.Get \"config.json\" | quote }}}\n"})
	image := "ghcr.io/acme/hello@sha256:" + strings.Repeat("a", 64)
	e := p.run(t, "plan", "--env", "prod", "--image", image)
	if e.code != fault.ExitInput || !strings.Contains(e.stderr, secret) || strings.Contains(e.stdout+e.stderr, "TOP-secret") {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	testkit.Write(t, p.dir, map[string]string{"slipway.yaml": "scan: {databases: [bundled], charts: [chart]}\n"})
	e = p.run(t, "scan")
	if e.code != fault.ExitInput || !strings.Contains(e.stderr, secret) {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

// TestEmptyPolicy: an empty list of keys or identities names nobody, and is no reason to
// trust somebody else.
func TestEmptyPolicy(t *testing.T) {
	for _, verify := range []string{"{keys: []}", "{identities: []}"} {
		files := helloApp()
		files["slipway.yaml"] = "sign: {key: release.key}\ndeploy: {environments: {prod: {verify: " + verify + "}}}\n"
		p := newProgram(t, testkit.Repository(t, files))
		e := p.run(t, "verify", "--env", "prod", "--image", "ghcr.io/acme/hello@sha256:"+strings.Repeat("a", 64))
		if e.code != fault.ExitInput || strings.Count(e.stderr, "\n") != 1 {
			t.Errorf("%s: exit %d\n%s", verify, e.code, e.stderr)
		}
	}
}

// TestIgnoreFilesAreInputs: a verdict of the scan counts only for the same ignore file,
// whichever of its names it has.
func TestIgnoreFilesAreInputs(t *testing.T) {
	testkit.Slow(t, "scans a vulnerable app several times")
	files := map[string]string{"slipway.yaml": "app: {dir: app, platforms: [linux/amd64]}\nscan: {databases: [bundled]}\n", ".gitignore": ".slipway\n"}
	for name, text := range serverApp(t, "v0.20.0") {
		if name != "slipway.yaml" {
			files["app/"+name] = text // so that the ignore file is not one of the app's files
		}
	}
	dir := testkit.Repository(t, files)
	p := newProgram(t, dir)
	for _, name := range []string{".trivyignore.yml", ".trivyignore.yaml", ".trivyignore"} {
		entries := "vulnerabilities:\n- {id: CVE-2023-45288, statement: for now}\n- {id: CVE-2024-45338, statement: for now}\n"
		if name == ".trivyignore" {
			entries = "CVE-2023-45288\nCVE-2024-45338\n"
		}
		testkit.Write(t, dir, map[string]string{name: entries})
		if e := p.run(t, "scan"); e.code != fault.ExitOK {
			t.Errorf("with %s: exit %d\n%s", name, e.code, e.stderr)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if e := p.run(t, "scan"); e.code != fault.ExitFailed {
			t.Errorf("without %s: exit %d\n%s", name, e.code, e.stdout)
		}
	}
}

// TestHiddenSecrets: the ignore file of the build does not hide a secret that is committed.
func TestHiddenSecrets(t *testing.T) {
	testkit.Slow(t, "scans")
	files := helloApp()
	files["slipway.yaml"] += "scan: {databases: [bundled]}\n"
	files[".dockerignore"] = "deploy\n*.key\n"
	files["deploy/token.txt"] = "token = ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789\n"
	p := newProgram(t, testkit.Repository(t, files))
	if e := p.run(t, "scan"); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "deploy/token.txt") {
		t.Errorf("a secret in an excluded file: exit %d\n%s", e.code, e.stderr)
	}
	testkit.Write(t, p.dir, map[string]string{"deploy/token.txt": "no secret\n"})
	if e := p.run(t, "scan"); e.code != fault.ExitOK {
		t.Errorf("after the secret was removed: exit %d\n%s", e.code, e.stderr)
	}
}

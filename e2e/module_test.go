// Package e2e runs every function of the Dagger module on a real engine: by
// the dagger program, as people do, and by the dagger.io/dagger client.
//
// Without a dagger program or an engine it can reach the suite is skipped and
// says so. Images come from their own registries; where those cannot be
// reached, SLIPWAY_GOIMAGE, SLIPWAY_LINTIMAGE, SLIPWAY_POSTGRESIMAGE and
// SLIPWAY_REDISIMAGE name others, as they do for dagger itself in a .env file.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// suite is an app in a repository of its own, with the module beside it.
type suite struct {
	module  string // this repository
	program string // slipway
	app     string // the app's repository
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
	t.Run("a hidden file changes nothing", s.hidden)
	t.Run("the container runs", s.runs)
	t.Run("publish", s.publish)
	t.Run("scan and SBOM", s.scan)
	t.Run("sign and verify", s.sign)
	t.Run("check passes", func(t *testing.T) { s.must(t, s.app, "dagger", "-m", s.module, "check") })
	t.Run("a failed test keeps its report", s.failed)
	t.Run("a failure is not remembered", s.flaky)
	t.Run("deploy", s.deploy)
	t.Run("by the client", s.client)
	t.Run("toolchain, blueprint and dependency", s.uses)
}

func needEngine(t *testing.T, dir string) {
	t.Helper()
	if _, err := exec.LookPath("dagger"); err != nil {
		t.Skip("SKIPPED: there is no dagger program on PATH, so the Dagger module was compiled and not run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dagger", "core", "version")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no Dagger engine can be reached, so the Dagger module was compiled and not run: %v\n%s", err, last(string(out)))
	}
}

func last(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// try runs a program in dir.
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

func (s *suite) must(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	stdout, stderr, err := s.try(t, dir, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", program, strings.Join(args, " "), err, stderr, stdout)
	}
	return stdout
}

// call calls a function of the module from the app's repository.
func (s *suite) call(t *testing.T, args ...string) string {
	t.Helper()
	return s.must(t, s.app, "dagger", append([]string{"-m", s.module, "call"}, args...)...)
}

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

// commit commits the app; the settings that name images stay outside.
func (s *suite) commit(t *testing.T) {
	t.Helper()
	var env strings.Builder
	for _, name := range []string{"GOIMAGE", "LINTIMAGE", "POSTGRESIMAGE", "REDISIMAGE"} {
		if v := os.Getenv("SLIPWAY_" + name); v != "" {
			env.WriteString("SLIPWAY_" + name + "=" + v + "\n")
		}
	}
	s.write(t, map[string]string{".env": env.String()})
	s.must(t, s.app, "git", "add", "-A")
	s.must(t, s.app, "git", "commit", "-q", "--allow-empty", "-m", "state")
}

const planted = "hunter2-planted-for-this-test"

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

func (s *suite) functions(t *testing.T) {
	out := s.must(t, s.app, "dagger", "-m", s.module, "functions")
	for _, f := range []string{"build", "build-layout", "check", "lint", "publish", "sbom", "scan", "serve", "sign", "test", "verify"} {
		if !regexp.MustCompile(`(?m)^` + f + ` +\S+ .*\.`).MatchString(out) {
			t.Errorf("no function %s with a sentence in\n%s", f, out)
		}
	}
}

var manifest = regexp.MustCompile(`"digest": "(sha256:[0-9a-f]{64})"`)

func (s *suite) layout(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	s.call(t, append(append([]string{"build-layout"}, args...), "export", "--path", dir)...)
	return indexDigest(t, dir)
}

func indexDigest(t *testing.T, layout string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.FindSubmatch(data)
	if m == nil {
		t.Fatalf("no digest in %s", data)
	}
	return string(m[1])
}

func (s *suite) digest(t *testing.T) {
	cases := [][]string{nil, {"--platforms", "linux/amd64,linux/arm64"}, {"--version", "v1.2.3"}}
	if _, err := exec.LookPath("upx"); err != nil {
		t.Log("SKIPPED: upx is not installed, so packed images were not compared")
	} else {
		cases = append(cases, []string{"--upx"})
	}
	for _, args := range cases {
		dir := t.TempDir()
		s.must(t, s.app, s.program, append([]string{"build", "-o", "oci:" + dir}, args...)...)
		if got, want := s.layout(t, args...), indexDigest(t, dir); got != want {
			t.Errorf("%q: Dagger gives %s, the program %s", args, got, want)
		}
	}
	s.write(t, map[string]string{"kept.md": "changed\n"})
	dir := t.TempDir()
	s.must(t, s.app, s.program, "build", "-o", "oci:"+dir)
	if got, want := s.layout(t), indexDigest(t, dir); got != want {
		t.Errorf("changed files: Dagger gives %s, the program %s", got, want)
	}
	s.write(t, files)
}

func (s *suite) hidden(t *testing.T) {
	before := s.call(t, "build-layout", "digest")
	s.write(t, map[string]string{"notes.md": "two\n", "hidden/x": "y"})
	if after := s.call(t, "build-layout", "digest"); after != before {
		t.Errorf("%s became %s", before, after)
	}
	if err := os.RemoveAll(filepath.Join(s.app, "hidden")); err != nil {
		t.Fatal(err)
	}
	s.write(t, files)
}

func (s *suite) runs(t *testing.T) {
	out := s.call(t, "build", "with-exec", "--args", "/server,there", "stdout")
	if out != "hello from embedded\n [there]\n" {
		t.Errorf("printed %q", out)
	}
	if user := s.call(t, "build", "user"); user != "65534:65534" {
		t.Errorf("runs as %q", user)
	}
}

// publish pushes to a registry on this machine that wants a password, which
// must be in nothing that is printed.
func (s *suite) publish(t *testing.T) {
	inner := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "ci" || password != planted {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	args := []string{
		"-m", s.module, "-vvv", "--progress", "plain", "call", "publish", "--address", host + "/orders", "--registry", "tcp://" + host,
		"--tags", "a,b", "--username", "ci", "--password",
	}
	stdout, stderr, err := s.try(t, s.app, "dagger", append(args, "env:PLANTED")...)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, stderr, stdout)
	}
	if strings.Contains(stdout+stderr, planted) {
		t.Error("the password was printed")
	}
	digest := s.layout(t)
	if want := host + "/orders@" + digest; stdout != want {
		t.Errorf("published %q, want %q", stdout, want)
	}
	for _, tag := range []string{"a", "b"} {
		ref, err := name.NewTag(host+"/orders:"+tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := remote.Head(ref, remote.WithAuth(&authn.Basic{Username: "ci", Password: planted})); err != nil || d.Digest.String() != digest {
			t.Errorf("tag %s: %v %v", tag, d, err)
		}
	}
	_, stderr, err = s.try(t, s.app, "dagger", append(args, "cmd:echo wrong")...)
	if err == nil || !strings.Contains(stderr, "push:") {
		t.Errorf("with a wrong password: %v\n%s", err, stderr)
	}
}

// scan passes on the app, fails on a secret in it, and lists what is in the
// image as the program does.
func (s *suite) scan(t *testing.T) {
	if out := s.call(t, "scan", "passed"); out != "true" {
		t.Errorf("passed is %s", out)
	}
	for _, format := range []string{"spdx-json", "cyclonedx"} {
		want := s.must(t, s.app, s.program, "sbom", "--as", format)
		if got := s.call(t, "sbom", "--format", format, "contents"); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s: Dagger gives\n%s\nthe program\n%s", format, got, want)
		}
	}
	defer func() {
		if err := os.Remove(filepath.Join(s.app, "deploy.env")); err != nil {
			t.Error(err)
		}
	}()
	s.write(t, map[string]string{"deploy.env": "AWS_ACCESS_KEY_ID=AKIA" + "QYLPMN5HHHFPZAM2\n"})
	_, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "call", "scan")
	if err == nil || !strings.Contains(stderr, "aws-access-key-id") || !strings.Contains(stderr, "deploy.env") {
		t.Errorf("a secret passed, or was not named: %v\n%s", err, stderr)
	}
	dir := t.TempDir()
	s.call(t, "scan", "report", "export", "--path", dir)
	for _, name := range []string{"scan.json", "scan.sarif", "scan-junit.xml"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Contains(data, []byte("aws-access-key-id")) || bytes.Contains(data, []byte("HHHFPZ")) {
			t.Errorf("%s: %v\n%s", name, err, data)
		}
	}
	if _, _, err := s.try(t, s.app, "dagger", "-m", s.module, "check", "scan"); err == nil {
		t.Error("dagger check passed")
	}
}

// sign signs what was published, with a key and a password that must be in
// nothing that is printed.
func (s *suite) sign(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := server.Listener.Addr().String()
	at := []string{"--registry", "tcp://" + host}
	image := s.call(t, append([]string{"publish", "--address", host + "/orders"}, at...)...)
	keys := t.TempDir()
	t.Setenv("SLIPWAY_KEY_PASSWORD", planted)
	for _, name := range []string{"release", "other"} {
		file := filepath.Join(keys, name)
		s.must(t, keys, s.program, "keys", "generate", "--private", file+".key", "--public", file+".pub")
	}
	verify := func(key string) (string, error) {
		_, stderr, err := s.try(t, s.app, "dagger", append([]string{"-m", s.module, "call", "verify", "--image", image, "--key", filepath.Join(keys, key)}, at...)...)
		return stderr, err
	}
	if stderr, err := verify("release.pub"); err == nil || !strings.Contains(stderr, "is not signed") {
		t.Errorf("unsigned: %v\n%s", err, stderr)
	}
	sign := append([]string{
		"-m", s.module, "-vvv", "--progress", "plain", "call", "sign", "--image", image,
		"--key", "file:" + filepath.Join(keys, "release.key"), "--key-password", "env:PLANTED",
	}, at...)
	for range 2 {
		stdout, stderr, err := s.try(t, s.app, "dagger", sign...)
		if err != nil || stdout != image {
			t.Fatalf("signed %q: %v\n%s", stdout, err, stderr)
		}
		private, err := os.ReadFile(filepath.Join(keys, "release.key"))
		if err != nil {
			t.Fatal(err)
		}
		body := strings.Split(string(private), "\n")[1]
		if strings.Contains(stdout+stderr, planted) || strings.Contains(stdout+stderr, body) {
			t.Error("the key or its password was printed")
		}
	}
	if stderr, err := verify("release.pub"); err != nil {
		t.Errorf("signed: %v\n%s", err, stderr)
	}
	if stderr, err := verify("other.pub"); err == nil || !strings.Contains(stderr, "key") {
		t.Errorf("another key: %v\n%s", err, stderr)
	}
	s.write(t, map[string]string{"kept.md": "changed\n"})
	defer s.write(t, files)
	if _, stderr, err := s.try(t, s.app, "dagger", sign...); err == nil || !strings.Contains(stderr, "is not what this source builds") {
		t.Errorf("another source: %v\n%s", err, stderr)
	}
}

// deployed is the app with what it takes to deploy it: it waits to be told to
// stop, and has a chart.
var deployed = map[string]string{
	"slipway.yaml": files["slipway.yaml"] + `verify: {keys: [release.pub]}
deploy:
  environments:
    test:
      secrets: {orders: {password: PLANTED}}
      timeout: 1m
    guarded: {protected: true, namespace: nowhere}
`,
	"main.go": `package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

//go:embed kept.md
var text string

func main() {
	fmt.Println(greeting(text), os.Args[1:])
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
}

func greeting(s string) string { return "hello from " + s }
`,
	"chart/Chart.yaml":  "apiVersion: v2\nname: orders\nversion: 0.1.0\n",
	"chart/values.yaml": "image: {repository: '', digest: ''}\nsecret: orders\n",
	"chart/templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: orders}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: app
          image: {{ .Values.image.repository }}@{{ .Values.image.digest }}
          env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: {{ .Values.secret }}, key: password}}}]
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`,
}

// deploy ships to a cluster on this machine, deploys a failing version, looks
// and goes back.
func (s *suite) deploy(t *testing.T) {
	kubeconfig, host := os.Getenv("SLIPWAY_TEST_KUBECONFIG"), os.Getenv("SLIPWAY_TEST_REGISTRY")
	if kubeconfig == "" || host == "" {
		t.Skip("SKIPPED: no cluster: run scripts/with-cluster go -C e2e test ./...")
	}
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	server := regexp.MustCompile(`127\.0\.0\.1:[0-9]+`).FindString(string(text))
	t.Setenv("SLIPWAY_KEY_PASSWORD", planted)
	defer func() {
		s.must(t, s.app, "git", "rm", "-q", "-r", "chart", "release.pub")
		s.write(t, files)
		s.commit(t)
	}()
	s.write(t, deployed)
	keys := t.TempDir()
	s.must(t, keys, s.program, "keys", "generate", "--private", filepath.Join(keys, "release.key"), "--public", filepath.Join(s.app, "release.pub"))
	s.commit(t)
	registry := []string{"--registry", "tcp://" + host}
	cluster := []string{"--kubeconfig", "file:" + kubeconfig, "--cluster", "tcp://" + server}
	all := append(append([]string{"--env", "test", "--secrets", "env:PLANTED"}, registry...), cluster...)
	call := func(args ...string) (string, string, error) {
		stdout, stderr, err := s.try(t, s.app, "dagger", append([]string{"-m", s.module, "--progress", "plain", "call"}, args...)...)
		if strings.Contains(stdout+stderr, planted) {
			t.Errorf("%s printed the password", args[0])
		}
		return stdout, stderr, err
	}

	out, stderr, err := call(append([]string{
		"ship", "--address", host + "/orders", "--key", "file:" + filepath.Join(keys, "release.key"), "--key-password", "env:PLANTED",
	}, all...)...)
	if err != nil || !strings.Contains(out, "installed, revision 1") {
		t.Fatalf("ship: %v\n%s\n%s", err, out, stderr)
	}
	out = s.call(t, append([]string{"status", "--env", "test"}, cluster...)...)
	image := regexp.MustCompile(regexp.QuoteMeta(host) + `/orders@sha256:[0-9a-f]{64}`).FindString(out)
	if image == "" || !strings.Contains(out, "deployment/orders  1/1 ready") {
		t.Fatalf("status: %s", out)
	}
	plan := append([]string{"plan", "--env", "test", "--image", image}, cluster...)
	if out, stderr, err = call(plan...); err != nil || !strings.Contains(out, "nothing would change") {
		t.Errorf("plan: %v\n%s\n%s", err, out, stderr)
	}
	// The chart alone changes: the image stays what it is.
	s.write(t, map[string]string{"chart/values.yaml": "image: {repository: '', digest: ''}\nsecret: nowhere\n"})
	if out, stderr, err = call(plan...); err != nil || !regexp.MustCompile(`\+ +name: nowhere`).MatchString(out) {
		t.Errorf("plan: %v\n%s\n%s", err, out, stderr)
	}
	deploy := append([]string{"deploy", "--image", image}, all...)
	if _, stderr, err = call(deploy...); err == nil || !strings.Contains(stderr, `secret "nowhere" not found`) {
		t.Errorf("a failing deployment: %v\n%s", err, stderr)
	}
	s.write(t, deployed)
	if out, stderr, err = call(append(deploy, "text")...); err != nil || !strings.Contains(out, "runs already") {
		t.Errorf("after the rollback: %v\n%s\n%s", err, out, stderr)
	}
	if out, stderr, err = call(append([]string{"rollback", "--env", "test", "--revision", "1"}, cluster...)...); err != nil || !strings.Contains(out, "rolled back, revision 4") {
		t.Errorf("rollback: %v\n%s\n%s", err, out, stderr)
	}
	unsigned := s.call(t, append([]string{"publish", "--address", host + "/unsigned"}, registry...)...)
	if _, stderr, err = call(append([]string{"deploy", "--image", unsigned}, all...)...); err == nil || !strings.Contains(stderr, "is not signed") {
		t.Errorf("an unsigned image: %v\n%s", err, stderr)
	}
	if _, stderr, err = call(append([]string{"deploy", "--env", "guarded", "--image", image}, append(registry, cluster...)...)...); err == nil || !strings.Contains(stderr, "protected") {
		t.Errorf("a protected environment: %v\n%s", err, stderr)
	}
}

func (s *suite) failed(t *testing.T) {
	defer s.write(t, files)
	s.write(t, map[string]string{"main_test.go": strings.Replace(files["main_test.go"], "hello from x", "goodbye", 1)})
	_, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "call", "test")
	if err == nil || !strings.Contains(stderr, "TestGreeting") {
		t.Errorf("a failed test passed, or was not named: %v\n%s", err, stderr)
	}
	dir := t.TempDir()
	s.call(t, "test", "report", "export", "--path", dir)
	data, err := os.ReadFile(filepath.Join(dir, "junit.xml"))
	if err != nil || !bytes.Contains(data, []byte("<failure")) {
		t.Errorf("junit.xml: %v\n%s", err, data)
	}
	if out := s.call(t, "test", "passed"); out != "false" {
		t.Errorf("passed is %s", out)
	}
	for _, args := range [][]string{{"check"}, {"call", "check"}, {"-c", "test | report | export out; test | verdict"}} {
		if _, _, err := s.try(t, s.app, "dagger", append([]string{"-m", s.module}, args...)...); err == nil {
			t.Errorf("dagger %s passed", strings.Join(args, " "))
		}
	}
	if _, err := os.Stat(filepath.Join(s.app, "out", "junit.xml")); err != nil {
		t.Errorf("no report beside the verdict: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.app, "out")); err != nil {
		t.Fatal(err)
	}
}

// flaky is a test that fails the first time it runs on an engine.
func (s *suite) flaky(t *testing.T) {
	defer func() {
		if err := os.Remove(filepath.Join(s.app, "flaky_test.go")); err != nil {
			t.Error(err)
		}
	}()
	marker, err := json.Marshal("slipway-e2e-" + time.Now().Format(time.RFC3339Nano))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, map[string]string{"flaky_test.go": `package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFlaky(t *testing.T) {
	marker := filepath.Join(os.Getenv("GOCACHE"), ` + string(marker) + `)
	if os.Remove(marker) == nil {
		return
	}
	if err := os.WriteFile(marker, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Fatal("first time")
}
`})
	if out := s.call(t, "test", "passed"); out != "false" {
		t.Errorf("the first run passed: %s", out)
	}
	if out := s.call(t, "test", "passed"); out != "true" {
		t.Errorf("the second run did not pass: %s", out)
	}
}

func (s *suite) client(t *testing.T) {
	var log bytes.Buffer
	t.Chdir(s.app)
	cli, err := exec.LookPath("dagger")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("_EXPERIMENTAL_DAGGER_CLI_BIN", cli) // else the client downloads one
	c, err := dagger.Connect(t.Context(), dagger.WithLogOutput(&log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	defer c.Close()
	if err := c.ModuleSource(s.module).AsModule().Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	var data struct {
		Slipway struct {
			BuildLayout struct{ File struct{ Contents string } }
			Check       struct{ Passed bool }
		}
	}
	images := ""
	if v := os.Getenv("SLIPWAY_GOIMAGE"); v != "" {
		images = `(goImage: "` + v + `", lintImage: "` + os.Getenv("SLIPWAY_LINTIMAGE") + `")`
	}
	err = c.Do(t.Context(), &dagger.Request{Query: `{slipway` + images + `{buildLayout{file(path:"index.json"){contents}} check{passed}}}`}, &dagger.Response{Data: &data})
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.FindStringSubmatch(data.Slipway.BuildLayout.File.Contents)
	if want := s.layout(t); m == nil || m[1] != want {
		t.Errorf("the client's digest is %v, dagger's %s", m, want)
	}
	if !data.Slipway.Check.Passed {
		t.Error("check did not pass")
	}
}

// uses has the module in the app's repository, as a submodule would.
func (s *suite) uses(t *testing.T) {
	want := s.layout(t)
	const inside = "third_party/slipway"
	for file := range strings.Lines(s.must(t, s.module, "git", "ls-files", "--cached", "--others", "--exclude-standard", "dagger.json", ".dagger", "go.mod", "go.sum", "pipeline")) {
		file = strings.TrimSpace(file)
		data, err := os.ReadFile(filepath.Join(s.module, file))
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, map[string]string{filepath.Join(inside, file): string(data)})
	}
	const use = `{"name": "slipway", "source": "` + inside + `"}`
	for _, tc := range []struct{ name, config, function string }{
		{"toolchain", `{"name": "orders", "engineVersion": "v0.21.8", "toolchains": [` + use + `]}`, "slipway build-layout"},
		{"blueprint", `{"name": "orders", "engineVersion": "v0.21.8", "blueprint": ` + use + `}`, "build-layout"},
		{"dependency", `{"name": "orders", "engineVersion": "v0.21.8", "sdk": {"source": "dang"}, "source": "ci", "dependencies": [` + use + `]}`, "image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.write(t, map[string]string{
				"dagger.json": tc.config,
				"ci/main.dang": "type Orders {\n  pub image(ws: Workspace!): Directory! {\n    slipway(" + dangImages() +
					"source: ws.directory(\"/\", exclude: [\"third_party\", \"ci\", \"dagger.json\"])).buildLayout\n  }\n}\n",
				".dockerignore": files[".dockerignore"] + "third_party\nci\ndagger.json\n",
			})
			dir := t.TempDir()
			s.must(t, s.app, "dagger", append(append([]string{"call"}, strings.Fields(tc.function)...), "export", "--path", dir)...)
			got := indexDigest(t, dir)
			if own := s.layout(t); got != own {
				t.Errorf("as %s the digest is %s, by -m %s, before %s", tc.name, got, own, want)
			}
		})
	}
}

// dangImages are constructor arguments: a dependency has no user defaults.
func dangImages() string {
	if v := os.Getenv("SLIPWAY_GOIMAGE"); v != "" {
		return `goImage: "` + v + `", `
	}
	return ""
}

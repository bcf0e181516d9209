package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// deployed are files with which the application can be deployed: it has a chart,
// and its program runs until SIGTERM.
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

// deploy ships the application to a cluster on this machine, shows its status and
// plans, deploys a version that fails, and rolls back.
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
	// Only the chart changes, not the image.
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

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// cluster is a cluster and a registry on this machine, to which the application is
// deployed.
type cluster struct {
	*suite
	kubeconfig string   // path of the file
	server     string   // address of the API server
	registry   string   // address of the registry
	key        string   // path of the private key
	connected  []string // the functions that reach both
	image      string   // what is deployed
}

// deploy ships the application to a cluster on this machine, shows its status and
// plans, deploys a version that fails, and rolls back.
func (s *suite) deploy(t *testing.T) {
	c := cluster{suite: s, kubeconfig: os.Getenv("SLIPWAY_TEST_KUBECONFIG"), registry: os.Getenv("SLIPWAY_TEST_REGISTRY")}
	if c.kubeconfig == "" || c.registry == "" {
		t.Skip("SKIPPED: no cluster: run scripts/with-cluster go -C e2e test ./...")
	}
	text, err := os.ReadFile(c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c.server = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`).FindString(string(text))
	c.connected = []string{
		"with-registry", "--address", c.registry + "/orders", "--service", "tcp://" + c.registry,
		"with-cluster", "--kubeconfig", "file:" + c.kubeconfig, "--service", "tcp://" + c.server, "--secrets", "env:PLANTED",
	}
	t.Setenv("SLIPWAY_KEY_PASSWORD", planted)
	s.write(t, deployed)
	defer func() {
		s.must(t, s.app, "git", "rm", "-q", "-r", "chart", "release.pub")
		s.write(t, files)
		s.commit(t)
	}()
	keys := t.TempDir()
	c.key = filepath.Join(keys, "release.key")
	s.must(t, keys, s.program, "keys", "generate", "--private", c.key, "--public", filepath.Join(s.app, "release.pub"))
	s.commit(t)

	if !t.Run("ship", c.ship) {
		return
	}
	t.Run("a failing deployment", c.failing)
	t.Run("roll back", c.rollBack)
	t.Run("refusals", c.refusals)
	t.Run("settings of .env alone", c.settingsAlone)
}

// try calls a function and checks that the password is not printed.
func (c *cluster) try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	stdout, stderr, err = c.suite.try(t, c.app, "dagger", append([]string{"-m", c.module, "--progress", "plain", "call"}, args...)...)
	if strings.Contains(stdout+stderr, planted) {
		t.Errorf("%q printed the password", args)
	}
	return stdout, stderr, err
}

// want calls a function at the registry and the cluster, whose output must match a
// pattern.
func (c *cluster) want(t *testing.T, pattern string, args ...string) string {
	t.Helper()
	stdout, stderr, err := c.try(t, slices.Concat(c.connected, args)...)
	if err != nil || !regexp.MustCompile(pattern).MatchString(stdout) {
		t.Fatalf("%q: %v\n%s\n%s", args, err, stdout, stderr)
	}
	return stdout
}

// refuse calls a function at the registry and the cluster, which must fail with a
// reason.
func (c *cluster) refuse(t *testing.T, reason string, args ...string) {
	t.Helper()
	if _, stderr, err := c.try(t, slices.Concat(c.connected, args)...); err == nil || !strings.Contains(stderr, reason) {
		t.Errorf("%q: %v\n%s", args, err, stderr)
	}
}

func (c *cluster) ship(t *testing.T) {
	c.want(t, "installed, revision 1", "with-signer", "--key", "file:"+c.key, "--password", "env:PLANTED", "ship", "--env", "test")
	out := c.want(t, "deployment/orders  1/1 ready", "status", "--env", "test")
	c.image = regexp.MustCompile(regexp.QuoteMeta(c.registry) + `/orders@sha256:[0-9a-f]{64}`).FindString(out)
	if c.image == "" {
		t.Fatalf("no image in %s", out)
	}
	c.want(t, "nothing would change", "plan", "--env", "test", "--image", c.image)
}

// failing deploys a chart that asks for a Secret that does not exist. The image
// stays the same.
func (c *cluster) failing(t *testing.T) {
	c.write(t, map[string]string{"chart/values.yaml": "image: {repository: '', digest: ''}\nsecret: nowhere\n"})
	defer c.write(t, deployed)
	c.want(t, `\+ +name: nowhere`, "plan", "--env", "test", "--image", c.image)
	c.refuse(t, `secret "nowhere" not found`, "deploy", "--env", "test", "--image", c.image)
}

func (c *cluster) rollBack(t *testing.T) {
	c.want(t, "is already running", "deploy", "--env", "test", "--image", c.image, "text")
	c.want(t, "rolled back, revision 4", "rollback", "--env", "test", "--revision", "1")
	c.want(t, `(?m)^\* +4 `, "history", "--env", "test")
	c.refuse(t, "dagger call history", "rollback", "--env", "test", "--revision", "99")
}

func (c *cluster) refusals(t *testing.T) {
	unsigned := c.call(t, "with-registry", "--address", c.registry+"/unsigned", "--service", "tcp://"+c.registry, "publish")
	c.refuse(t, "is not signed", "deploy", "--env", "test", "--image", unsigned)
	c.refuse(t, "protected", "deploy", "--env", "guarded", "--image", c.image)
}

// settingsAlone deploys with nothing on the command line but the environment: the
// rest is in slipway.yaml and .env.
func (c *cluster) settingsAlone(t *testing.T) {
	key, err := os.ReadFile(c.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SIGNING_KEY", string(key))
	c.write(t, map[string]string{
		"slipway.yaml": deployed["slipway.yaml"] + "image: {repository: " + c.registry + "/orders}\nsign: {key: 'env://SIGNING_KEY'}\n",
		"kept.md":      "changed\n",
	})
	c.commit(t)
	settings := []string{
		"SLIPWAY_KUBECONFIG=file://" + c.kubeconfig, "SLIPWAY_SERVICES=tcp://" + c.registry + ",tcp://" + c.server,
		"SLIPWAY_SECRETS=env:SIGNING_KEY,env:SLIPWAY_KEY_PASSWORD,env:PLANTED",
	}
	c.settings(t, settings...)
	if _, stderr, err := c.try(t, "deploy", "--env", "test"); err == nil || !strings.Contains(stderr, "the same value") {
		t.Errorf("with two secrets of the same value: %v\n%s", err, stderr)
	}
	settings[2] += "?cacheKey=PLANTED"
	c.settings(t, settings...)
	if stdout, stderr, err := c.try(t, "deploy", "--env", "test"); err != nil {
		t.Errorf("deploy: %v\n%s\n%s", err, stdout, stderr)
	}
	stdout, stderr, err := c.try(t, "status", "--env", "test")
	if err != nil || !strings.Contains(stdout, "deployed, revision 5") || !strings.Contains(stdout, "deployment/orders  1/1 ready") {
		t.Errorf("status: %v\n%s\n%s", err, stdout, stderr)
	}
}

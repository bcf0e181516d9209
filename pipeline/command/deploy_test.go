package command

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// waitingApp returns the files of an app with a chart. The app runs until it gets
// SIGTERM.
func waitingApp(namespace string) map[string]string {
	files := helloApp()
	maps.Copy(files, map[string]string{
		"main.go": `package main

import (
	"os"
	"os/signal"
	"syscall"

	"example.com/acme/hello/greet"
)

func main() {
	os.Stdout.WriteString(greet.Text)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
}
`,
		"chart/Chart.yaml":  "apiVersion: v2\nname: hello\nversion: 0.1.0\n",
		"chart/values.yaml": "image: {repository: '', digest: ''}\nbroken: false\n",
		"chart/templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: app
          image: {{ .Values.image.repository }}@{{ .Values.image.digest }}
          env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: {{ if .Values.broken }}nowhere{{ else }}hello{{ end }}, key: password}}}]
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`,
		"broken.yaml": "broken: true\n",
		".gitignore":  "*.key\n*.pub\n.slipway\n",
		"slipway.yaml": `app: {platforms: [linux/amd64]}
scan: {databases: [bundled]}
sign: {attestations: [provenance]}
verify: {keys: [release.pub], attestations: []}
deploy:
  environments:
    test:
      namespace: ` + namespace + `
      secrets: {hello: {password: HELLO_PASSWORD}}
      timeout: 1m
      url: https://hello.example.com
    broken: {namespace: ` + namespace + `, values: [broken.yaml], secrets: {hello: {password: HELLO_PASSWORD}}}
    guarded: {namespace: ` + namespace + `, protected: true}
    open: {namespace: ` + namespace + `}
`,
	})
	return files
}

// TestDeployFromTheSource publishes, signs, plans, deploys and rolls back like a user, and
// checks that images without a trusted signature are not deployed.
func TestDeployFromTheSource(t *testing.T) {
	c := testcluster.Need(t)
	namespace := c.Name(t)
	d := deployments{program: newProgram(t, testkit.Repository(t, waitingApp(namespace))), cluster: c, namespace: namespace}
	d.env = append(d.env, "KUBECONFIG="+c.Kubeconfig, "HELLO_PASSWORD="+helloPassword)
	generateKeys(t, d.program, "other", "")
	generateKeys(t, d.program, "release", "")
	d.rejections(t)
	image := d.publish(t, "-three")
	d.sign(t, image, "release")
	d.plan(t, image, exitChanges, "create deployment/hello")
	d.wantNotDeployed(t, "plan")
	d.lifecycle(t, image)
}

const helloPassword = "planted-hello-password"

// deployments runs the program for one app that is deployed to the environment test.
type deployments struct {
	*program
	cluster   *testcluster.Cluster
	namespace string
}

func (d deployments) publish(t *testing.T, suffix string, more ...string) string {
	t.Helper()
	return d.report(t, append([]string{"publish", "--repository", d.cluster.Registry + "/" + d.namespace + suffix}, more...)...).Reference
}

func (d deployments) sign(t *testing.T, image, key string) {
	t.Helper()
	d.report(t, "sign", "--image", image, "--only-signature", "--key", key+".key")
}

// wantNotDeployed checks that nothing has been deployed.
func (d deployments) wantNotDeployed(t *testing.T, when string) {
	t.Helper()
	if _, err := d.cluster.Client.CoreV1().Namespaces().Get(t.Context(), d.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%s: the namespace exists, or it cannot be read: %v", when, err)
	}
}

// wantRejected checks that deploy rejects an image with an error code.
func (d deployments) wantRejected(t *testing.T, code, image string) {
	t.Helper()
	e := d.run(t, "deploy", "--env", "test", "--image", image, "-o", "json")
	var r struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
		t.Fatal(err, e.stdout, e.stderr)
	}
	if e.code == fault.ExitOK || r.Error.Code != code {
		t.Errorf("%s: exit %d, %s: %s; want %s", image, e.code, r.Error.Code, r.Error.Message, code)
	}
	d.wantNotDeployed(t, code)
}

// rejections checks that images without a valid signature are rejected.
func (d deployments) rejections(t *testing.T) {
	image := d.publish(t, "")
	d.wantRejected(t, "verify.unsigned", image)
	tag, _, _ := strings.Cut(image, "@")
	d.wantRejected(t, "reference.no-digest", tag+":"+d.report(t, "publish", "--repository", tag).Push.Tags[0])
	d.sign(t, image, "other")
	d.wantRejected(t, "verify.wrong-key", image)
	another := d.publish(t, "-two", "--version", "v2.0.0")
	d.sign(t, another, "release")
	copySignature(t, another, image)
	d.wantRejected(t, "verify.other-image", image)
}

// wantOutput runs a command and checks its exit code, that its output contains every text,
// and that its output does not contain the password.
func (d deployments) wantOutput(t *testing.T, code int, args string, texts ...string) {
	t.Helper()
	e := d.run(t, strings.Fields(args)...)
	for _, text := range texts {
		if e.code != code || !strings.Contains(e.stdout+e.stderr, text) {
			t.Fatalf("%s: exit %d, want %d and %q\n%s%s", args, e.code, code, text, e.stdout, e.stderr)
		}
	}
	if strings.Contains(e.stdout+e.stderr, helloPassword) {
		t.Errorf("%s: the output contains the password", args)
	}
}

func (d deployments) plan(t *testing.T, image string, code int, text string) {
	t.Helper()
	d.wantOutput(t, code, "plan --env test --image "+image, text)
}

// lifecycle deploys an image, deploys it with values that do not work, and rolls back.
func (d deployments) lifecycle(t *testing.T, image string) {
	d.wantOutput(t, fault.ExitOK, "deploy --env test --image "+image, "installed, revision 1", "https://hello.example.com")
	d.plan(t, image, fault.ExitOK, "nothing would change")
	if r := d.report(t, "deploy", "--env", "test", "--image", image); r.Deploy.Clusters[0].Action != deploy.Untouched {
		t.Errorf("deployed again: %+v", r.Deploy)
	}
	d.wantOutput(t, fault.ExitFailed, "deploy --env broken --progress plain --image "+image, `secret "nowhere" not found`, "rolled back, revision 3")
	if text, err := os.ReadFile(filepath.Join(d.dir, ".slipway", "reports", "deploy.xml")); err != nil || !strings.Contains(string(text), "<failure") {
		t.Errorf("JUnit: %v\n%s", err, text)
	}
	d.wantOutput(t, fault.ExitOK, "status --env test", "deployed, revision 3", "1/1 ready")
	d.wantOutput(t, fault.ExitOK, "rollback 1 --env test", "rolled back, revision 4")
	d.wantOutput(t, fault.ExitInput, "rollback --env test", "no good revision before")
	d.wantOutput(t, fault.ExitOK, "history --env test", "!    2 ", "*    4 ")
}

// copySignature copies the signature of one image to another one.
func copySignature(t *testing.T, from, to string) {
	t.Helper()
	at := func(image string) name.Tag {
		ref, err := name.NewDigest(image, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		return ref.Context().Tag(strings.Replace(ref.DigestStr(), ":", "-", 1) + ".sig")
	}
	signature, err := remote.Image(at(from))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(at(to), signature); err != nil {
		t.Fatal(err)
	}
}

// TestDeployWithoutACluster checks the errors that are reported before the program
// connects to a cluster.
func TestDeployWithoutACluster(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, waitingApp("nowhere")))
	p.env = append(p.env, "KUBECONFIG="+filepath.Join(t.TempDir(), "missing"))
	generateKeys(t, p, "release", "")
	image := p.report(t, "publish", "--repository", testkit.Registry(t)+"/acme/hello").Reference
	p.report(t, "sign", "--image", image, "--key", "release.key")
	for _, tt := range []struct {
		name string
		code int
		want string
		args []string
	}{
		{"no environment", fault.ExitInput, "--env is missing (choose one of broken, guarded, open, test)", []string{"status"}},
		{"unknown environment", fault.ExitInput, `there is no environment "prod"`, []string{"status", "--env", "prod"}},
		{"no environment for deploy", fault.ExitInput, "--env is missing", []string{"deploy", "--image", image}},
		{"no secret", fault.ExitInput, "HELLO_PASSWORD is not set", []string{"deploy", "--env", "test", "--image", image}},
		{"unsigned image", fault.ExitInput, "an image can only be deployed if it is signed", []string{"ship", "--env", "open", "--unsigned"}},
		{"no kubeconfig", fault.ExitInput, "there is no kubeconfig", []string{"status", "--env", "test"}},
		{"bad revision", fault.ExitInput, `"latest" is not a revision`, []string{"rollback", "latest", "--env", "test"}},
		{"protected, without a tag", fault.ExitFailed, "this commit has no tag", []string{"deploy", "--env", "guarded", "--image", image, "--yes"}},
		{"protected, with the tag of another commit", fault.ExitFailed, "does not have the tag v1.0.0", []string{"deploy", "--env", "guarded", "--image", image, "--yes", "--git-tag", "v1.0.0"}},
		{"protected, rollback without --yes", fault.ExitFailed, "confirm with --yes", []string{"rollback", "--env", "guarded"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := p.run(t, tt.args...)
			if e.code != tt.code || !strings.Contains(e.stderr, tt.want) || strings.Contains(e.stderr, "panic") {
				t.Errorf("exit %d, want %d with %q\n%s", e.code, tt.code, tt.want, e.stderr)
			}
		})
	}
	tag := exec.CommandContext(t.Context(), "git", "tag", "v1.2.3")
	tag.Dir = p.dir
	if out, err := tag.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if e := p.run(t, "deploy", "--env", "guarded", "--image", image); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "confirm with --yes") {
		t.Errorf("without --yes: exit %d\n%s", e.code, e.stderr)
	}
	if e := p.run(t, "deploy", "--env", "guarded", "--image", image, "--yes"); !strings.Contains(e.stderr, "there is no kubeconfig") {
		t.Errorf("with a tag and --yes: exit %d\n%s", e.code, e.stderr)
	}
	testkit.Write(t, p.dir, map[string]string{"chart/values.yaml": "image: {}\n"}) // not a file of the app, but part of the deployment
	if e := p.run(t, "deploy", "--env", "guarded", "--image", image, "--yes"); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "files were changed since the commit: chart/values.yaml") {
		t.Errorf("changed files: exit %d\n%s", e.code, e.stderr)
	}
	core := *p
	core.env = append(core.env, "SLIPWAY_TEST_AS_PROGRAM=core")
	if e := core.run(t, "status", "--env", "test"); e.code != fault.ExitInput || !strings.Contains(e.stderr, "built without support for deployments") {
		t.Errorf("slipway-core: exit %d\n%s", e.code, e.stderr)
	}
}

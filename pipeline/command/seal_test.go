package command

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bitnami-labs/sealed-secrets/pkg/crypto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// sealingApp returns a program for a repository whose environment test has sealed Secrets, and
// the certificate of a controller in sealing.pem.
func sealingApp(t *testing.T, environment string) *program {
	t.Helper()
	_, cert, err := crypto.GeneratePrivateKeyAndCert(2048, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	files := helloApp()
	files["sealing.pem"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	files["slipway.yaml"] = "deploy:\n  environments:\n    test:\n" + environment
	return newProgram(t, testkit.Repository(t, files))
}

const sealedEnvironment = "      namespace: shop\n      sealed: deploy/sealed\n      secrets: {hello: {password: HELLO_PASSWORD, token: HELLO_TOKEN}}\n"

func TestSeal(t *testing.T) {
	p := sealingApp(t, sealedEnvironment)
	p.env = append(p.env, "HELLO_PASSWORD="+helloPassword, "HELLO_TOKEN=planted-token")
	seal := func(code int, want string, args ...string) {
		t.Helper()
		e := p.run(t, append([]string{"seal", "--env", "test", "--cert", "sealing.pem"}, args...)...)
		if e.code != code || !strings.Contains(e.stdout+e.stderr, want) {
			t.Fatalf("%v: exit %d, want %d and %q\n%s%s", args, e.code, code, want, e.stdout, e.stderr)
		}
		wantNoSecret(t, helloPassword, e.stdout+e.stderr, p.dir)
	}
	file := filepath.Join(p.dir, "deploy", "sealed", "hello.yaml")
	read := func() (password, token string) {
		t.Helper()
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "password: "); ok {
				password = value
			}
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "token: "); ok {
				token = value
			}
		}
		return password, token
	}
	seal(fault.ExitOK, "wrote deploy/sealed/hello.yaml (password, token)")
	password, token := read()
	if password == "" || token == "" {
		t.Fatalf("password %q, token %q", password, token)
	}
	// Only the key that is named is sealed again.
	seal(fault.ExitOK, "(token)", "hello/token")
	if again, other := read(); again != password || other == token || other == "" {
		t.Error("hello/token did not seal only the token")
	}
	seal(fault.ExitOK, "(token)", "hello/token", "hello/token")
	if again, other := read(); again != password || other == "" {
		t.Error("naming a key twice removed the other key")
	}
	seal(fault.ExitInput, "hello/nothing is not in deploy.environments.test.secrets", "hello/nothing")
	p.env = append(p.env[:len(p.env)-1:len(p.env)-1], "OTHER=x") // without HELLO_TOKEN
	seal(fault.ExitInput, "HELLO_TOKEN is not set, which is the value of token in Secret hello")
	if again, _ := read(); again != password {
		t.Error("the file was changed although a value is missing")
	}
}

// TestSealOverwritesOnlySealedSecrets covers files that are something else.
func TestSealOverwritesOnlySealedSecrets(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"values of a chart": {"replicas: 3\n", "it is not a sealed Secret"},
		"plain Secret":      {"kind: Secret\nstringData: {password: hunter2}\n", "is a Secret in plain text"},
		"not YAML":          {"a: [", "it is not the YAML of a sealed Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			p := sealingApp(t, sealedEnvironment)
			p.env = append(p.env, "HELLO_PASSWORD=x", "HELLO_TOKEN=y")
			testkit.Write(t, p.dir, map[string]string{"deploy/sealed/hello.yaml": tt.text})
			e := p.run(t, "seal", "--env", "test", "--cert", "sealing.pem")
			if e.code != fault.ExitInput || !strings.Contains(e.stderr, tt.want) || strings.Contains(e.stderr, "hunter2") {
				t.Errorf("exit %d, want %q\n%s", e.code, tt.want, e.stderr)
			}
			if raw, err := os.ReadFile(filepath.Join(p.dir, "deploy", "sealed", "hello.yaml")); err != nil || string(raw) != tt.text {
				t.Errorf("the file was changed: %v\n%s", err, raw)
			}
		})
	}
	t.Run("link out of the repository", func(t *testing.T) {
		p := sealingApp(t, sealedEnvironment)
		p.env = append(p.env, "HELLO_PASSWORD=x", "HELLO_TOKEN=y")
		outside := t.TempDir()
		if err := os.Symlink(outside, filepath.Join(p.dir, "deploy")); err != nil {
			t.Fatal(err)
		}
		if e := p.run(t, "seal", "--env", "test", "--cert", "sealing.pem"); e.code == fault.ExitOK {
			t.Errorf("exit %d\n%s", e.code, e.stdout)
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Errorf("%v was written outside the repository: %v", entries, err)
		}
	})
}

func TestSealBadInput(t *testing.T) {
	for name, tt := range map[string]struct {
		environment string
		args        []string
		want        string
	}{
		"name of a path": {"      sealed: deploy\n      secrets: {../../evil: {a: A}}\n", nil, `"../../evil" is not the name of a Secret`},
		"name of a key":  {"      sealed: deploy\n      secrets: {hello: {../k: A}}\n", nil, `"../k" is not the name of a key`},
		"no keys":        {"      sealed: deploy\n      secrets: {hello: {}}\n", nil, "Secret hello has no keys"},
		"outside":        {"      sealed: ../deploy\n      secrets: {hello: {a: A}}\n", nil, "is outside the folder of slipway.yaml"},
		"no folder":      {"      secrets: {hello: {password: HELLO_PASSWORD}}\n", nil, "deploy.environments.test.sealed is not set"},
		"no Secrets":     {"      sealed: x\n", nil, "deploy.environments.test.secrets is empty"},
		"no certificate": {sealedEnvironment, []string{"--cert", "nowhere.pem"}, "--cert: open nowhere.pem"},
		"no PEM":         {sealedEnvironment, []string{"--cert", "go.mod"}, "is not a certificate in PEM"},
		"controller":     {sealedEnvironment, []string{"--cert", "", "--controller", "x"}, `--controller "x" is not NAMESPACE/NAME`},
	} {
		t.Run(name, func(t *testing.T) {
			p := sealingApp(t, tt.environment)
			e := p.run(t, append([]string{"seal", "--env", "test", "--cert", "sealing.pem"}, tt.args...)...)
			if e.code != fault.ExitInput || !strings.Contains(e.stderr, tt.want) || strings.Count(e.stderr, "\n") != 1 {
				t.Errorf("exit %d, want %q\n%s", e.code, tt.want, e.stderr)
			}
		})
	}
}

// TestDeploySealedSecrets seals a value for the real controller, commits it, and deploys without
// it. The value arrives in the pod, and is in no commit, no output, no image and no release.
func TestDeploySealedSecrets(t *testing.T) {
	t.Parallel()
	c := testcluster.Need(t)
	namespace := c.Name(t)
	files := waitingApp(namespace)
	files["slipway.yaml"] = strings.Replace(files["slipway.yaml"], "    test:\n", "    test:\n      sealed: deploy/sealed\n", 1)
	d := deployments{program: newProgram(t, testkit.Repository(t, files)), cluster: c, namespace: namespace}
	d.env = append(d.env, "KUBECONFIG="+c.Kubeconfig)
	generateKeys(t, d.program, "release", "")
	d.wantOutput(t, fault.ExitInput, "plan --env test --image "+c.Registry+"/x@sha256:"+strings.Repeat("0", 64), "Secret hello is not sealed")

	controller := c.InstallSealedSecrets(t)
	d.env = append(d.env, "HELLO_PASSWORD="+helloPassword)
	d.wantOutput(t, fault.ExitOK, "seal --env test --controller "+controller+"/sealed-secrets-controller", "wrote deploy/sealed/hello.yaml (password)")
	d.env = d.env[:len(d.env)-1]
	testkit.Commit(t, d.dir)
	image := d.publish(t, "", "-o", "oci:"+filepath.Join(d.dir, "image"))
	d.sign(t, image, "release")
	d.plan(t, image, exitChanges, "create sealedsecret/hello")
	d.wantOutput(t, fault.ExitOK, "deploy --env test --progress plain --image "+image, "installed, revision 1")
	d.plan(t, image, fault.ExitOK, "nothing would change")

	secrets, err := c.Client.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets.Items {
		if s.Name == "hello" {
			if string(s.Data["password"]) != helloPassword {
				t.Errorf("Secret hello has %d keys, but not the password", len(s.Data))
			}
			continue
		}
		if text := inflate(t, s.Data["release"]); strings.Contains(text, helloPassword) {
			t.Errorf("Secret %s of Helm contains the password", s.Name)
		}
	}
	log := testkit.Git(t, d.dir, "log", "--all", "--patch", "--text")
	wantNoSecret(t, helloPassword, log, d.dir)
	if !strings.Contains(log, "encryptedData") {
		t.Error("the sealed Secret is not committed")
	}
}

// inflate returns the text of a release of Helm.
func inflate(t *testing.T, release []byte) string {
	t.Helper()
	if len(release) == 0 {
		return ""
	}
	raw, err := base64.StdEncoding.DecodeString(string(release))
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

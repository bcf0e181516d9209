package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// generateKeys generates a key pair in the app's folder and sets the environment variable
// with its password.
func generateKeys(t *testing.T, p *program, name, password string) {
	t.Helper()
	p.env = append(p.env, "SLIPWAY_KEY_PASSWORD="+password)
	if e := p.run(t, "keys", "generate", "--private", name+".key", "--public", name+".pub"); e.code != fault.ExitOK {
		t.Fatalf("exit %d\n%s", e.code, e.stderr)
	}
	if fi, err := os.Stat(filepath.Join(p.dir, name+".key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", fi, err)
	}
}

// TestSignThenVerify verifies a pushed image as a deployment does: before it is signed, with
// the right key, with a different key, and for an environment that requires an
// attestation.
func TestSignThenVerify(t *testing.T) {
	files := helloApp()
	files["slipway.yaml"] = "verify: {keys: [release.pub], attestations: []}\ndeploy: {environments: {prod: {verify: {attestations: [provenance]}}, other: {verify: {keys: [other.pub]}}}}\n"
	files[".gitignore"] = "*.key\n*.pub\n"
	p := newProgram(t, testkit.Repository(t, files))
	generateKeys(t, p, "other", "another")
	generateKeys(t, p, "release", "correct horse")
	image := p.report(t, "publish", "--repository", testkit.Registry(t)+"/acme/hello", "--platforms", "linux/amd64,linux/arm64", "--tag", "latest").Reference

	wantRejected := func(code string, args ...string) {
		t.Helper()
		e := p.run(t, append([]string{"verify", "--image", image, "-o", "json"}, args...)...)
		var r struct {
			Error struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
			t.Fatal(err, e.stdout, e.stderr)
		}
		if e.code != fault.ExitFailed || r.Error.Code != code {
			t.Errorf("%v: exit %d, %s: %s; want %s", args, e.code, r.Error.Code, r.Error.Message, code)
		}
	}
	wantRejected("verify.unsigned")
	sign := []string{"sign", "--image", image, "--only-signature", "--key", "release.key"}
	if first := p.report(t, sign...); first.Outcome != progress.Passed || len(first.Sign.Subjects) != 3 {
		t.Errorf("%s, signed %+v", first.Outcome, first.Sign)
	}
	if second := p.report(t, sign...); second.Outcome != progress.Unchanged {
		t.Errorf("the outcome of a second signature is %s", second.Outcome)
	}
	tagged, _, _ := strings.Cut(image, "@")
	if r := p.report(t, "verify", "--image", tagged+":latest"); r.Reference != image || len(r.Verify.Subjects) != 3 {
		t.Errorf("verified %s, want %s", r.Reference, image)
	}
	wantRejected("verify.wrong-key", "--key", "other.pub")
	wantRejected("verify.wrong-key", "--env", "other")
	wantRejected("verify.missing-attestation", "--env", "prod")

	// The image can also be verified in a folder without any source.
	elsewhere := newProgram(t, t.TempDir())
	if e := elsewhere.run(t, "verify", "--image", image, "--key", filepath.Join(p.dir, "release.pub")); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "no attestation of type sbom") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}

	p.env = append(p.env, "SLIPWAY_KEY_PASSWORD=wrong")
	if e := p.run(t, sign...); e.code != fault.ExitInput || !strings.Contains(e.stderr, "password") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

// TestKeyPasswordIsNeverWritten checks that passwords and tokens in the environment are not
// in the output of the program and not in any file that it writes, even if a test of the
// app prints its environment.
func TestKeyPasswordIsNeverWritten(t *testing.T) {
	const secret = "planted-key-password"
	files := helloApp()
	files["main_test.go"] = "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnvironment(t *testing.T) { t.Log(os.Environ()) }\n"
	p := newProgram(t, testkit.Repository(t, files))
	p.env = append(p.env, "SIGSTORE_ID_TOKEN="+secret, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+secret, "SLIPWAY_REGISTRY_PASSWORD="+secret, "SLIPWAY_REGISTRY_USERNAME=u", "COSIGN_PASSWORD="+secret)
	generateKeys(t, p, "a", secret)
	image := p.report(t, "publish", "--repository", testkit.Registry(t)+"/acme/hello").Reference
	var printed strings.Builder
	for _, args := range [][]string{
		{"test", "--no-race", "-v", "-o", "json", "--progress", "plain"},
		{"scan", "--db-repository", "bundled", "--platforms", "linux/amd64", "-v", "-o", "json", "--progress", "json"},
		{"sign", "--image", image, "--only-signature", "--keyless", "-v", "--progress", "plain"},
		{"sign", "--image", image, "--only-signature", "--key", "a.key", "-v", "--progress", "json", "-o", "json"},
		{"sign", "--image", image, "--only-signature", "--key", "a.pub", "-v", "--progress", "plain"},
		{"sign", "--image", image, "--only-signature", "--key", "env://SLIPWAY_KEY_PASSWORD", "-v", "--progress", "plain"},
		{"verify", "--image", image, "--key", "a.pub", "-v", "-o", "json"},
	} {
		e := p.run(t, args...)
		printed.WriteString(e.stdout + e.stderr)
	}
	wantNoSecret(t, secret, printed.String(), p.dir, p.variable("HOME"))
}

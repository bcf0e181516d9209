package command

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// keys makes a pair of keys in the app's folder and tells the program its
// password.
func keys(t *testing.T, p *program, name, password string) {
	t.Helper()
	p.env = append(p.env, "SLIPWAY_KEY_PASSWORD="+password)
	if e := p.run(t, "keys", "generate", "--private", name+".key", "--public", name+".pub"); e.code != fault.ExitOK {
		t.Fatalf("exit %d\n%s", e.code, e.stderr)
	}
	if fi, err := os.Stat(filepath.Join(p.dir, name+".key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", fi, err)
	}
}

// TestSignThenVerify signs a pushed image and verifies it as a deployment would:
// before, with the right key, another one, and for an environment that wants more.
func TestSignThenVerify(t *testing.T) {
	files := hello()
	files["slipway.yaml"] = "verify: {keys: [release.pub], attestations: []}\ndeploy: {environments: {prod: {verify: {attestations: [provenance]}}, other: {verify: {keys: [other.pub]}}}}\n"
	files[".gitignore"] = "*.key\n*.pub\n"
	p := here(t, testkit.Repository(t, files))
	keys(t, p, "other", "another")
	keys(t, p, "release", "correct horse")
	image := p.report(t, "publish", "--repository", testkit.Registry(t)+"/acme/hello", "--platforms", "linux/amd64,linux/arm64", "--tag", "latest").Reference

	refused := func(code string, args ...string) {
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
	refused("verify.unsigned")
	sign := []string{"sign", "--image", image, "--only-signature", "--key", "release.key"}
	if first := p.report(t, sign...); first.Outcome != progress.Passed || len(first.Sign.Subjects) != 3 {
		t.Errorf("%s, signed %+v", first.Outcome, first.Sign)
	}
	if second := p.report(t, sign...); second.Outcome != progress.Unchanged {
		t.Errorf("signed again: %s", second.Outcome)
	}
	tagged, _, _ := strings.Cut(image, "@")
	if r := p.report(t, "verify", "--image", tagged+":latest"); r.Reference != image || len(r.Verify.Subjects) != 3 {
		t.Errorf("verified %s, want %s", r.Reference, image)
	}
	refused("verify.wrong-key", "--key", "other.pub")
	refused("verify.wrong-key", "--env", "other")
	refused("verify.missing-attestation", "--env", "prod")

	// Elsewhere, where there is no source at all, the image can still be judged.
	elsewhere := here(t, t.TempDir())
	if e := elsewhere.run(t, "verify", "--image", image, "--key", filepath.Join(p.dir, "release.pub")); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "no attestation of type sbom") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}

	p.env = append(p.env, "SLIPWAY_KEY_PASSWORD=wrong")
	if e := p.run(t, sign...); e.code != fault.ExitInput || !strings.Contains(e.stderr, "password") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

// TestKeyPasswordIsNowhere looks for a planted password and a planted token in
// what is printed and written, also by a test that prints its environment. They
// reach the program through its environment, never its arguments.
func TestKeyPasswordIsNowhere(t *testing.T) {
	const secret = "planted-key-password"
	files := hello()
	files["main_test.go"] = "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnvironment(t *testing.T) { t.Log(os.Environ()) }\n"
	p := here(t, testkit.Repository(t, files))
	p.env = append(p.env, "SIGSTORE_ID_TOKEN="+secret, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+secret, "SLIPWAY_REGISTRY_PASSWORD="+secret, "SLIPWAY_REGISTRY_USERNAME=u", "COSIGN_PASSWORD="+secret)
	keys(t, p, "a", secret)
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
	if strings.Contains(printed.String(), secret) {
		t.Errorf("the password is printed:\n%s", printed.String())
	}
	for _, root := range []string{p.dir, homeOf(p)} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("the password is in %s", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

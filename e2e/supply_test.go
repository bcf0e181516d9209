package e2e

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// scan checks that the scan passes, that it fails if the application contains a
// secret, and that the SBOMs are the same as those of the slipway program.
func (s *suite) scan(t *testing.T) {
	if out := s.call(t, "scan", "passed"); out != "true" {
		t.Errorf("passed is %s", out)
	}
	for _, format := range []string{"spdx-json", "cyclonedx"} {
		want := s.must(t, s.app, s.program, "sbom", "--as", format)
		if got := s.call(t, "sbom", "--format", format, "contents"); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s: the SBOM with Dagger is\n%s\nand with slipway\n%s", format, got, want)
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
		t.Errorf("the scan did not report the secret: %v\n%s", err, stderr)
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

// license checks that the list of licences reaches the gate. The app of the suite uses
// only the standard library, so the gate passes with any list.
func (s *suite) license(t *testing.T) {
	if out := s.call(t, "license", "--allow", "MIT,Apache-2.0,BSD-2-Clause,BSD-3-Clause,ISC", "passed"); out != "true" {
		t.Errorf("passed is %s", out)
	}
	_, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "call", "license", "--allow", "Apache-2")
	if err == nil || !strings.Contains(stderr, `did you mean "Apache-2.0"?`) {
		t.Errorf("an unknown licence: %v\n%s", err, stderr)
	}
}

// sign signs a published image. The key and its password must not be printed.
func (s *suite) sign(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := server.Listener.Addr().String()
	at := []string{"with-registry", "--address", host + "/orders", "--service", "tcp://" + host}
	image := s.call(t, append(at, "publish")...)
	keys := t.TempDir()
	t.Setenv("SLIPWAY_KEY_PASSWORD", planted)
	for _, name := range []string{"release", "other"} {
		file := filepath.Join(keys, name)
		s.must(t, keys, s.program, "keys", "generate", "--private", file+".key", "--public", file+".pub")
	}
	verify := func(key string) (string, error) {
		_, stderr, err := s.try(t, s.app, "dagger", append(append([]string{"-m", s.module, "call"}, at...), "verify", "--image", image, "--key", filepath.Join(keys, key))...)
		return stderr, err
	}
	if stderr, err := verify("release.pub"); err == nil || !strings.Contains(stderr, "is not signed") {
		t.Errorf("verify of an unsigned image: %v\n%s", err, stderr)
	}
	sign := append(append([]string{"-m", s.module, "-vvv", "--progress", "plain", "call"}, at...),
		"with-signer", "--key", "file:"+filepath.Join(keys, "release.key"), "--password", "env:PLANTED", "sign", "--image", image)
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
		t.Errorf("verify of a signed image: %v\n%s", err, stderr)
	}
	if stderr, err := verify("other.pub"); err == nil || !strings.Contains(stderr, "key") {
		t.Errorf("verify with another key: %v\n%s", err, stderr)
	}
	s.write(t, map[string]string{"kept.md": "changed\n"})
	defer s.write(t, files)
	if _, stderr, err := s.try(t, s.app, "dagger", sign...); err == nil || !strings.Contains(stderr, "is not what this source builds") {
		t.Errorf("sign with another source: %v\n%s", err, stderr)
	}
}

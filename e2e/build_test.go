package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func (s *suite) functions(t *testing.T) {
	out := s.must(t, s.app, "dagger", "-m", s.module, "functions")
	for _, f := range []string{
		"build", "build-layout", "check", "deploy", "history", "license", "lint", "plan", "publish", "rollback", "sbom", "scan", "serve", "ship", "sign", "status", "test",
		"verify", "with-cluster", "with-commit", "with-modules", "with-registry", "with-signer",
	} {
		if !regexp.MustCompile(`(?m)^` + f + ` +[A-Z].*\.$`).MatchString(out) {
			t.Errorf("the function %s, or its description, is missing in\n%s", f, out)
		}
	}
}

var manifest = regexp.MustCompile(`"digest": "(sha256:[0-9a-f]{64})"`)

// layout calls build-layout and returns the digest of the image.
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

// hermetic builds without the cache volumes. The image is that of a build with them.
func (s *suite) hermetic(t *testing.T) {
	if got, want := s.call(t, "hermetic", "build-layout", "digest"), s.call(t, "build-layout", "digest"); got != want {
		t.Errorf("the folder of the image has the digest %s with hermetic, and %s without", got, want)
	}
}

func (s *suite) digest(t *testing.T) {
	cases := [][]string{nil, {"--platforms", "linux/amd64,linux/arm64"}, {"--version", "v1.2.3"}}
	if _, err := exec.LookPath("upx"); err != nil {
		t.Log("SKIPPED: upx is not installed, so images packed with upx were not compared")
	} else {
		cases = append(cases, []string{"--upx"})
	}
	for _, args := range cases {
		dir := t.TempDir()
		s.must(t, s.app, s.program, append([]string{"build", "-o", "oci:" + dir}, args...)...)
		if got, want := s.layout(t, args...), indexDigest(t, dir); got != want {
			t.Errorf("%q: the digest is %s with Dagger and %s with slipway", args, got, want)
		}
	}
	s.write(t, map[string]string{"kept.md": "changed\n"})
	dir := t.TempDir()
	s.must(t, s.app, s.program, "build", "-o", "oci:"+dir)
	if got, want := s.layout(t), indexDigest(t, dir); got != want {
		t.Errorf("changed files: the digest is %s with Dagger and %s with slipway", got, want)
	}
	s.write(t, files)
}

func (s *suite) hidden(t *testing.T) {
	before := s.call(t, "build-layout", "digest")
	s.write(t, map[string]string{"notes.md": "two\n", "hidden/x": "y"})
	if after := s.call(t, "build-layout", "digest"); after != before {
		t.Errorf("the digest changed from %s to %s", before, after)
	}
	if err := os.RemoveAll(filepath.Join(s.app, "hidden")); err != nil {
		t.Fatal(err)
	}
	s.write(t, files)
}

// unconfigured builds and tests a repository that has no slipway.yaml.
func (s *suite) unconfigured(t *testing.T) {
	config := filepath.Join(s.app, "slipway.yaml")
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	defer s.write(t, files)
	dir := t.TempDir()
	s.must(t, s.app, s.program, "build", "-o", "oci:"+dir)
	if got, want := s.layout(t), indexDigest(t, dir); got != want {
		t.Errorf("the digest is %s with Dagger and %s with slipway", got, want)
	}
	if out := s.call(t, "test", "passed"); out != "true" {
		t.Errorf("test: passed is %s", out)
	}
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

// publish pushes to a registry on this machine that requires a password. The
// password must not be printed.
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
	publish := func(password string) (stdout, stderr string, err error) {
		return s.try(t, s.app, "dagger", "-m", s.module, "-vvv", "--progress", "plain", "call",
			"with-registry", "--address", host+"/orders", "--service", "tcp://"+host, "--username", "ci", "--password", password,
			"publish", "--tags", "a,b")
	}
	stdout, stderr, err := publish("env:PLANTED")
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
	for address, want := range map[string]string{
		"":               "there is no repository to push to",
		host + "/orders": "add with-registry --service tcp://" + host,
	} {
		args := []string{"-m", s.module, "--progress", "plain", "call", "publish"}
		if address != "" {
			args = append(args, "--address", address)
		}
		if stdout, stderr, err := s.try(t, s.app, "dagger", args...); err == nil || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("publish to %q: %v, printed %q\n%s\nwant %s", address, err, stdout, stderr, want)
		}
	}
	_, stderr, err = publish("cmd:echo wrong")
	if err == nil || !strings.Contains(stderr, "push:") {
		t.Errorf("with a wrong password: %v\n%s", err, stderr)
	}
}

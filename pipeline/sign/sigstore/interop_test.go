package sigstore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// building is locked while a program is built, so that it is built only once.
var building sync.Mutex

// program returns a program of a Go module. It builds the program into the user's
// cache if it is not there. It skips the test if the module cannot be fetched.
func program(t *testing.T, pkg, version string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("%s takes minutes to build", pkg)
	}
	building.Lock()
	defer building.Unlock()
	user, err := cache.User()
	if err != nil {
		t.Skipf("no cache folder for building %s: %v", pkg, err)
	}
	dir := user.Path("test-programs", version)
	file := filepath.Join(dir, filepath.Base(pkg))
	if _, err := os.Stat(file); err == nil {
		return file
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", pkg+"@"+version)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOEXPERIMENT=", "GOWORK=off", "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		skipUnfetchable(t, pkg+"@"+version, err, out)
	}
	return file
}

// skipUnfetchable skips the test if a build failed because a module cannot be
// fetched. For any other reason the test fails.
func skipUnfetchable(t *testing.T, what string, err error, out []byte) {
	t.Helper()
	for _, unreachable := range []string{"dial tcp", "no such host", "i/o timeout", "module lookup disabled", "Forbidden", "404 Not Found", "connection refused", "TLS handshake", "proxyconnect"} {
		if bytes.Contains(out, []byte(unreachable)) {
			t.Skipf("%s cannot be fetched: %v: %.500s", what, err, out)
		}
	}
	t.Fatalf("building %s: %v: %.2000s", what, err, out)
}

func cosignProgram(t *testing.T) string {
	t.Helper()
	return program(t, "github.com/sigstore/cosign/v2/cmd/cosign", "v2.6.5")
}

// run runs a program with an empty home folder and returns its output.
func run(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	home := t.TempDir()
	cmd.Dir = home
	cmd.Env = append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + home, "COSIGN_PASSWORD=" + plantedPassword}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The cosign program verifies signatures and attestations by slipway, and rejects
// images that are unsigned or signed by another key.
func TestCosignVerifiesSlipway(t *testing.T) {
	cosign := cosignProgram(t)
	for backend, handler := range registries() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			p := newRepo(t, handler(t))
			subs, unsigned := p.pushIndex(t), p.pushImage(t)
			keys, other := keyPair(t, "cosign"), keyPair(t, "other")
			p.sign(t, keys.signer(t), subs)
			p.attest(t, keys.signer(t), sbomStatement(subs...), provenanceStatement(t, subs...), scanStatement(t, now, sign.ScanPassed, subs...))
			flags := []string{"--insecure-ignore-tlog", "--allow-http-registry", "--key"}
			for _, sub := range subs {
				out, err := run(t, nil, cosign, append(append([]string{"verify"}, flags...), keys.public, sub.Digest.Name())...)
				if err != nil || !strings.Contains(out, sub.Digest.DigestStr()) {
					t.Errorf("cosign verify: %v: %s", err, out)
				}
				for _, kind := range []string{"spdxjson", "slsaprovenance1", "vuln"} {
					out, err := run(t, nil, cosign, append(append([]string{"verify-attestation", "--type", kind}, flags...), keys.public, sub.Digest.Name())...)
					if err != nil || !strings.Contains(out, `"payload"`) {
						t.Errorf("cosign verify-attestation --type %s: %v: %s", kind, err, out)
					}
				}
			}
			for _, ref := range []struct{ key, image string }{{other.public, subs[0].Digest.Name()}, {keys.public, unsigned[0].Digest.Name()}} {
				if out, err := run(t, nil, cosign, append(append([]string{"verify"}, flags...), ref.key, ref.image)...); err == nil {
					t.Errorf("cosign verify accepted %s: %s", ref.image, out)
				}
			}
		})
	}
}

// slipway verifies signatures and attestations by the cosign program, does not sign
// again, and replaces an older attestation. The cosign program replaces one by
// slipway.
func TestSlipwayVerifiesCosign(t *testing.T) {
	cosign := cosignProgram(t)
	p := newRepo(t, distribution(t))
	subs := p.pushIndex(t)
	keys, other := keyPair(t, "cosign"), keyPair(t, "other")
	index := subs[0].Digest.Name()
	flags := []string{"--key", keys.private, "--tlog-upload=false", "--allow-http-registry", "-y"}
	if out, err := run(t, nil, cosign, append(append([]string{"sign", "--recursive"}, flags...), index)...); err != nil {
		t.Fatalf("cosign sign: %v: %s", err, out)
	}
	for _, st := range []struct {
		kind string
		what sign.Statement
	}{{"spdxjson", sbomStatement()}, {"slsaprovenance1", provenanceStatement(t)}, {"vuln", scanStatement(t, now.Add(-time.Hour), sign.ScanPassed)}} {
		file := writeFile(t, string(st.what.Predicate))
		for _, sub := range subs {
			if out, err := run(t, nil, cosign, append(append([]string{"attest", "--type", st.kind, "--predicate", file}, flags...), sub.Digest.Name())...); err != nil {
				t.Fatalf("cosign attest --type %s: %v: %s", st.kind, err, out)
			}
		}
	}
	policy := keys.trust()
	policy.Attestations, policy.ScanMaxAge = []string{"sbom", "provenance", "scan"}, 2*time.Hour
	r, err := p.verify(t, subs[0], policy)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Subjects {
		if len(s.Signatures) != 1 || len(s.Attestations) != 3 || s.ScanAge != 3600 {
			t.Errorf("after cosign sign and attest: %+v", s)
		}
	}
	if _, err := p.verify(t, subs[0], other.trust()); err == nil || !strings.Contains(err.Error(), "unknown key") {
		t.Errorf("with another key: %v", err)
	}
	if r := p.sign(t, keys.signer(t), subs); !r.Unchanged {
		t.Error("the image was signed again after cosign sign")
	}
	if r := p.attest(t, keys.signer(t), sbomStatement(subs...)); !r.Unchanged {
		t.Error("the SBOM was attested again after cosign attest")
	}
	r2 := p.attest(t, keys.signer(t), scanStatement(t, now, sign.ScanPassed, subs...))
	if r2.Unchanged || !r2.Attestations[0].Replaced || p.layers(t, attTag(subs[0])) != 3 {
		t.Errorf("attesting a new scan after cosign attest: %+v", r2)
	}
	if out, err := run(t, nil, cosign, append(append([]string{"attest", "--replace", "--type", "vuln", "--predicate", writeFile(t, string(scanStatement(t, now, sign.ScanPassed).Predicate))}, flags...), index)...); err != nil {
		t.Fatalf("cosign attest --replace: %v: %s", err, out)
	}
	if n := p.layers(t, attTag(subs[0])); n != 3 {
		t.Errorf("%d attestations after cosign attest --replace, want 3", n)
	}
	if _, err := p.verify(t, subs[0], policy); err != nil {
		t.Error(err)
	}
}

// The cosign program reads keys by slipway, and slipway reads keys by cosign.
func TestKeysOfCosign(t *testing.T) {
	cosign := cosignProgram(t)
	keys := keyPair(t, "cosign")
	out, err := run(t, nil, cosign, "public-key", "--key", keys.private)
	if err != nil || !strings.Contains(out, string(bytes.TrimSpace(must(os.ReadFile(keys.public))(t)))) {
		t.Errorf("cosign public-key of a key by slipway: %v: %s", err, out)
	}
	dir := t.TempDir()
	if out, err := run(t, nil, cosign, "generate-key-pair", "--output-key-prefix", filepath.Join(dir, "theirs")); err != nil {
		t.Fatalf("cosign generate-key-pair: %v: %s", err, out)
	}
	theirs := pair{private: filepath.Join(dir, "theirs.key"), public: filepath.Join(dir, "theirs.pub")}
	s := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: theirs.key()}))(t)
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	p.sign(t, s, subs)
	if _, err := p.verify(t, subs[0], theirs.trust()); err != nil {
		t.Error(err)
	}
	if out, err := run(t, nil, cosign, "verify", "--insecure-ignore-tlog", "--allow-http-registry", "--key", theirs.public, subs[0].Digest.Name()); err != nil {
		t.Errorf("cosign verify: %v: %s", err, out)
	}
	var ee *exec.ExitError
	if _, err := run(t, []string{"COSIGN_PASSWORD=wrong"}, cosign, "public-key", "--key", keys.private); !errors.As(err, &ee) {
		t.Errorf("cosign public-key with a wrong password: %v", err)
	}
}

package sigstore_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// issuer is an OpenID Connect provider with discovery, keys and signed tokens.
type issuer struct {
	*httptest.Server
	key *rsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{key: must(rsa.GenerateKey(rand.Reader, 2048))(t)}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enc := base64.RawURLEncoding.EncodeToString
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{
				"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token",
				"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
			})
		case "/keys":
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{
				"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": enc(i.key.N.Bytes()), "e": enc(big.NewInt(int64(i.key.E)).Bytes()),
			}}})
		case "/github": // the endpoint that GitHub Actions provides to jobs
			if r.Header.Get("Authorization") != "Bearer "+plantedPassword {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"value": i.token(r.URL.Query().Get("audience"), "github@acme.example", time.Hour)})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

// token returns a signed token.
func (i *issuer) token(audience, email string, valid time.Duration) string {
	enc := func(v any) string {
		data, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	at := time.Now()
	text := enc(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "1"}) + "." + enc(map[string]any{
		"iss": i.URL, "sub": email, "aud": audience, "email": email, "email_verified": true,
		"iat": at.Add(-time.Minute).Unix(), "nbf": at.Add(-time.Minute).Unix(), "exp": at.Add(valid).Unix(),
	})
	sum := sha256.Sum256([]byte(text))
	sig, _ := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// instance is a private instance of Sigstore that runs the code of Fulcio, Rekor,
// Trillian and a certificate transparency log.
type instance struct {
	Fulcio, Rekor string
	CT            string   `json:"ct_key"`
	root          string   // trusted_root.json
	env           []string // the trusted root for older commands of cosign
}

// sigstoreProgram returns the program in testdata/sigstore. It builds the program
// into the user's cache if it is not there.
func sigstoreProgram(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("Fulcio and Rekor take minutes to build")
	}
	building.Lock()
	defer building.Unlock()
	src := must(filepath.Abs(filepath.Join("testdata", "sigstore")))(t)
	h := sha256.New()
	for _, f := range []string{"main.go", "go.mod", "go.sum"} {
		h.Write(must(os.ReadFile(filepath.Join(src, f)))(t))
	}
	user, err := cache.User()
	if err != nil {
		t.Skipf("no cache folder for building Sigstore: %v", err)
	}
	file := user.Path("test-programs", "sigstore-"+hex.EncodeToString(h.Sum(nil)[:8]))
	if _, err := os.Stat(file); err == nil {
		return file
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", file, ".")
	cmd.Dir, cmd.Env = src, append(os.Environ(), "GOFLAGS=-mod=readonly", "GOEXPERIMENT=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		skipUnfetchable(t, "Fulcio and Rekor", err, out)
	}
	return file
}

// startSigstore starts an instance that accepts the tokens of an issuer.
func startSigstore(t *testing.T, i *issuer, ct bool) instance {
	t.Helper()
	program, dir := sigstoreProgram(t), t.TempDir()
	config := filepath.Join(dir, "fulcio.yaml")
	text := fmt.Sprintf("oidc-issuers:\n  %[1]q:\n    issuer-url: %[1]q\n    client-id: sigstore\n    type: email\n", i.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// The program ends when its standard input is closed, so it also ends if this
	// process is killed.
	cmd := exec.Command(program, "-dir", dir, "-fulcio-config", config, fmt.Sprintf("-ct=%t", ct))
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "TMPDIR=" + dir}
	in := must(cmd.StdinPipe())(t)
	out := must(cmd.StdoutPipe())(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(out)
		for { // the log of Rekor is also on standard output
			line, err := r.ReadString('\n')
			if strings.HasPrefix(line, `{"`) && strings.Contains(line, `"fulcio"`) {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		<-done
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the end of the log of Sigstore: %.3000s", stderr.String()[max(0, stderr.Len()-3000):])
		}
	})
	var s instance
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
	case <-done:
		t.Fatal("Sigstore ended while it was starting")
	case <-time.After(time.Minute):
		t.Fatal("Sigstore did not start within a minute")
	}
	s.writeRoot(t, dir)
	return s
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))(t)
	resp := must(http.DefaultClient.Do(req))(t) //nolint:bodyclose // closed below
	data := must(io.ReadAll(resp.Body))(t)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s responds with status %d: %s", url, resp.StatusCode, data)
	}
	return data
}

// writeRoot writes the trusted root of the instance, as its operator would.
func (s *instance) writeRoot(t *testing.T, dir string) {
	t.Helper()
	var bundle struct {
		Chains []struct{ Certificates []string }
	}
	if err := json.Unmarshal(get(t, s.Fulcio+"/api/v2/trustBundle"), &bundle); err != nil {
		t.Fatal(err)
	}
	chain := must(cryptoutils.UnmarshalCertificatesFromPEM([]byte(strings.Join(bundle.Chains[0].Certificates, "\n"))))(t)
	ca := &root.FulcioCertificateAuthority{Root: chain[len(chain)-1], Intermediates: chain[:len(chain)-1], ValidityPeriodStart: time.Now().Add(-time.Hour), URI: s.Fulcio}
	logOf := func(text []byte, url string) map[string]*root.TransparencyLog {
		pub := must(cryptoutils.UnmarshalPEMToPublicKey(text))(t)
		block, _ := pem.Decode(text)
		id := sha256.Sum256(block.Bytes)
		return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
			BaseURL: url, ID: id[:], PublicKey: pub, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: time.Now().Add(-time.Hour),
		}}
	}
	var ct map[string]*root.TransparencyLog
	if s.CT != "" {
		ct = logOf([]byte(s.CT), "http://ct.test")
	}
	tr := must(root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{ca}, ct, nil, logOf(get(t, s.Rekor+"/api/v1/log/publicKey"), s.Rekor)))(t)
	s.root = filepath.Join(dir, "trusted_root.json")
	if err := os.WriteFile(s.root, must(tr.MarshalJSON())(t), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{
		"SIGSTORE_ROOT_FILE=" + writeFile(t, strings.Join(bundle.Chains[0].Certificates, "\n")),
		"SIGSTORE_REKOR_PUBLIC_KEY=" + writeFile(t, string(get(t, s.Rekor+"/api/v1/log/publicKey"))),
	}
	if s.CT != "" {
		s.env = append(s.env, "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE="+writeFile(t, s.CT))
	}
}

func (s instance) signer(t *testing.T, token sign.TokenSource) sign.Signer {
	t.Helper()
	return must(s.trySigner(t.Context(), token))(t)
}

func (s instance) trySigner(ctx context.Context, token sign.TokenSource) (sign.Signer, error) {
	return sigstore.NewSigner(ctx, sign.SignerOptions{Keyless: &sign.Keyless{Fulcio: s.Fulcio, Token: token, TrustedRoot: s.root}, Rekor: s.Rekor})
}

func givenToken(token string) sign.TokenSource {
	return sign.GivenToken{Value: sign.Hide([]byte(token))}
}

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
	"errors"
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
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// issuer is an OpenID Connect provider: discovery, keys and signed tokens.
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
		case "/github": // as GitHub Actions gives them to a job
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

// token makes a signed token for someone.
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

// instance is a private instance, running: the code of Fulcio, Rekor, Trillian
// and the CT log.
type instance struct {
	Fulcio, Rekor string
	CT            string   `json:"ct_key"`
	root          string   // trusted_root.json
	env           []string // the same, as older commands of cosign want it
}

func sigstoreProgram(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("Fulcio and Rekor take minutes to build")
	}
	programs.Lock()
	defer programs.Unlock()
	src := must(filepath.Abs(filepath.Join("testdata", "sigstore")))(t)
	h := sha256.New()
	for _, f := range []string{"main.go", "go.mod", "go.sum"} {
		h.Write(must(os.ReadFile(filepath.Join(src, f)))(t))
	}
	user, err := cache.User()
	if err != nil {
		t.Skipf("there is no cache folder to build Sigstore in: %v", err)
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
		unbuilt(t, "Fulcio and Rekor", err, out)
	}
	return file
}

func startSigstore(t *testing.T, i *issuer, ct bool) instance {
	t.Helper()
	program, dir := sigstoreProgram(t), t.TempDir()
	config := filepath.Join(dir, "fulcio.yaml")
	text := fmt.Sprintf("oidc-issuers:\n  %[1]q:\n    issuer-url: %[1]q\n    client-id: sigstore\n    type: email\n", i.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its end is the end of its input, so it ends with this process too.
	cmd := exec.Command(program, "-dir", dir, "-fulcio-config", config, fmt.Sprintf("-ct=%t", ct))
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "TMPDIR=" + dir}
	in := must(cmd.StdinPipe())(t)
	out := must(cmd.StdoutPipe())(t)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(out)
		for { // Rekor's log goes to the same place
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
			t.Logf("the end of what Sigstore said: %.3000s", complaints.String()[max(0, complaints.Len()-3000):])
		}
	})
	var s instance
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
	case <-done:
		t.Fatal("Sigstore did not start")
	case <-time.After(time.Minute):
		t.Fatal("Sigstore does not start")
	}
	s.trust(t, dir)
	return s
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))(t)
	resp := must(http.DefaultClient.Do(req))(t) //nolint:bodyclose // it is closed below
	data := must(io.ReadAll(resp.Body))(t)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %d: %s", url, resp.StatusCode, data)
	}
	return data
}

// trust writes the file that says whom to trust, as an operator would.
func (s *instance) trust(t *testing.T, dir string) {
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

func given(token string) sign.TokenSource { return sign.GivenToken{Value: sign.Hide([]byte(token))} }

// Keyless signing with the real services, with and without a CT log.
func TestKeyless(t *testing.T) {
	for _, ct := range []bool{true, false} {
		t.Run(fmt.Sprintf("ct=%t", ct), func(t *testing.T) {
			i := newIssuer(t)
			s := startSigstore(t, i, ct)
			p := newPlace(t, memory(t))
			subs := p.anIndex(t)
			us := s.signer(t, given(i.token("sigstore", "ci@acme.example", time.Hour)))
			secretFree(t, us)
			if who := us.Identity(); who.Identity != "ci@acme.example" || who.Issuer != i.URL {
				t.Errorf("the certificate is for %+v", who)
			}
			r := p.sign(t, us, subs)
			if r.Unchanged || r.Subjects[0].LogIndex == nil {
				t.Errorf("signing says %+v", r)
			}
			p.attest(t, us, anSBOM(subs...), aProvenance(t, subs...), aScan(t, now, sign.ScanPassed, subs...))
			policy := sign.Policy{
				Identities: []sign.Identity{{Issuer: i.URL, SubjectPattern: `.*@acme\.example`}}, TrustedRoot: s.root,
				Attestations: []string{"sbom", "provenance", "scan"},
			}
			v, err := p.verify(t, subs[0], policy)
			if err != nil {
				t.Fatal(err)
			}
			if sig := v.Subjects[2].Signatures[0]; sig.Identity != "ci@acme.example" || sig.Issuer != i.URL || sig.LogIndex == nil || sig.Logged.IsZero() {
				t.Errorf("the signature is %+v", sig)
			}
			// Another run has another certificate but is the same signer.
			again := s.signer(t, given(i.token("sigstore", "ci@acme.example", time.Hour)))
			if !p.sign(t, again, subs).Unchanged || !p.attest(t, again, anSBOM(subs...)).Unchanged {
				t.Error("signing again as the same identity changed something")
			}
			refused := func(name, code string, policy sign.Policy, says ...string) {
				t.Helper()
				_, err := p.verify(t, subs[0], policy)
				wantFault(t, err, fault.Gate, code, says...)
				t.Logf("%s: %v", name, err)
			}
			with := func(change func(*sign.Policy)) sign.Policy {
				c := policy
				change(&c)
				return c
			}
			refused("other subject", sign.CodeWrongIdentity, with(func(c *sign.Policy) { c.Identities = []sign.Identity{{Issuer: i.URL, Subject: "boss@acme.example"}} }), "ci@acme.example", i.URL)
			refused("other issuer", sign.CodeWrongIdentity, with(func(c *sign.Policy) {
				c.Identities = []sign.Identity{{Issuer: "https://gitlab.com", SubjectPattern: ".*"}}
			}))
			refused("pattern of a part", sign.CodeWrongIdentity, with(func(c *sign.Policy) { c.Identities = []sign.Identity{{Issuer: i.URL, SubjectPattern: "acme"}} }))
			refused("other instance", sign.CodeUntrusted, with(func(c *sign.Policy) { c.TrustedRoot = "testdata/trusted_root.json" }), "unknown authority", "trustedRoot")
			refused("keys only", sign.CodeWrongKey, sign.Policy{Keys: aPair(t, "cosign").trust().Keys}, "keyless", "ci@acme.example")
			keep := func(b []byte, n map[string]string) ([]byte, map[string]string) { return b, n }
			without := func(key string) func(b []byte, n map[string]string) ([]byte, map[string]string) {
				return func(b []byte, n map[string]string) ([]byte, map[string]string) {
					delete(n, key)
					return b, n
				}
			}
			other := p.anImage(t)
			p.rewrite(t, sigTag(subs[0]), sigTag(other[0]), keep)
			_, err = p.verify(t, other[0], sign.Policy{Identities: policy.Identities, TrustedRoot: s.root})
			wantFault(t, err, fault.Gate, sign.CodeOtherImage)
			p.rewrite(t, sigTag(subs[0]), sigTag(subs[0]), without("dev.sigstore.cosign/bundle"))
			refused("no log entry", sign.CodeNoLogEntry, policy, "transparency log")
			if !p.sign(t, again, subs[1:]).Unchanged || p.sign(t, again, subs[:1]).Unchanged {
				t.Error("only the signature without a log entry must be made again")
			}
			p.rewrite(t, sigTag(subs[1]), sigTag(subs[1]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				return bytes.Replace(b, []byte("acme"), []byte("evil"), 1), n
			})
			refused("payload changed", sign.CodeTampered, policy, "its own certificate")
			p.sign(t, again, subs)
			p.rewrite(t, sigTag(subs[0]), sigTag(subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
				n["dev.sigstore.cosign/bundle"] = strings.Replace(n["dev.sigstore.cosign/bundle"], `"logIndex":`, `"logIndex":7`, 1)
				return b, n
			})
			refused("log entry changed", sign.CodeTampered, policy, "proof")
			for _, hostile := range []string{`{"Payload":{"body":7}}`, `{"Payload":{"body":null}}`, `{"Payload":{"body":"e30="}}`, `{}`} {
				p.rewrite(t, sigTag(subs[0]), sigTag(subs[0]), func(b []byte, n map[string]string) ([]byte, map[string]string) {
					n["dev.sigstore.cosign/bundle"] = hostile
					return b, n
				})
				refused(hostile, sign.CodeTampered, policy)
			}
			secretFree(t, v)
		})
	}
}

// What cosign writes keyless we believe, and the other way round.
func TestKeylessWithCosign(t *testing.T) {
	cosign := cosignProgram(t)
	for _, ct := range []bool{true, false} {
		t.Run(fmt.Sprintf("ct=%t", ct), func(t *testing.T) {
			i := newIssuer(t)
			s := startSigstore(t, i, ct)
			p := newPlace(t, memory(t))
			ours, theirs := p.anIndex(t), p.anIndex(t)
			us := s.signer(t, given(i.token("sigstore", "ci@acme.example", time.Hour)))
			p.sign(t, us, ours)
			p.attest(t, us, anSBOM(ours...), aScan(t, now, sign.ScanPassed, ours...))
			flags := []string{"--allow-http-registry", "--certificate-identity", "ci@acme.example", "--certificate-oidc-issuer", i.URL}
			if !ct {
				flags = append(flags, "--insecure-ignore-sct")
			}
			for _, sub := range ours {
				if out, err := run(t, nil, cosign, append(append([]string{"verify", "--trusted-root", s.root}, flags...), sub.Digest.Name())...); err != nil {
					t.Errorf("cosign verify: %v: %s", err, out)
				}
				for _, kind := range []string{"spdxjson", "vuln"} {
					if out, err := run(t, s.env, cosign, append(append([]string{"verify-attestation", "--type", kind}, flags...), sub.Digest.Name())...); err != nil {
						t.Errorf("cosign verify-attestation --type %s: %v: %s", kind, err, out)
					}
				}
			}
			token := writeFile(t, i.token("sigstore", "ci@acme.example", time.Hour))
			signing := []string{"--allow-http-registry", "-y", "--fulcio-url", s.Fulcio, "--rekor-url", s.Rekor, "--identity-token", token}
			if !ct {
				signing = append(signing, "--insecure-skip-verify")
			}
			if out, err := run(t, s.env, cosign, append(append([]string{"sign", "--recursive"}, signing...), theirs[0].Digest.Name())...); err != nil {
				t.Fatalf("cosign sign: %v: %s", err, out)
			}
			file := writeFile(t, string(anSBOM().Predicate))
			for _, sub := range theirs {
				if out, err := run(t, s.env, cosign, append(append([]string{"attest", "--type", "spdxjson", "--predicate", file}, signing...), sub.Digest.Name())...); err != nil {
					t.Fatalf("cosign attest: %v: %s", err, out)
				}
			}
			policy := sign.Policy{Identities: []sign.Identity{{Issuer: i.URL, Subject: "ci@acme.example"}}, TrustedRoot: s.root, Attestations: []string{"sbom"}}
			if _, err := p.verify(t, theirs[0], policy); err != nil {
				t.Error(err)
			}
			if !p.sign(t, us, theirs).Unchanged || !p.attest(t, us, anSBOM(theirs...)).Unchanged {
				t.Error("what the cosign program signed as us was signed again")
			}
		})
	}
}

// A key's signature can be entered in the log too, and the policy can ask for
// it.
func TestKeyWithLog(t *testing.T) {
	i := newIssuer(t)
	s := startSigstore(t, i, false)
	p := newPlace(t, memory(t))
	subs := p.anImage(t)
	keys := aPair(t, "cosign")
	policy := keys.trust()
	policy.RequireLog, policy.TrustedRoot, policy.Attestations = true, s.root, []string{"sbom"}
	p.sign(t, keys.signer(t), subs)
	p.attest(t, keys.signer(t), anSBOM(subs...))
	_, err := p.verify(t, subs[0], policy)
	wantFault(t, err, fault.Gate, sign.CodeNoLogEntry)
	with := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: keys.key(), Rekor: s.Rekor}))(t)
	if r := p.sign(t, with, subs); r.Unchanged || r.Subjects[0].LogIndex == nil {
		t.Errorf("signing with the log says %+v", r)
	}
	p.attest(t, with, anSBOM(subs...))
	if v, err := p.verify(t, subs[0], policy); err != nil || v.Subjects[0].Attestations[0].LogIndex == nil {
		t.Errorf("%v: %+v", err, v)
	}
	if !p.sign(t, with, subs).Unchanged || !p.attest(t, with, anSBOM(subs...)).Unchanged {
		t.Error("doing it twice changed something")
	}
}

// Where the services say no there is one clear error, and nothing is written.
func TestKeylessRefused(t *testing.T) {
	i := newIssuer(t)
	s := startSigstore(t, i, false)
	for _, tt := range []struct {
		name  string
		token sign.TokenSource
		code  string
		says  string
	}{
		{"other audience", given(i.token("someone", "ci@acme.example", time.Hour)), "fulcio.refused", "audience"},
		{"expired", given(i.token("sigstore", "ci@acme.example", -time.Minute)), "fulcio.refused", "fresh"},
		{"other issuer", given(newIssuer(t).token("sigstore", "ci@acme.example", time.Hour)), "fulcio.refused", s.Fulcio},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.trySigner(t.Context(), tt.token)
			wantFault(t, err, fault.Failed, tt.code, tt.says)
			t.Log(err)
		})
	}
	p := newPlace(t, memory(t))
	subs := p.anImage(t)
	before := p.written()
	// The log's key is not the trusted root's: another instance's log.
	other := startSigstore(t, i, false)
	mixed := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{
		Keyless: &sign.Keyless{Fulcio: s.Fulcio, Token: given(i.token("sigstore", "ci@acme.example", time.Hour)), TrustedRoot: s.root}, Rekor: other.Rekor,
	}))(t)
	_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: mixed, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "sign.untrusted", "trusted root")
	down := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{
		Keyless: &sign.Keyless{Fulcio: s.Fulcio, Token: given(i.token("sigstore", "ci@acme.example", time.Hour)), TrustedRoot: s.root}, Rekor: i.URL,
	}))(t)
	_, err = sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: down, Remote: p.remote(), Backoff: quick})
	wantFault(t, err, fault.Failed, "rekor.refused", i.URL)
	t.Log(err)
	if p.written() != before {
		t.Error("something was written")
	}
}

// Tokens come from where the CI has them, and are never shown.
func TestTokens(t *testing.T) {
	i := newIssuer(t)
	env := func(kv ...string) func(string) string {
		return func(name string) string {
			for n := 0; n < len(kv); n += 2 {
				if kv[n] == name {
					return kv[n+1]
				}
			}
			return ""
		}
	}
	for name, tt := range map[string]struct {
		env  func(string) string
		code string
	}{
		"gitlab":          {env("SIGSTORE_ID_TOKEN", plantedToken), "token.malformed"},
		"file":            {env("SIGSTORE_ID_TOKEN_FILE", writeFile(t, plantedToken)), "token.malformed"},
		"no file":         {env("SIGSTORE_ID_TOKEN_FILE", "none/token"), "token.missing"},
		"empty file":      {env("SIGSTORE_ID_TOKEN_FILE", writeFile(t, "\n")), "token.missing"},
		"github":          {env("ACTIONS_ID_TOKEN_REQUEST_URL", i.URL+"/github?x=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedPassword), ""},
		"github refuses":  {env("ACTIONS_ID_TOKEN_REQUEST_URL", i.URL+"/github", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedToken), "token.refused"},
		"github is away":  {env("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:1/?t="+plantedToken, "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedToken), "token.refused"},
		"github gives no": {env("ACTIONS_ID_TOKEN_REQUEST_URL", i.URL+"/keys", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", plantedToken), "token.refused"},
		"github no URL":   {env("ACTIONS_ID_TOKEN_REQUEST_URL", "::"+plantedToken), "token.missing"},
		"nowhere":         {env(), "token.missing"},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := sigstore.FindToken(tt.env)
			if err == nil {
				if !strings.HasPrefix(name, "github") { // its URL is no secret
					secretFree(t, src)
				}
				_, err = sigstore.NewSigner(t.Context(), sign.SignerOptions{
					Keyless: &sign.Keyless{Fulcio: "http://127.0.0.1:1", Token: src, TrustedRoot: "testdata/trusted_root.json"},
				})
			}
			if tt.code == "" {
				wantFault(t, err, fault.Failed, "fulcio.refused", "127.0.0.1:1") // it had a good token
				return
			}
			kind := fault.Input
			if tt.code == "token.refused" {
				kind = fault.Failed
			}
			wantFault(t, err, kind, tt.code)
			secretFree(t, err)
			t.Log(err)
		})
	}
	_, err := sign.GivenToken{}.Token(t.Context(), "sigstore")
	wantFault(t, err, fault.Input, "token.missing")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = sigstore.GitHubToken{URL: i.URL + "/github", Grant: sign.Hide([]byte(plantedPassword))}.Token(ctx, "sigstore")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a run that ended says %v", err)
	}
}

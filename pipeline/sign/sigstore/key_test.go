package sigstore_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature/kms/fake"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// New keys are complete, the private key is readable only by its owner, and they
// replace existing keys only with Force.
func TestGenerateKeys(t *testing.T) {
	dir := t.TempDir()
	o := sign.KeysOptions{Private: filepath.Join(dir, "cosign.key"), Public: filepath.Join(dir, "cosign.pub"), Password: sign.Hide([]byte(plantedPassword))}
	wantNoSecrets(t, o)
	k := must(sigstore.GenerateKeys(t.Context(), o))(t)
	wantNoSecrets(t, k)
	private, public := must(os.ReadFile(k.Private))(t), must(os.ReadFile(k.Public))(t)
	if !bytes.HasPrefix(private, []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")) || !bytes.HasPrefix(public, []byte("-----BEGIN PUBLIC KEY-----")) {
		t.Errorf("the files begin with %.60s and %.60s", private, public)
	}
	if mode := must(os.Stat(k.Private))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("the private key has mode %o", mode)
	}
	if got := must(sigstore.PublicKey(t.Context(), sign.Key{Ref: k.Private, Password: o.Password}))(t); !bytes.Equal(got, public) {
		t.Error("the public key does not belong to the private key")
	}
	_, err := sigstore.GenerateKeys(t.Context(), o)
	wantFault(t, err, fault.Input, "key.exists", "cosign.key", "--force")
	if !bytes.Equal(private, must(os.ReadFile(k.Private))(t)) {
		t.Error("the private key was replaced")
	}
	o.Force = true
	if again := must(sigstore.GenerateKeys(t.Context(), o))(t); again.Fingerprint == k.Fingerprint {
		t.Error("Force did not generate new keys")
	}
	if n := len(must(os.ReadDir(dir))(t)); n != 2 {
		t.Errorf("the folder has %d files, want the two keys", n)
	}
}

// If one of the two files cannot be written, both stay as they were.
func TestGenerateKeysAllOrNothing(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		prepare    func(dir string, o *sign.KeysOptions)
	}{
		{"public exists", "key.exists", func(dir string, _ *sign.KeysOptions) {
			_ = os.WriteFile(filepath.Join(dir, "cosign.pub"), []byte("x"), 0o600)
		}},
		{"public in a missing folder", "key.unwritable", func(dir string, o *sign.KeysOptions) { o.Public = filepath.Join(dir, "missing", "cosign.pub") }},
		{"private in a missing folder", "key.unwritable", func(dir string, o *sign.KeysOptions) { o.Private = filepath.Join(dir, "missing", "cosign.key") }},
		{"public is a folder", "key.unwritable", func(dir string, o *sign.KeysOptions) {
			_ = os.Mkdir(o.Public, 0o700)
			o.Force = true
		}},
		{"public is a folder and private exists", "key.unwritable", func(dir string, o *sign.KeysOptions) {
			_ = os.WriteFile(o.Private, []byte("old"), 0o600)
			_ = os.Mkdir(o.Public, 0o700)
			o.Force = true
		}},
		{"same file", "key.same-file", func(dir string, o *sign.KeysOptions) { o.Public = o.Private }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := sign.KeysOptions{Private: filepath.Join(dir, "cosign.key"), Public: filepath.Join(dir, "cosign.pub")}
			private := o.Private
			tt.prepare(dir, &o)
			before := len(must(os.ReadDir(dir))(t))
			old, _ := os.ReadFile(private)
			_, err := sigstore.GenerateKeys(t.Context(), o)
			wantFault(t, err, fault.Input, tt.code)
			if n := len(must(os.ReadDir(dir))(t)); n != before {
				t.Errorf("the folder has %d files, want %d as before", n, before)
			}
			if now, _ := os.ReadFile(private); !bytes.Equal(now, old) {
				t.Errorf("the private key is %q, want %q as before", now, old)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := sigstore.GenerateKeys(ctx, sign.KeysOptions{Private: dir + "/a", Public: dir + "/b"}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// writeFile writes data to a new file and returns its name.
func writeFile(t *testing.T, data string) string {
	t.Helper()
	return filepath.Join(testkit.Tree(t, map[string]string{"key": data}), "key")
}

// A key that cannot be used gives an input error on one line.
func TestBadKeys(t *testing.T) {
	good := keyPair(t, "cosign")
	private, public := string(must(os.ReadFile(good.private))(t)), string(must(os.ReadFile(good.public))(t))
	plain := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)))(t)}))
	t.Setenv("SLIPWAY_EMPTY_KEY", " \n")
	t.Setenv("SLIPWAY_BROKEN_KEY", "-----BEGIN nothing")
	right, wrong := sign.Hide([]byte(plantedPassword)), sign.Hide([]byte(plantedPassword+"x"))
	for _, tt := range []struct {
		name     string
		key      sign.Key
		code     string
		contains string
	}{
		{"no reference", sign.Key{}, "key.missing", "no key"},
		{"missing file", sign.Key{Ref: "missing/cosign.key"}, "key.unreadable", "missing/cosign.key"},
		{"folder", sign.Key{Ref: t.TempDir()}, "key.unreadable", "not a regular file"},
		{"device", sign.Key{Ref: "/dev/zero"}, "key.unreadable", "not a regular file"},
		{"empty file", sign.Key{Ref: writeFile(t, "")}, "key.malformed", "PEM"},
		{"text", sign.Key{Ref: writeFile(t, "hello")}, "key.malformed", "PEM"},
		{"huge", sign.Key{Ref: writeFile(t, strings.Repeat("a", 2<<20))}, "key.malformed", "too large"},
		{"truncated", sign.Key{Ref: writeFile(t, private[:len(private)/2])}, "key.malformed", "PEM"},
		{"damaged", sign.Key{Ref: writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte(`{"kdf":`)}))), Password: right}, "key.malformed", "damaged"},
		{"no parameters", sign.Key{Ref: writeFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: []byte(`{}`)}))), Password: right}, "key.malformed", "damaged"},
		{"public", sign.Key{Ref: good.public}, "key.public", "cannot sign"},
		{"public text", sign.Key{Ref: writeFile(t, public)}, "key.public", "cannot sign"},
		{"another format", sign.Key{Ref: writeFile(t, plain)}, "key.format", "import-key-pair"},
		{"unknown kind", sign.Key{Ref: writeFile(t, "-----BEGIN DOG-----\nAAAA\n-----END DOG-----\n")}, "key.format", "DOG"},
		{"wrong password", sign.Key{Ref: good.private, Password: wrong}, "key.password", "is wrong (set COSIGN_PASSWORD or SLIPWAY_KEY_PASSWORD)"},
		{"no password", sign.Key{Ref: good.private}, "key.password", "requires its password"},
		{"unset variable", sign.Key{Ref: "env://SLIPWAY_NO_SUCH_KEY"}, "key.missing", "not set"},
		{"empty variable", sign.Key{Ref: "env://SLIPWAY_EMPTY_KEY"}, "key.missing", "is empty"},
		{"no variable", sign.Key{Ref: "env://"}, "key.malformed", "no environment variable"},
		{"broken variable", sign.Key{Ref: "env://SLIPWAY_BROKEN_KEY"}, "key.malformed", "PEM"},
		{"unknown provider", sign.Key{Ref: "aliyunkms://a/b"}, "key.scheme", "hashivault://"},
		{"program as a provider", sign.Key{Ref: "sh://-c"}, "key.scheme", "unknown"},
		{"URL", sign.Key{Ref: "https://example.com/cosign.key"}, "key.scheme", "unknown"},
		{"provider without a key", sign.Key{Ref: "awskms://"}, "key.malformed", "contains no key"},
		{"control characters", sign.Key{Ref: "a\x00b"}, "key.malformed", "characters"},
		{"the key itself", sign.Key{Ref: private}, "key.malformed", "env://NAME"},
		{"the key itself on one line", sign.Key{Ref: strings.ReplaceAll(private, "\n", " ")}, "key.malformed", "env://NAME"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: tt.key})
			wantFault(t, err, fault.Input, tt.code, tt.contains)
			for _, line := range strings.Split(private, "\n")[1:3] {
				if strings.Contains(err.Error(), line) {
					t.Errorf("the error contains the key: %v", err)
				}
			}
		})
	}
	_, err := sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: good.key(), Keyless: &sign.Keyless{}})
	wantFault(t, err, fault.Input, "key.two")
	for ref, code := range map[string]string{
		writeFile(t, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"): "key.format",
		writeFile(t, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):   "key.malformed",
		writeFile(t, ""): "key.malformed",
		good.private:     "key.password",
		"missing.pub":    "key.unreadable",
	} {
		_, err := sigstore.PublicKey(t.Context(), sign.Key{Ref: ref})
		wantFault(t, err, fault.Input, code)
	}
}

// A key in an environment variable works like one in a file.
func TestKeyInVariable(t *testing.T) {
	keys := keyPair(t, "cosign")
	t.Setenv("SLIPWAY_TEST_KEY", string(must(os.ReadFile(keys.private))(t)))
	t.Setenv("SLIPWAY_TEST_PUB", string(must(os.ReadFile(keys.public))(t)))
	s := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: sign.Key{Ref: "env://SLIPWAY_TEST_KEY", Password: sign.Hide([]byte(plantedPassword))}}))(t)
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	p.sign(t, s, subs)
	for _, k := range []sign.Key{{Ref: "env://SLIPWAY_TEST_PUB"}, {Ref: keys.public}, keys.key()} {
		if _, err := p.verify(t, subs[0], sign.Policy{Keys: []sign.Key{k}}); err != nil {
			t.Errorf("%s: %v", k.Ref, err)
		}
	}
}

// A key in a KMS signs and verifies. An error of the KMS is not an input error.
func TestKMS(t *testing.T) {
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	ctx := context.WithValue(t.Context(), fake.KmsCtxKey{}, private)
	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	s := must(sigstore.NewSigner(ctx, sign.SignerOptions{Key: sign.Key{Ref: "fakekms://key"}}))(t)
	p.sign(t, s, subs)
	if _, err := sigstore.Verify(ctx, sign.VerifyOptions{Reference: subs[0].Digest, Policy: sign.Policy{Keys: []sign.Key{{Ref: "fakekms://key"}}}, Remote: p.remote(), Backoff: quick}); err != nil {
		t.Error(err)
	}
	_, err := sigstore.NewSigner(context.WithValue(t.Context(), fake.KmsCtxKey{}, "no key"), sign.SignerOptions{Key: sign.Key{Ref: "fakekms://key"}})
	wantFault(t, err, fault.Failed, "key.kms", "fakekms://key", "credentials")
}

// fakeVault is a fake of the transit engine of HashiCorp Vault
// (https://developer.hashicorp.com/vault/api-docs/secret/transit). It has a real
// key, signs with it, and requires a token.
func fakeVault(t *testing.T, private *ecdsa.PrivateKey) *httptest.Server {
	t.Helper()
	der := must(x509.MarshalPKIXPublicKey(&private.PublicKey))(t)
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		respond := func(data map[string]any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
		switch {
		case r.Header.Get("X-Vault-Token") != plantedToken:
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":["permission denied"]}`))
		case r.URL.Path == "/v1/transit/keys/orders":
			respond(map[string]any{"type": "ecdsa-p256", "latest_version": 1, "keys": map[string]any{"1": map[string]any{"public_key": public}}})
		case strings.HasPrefix(r.URL.Path, "/v1/transit/sign/orders"):
			var in struct {
				Input     string `json:"input"`
				Prehashed bool   `json:"prehashed"`
			}
			_ = json.NewDecoder(r.Body).Decode(&in)
			data, _ := base64.StdEncoding.DecodeString(in.Input)
			if !in.Prehashed {
				sum := sha256.Sum256(data)
				data = sum[:]
			}
			sig, _ := ecdsa.SignASN1(rand.Reader, private, data)
			respond(map[string]any{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(sig)})
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"errors":[]}`))
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// Keys in HashiCorp Vault sign, attest and verify.
func TestVault(t *testing.T) {
	srv := fakeVault(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t))
	t.Setenv("VAULT_ADDR", srv.URL)
	t.Setenv("VAULT_TOKEN", plantedToken)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	p := newRepo(t, memory(t))
	subs := p.pushIndex(t)
	ref := sign.Key{Ref: "hashivault://orders"}
	s := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: ref}))(t)
	p.sign(t, s, subs)
	p.attest(t, s, sbomStatement(subs...))
	if !p.sign(t, s, subs).Unchanged || !p.attest(t, s, sbomStatement(subs...)).Unchanged {
		t.Error("signing and attesting a second time changed something")
	}
	if _, err := p.verify(t, subs[0], sign.Policy{Keys: []sign.Key{ref}, Attestations: []string{"sbom"}}); err != nil {
		t.Error(err)
	}
	file := writeFile(t, string(must(sigstore.PublicKey(t.Context(), ref))(t)))
	if _, err := p.verify(t, subs[0], sign.Policy{Keys: []sign.Key{{Ref: file}}}); err != nil {
		t.Errorf("with the public key in a file: %v", err)
	}
	_, err := sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: sign.Key{Ref: "hashivault://missing"}})
	wantFault(t, err, fault.Failed, "key.kms", "hashivault://missing")
	t.Setenv("VAULT_TOKEN", "wrong")
	_, err = sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: ref})
	wantFault(t, err, fault.Failed, "key.kms", "permission denied")
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	_, err = sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: ref})
	wantFault(t, err, fault.Failed, "key.kms", "refused")
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// Any reference and any file gives an input error on one line, without a panic.
func FuzzKeyRef(f *testing.F) {
	for _, s := range []string{"cosign.key", "env://A", "awskms://", "sh://x", "a://b://c", "-----BEGIN", "\xff", "/dev/null", "env://A=b", "://"} {
		f.Add(s, []byte(""))
	}
	f.Add("", []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"))
	f.Add("", []byte(`{"kdf":{"name":"scrypt","params":{"N":2,"r":1,"p":1},"salt":""},"cipher":{"name":"nacl/secretbox","nonce":""},"ciphertext":""}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, ref string, content []byte) {
		if strings.Contains(ref, "kms://") || strings.Contains(ref, "vault://") {
			return // would use the network
		}
		if ref == "" {
			ref = filepath.Join(dir, "key")
			if len(content) > 0 && content[0] == '{' {
				content = pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: content})
			}
			if err := os.WriteFile(ref, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: sign.Key{Ref: ref}})
		if err == nil {
			t.Skip()
		}
		var e *fault.Error
		if !errors.As(err, &e) || e.Kind != fault.Input || strings.Contains(err.Error(), "\n") {
			t.Errorf("reference %q: got %v, want an input error on one line", ref, err)
		}
		_, _ = sigstore.PublicKey(t.Context(), sign.Key{Ref: ref})
	})
}

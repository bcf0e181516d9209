package sealed_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bitnami-labs/sealed-secrets/pkg/crypto"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy/sealed"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// controller returns the private key and the certificate of a controller.
func controller(t testing.TB) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, cert, err := crypto.GeneratePrivateKeyAndCert(2048, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func parseCertificate(t testing.TB, text []byte) sealed.Certificate {
	t.Helper()
	c, err := sealed.ParseCertificate(text, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSealedValues decrypts what was sealed as the controller does.
func TestSealedValues(t *testing.T) {
	const password = "correct horse battery staple"
	key, text := controller(t)
	s := sealed.New("shop", "orders")
	for name, value := range map[string]string{"password": password, "empty": ""} {
		if err := s.Seal(parseCertificate(t, text), name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	file, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(file), password) || strings.Contains(string(file), base64.StdEncoding.EncodeToString([]byte(password))) {
		t.Errorf("the file contains the password:\n%s", file)
	}
	back, err := sealed.Parse("orders.yaml", file, "shop", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"empty", "password"}; !slices.Equal(back.Keys(), want) {
		t.Errorf("the keys are %v, want %v", back.Keys(), want)
	}
	for label, ok := range map[string]bool{"shop/orders": true, "other/orders": false, "shop/other": false} {
		raw, err := base64.StdEncoding.DecodeString(back.Spec.EncryptedData["password"])
		if err != nil {
			t.Fatal(err)
		}
		plain, err := crypto.HybridDecrypt(rand.Reader, map[string]*rsa.PrivateKey{"": key}, raw, []byte(label))
		if got := err == nil && string(plain) == password; got != ok {
			t.Errorf("unsealed as %s: %t, want %t (%v)", label, got, ok, err)
		}
	}
}

func TestParseCertificateRejects(t *testing.T) {
	_, good := controller(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, &ec.PublicKey, ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text []byte
		now  time.Time
		want string
	}{
		"expired":     {good, time.Now().Add(2 * time.Hour), "expired on "},
		"not yet":     {good, time.Now().Add(-48 * time.Hour), "is not valid before"},
		"not PEM":     {[]byte("hello"), time.Now(), "is not a certificate in PEM"},
		"a key":       {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), time.Now(), "is not a certificate in PEM"},
		"malformed":   {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), time.Now(), "cannot be read"},
		"another key": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), time.Now(), "has no RSA key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sealed.ParseCertificate(tt.text, tt.now)
			testkit.WantInput(t, err, "seal.certificate")
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v does not contain %q", err, tt.want)
			}
		})
	}
}

func TestParseRejects(t *testing.T) {
	const head = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\n"
	for name, tt := range map[string]struct{ text, code, want string }{
		"plain":             {"apiVersion: v1\nkind: Secret\nmetadata: {name: orders}\nstringData: {password: hunter2}\n", "seal.plain", "must not be in the repository"},
		"another kind":      {"apiVersion: v1\nkind: ConfigMap\n", "seal.file", "is not a sealed Secret"},
		"another name":      {head + "metadata: {name: other, namespace: shop}\n", "seal.file", `for the Secret "other"`},
		"another namespace": {head + "metadata: {name: orders, namespace: elsewhere}\n", "seal.file", `for the namespace "elsewhere"`},
		"empty":             {head + "metadata: {name: orders, namespace: shop}\n", "seal.file", "it has no data"},
		"not encrypted":     {head + "metadata: {name: orders, namespace: shop}\nspec: {encryptedData: {password: hunter2!}}\n", "seal.file", "the value of password is not encrypted"},
		"two":               {head + "metadata: {name: orders, namespace: shop}\nspec: {encryptedData: {a: YQ==}}\n---\nkind: Secret\n", "seal.file", "more than one object"},
		"not YAML":          {"a: [", "seal.file", "is not the YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sealed.Parse("orders.yaml", []byte(tt.text), "shop", "orders")
			testkit.WantInput(t, err, tt.code)
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want %q and no value", err, tt.want)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	_, text := controller(t)
	s := sealed.New("shop", "orders")
	for _, key := range []string{"a", "b"} {
		if err := s.Seal(parseCertificate(t, text), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for keys, want := range map[string]string{"a b": "", "a b c": "does not contain c", "a": "contains b, which slipway.yaml does not list"} {
		err := s.Missing("orders.yaml", strings.Fields(keys))
		if want == "" && err != nil || want != "" && (err == nil || fault.CodeOf(err) != "seal.keys" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", keys, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: orders, namespace: shop}\nspec: {encryptedData: {a: YQ==}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := sealed.Parse("orders.yaml", []byte(text), "shop", "orders")
		if err == nil && (s.Metadata.Name != "orders" || len(s.Keys()) == 0) {
			t.Errorf("%q is accepted", text)
		}
	})
}

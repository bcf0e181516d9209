// Package sealed encrypts Secrets for the Sealed Secrets controller, so that they can be kept
// in git (https://github.com/bitnami-labs/sealed-secrets). It reads only what a sealed Secret
// is for; only the controller can decrypt one.
//
// The package promises no compatibility to programs other than slipway.
package sealed

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bitnami-labs/sealed-secrets/pkg/crypto"
	"go.yaml.in/yaml/v3"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Kind and APIVersion are those of sealed Secrets.
const (
	Kind       = "SealedSecret"
	APIVersion = "bitnami.com/v1alpha1"
)

// Certificate is the public key of a controller.
type Certificate struct {
	key     *rsa.PublicKey
	Expires time.Time
}

// ParseCertificate reads a certificate in PEM. The error is a [fault.Input] error, also if the
// certificate is not valid at the time now.
func ParseCertificate(text []byte, now time.Time) (Certificate, error) {
	bad := func(format string, args ...any) (Certificate, error) {
		return Certificate{}, fault.Inputf("seal.certificate", "the certificate for sealing "+format, args...).
			WithFix("get it from the controller with kubeseal --fetch-cert, or let slipway seal ask the cluster")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return bad("is not a certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return bad("cannot be read: %w", err)
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	switch {
	case !ok:
		return bad("has no RSA key, which the controller of Sealed Secrets has")
	case now.After(c.NotAfter):
		return bad("expired on %s", c.NotAfter.Format(time.DateOnly))
	case now.Before(c.NotBefore):
		return bad("is not valid before %s", c.NotBefore.Format(time.DateOnly))
	}
	return Certificate{key, c.NotAfter}, nil
}

// Secret is a sealed Secret.
type Secret struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       spec     `yaml:"spec"`
}

type metadata struct {
	Name        string            `yaml:"name,omitempty"`
	Namespace   string            `yaml:"namespace,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

type spec struct {
	EncryptedData map[string]string `yaml:"encryptedData"`
	Template      template          `yaml:"template"`
}

type template struct {
	Metadata metadata          `yaml:"metadata,omitempty"`
	Type     string            `yaml:"type,omitempty"`
	Data     map[string]string `yaml:"data,omitempty"`
}

// New returns a sealed Secret without data. It can only be unsealed under this name in this
// namespace.
func New(namespace, name string) Secret {
	m := metadata{Name: name, Namespace: namespace}
	return Secret{APIVersion: APIVersion, Kind: Kind, Metadata: m, Spec: spec{EncryptedData: map[string]string{}, Template: template{Metadata: m, Type: "Opaque"}}}
}

// Seal encrypts a value and stores it under a key, in place of an earlier one.
func (s *Secret) Seal(c Certificate, key string, value []byte) error {
	label := []byte(s.Metadata.Namespace + "/" + s.Metadata.Name)
	sealed, err := crypto.HybridEncrypt(rand.Reader, c.key, value, label)
	if err != nil {
		return fmt.Errorf("sealing the key %s of Secret %s: %w", key, s.Metadata.Name, err)
	}
	s.Spec.EncryptedData[key] = base64.StdEncoding.EncodeToString(sealed)
	return nil
}

// Keys returns the keys of the Secret, sorted.
func (s Secret) Keys() []string { return slices.Sorted(maps.Keys(s.Spec.EncryptedData)) }

// Keep removes the keys that are not in the list.
func (s *Secret) Keep(keys []string) {
	maps.DeleteFunc(s.Spec.EncryptedData, func(key, _ string) bool { return !slices.Contains(keys, key) })
}

// Marshal returns the Secret as a file.
func (s Secret) Marshal() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# Written by slipway seal. Only the controller in the cluster can decrypt the values.\n")
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(s); err != nil {
		return nil, fmt.Errorf("encoding sealed Secret %s: %w", s.Metadata.Name, err)
	}
	return out.Bytes(), encoder.Close()
}

// Parse reads a file with one sealed Secret, which must have this name and namespace. file
// names it in errors, which are [fault.Input] errors. They never contain values, because the
// file may be a plain Secret by mistake.
func Parse(file string, text []byte, namespace, name string) (Secret, error) {
	bad := func(format string, args ...any) (Secret, error) {
		return Secret{}, fault.Inputf("seal.file", file+": "+format, args...).WithFix("seal it again with slipway seal")
	}
	if err := Check(file, text); err != nil {
		return Secret{}, err
	}
	var s Secret
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&s); err != nil {
		return bad("it is not the YAML of a sealed Secret")
	}
	switch {
	case s.Metadata.Name != name:
		return bad("it was sealed for the Secret %q instead of %q, and cannot be unsealed under another name", s.Metadata.Name, name)
	case s.Metadata.Namespace != namespace:
		return bad("it was sealed for the namespace %q instead of %q, and cannot be unsealed in another one", s.Metadata.Namespace, namespace)
	case len(s.Spec.EncryptedData) == 0:
		return bad("it has no data")
	}
	for key, value := range s.Spec.EncryptedData {
		if _, err := base64.StdEncoding.DecodeString(value); err != nil {
			return bad("the value of %s is not encrypted", key)
		}
	}
	var more any
	if decoder.Decode(&more) == nil {
		return bad("it contains more than one object")
	}
	return s, nil
}

// Check returns an error if a file does not contain a sealed Secret, or contains values in plain
// text. Errors are [fault.Input] errors without values.
func Check(file string, text []byte) error {
	var s struct {
		APIVersion string         `yaml:"apiVersion"`
		Kind       string         `yaml:"kind"`
		StringData map[string]any `yaml:"stringData"`
		Data       map[string]any `yaml:"data"`
	}
	if yaml.Unmarshal(text, &s) != nil {
		return fault.Inputf("seal.file", "%s: it is not the YAML of a sealed Secret", file).WithFix("remove it, and seal the Secret with slipway seal")
	}
	switch {
	case s.Kind == "Secret", s.StringData != nil, s.Kind == Kind && s.Data != nil:
		return fault.Inputf("seal.plain", "%s is a Secret in plain text, which must not be in the repository", file).
			WithFix("remove it from git, change the values that it contains, and seal them with slipway seal")
	case s.Kind != Kind || s.APIVersion != APIVersion:
		return fault.Inputf("seal.file", "%s: it is not a sealed Secret (kind %s of %s)", file, Kind, APIVersion).
			WithFix("remove it, or set sealed of the environment to another folder")
	}
	return nil
}

// Missing returns an error if the Secret does not have exactly the keys.
func (s Secret) Missing(file string, keys []string) error {
	var missing, unknown []string
	for _, key := range keys {
		if _, ok := s.Spec.EncryptedData[key]; !ok {
			missing = append(missing, key)
		}
	}
	for _, key := range s.Keys() {
		if !slices.Contains(keys, key) {
			unknown = append(unknown, key)
		}
	}
	switch {
	case len(missing) > 0:
		return fault.Inputf("seal.keys", "%s does not contain %s, which slipway.yaml lists for Secret %s", file, strings.Join(missing, ", "), s.Metadata.Name).
			WithFix("seal it with slipway seal")
	case len(unknown) > 0:
		return fault.Inputf("seal.keys", "%s contains %s, which slipway.yaml does not list for Secret %s", file, strings.Join(unknown, ", "), s.Metadata.Name).
			WithFix("add it to secrets of the environment, or seal the Secret again with slipway seal")
	}
	return nil
}

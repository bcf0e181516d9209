package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Secret holds a password or a token, which must never be printed. It prints and
// marshals as "hidden", also as a part of other values.
type Secret struct {
	// A function, because fmt prints strings and bytes in unexported fields.
	reveal func() []byte
}

// Empty reports whether the secret is empty.
func (s Secret) Empty() bool { return s.reveal == nil || len(s.reveal()) == 0 }

// Reveal returns the password or token.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// String returns "hidden", or "" if the secret is empty.
func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return "hidden"
}

// Format implements [fmt.Formatter]. It writes what String returns for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText implements [encoding.TextMarshaler]. It returns what String returns.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Hide returns b as a secret. The caller must not change b afterwards.
func Hide(b []byte) Secret { return Secret{func() []byte { return b }} }

// Key is a reference to a key.
type Key struct {
	// Ref is a file, env://NAME for an environment variable that holds the PEM
	// text, or a key of a KMS: awskms://, gcpkms://, azurekms:// or hashivault://.
	Ref      string
	Password Secret // of an encrypted private key
}

// KeysOptions is the input of [Tool.GenerateKeys].
type KeysOptions struct {
	Private  string // file; default cosign.key
	Public   string // file; default cosign.pub
	Password Secret // may be empty
	Force    bool   // replace existing files
}

// Keys is a new pair of keys.
type Keys struct {
	Private     string `json:"private_key"` // file
	Public      string `json:"public_key"`  // file
	Fingerprint string `json:"fingerprint"` // sha256:... of the public key
}

// Keyless configures keyless signing, which uses a short-lived certificate.
type Keyless struct {
	Fulcio      string       // URL of the certificate authority; default: that of [config.DefaultKeyless]
	Audience    string       // of the identity token; default: that of [config.DefaultKeyless]
	Token       TokenSource  // default: the token of the CI that slipway runs in
	TrustedRoot string       // trusted_root.json of a private instance; default: that of the public instance, through TUF
	HTTP        *http.Client // default: a client with a timeout of one minute
}

// TokenSource returns the identity token for which the certificate authority
// issues a certificate.
type TokenSource interface {
	Token(ctx context.Context, audience string) (Secret, error)
}

// GivenToken is a [TokenSource] for a token that the caller has.
type GivenToken struct{ Value Secret }

// Token returns the token, or a [fault.Input] error if it is empty.
func (t GivenToken) Token(context.Context, string) (Secret, error) {
	if t.Value.Empty() {
		return Secret{}, fault.Inputf("token.missing", "the identity token is empty")
	}
	return t.Value, nil
}

// FileToken is a [TokenSource] for a token in a file, for example a projected
// service account token of Kubernetes.
type FileToken struct{ Path string }

// Token reads the file. It returns a [fault.Input] error if the file is missing or
// empty.
func (t FileToken) Token(context.Context, string) (Secret, error) {
	data, err := os.ReadFile(t.Path)
	if err != nil {
		return Secret{}, fault.Inputf("token.missing", "reading the identity token %s: %w", t.Path, plain(err))
	}
	if data = bytes.TrimSpace(data); len(data) == 0 {
		return Secret{}, fault.Inputf("token.missing", "the identity token %s is empty", t.Path)
	}
	return Hide(data), nil
}

// plain removes the name of the file from an error, because the message has it.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Encrypted reports whether a file is a private key that is encrypted with a password, as
// [Tool.GenerateKeys] and cosign write it.
func Encrypted(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	var begin [64]byte
	n, _ := io.ReadFull(f, begin[:])
	for _, kind := range []string{"SIGSTORE", "COSIGN"} {
		if bytes.HasPrefix(begin[:n], []byte("-----BEGIN ENCRYPTED "+kind+" PRIVATE KEY-----")) {
			return true
		}
	}
	return false
}

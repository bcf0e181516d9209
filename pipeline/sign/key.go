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

// Secret holds what must never be shown: a password or a token. It prints and
// marshals as "hidden", also inside other values.
type Secret struct {
	// A function, since fmt would print a string or bytes in a field that is
	// not exported.
	reveal func() []byte
}

// Empty says that there is nothing to hide.
func (s Secret) Empty() bool { return s.reveal == nil || len(s.reveal()) == 0 }

// Reveal returns what is hidden.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// String returns "hidden", or nothing for no secret.
func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return "hidden"
}

// Format writes what String returns, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText returns what String returns.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Hide makes a secret of b, which the caller must not change later.
func Hide(b []byte) Secret { return Secret{func() []byte { return b }} }

// Key says where a key is.
type Key struct {
	// Ref is a file, env://NAME for a PEM text in an environment variable, or a
	// key of a KMS as awskms://, gcpkms://, azurekms:// or hashivault://.
	Ref      string
	Password Secret // of an encrypted private key
}

// KeysOptions says where a new pair of keys goes.
type KeysOptions struct {
	Private  string // file; default cosign.key
	Public   string // file; default cosign.pub
	Password Secret // may be empty
	Force    bool   // replace files that are there
}

// Keys is a new pair of keys.
type Keys struct {
	Private     string `json:"private_key"` // the files
	Public      string `json:"public_key"`
	Fingerprint string `json:"fingerprint"` // sha256:... of the public key
}

// Keyless says how a short-lived certificate is got.
type Keyless struct {
	Fulcio      string      // certificate authority; default: that of [config.DefaultKeyless]
	Audience    string      // asked of the identity provider; default: that of [config.DefaultKeyless]
	Token       TokenSource // default: what [FindToken] finds in the environment
	TrustedRoot string      // trusted_root.json of a private instance; default: the public one's, by TUF
	HTTP        *http.Client
}

// TokenSource gives the identity token that a certificate is made out to.
type TokenSource interface {
	Token(ctx context.Context, audience string) (Secret, error)
}

// GivenToken is a token the caller has.
type GivenToken struct{ Value Secret }

// Token returns the token.
func (t GivenToken) Token(context.Context, string) (Secret, error) {
	if t.Value.Empty() {
		return Secret{}, fault.Inputf("token.missing", "the identity token is empty")
	}
	return t.Value, nil
}

// FileToken is a token in a file, for example one Kubernetes projects.
type FileToken struct{ Path string }

// Token reads the file.
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

// plain leaves the file's name out of an error: the message has it.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

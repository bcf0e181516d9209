package sigstore

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/google/renameio/v2"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws"        // awskms:// registers itself
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"      // azurekms:// registers itself
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"        // gcpkms:// registers itself
	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault" // hashivault:// registers itself
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// GenerateKeys makes an encrypted private key (mode 0600) and its public key
// in cosign's format. It returns a [fault.Input] error where a file is there
// already or cannot be written; then neither file is new.
func GenerateKeys(ctx context.Context, o sign.KeysOptions) (_ sign.Keys, err error) {
	if o.Private == "" {
		o.Private = "cosign.key"
	}
	if o.Public == "" {
		o.Public = "cosign.pub"
	}
	if filepath.Clean(o.Private) == filepath.Clean(o.Public) {
		return sign.Keys{}, fault.Inputf("key.same-file", "the private and the public key cannot both go to %s", o.Private)
	}
	for _, file := range []string{o.Private, o.Public} {
		if _, err := os.Lstat(file); err == nil && !o.Force {
			return sign.Keys{}, exists(file)
		}
	}
	if ctx.Err() != nil {
		return sign.Keys{}, ctx.Err()
	}
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return o.Password.Reveal(), nil })
	if err != nil {
		return sign.Keys{}, fault.Failedf("key.generate", "making a pair of keys: %w", err)
	}
	private, err := stage(o.Private, pair.PrivateBytes, 0o600)
	if err != nil {
		return sign.Keys{}, err
	}
	defer func() { err = errors.Join(err, private.Cleanup()) }()
	public, err := stage(o.Public, pair.PublicBytes, 0o644)
	if err != nil {
		return sign.Keys{}, err
	}
	defer func() { err = errors.Join(err, public.Cleanup()) }()
	if ctx.Err() != nil {
		return sign.Keys{}, ctx.Err()
	}
	old, err := os.ReadFile(o.Private)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sign.Keys{}, unwritable(o.Private, err)
	}
	if err := place(private, o.Private, o.Force); err != nil {
		return sign.Keys{}, err
	}
	if err := place(public, o.Public, o.Force); err != nil {
		if old == nil {
			return sign.Keys{}, errors.Join(err, os.Remove(o.Private))
		}
		return sign.Keys{}, errors.Join(err, renameio.WriteFile(o.Private, old, 0o600, renameio.WithTempDir(filepath.Dir(o.Private))))
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pair.PublicBytes)
	if err != nil {
		return sign.Keys{}, fault.Failedf("key.generate", "reading the new public key back: %w", err)
	}
	fp, err := fingerprint(pub)
	if err != nil {
		return sign.Keys{}, err
	}
	return sign.Keys{Private: o.Private, Public: o.Public, Fingerprint: fp}, nil
}

func exists(file string) error {
	return fault.Inputf("key.exists", "%s exists; signatures made with it would be lost with it", file).
		WithFix("choose another file, or replace it with --force")
}

func stage(file string, data []byte, mode fs.FileMode) (*renameio.PendingFile, error) {
	f, err := renameio.NewPendingFile(file, renameio.WithTempDir(filepath.Dir(file)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return nil, unwritable(file, err)
	}
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(unwritable(file, err), f.Cleanup())
	}
	return f, nil
}

// place gives a staged file its name. A link, other than a rename, fails where
// the name is taken meanwhile.
func place(f *renameio.PendingFile, file string, force bool) error {
	if force {
		if err := f.CloseAtomicallyReplace(); err != nil {
			return unwritable(file, err)
		}
		return nil
	}
	if err := f.Sync(); err != nil {
		return unwritable(file, err)
	}
	err := os.Link(f.Name(), file)
	if errors.Is(err, fs.ErrExist) {
		return exists(file)
	}
	if err != nil {
		return unwritable(file, err)
	}
	return nil
}

func unwritable(file string, err error) error {
	return fault.Inputf("key.unwritable", "writing %s: %w", file, plain(err)).WithFix("choose a folder that can be written")
}

// plain leaves the file names out of an error: the message has them.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no
	}
	return err
}

// maxKey bounds a key file: a device or a huge file is no key.
const maxKey = 1 << 20

// PublicKey returns the PEM text of a key's public half. It reads what [Key]
// says; a KMS is asked over the network.
func PublicKey(ctx context.Context, k sign.Key) ([]byte, error) {
	vs, err := loadVerifiers(ctx, k)
	if err != nil {
		return nil, err
	}
	pub, err := vs[0].PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, kmsError(ctx, k, err)
	}
	return cryptoutils.MarshalPublicKeyToPEM(pub)
}

// sourceOf tells what a key reference names.
func sourceOf(k sign.Key) (scheme, rest string, err error) {
	switch {
	case k.Ref == "":
		return "", "", fault.Inputf("key.missing", "no key is given").
			WithFix("name a key file, env://NAME or a KMS key; slipway sign keys makes a pair")
	case strings.Contains(k.Ref, "-----BEGIN") || len(k.Ref) > 1024:
		// Never shown: it may be the key.
		return "", "", fault.Inputf("key.malformed", "the key itself is given where its place should be").
			WithFix("put it in a file, or in an environment variable and write env://NAME")
	case strings.ContainsFunc(k.Ref, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(k.Ref):
		return "", "", fault.Inputf("key.malformed", "the reference %q of the key holds characters that none has", k.Ref)
	}
	scheme, rest, ok := strings.Cut(k.Ref, "://")
	if !ok {
		return "file", k.Ref, nil
	}
	if scheme == "env" {
		if rest == "" || strings.ContainsAny(rest, "=/") {
			return "", "", fault.Inputf("key.malformed", "%s names no environment variable", k.Ref).WithFix("write env://NAME")
		}
		return "env", rest, nil
	}
	// Only stores that are compiled in: for any other name the library would
	// look for a program and run it.
	if !slices.Contains(kms.SupportedProviders(), scheme+"://") {
		return "", "", fault.Inputf("key.scheme", "%s is in a key store of an unknown kind", k.Ref).
			WithFix("use a file, env://NAME, awskms://, gcpkms://, azurekms:// or hashivault://")
	}
	if rest == "" {
		return "", "", fault.Inputf("key.malformed", "%s names no key", k.Ref)
	}
	return "kms", rest, nil
}

// readKey returns the PEM text of a key in a file or a variable.
func readKey(k sign.Key, scheme, rest string) ([]byte, error) {
	if scheme == "env" {
		text, ok := os.LookupEnv(rest)
		switch {
		case !ok:
			return nil, fault.Inputf("key.missing", "the environment variable %s of %s is not set", rest, k.Ref)
		case strings.TrimSpace(text) == "":
			return nil, fault.Inputf("key.missing", "the environment variable %s of %s is empty", rest, k.Ref)
		case len(text) > maxKey:
			return nil, fault.Inputf("key.malformed", "%s is too long for a key", k.Ref)
		}
		return []byte(text), nil
	}
	info, err := os.Stat(rest)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fault.Inputf("key.unreadable", "key %s is no file", rest)
	}
	f, err := os.Open(rest)
	if err != nil {
		e := fault.Inputf("key.unreadable", "reading key %s: %w", rest, plain(err))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, e.WithFix("make a pair with slipway sign keys, or correct sign.key and verify.keys in slipway.yaml")
		}
		return nil, e
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fault.Inputf("key.unreadable", "reading key %s: %w", rest, plain(err))
	}
	if len(data) > maxKey {
		return nil, fault.Inputf("key.malformed", "%s is too long for a key", rest)
	}
	return data, nil
}

// loadSigner returns what signs with a private key.
func loadSigner(ctx context.Context, k sign.Key) (signature.SignerVerifier, error) {
	scheme, rest, err := sourceOf(k)
	if err != nil {
		return nil, err
	}
	if scheme == "kms" {
		sv, err := kms.Get(ctx, k.Ref, crypto.SHA256)
		if err != nil {
			return nil, kmsError(ctx, k, err)
		}
		return sv, nil
	}
	data, err := readKey(k, scheme, rest)
	if err != nil {
		return nil, err
	}
	return privateKey(k, data)
}

func privateKey(k sign.Key, data []byte) (signature.SignerVerifier, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fault.Inputf("key.malformed", "%s is no PEM file", k.Ref).WithFix("a private key begins with -----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")
	}
	switch block.Type {
	case cosign.CosignPrivateKeyPemType, cosign.SigstorePrivateKeyPemType:
	case "PUBLIC KEY", "CERTIFICATE":
		return nil, fault.Inputf("key.public", "%s holds a public key, which cannot sign", k.Ref).WithFix("give the private key, for example cosign.key")
	case cosign.PrivateKeyPemType, cosign.ECPrivateKeyPemType, cosign.RSAPrivateKeyPemType, "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		return nil, fault.Inputf("key.format", "%s is a private key in another format than cosign's (%s)", k.Ref, block.Type).
			WithFix("convert it with cosign import-key-pair --key %s", k.Ref)
	default:
		return nil, fault.Inputf("key.format", "%s holds a %.40q, no private key", k.Ref, block.Type)
	}
	sv, err := cosign.LoadPrivateKey(data, k.Password.Reveal(), nil)
	switch {
	case err == nil:
		return sv, nil
	case strings.Contains(err.Error(), "decryption failed") && k.Password.Empty():
		return nil, fault.Inputf("key.password", "key %s needs its password", k.Ref).WithFix("set COSIGN_PASSWORD or SLIPWAY_KEY_PASSWORD")
	case strings.Contains(err.Error(), "decryption failed"):
		return nil, fault.Inputf("key.password", "the password of %s is wrong", k.Ref).WithFix("set COSIGN_PASSWORD or SLIPWAY_KEY_PASSWORD")
	default:
		// What the library says could quote what it failed to parse.
		return nil, fault.Inputf("key.malformed", "%s is damaged: it is no private key in cosign's format", k.Ref)
	}
}

// loadVerifiers returns what verifies by a public key, or by the public half
// of a private one. cosign has hashed for the larger curves in two ways, so
// there may be two.
func loadVerifiers(ctx context.Context, k sign.Key) ([]signature.Verifier, error) {
	scheme, rest, err := sourceOf(k)
	if err != nil {
		return nil, err
	}
	var pub crypto.PublicKey
	if scheme == "kms" {
		sv, err := loadSigner(ctx, k)
		if err != nil {
			return nil, err
		}
		// The public key verifies here: the store is asked once, and a store
		// that says yes to everything is not believed.
		if pub, err = sv.PublicKey(options.WithContext(ctx)); err != nil {
			return nil, kmsError(ctx, k, err)
		}
		return verifiersOf(k, pub)
	}
	data, err := readKey(k, scheme, rest)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fault.Inputf("key.malformed", "%s is no PEM file", k.Ref).WithFix("a public key begins with -----BEGIN PUBLIC KEY-----")
	}
	switch {
	case block.Type == "CERTIFICATE":
		return nil, fault.Inputf("key.format", "%s holds a certificate, no public key", k.Ref).WithFix("certificates are trusted by verify.identities")
	case strings.Contains(block.Type, "PRIVATE KEY"):
		sv, err := privateKey(k, data)
		if err != nil {
			return nil, err
		}
		if pub, err = sv.PublicKey(); err != nil {
			return nil, fault.Inputf("key.malformed", "reading the public half of %s: %w", k.Ref, err)
		}
	default:
		if pub, err = cryptoutils.UnmarshalPEMToPublicKey(data); err != nil {
			return nil, fault.Inputf("key.malformed", "%s holds no public key: %w", k.Ref, err)
		}
	}
	return verifiersOf(k, pub)
}

func verifiersOf(k sign.Key, pub crypto.PublicKey) ([]signature.Verifier, error) {
	first, err := signature.LoadDefaultVerifier(pub, options.WithED25519ph())
	if err != nil {
		return nil, fault.Inputf("key.algorithm", "%s holds a key that cannot verify: %w", k.Ref, err)
	}
	vs := []signature.Verifier{first}
	if second, err := signature.LoadVerifier(pub, crypto.SHA256); err == nil {
		vs = append(vs, second)
	}
	return vs, nil
}

func kmsError(ctx context.Context, k sign.Key, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Failedf("key.kms", "asking the key store for %s: %w", k.Ref, oneLine(err)).
		WithFix("check its address, your credentials there and that the key exists")
}

// fingerprint names a public key in results and messages.
func fingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("taking the fingerprint of a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

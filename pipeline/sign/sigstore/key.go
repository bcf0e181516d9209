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

// GenerateKeys creates an encrypted private key (mode 0600) and its public key in
// cosign's format. It returns a [fault.Input] error if a file exists already or
// cannot be written. After an error neither file has changed.
func GenerateKeys(ctx context.Context, o sign.KeysOptions) (_ sign.Keys, err error) {
	if o.Private == "" {
		o.Private = "cosign.key"
	}
	if o.Public == "" {
		o.Public = "cosign.pub"
	}
	if filepath.Clean(o.Private) == filepath.Clean(o.Public) {
		return sign.Keys{}, fault.Inputf("key.same-file", "the private and the public key cannot both be written to %s", o.Private)
	}
	for _, file := range []string{o.Private, o.Public} {
		if _, err := os.Lstat(file); err == nil && !o.Force {
			return sign.Keys{}, existsError(file)
		}
	}
	if ctx.Err() != nil {
		return sign.Keys{}, ctx.Err()
	}
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return o.Password.Reveal(), nil })
	if err != nil {
		return sign.Keys{}, fault.Failedf("key.generate", "generating a pair of keys: %w", err)
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
		return sign.Keys{}, writeError(o.Private, err)
	}
	if err := install(private, o.Private, o.Force); err != nil {
		return sign.Keys{}, err
	}
	if err := install(public, o.Public, o.Force); err != nil {
		if old == nil {
			return sign.Keys{}, errors.Join(err, os.Remove(o.Private))
		}
		return sign.Keys{}, errors.Join(err, renameio.WriteFile(o.Private, old, 0o600, renameio.WithTempDir(filepath.Dir(o.Private))))
	}
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pair.PublicBytes)
	if err != nil {
		return sign.Keys{}, fault.Failedf("key.generate", "reading the new public key: %w", err)
	}
	fp, err := fingerprint(pub)
	if err != nil {
		return sign.Keys{}, err
	}
	return sign.Keys{Private: o.Private, Public: o.Public, Fingerprint: fp}, nil
}

func existsError(file string) error {
	return fault.Inputf("key.exists", "%s exists already; if this key were replaced, its signatures could no longer be verified", file).
		WithFix("choose another file, or replace it with --force")
}

// stage writes data to a temporary file in the folder of file.
func stage(file string, data []byte, mode fs.FileMode) (*renameio.PendingFile, error) {
	f, err := renameio.NewPendingFile(file, renameio.WithTempDir(filepath.Dir(file)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return nil, writeError(file, err)
	}
	if _, err := f.Write(data); err != nil {
		return nil, errors.Join(writeError(file, err), f.Cleanup())
	}
	return f, nil
}

// install moves a staged file to its final name. Unless force is set, it uses a
// link instead of a rename, because a link fails if the file exists.
func install(f *renameio.PendingFile, file string, force bool) error {
	if force {
		if err := f.CloseAtomicallyReplace(); err != nil {
			return writeError(file, err)
		}
		return nil
	}
	if err := f.Sync(); err != nil {
		return writeError(file, err)
	}
	err := os.Link(f.Name(), file)
	if errors.Is(err, fs.ErrExist) {
		return existsError(file)
	}
	if err != nil {
		return writeError(file, err)
	}
	return nil
}

func writeError(file string, err error) error {
	return fault.Inputf("key.unwritable", "writing %s: %w", file, plain(err)).WithFix("choose a file in a writable folder")
}

// plain removes the names of files from an error, because the message has them.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		return no
	}
	return err
}

// maxKey is the maximal size of a key.
const maxKey = 1 << 20

// PublicKey returns the public key of k in PEM. For a key in a KMS it sends a
// request to the KMS. It returns a [fault.Input] error if the key is missing or
// malformed.
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

// sourceOf parses the reference of a key. The scheme is file, env or kms; rest is
// the file, the variable or the key in the KMS.
func sourceOf(k sign.Key) (scheme, rest string, err error) {
	switch {
	case k.Ref == "":
		return "", "", fault.Inputf("key.missing", "no key is given").
			WithFix("set a key file, env://NAME or a key of a KMS; slipway keys generate makes a pair")
	case strings.Contains(k.Ref, "-----BEGIN") || len(k.Ref) > 1024:
		// The error must not contain the reference, which may be the key.
		return "", "", fault.Inputf("key.malformed", "the key itself is given instead of a reference to it").
			WithFix("write it to a file, or to an environment variable with the reference env://NAME")
	case strings.ContainsFunc(k.Ref, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(k.Ref):
		return "", "", fault.Inputf("key.malformed", "the reference %q of the key contains characters that cannot be printed", k.Ref)
	}
	scheme, rest, ok := strings.Cut(k.Ref, "://")
	if !ok {
		return "file", k.Ref, nil
	}
	if scheme == "env" {
		if rest == "" || strings.ContainsAny(rest, "=/") {
			return "", "", fault.Inputf("key.malformed", "the key reference %s contains no environment variable", k.Ref).WithFix("write env://NAME")
		}
		return "env", rest, nil
	}
	// Accept only the providers that are compiled in. For any other scheme the
	// library would search for a plugin program and run it.
	if !slices.Contains(kms.SupportedProviders(), scheme+"://") {
		return "", "", fault.Inputf("key.scheme", "the key reference %s has an unknown scheme", k.Ref).
			WithFix("use a file, env://NAME, awskms://, gcpkms://, azurekms:// or hashivault://")
	}
	if rest == "" {
		return "", "", fault.Inputf("key.malformed", "the key reference %s contains no key", k.Ref)
	}
	return "kms", rest, nil
}

// readKey returns the PEM text of a key in a file or an environment variable.
func readKey(k sign.Key, scheme, rest string) ([]byte, error) {
	if scheme == "env" {
		text, ok := os.LookupEnv(rest)
		switch {
		case !ok:
			return nil, fault.Inputf("key.missing", "reading key %s: the environment variable %s is not set", k.Ref, rest)
		case strings.TrimSpace(text) == "":
			return nil, fault.Inputf("key.missing", "reading key %s: the environment variable %s is empty", k.Ref, rest)
		case len(text) > maxKey:
			return nil, fault.Inputf("key.malformed", "%s is too large for a key", k.Ref)
		}
		return []byte(text), nil
	}
	info, err := os.Stat(rest)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fault.Inputf("key.unreadable", "reading key %s: it is not a regular file", rest)
	}
	f, err := os.Open(rest)
	if err != nil {
		e := fault.Inputf("key.unreadable", "reading key %s: %w", rest, plain(err))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, e.WithFix("make a pair with slipway keys generate, or correct sign.key and verify.keys in slipway.yaml")
		}
		return nil, e
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fault.Inputf("key.unreadable", "reading key %s: %w", rest, plain(err))
	}
	if len(data) > maxKey {
		return nil, fault.Inputf("key.malformed", "%s is too large for a key", rest)
	}
	return data, nil
}

// loadSigner loads a private key.
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

// privateKey decrypts a private key in cosign's format.
func privateKey(k sign.Key, data []byte) (signature.SignerVerifier, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fault.Inputf("key.malformed", "key %s is not PEM", k.Ref).WithFix("use a file that begins with -----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")
	}
	switch block.Type {
	case cosign.CosignPrivateKeyPemType, cosign.SigstorePrivateKeyPemType:
	case "PUBLIC KEY", "CERTIFICATE":
		return nil, fault.Inputf("key.public", "%s is a public key, which cannot sign", k.Ref).WithFix("use the private key, for example cosign.key")
	case cosign.PrivateKeyPemType, cosign.ECPrivateKeyPemType, cosign.RSAPrivateKeyPemType, "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY":
		return nil, fault.Inputf("key.format", "%s is a private key in the format %s instead of cosign's format", k.Ref, block.Type).
			WithFix("convert it with cosign import-key-pair --key %s", k.Ref)
	default:
		return nil, fault.Inputf("key.format", "%s contains %.40q instead of a private key", k.Ref, block.Type)
	}
	sv, err := cosign.LoadPrivateKey(data, k.Password.Reveal(), nil)
	switch {
	case err == nil:
		return sv, nil
	case strings.Contains(err.Error(), "decryption failed") && k.Password.Empty():
		return nil, fault.Inputf("key.password", "key %s requires its password", k.Ref).WithFix("set COSIGN_PASSWORD or SLIPWAY_KEY_PASSWORD")
	case strings.Contains(err.Error(), "decryption failed"):
		return nil, fault.Inputf("key.password", "the password of %s is wrong", k.Ref).WithFix("set COSIGN_PASSWORD or SLIPWAY_KEY_PASSWORD")
	default:
		// The library's error may contain a part of the key.
		return nil, fault.Inputf("key.malformed", "%s is damaged: it is not a private key in cosign's format", k.Ref)
	}
}

// loadVerifiers loads a public key, or the public key of a private one. It returns
// two verifiers if cosign has used two hash functions for keys of this type over
// time.
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
		// Signatures are verified in this process with the public key. That needs
		// one request to the KMS, and does not rely on the KMS for the result.
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
		return nil, fault.Inputf("key.malformed", "key %s is not PEM", k.Ref).WithFix("use a file that begins with -----BEGIN PUBLIC KEY-----")
	}
	switch {
	case block.Type == "CERTIFICATE":
		return nil, fault.Inputf("key.format", "%s is a certificate instead of a public key", k.Ref).WithFix("set verify.identities to trust certificates")
	case strings.Contains(block.Type, "PRIVATE KEY"):
		sv, err := privateKey(k, data)
		if err != nil {
			return nil, err
		}
		if pub, err = sv.PublicKey(); err != nil {
			return nil, fault.Inputf("key.malformed", "computing the public key of %s: %w", k.Ref, err)
		}
	default:
		if pub, err = cryptoutils.UnmarshalPEMToPublicKey(data); err != nil {
			return nil, fault.Inputf("key.malformed", "%s is not a public key: %w", k.Ref, err)
		}
	}
	return verifiersOf(k, pub)
}

func verifiersOf(k sign.Key, pub crypto.PublicKey) ([]signature.Verifier, error) {
	first, err := signature.LoadDefaultVerifier(pub, options.WithED25519ph())
	if err != nil {
		return nil, fault.Inputf("key.algorithm", "key %s has an algorithm that cannot verify signatures: %w", k.Ref, err)
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
	return fault.Failedf("key.kms", "requesting key %s from the KMS: %w", k.Ref, oneLine(err)).
		WithFix("check the address of the KMS, your credentials for it, and that the key exists")
}

// fingerprint returns the SHA-256 digest of a public key in DER.
func fingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("computing the fingerprint of a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

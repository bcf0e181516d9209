package sigstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// keyHint is the annotation with the fingerprint of the key of a signature. It is
// not evidence. It distinguishes a signature by another key from a damaged one by a
// trusted key, for the text of the error.
const keyHint = "dev.slipway.key"

// maxTotal is the maximal size of the signatures and attestations that are read for one
// image, together with those of its manifests, because they are in memory. Those of an
// image by slipway have less than 1 MB for each platform.
const maxTotal = 64 << 20

// kind is the suffix of one of the two tags that cosign uses for an image.
type kind string

const (
	signatures   kind = "sig"
	attestations kind = "att"
)

// tag returns cosign's tag for the signatures or attestations of a digest.
func (k kind) tag(d name.Digest) name.Tag {
	return d.Context().Tag(strings.Replace(d.DigestStr(), ":", "-", 1) + "." + string(k))
}

// store reads and writes the signatures and attestations of images.
type store struct {
	remote  []remote.Option
	backoff remote.Backoff
	settle  time.Duration // instead of the time that update computes
	budget  *atomic.Int64 // how many more bytes may be read; nil for maxTotal in each list
}

func newStore(ctx context.Context, opts []remote.Option, b remote.Backoff) *store {
	if b.Steps == 0 {
		b = remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 5}
	}
	return &store{remote: append(slices.Clone(opts), remote.WithContext(ctx)), backoff: b}
}

// attached is a signature or attestation under a tag. The alias is necessary to
// embed the type, because it has a method with the name Signature.
type attached = oci.Signature

// candidate is a signature or attestation of an image that has not been verified.
type candidate struct {
	attached
	payload []byte // the signed content
	damage  string // why it cannot be read; empty if it can
	lost    bool   // the registry does not have the content

	bundle        *bundle.Bundle // if the signature is a Sigstore bundle
	predicateType string         // that a bundle claims
}

// list returns the signatures or attestations of an image without verifying them,
// and the digest of the manifest under the tag.
func (s *store) list(ctx context.Context, k kind, d name.Digest) (candidates []candidate, at v1.Hash, err error) {
	err = s.retry(ctx, func() (err error) {
		candidates, at, err = s.listOnce(k, d)
		return err
	})
	if large, ok := errors.AsType[*fault.Error](err); ok {
		return nil, at, large
	}
	if err != nil {
		return nil, at, registryError(ctx, "reading the "+k.plural()+" of", d, err)
	}
	return candidates, at, nil
}

func (k kind) plural() string {
	if k == attestations {
		return "attestations"
	}
	return "signatures"
}

func (s *store) listOnce(k kind, d name.Digest) (candidates []candidate, at v1.Hash, err error) {
	set, err := ociremote.Signatures(k.tag(d), ociremote.WithRemoteOptions(s.remote...))
	if err != nil {
		return nil, at, err
	}
	if at, err = set.Digest(); err != nil {
		return nil, at, err
	}
	all, err := set.Get()
	if err != nil {
		return nil, at, err
	}
	if err := s.spend(k, d, all); err != nil {
		return nil, at, err
	}
	candidates = make([]candidate, len(all))
	for i, sig := range all {
		c := candidate{attached: sig}
		c.payload, err = sig.Payload()
		switch {
		case isMissing(err):
			c.damage, c.lost = "its content is missing in the registry", true
		case isDigestMismatch(err):
			c.damage, c.lost = "its content does not match its digest", true
		case err != nil:
			return nil, at, err
		}
		if c.damage == "" {
			c.damage = c.load()
		}
		candidates[i] = c
	}
	return candidates, at, nil
}

// spend returns an error if the signatures are larger than what may still be read. A
// registry cannot return more than the sizes in the manifest.
func (s *store) spend(k kind, d name.Digest, all []oci.Signature) error {
	var total int64
	for _, sig := range all {
		size, err := sig.Size()
		if err != nil {
			return err
		}
		if total += max(size, 0); size < 0 || total > maxTotal {
			return tooLarge(k, d)
		}
	}
	if s.budget != nil && s.budget.Add(-total) < 0 {
		return tooLarge(k, d)
	}
	return nil
}

func tooLarge(k kind, d name.Digest) error {
	return fault.Failedf("verify.too-large", "the %s of %s are larger than %d MB", k.plural(), d.Name(), maxTotal>>20).
		WithFix("remove the tag %s from the registry, and sign and attest the image again", k.tag(d).Name())
}

// load replaces the signature by a copy in memory, which sends no requests to the
// registry. It returns the reason if the signature is malformed.
func (c *candidate) load() (damage string) {
	defer func() {
		if recover() != nil { // the library panics if a chain contains no certificate
			damage = "its annotations are malformed"
		}
	}()
	b64, err := c.Base64Signature()
	if err != nil {
		return "it has no signature"
	}
	cert, err := c.Cert()
	if err != nil {
		return "its certificate is malformed"
	}
	if _, err := c.Chain(); err != nil {
		return "its certificates are malformed"
	}
	if _, err := c.Bundle(); err != nil {
		return "its log entry is malformed"
	}
	local, err := static.Copy(loadedSignature{c.attached, c.payload, b64})
	if err != nil {
		return "it is malformed"
	}
	if cert == nil && strings.TrimSpace(annotation(c.attached, static.CertificateAnnotationKey)) != "" {
		return "its certificate is malformed"
	}
	c.attached = localCopy{local, c.attached}
	return ""
}

// loadedSignature is a signature whose payload has been read.
type loadedSignature struct {
	attached
	payload []byte
	b64     string
}

func (s loadedSignature) Payload() ([]byte, error)         { return s.payload, nil }
func (s loadedSignature) Base64Signature() (string, error) { return s.b64, nil }

// localCopy is a copy of a signature in memory. It keeps all annotations of the
// original, which are written to the registry again.
type localCopy struct {
	attached
	origin oci.Signature
}

func (l localCopy) Annotations() (map[string]string, error) { return l.origin.Annotations() }

// annotation returns an annotation, or "" if it does not exist.
func annotation(sig oci.Signature, key string) string {
	all, err := sig.Annotations()
	if err != nil {
		return ""
	}
	return all[key]
}

// The registry has no compare-and-swap operation. update therefore checks right
// before a write that the tag still points at the manifest it has read. Another
// process that made its check before that write can overwrite it a moment later.
// update therefore reads the tag again after a multiple of the time between its own
// check and write, and starts over if its additions are missing.
const (
	maxTries  = 20
	minSettle = 100 * time.Millisecond
	maxSettle = 2 * time.Second
)

// update replaces the signatures or attestations of an image. The function edit
// returns which of the current ones to keep and which to add. If it adds none,
// update changes nothing. update calls edit again if another process has changed
// the tag in the meantime.
func (s *store) update(ctx context.Context, k kind, d name.Digest, edit func(current []candidate) (keep []candidate, add []oci.Signature, err error)) (changed bool, err error) {
	var added []oci.Signature
	for range maxTries {
		current, at, err := s.list(ctx, k, d)
		if err != nil {
			return false, err
		}
		if changed && containsAll(current, added) {
			return true, nil
		}
		keep, add, err := edit(current)
		if err != nil {
			return false, err
		}
		if len(add) == 0 {
			return changed, nil
		}
		took, err := s.write(ctx, k, d, at, keep, add)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return false, err
		}
		added, changed = add, true
		if err := registry.Wait(ctx, s.settleTime(took)); err != nil {
			return false, err
		}
	}
	return false, fault.Failedf("sign.contended", "adding to the %s of %s: other processes changed them at the same time, %d times in a row", k.plural(), d.Name(), maxTries).
		WithFix("retry when no other process signs this image")
}

// settleTime returns how long to wait after a write that took this long.
func (s *store) settleTime(took time.Duration) time.Duration {
	if s.settle != 0 {
		return s.settle
	}
	return min(max(4*took, minSettle), maxSettle)
}

// errMoved is the error of a write if another process has changed the tag.
var errMoved = errors.New("another process has changed the tag")

// containsAll reports whether all added signatures are among the current ones.
func containsAll(current []candidate, added []oci.Signature) bool {
	return !slices.ContainsFunc(added, func(m oci.Signature) bool {
		return !slices.ContainsFunc(current, func(c candidate) bool { return same(c.attached, m) })
	})
}

// same reports whether two signatures are identical.
func same(a, b oci.Signature) bool {
	da, err1 := a.Digest()
	db, err2 := b.Digest()
	return err1 == nil && err2 == nil && da == db &&
		annotation(a, static.SignatureAnnotationKey) == annotation(b, static.SignatureAnnotationKey)
}

// write sends the blobs and then the manifest under the tag. It returns errMoved if
// the tag no longer points at the manifest with the digest at. The result is the
// time in which a change by another process would not have been noticed.
func (s *store) write(ctx context.Context, k kind, d name.Digest, at v1.Hash, keep []candidate, add []oci.Signature) (time.Duration, error) {
	all := make([]oci.Signature, 0, len(keep)+len(add))
	for _, c := range keep {
		if !c.lost { // a registry may reject a manifest that refers to a missing blob
			all = append(all, c.attached)
		}
	}
	set, err := mutate.AppendSignatures(empty.Signatures(), false, append(all, add...)...)
	if err != nil {
		return 0, fmt.Errorf("creating the manifest of the %s of %s: %w", k.plural(), d.Name(), err)
	}
	explain := func(err error) error { return registryError(ctx, "writing the "+k.plural()+" of", d, err) }
	configuration, err := partial.ConfigLayer(set)
	if err != nil {
		return 0, fmt.Errorf("creating the manifest of the %s of %s: %w", k.plural(), d.Name(), err)
	}
	layers := []v1.Layer{configuration}
	for _, sig := range append(all, add...) {
		layers = append(layers, sig)
	}
	for _, l := range layers {
		if err := s.retry(ctx, func() error { return remote.WriteLayer(d.Context(), l, s.remote...) }); err != nil {
			return 0, explain(err)
		}
	}
	started := time.Now()
	now, err := s.currentDigest(ctx, k, d)
	if err != nil {
		return 0, explain(err)
	}
	if now != at {
		return 0, errMoved
	}
	if err := s.retry(ctx, func() error { return remote.Put(k.tag(d), set, s.remote...) }); err != nil {
		return 0, explain(err)
	}
	return time.Since(started), nil
}

// currentDigest returns the digest of the manifest under the tag, or the digest of
// an empty manifest if the tag does not exist.
func (s *store) currentDigest(ctx context.Context, k kind, d name.Digest) (h v1.Hash, err error) {
	err = s.retry(ctx, func() error {
		desc, err := remote.Head(k.tag(d), s.remote...)
		if isMissing(err) {
			h, err = empty.Signatures().Digest()
			return err
		}
		if err == nil {
			h = desc.Digest
		}
		return err
	})
	return h, err
}

// get reads a manifest by its digest.
func (s *store) get(ctx context.Context, d name.Digest) (desc *remote.Descriptor, err error) {
	err = s.retry(ctx, func() (err error) {
		desc, err = remote.Get(d, s.remote...)
		return err
	})
	return desc, err
}

// retry calls do until it succeeds or fails with a permanent error, or until no
// attempts are left.
func (s *store) retry(ctx context.Context, do func() error) error {
	return registry.Again(ctx, s.backoff, func(err error) bool { return ctx.Err() == nil && transient(err) }, do)
}

// transient reports whether a retry may succeed after err.
func transient(err error) bool {
	if te, ok := errors.AsType[*transport.Error](err); ok {
		return te.StatusCode >= 500 || te.StatusCode == http.StatusTooManyRequests || te.StatusCode == http.StatusRequestTimeout
	}
	var ne net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.As(err, &ne) && ne.Timeout()
}

func isMissing(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.StatusCode == http.StatusNotFound
}

// isDigestMismatch reports whether the registry returned content that does not
// match the requested digest. The library does not export the type of that error.
func isDigestMismatch(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "error verifying sha256 checksum") ||
		strings.Contains(err.Error(), "error verifying size") || strings.Contains(err.Error(), "does not match requested digest"))
}

// registryError turns an error of the library into a [fault.Error] with the
// registry, what was being done, a code and a fix.
func registryError(ctx context.Context, doing string, ref name.Reference, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	host := ref.Context().RegistryStr()
	what := doing + " " + ref.Name()
	var te *transport.Error
	if !errors.As(err, &te) {
		return fault.Failedf("registry.unreachable", "%s: registry %s: %w", what, host, oneLine(err)).
			WithFix("check that %s can be reached from this machine; without a response the image is not trusted", host)
	}
	text := http.StatusText(te.StatusCode)
	if len(te.Errors) > 0 {
		text = sanitize(string(te.Errors[0].Code) + ": " + te.Errors[0].Message)
	}
	switch code := te.StatusCode; {
	case code == http.StatusRequestEntityTooLarge:
		return fault.Failedf("registry.too-large", "%s: registry %s, or a proxy in front of it, rejects a request as too large: %s", what, host, text).
			WithFix("raise the limit for the size of requests there, for example client_max_body_size of nginx")
	case code == http.StatusUnauthorized:
		return fault.Failedf("registry.unauthorized", "%s: registry %s requires credentials: %s", what, host, text).
			WithFix("run docker login %s, or set SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD", host)
	case code == http.StatusForbidden:
		return fault.Failedf("registry.forbidden", "%s: registry %s does not grant these credentials access: %s", what, host, text).
			WithFix("request access to %s from its administrator", ref.Context().Name())
	case code == http.StatusNotFound:
		return fault.Failedf("registry.not-found", "%s: registry %s cannot find it in %s: %s", what, host, ref.Context().RepositoryStr(), text).
			WithFix("check the name, and that the image was pushed")
	case code == http.StatusTooManyRequests:
		return fault.Failedf("registry.rate-limited", "%s: registry %s still responds with status 429 after all retries: %s", what, host, text).
			WithFix("retry later, or log in")
	case code >= http.StatusInternalServerError:
		return fault.Failedf("registry.unavailable", "%s: registry %s still responds with status %d after all retries: %s", what, host, code, text).
			WithFix("retry later; without a response the image is not trusted")
	default:
		return fault.Failedf("registry.refused", "%s: registry %s responds with status %d: %s", what, host, code, text)
	}
}

// oneLineError is an error whose text is on one line and contains no secrets.
type oneLineError struct {
	text  string
	cause error
}

func (e *oneLineError) Error() string { return e.text }

func (e *oneLineError) Unwrap() error { return e.cause }

var parameters = regexp.MustCompile(`(https?://)(?:[^\s"/@]*@)?([^\s"?]*)(?:\?[^\s"]*)?`) // accounts and parameters of URLs

// oneLine returns an error whose text is on one line of limited length, without the
// parts of URLs that may be secret.
func oneLine(err error) error {
	return &oneLineError{sanitize(parameters.ReplaceAllString(err.Error(), "$1$2")), err}
}

// sanitize prepares text of a registry for a terminal: it removes control characters
// and limits the text to one line of 500 bytes.
func sanitize(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return '?'
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "..."
	}
	return text
}

var _ v1.Layer = localCopy{}

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

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// keyHint is an annotation on what we sign with a key: the key's fingerprint.
// Nothing is believed because of it; it tells a signature by another key from
// a damaged one by ours, which look the same otherwise.
const keyHint = "dev.slipway.key"

// maxTotal bounds what one tag may hold in all. The library bounds each
// signature (128 MB) and their number (1000).
const maxTotal = 512 << 20

// kind is one of the two tags cosign keeps beside an image.
type kind string

const (
	signatures   kind = "sig"
	attestations kind = "att"
)

// tag is where cosign looks for what belongs to a digest.
func (k kind) tag(d name.Digest) name.Tag {
	return d.Context().Tag(strings.Replace(d.DigestStr(), ":", "-", 1) + "." + string(k))
}

// store reads and writes what is attached to images.
type store struct {
	remote  []remote.Option
	backoff remote.Backoff
	settle  time.Duration // in place of what change finds
}

func newStore(ctx context.Context, opts []remote.Option, b remote.Backoff) *store {
	if b.Steps == 0 {
		b = remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 5}
	}
	return &store{remote: append(slices.Clone(opts), remote.WithContext(ctx)), backoff: b}
}

// attached is what a tag holds. The library's type has a method of its own
// name, so it cannot be embedded under that.
type attached = oci.Signature

// candidate is something attached to an image that says it is a signature or
// an attestation.
type candidate struct {
	attached        // without its bytes
	payload  []byte // what is signed
	damage   string // why it cannot be read
	lost     bool   // the registry cannot give it back
}

// list returns what is attached to an image, unchecked, and the digest of the
// manifest that says so.
func (s *store) list(ctx context.Context, k kind, d name.Digest) (found []candidate, at v1.Hash, err error) {
	err = s.again(ctx, func() (err error) {
		found, at, err = s.listOnce(k, d)
		return err
	})
	if err != nil {
		return nil, at, registryError(ctx, "reading the "+k.plural()+" of", d, err)
	}
	return found, at, nil
}

func (k kind) plural() string {
	if k == attestations {
		return "attestations"
	}
	return "signatures"
}

func (s *store) listOnce(k kind, d name.Digest) (found []candidate, at v1.Hash, err error) {
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
	found = make([]candidate, len(all))
	total := 0
	for i, sig := range all {
		c := candidate{attached: sig}
		c.payload, err = sig.Payload()
		switch {
		case isMissing(err):
			c.damage, c.lost = "its content is missing in the registry", true
		case isLie(err):
			c.damage, c.lost = "its content is not what its digest says", true
		case err != nil:
			return nil, at, err
		}
		if total += len(c.payload); total > maxTotal {
			return nil, at, fmt.Errorf("%s holds more than %d MB", k.tag(d).Name(), maxTotal>>20)
		}
		if c.damage == "" {
			c.damage = c.settle()
		}
		found[i] = c
	}
	return found, at, nil
}

// settle takes a copy of the signature that no longer asks the registry, and
// says why there is none.
func (c *candidate) settle() (damage string) {
	defer func() {
		if recover() != nil { // the library trusts that a chain holds a certificate
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
	local, err := static.Copy(settled{c.attached, c.payload, b64})
	if err != nil {
		return "it is malformed"
	}
	if cert == nil && strings.TrimSpace(annotation(c.attached, static.CertificateAnnotationKey)) != "" {
		return "its certificate is malformed"
	}
	c.attached = kept{local, c.attached}
	return ""
}

type settled struct {
	attached
	payload []byte
	b64     string
}

func (s settled) Payload() ([]byte, error)         { return s.payload, nil }
func (s settled) Base64Signature() (string, error) { return s.b64, nil }

// kept answers from memory but goes back to the registry as it came.
type kept struct {
	attached
	origin oci.Signature
}

func (k kept) Annotations() (map[string]string, error) { return k.origin.Annotations() }

func annotation(sig oci.Signature, key string) string {
	all, err := sig.Annotations()
	if err != nil {
		return ""
	}
	return all[key]
}

// The registry has no compare-and-swap. We look whether the tag has moved right
// before we write it. A writer that looked before we wrote can still overwrite
// us a moment later, so we look again after a multiple of the time we ourselves
// needed between looking and writing, and start over when what we added is gone.
const (
	maxTries  = 20
	minSettle = 100 * time.Millisecond
	maxSettle = 2 * time.Second
)

// change replaces what is attached to an image, in one request. The edit says
// what stays and what is new; nothing new means no change. It is asked again
// with what others wrote meanwhile.
func (s *store) change(ctx context.Context, k kind, d name.Digest, edit func([]candidate) (keep []candidate, add []oci.Signature, err error)) (changed bool, err error) {
	var mine []oci.Signature
	for range maxTries {
		have, at, err := s.list(ctx, k, d)
		if err != nil {
			return false, err
		}
		if changed && holdsAll(have, mine) {
			return true, nil
		}
		keep, add, err := edit(have)
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
		mine, changed = add, true
		if err := registry.Wait(ctx, s.settling(took)); err != nil {
			return false, err
		}
	}
	return false, fault.Failedf("sign.contended", "adding to the %s of %s: others were faster %d times", k.plural(), d.Name(), maxTries).
		WithFix("sign from one place at a time, then run it again")
}

func (s *store) settling(took time.Duration) time.Duration {
	if s.settle != 0 {
		return s.settle
	}
	return min(max(4*took, minSettle), maxSettle)
}

// errMoved says that someone else wrote the tag meanwhile.
var errMoved = errors.New("the tag moved")

func holdsAll(have []candidate, mine []oci.Signature) bool {
	return !slices.ContainsFunc(mine, func(m oci.Signature) bool {
		return !slices.ContainsFunc(have, func(c candidate) bool { return same(c.attached, m) })
	})
}

// same tells whether two signatures are one.
func same(a, b oci.Signature) bool {
	da, err1 := a.Digest()
	db, err2 := b.Digest()
	return err1 == nil && err2 == nil && da == db &&
		annotation(a, static.SignatureAnnotationKey) == annotation(b, static.SignatureAnnotationKey)
}

// write sends the contents first and then one manifest under the tag, unless
// that is no longer what was read. It returns how long others could have
// written unnoticed.
func (s *store) write(ctx context.Context, k kind, d name.Digest, at v1.Hash, keep []candidate, add []oci.Signature) (time.Duration, error) {
	all := make([]oci.Signature, 0, len(keep)+len(add))
	for _, c := range keep {
		if !c.lost { // nobody can use it, and a registry may refuse a manifest that names it
			all = append(all, c.attached)
		}
	}
	set, err := mutate.AppendSignatures(empty.Signatures(), false, append(all, add...)...)
	if err != nil {
		return 0, fmt.Errorf("putting together the %s of %s: %w", k.plural(), d.Name(), err)
	}
	explain := func(err error) error { return registryError(ctx, "writing the "+k.plural()+" of", d, err) }
	settings, err := partial.ConfigLayer(set)
	if err != nil {
		return 0, fmt.Errorf("putting together the %s of %s: %w", k.plural(), d.Name(), err)
	}
	layers := []v1.Layer{settings}
	for _, sig := range append(all, add...) {
		layers = append(layers, sig)
	}
	for _, l := range layers {
		if err := s.again(ctx, func() error { return remote.WriteLayer(d.Context(), l, s.remote...) }); err != nil {
			return 0, explain(err)
		}
	}
	started := time.Now()
	now, err := s.tagged(ctx, k, d)
	if err != nil {
		return 0, explain(err)
	}
	if now != at {
		return 0, errMoved
	}
	if err := s.again(ctx, func() error { return remote.Put(k.tag(d), set, s.remote...) }); err != nil {
		return 0, explain(err)
	}
	return time.Since(started), nil
}

// tagged is the digest under the tag now, that of an empty set for none.
func (s *store) tagged(ctx context.Context, k kind, d name.Digest) (h v1.Hash, err error) {
	err = s.again(ctx, func() error {
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
	err = s.again(ctx, func() (err error) {
		desc, err = remote.Get(d, s.remote...)
		return err
	})
	return desc, err
}

// again does something until it works, fails for a reason that does not pass,
// or has had all its tries.
func (s *store) again(ctx context.Context, do func() error) error {
	return registry.Again(ctx, s.backoff, func(err error) bool { return ctx.Err() == nil && passing(err) }, do)
}

// passing tells a failure that another try may mend.
func passing(err error) bool {
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

// isLie tells content that is not what was asked for. The library's error has
// no type that can be reached from here.
func isLie(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "error verifying sha256 checksum") ||
		strings.Contains(err.Error(), "error verifying size") || strings.Contains(err.Error(), "does not match requested digest"))
}

// registryError says which registry refused what. No answer is never taken for
// "nothing there".
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
			WithFix("check that %s can be reached from here; nothing is trusted without an answer", host)
	}
	text := http.StatusText(te.StatusCode)
	for _, d := range te.Errors {
		text = shown(string(d.Code) + ": " + d.Message)
		break
	}
	switch code := te.StatusCode; {
	case code == http.StatusUnauthorized:
		return fault.Failedf("registry.unauthorized", "%s: registry %s wants credentials: %s", what, host, text).
			WithFix("run docker login %s, or set SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD", host)
	case code == http.StatusForbidden:
		return fault.Failedf("registry.forbidden", "%s: registry %s does not let these credentials do that: %s", what, host, text).
			WithFix("ask for the right to use %s", ref.Context().Name())
	case code == http.StatusNotFound:
		return fault.Failedf("registry.not-found", "%s: registry %s does not know %s: %s", what, host, ref.Context().RepositoryStr(), text).
			WithFix("check the name, and that the image is pushed")
	case code == http.StatusTooManyRequests:
		return fault.Failedf("registry.rate-limited", "%s: registry %s still answers 429 after all tries: %s", what, host, text).
			WithFix("try later, or log in")
	case code >= http.StatusInternalServerError:
		return fault.Failedf("registry.unavailable", "%s: registry %s still answers %d after all tries: %s", what, host, code, text).
			WithFix("try again; nothing is trusted without an answer")
	default:
		return fault.Failedf("registry.refused", "%s: registry %s answers %d: %s", what, host, code, text)
	}
}

// oneLineError is a cause told in one line without secrets.
type oneLineError struct {
	text  string
	cause error
}

func (e *oneLineError) Error() string { return e.text }

func (e *oneLineError) Unwrap() error { return e.cause }

var parameters = regexp.MustCompile(`(https?://)(?:[^\s"/@]*@)?([^\s"?]*)(?:\?[^\s"]*)?`) // accounts and signatures in URLs

// oneLine tells an error in one line of bounded length, without what may be
// secret in its URLs.
func oneLine(err error) error {
	return &oneLineError{shown(parameters.ReplaceAllString(err.Error(), "$1$2")), err}
}

// shown makes text from elsewhere fit for a terminal: one line of bounded
// length without control characters.
func shown(text string) string {
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

var _ v1.Layer = kept{}

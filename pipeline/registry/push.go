package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// PushOptions says what goes where.
type PushOptions struct {
	Image      image.Image
	Repository name.Repository
	Tags       []name.Tag // all on Repository; may be empty: the digest is enough
	Cache      cache.Dir  // remembers which repository holds a layer, for mounting
}

// PushResult is what was pushed.
type PushResult struct {
	Reference string   `json:"reference"` // repository@sha256:...
	Digest    string   `json:"digest"`
	Tags      []string `json:"tags,omitempty"`
	Sent      int64    `json:"blobs_sent"`
	Mounted   int64    `json:"blobs_mounted"`  // taken over from another repository
	Existing  int64    `json:"blobs_existing"` // were there already
	Bytes     int64    `json:"bytes_sent"`
	Unchanged bool     `json:"unchanged"` // the registry had all of it, tags too
	Seconds   float64  `json:"seconds"`
}

// Push pushes an image and then its tags, so that no tag ever points at an
// image that is not whole. Pushing the same again sends nothing.
func (c *Client) Push(ctx context.Context, o PushOptions) (PushResult, error) {
	start := time.Now()
	digest, err := o.Image.Artifact().Digest()
	if err != nil {
		return PushResult{}, fmt.Errorf("computing the image's digest: %w", err)
	}
	log := &audit{onBytes: func(total int64) { progress.Count(ctx, total, 0, progress.Bytes) }}
	log.base = c.transport()
	ref := o.Repository.Digest(digest.String())
	progress.Statusf(ctx, "pushing to %s", o.Repository.Name())
	s := &sending{client: c, PushOptions: o, log: log, mount: true}
	err = s.image(ctx, ref)
	if denied(err) && s.marked.Load() {
		// Credentials that do not reach the repository a layer could be taken
		// from must not stop the push.
		s = &sending{client: c, PushOptions: o, log: log}
		err = s.image(ctx, ref)
	}
	if err != nil {
		return PushResult{}, explain(ctx, "pushing to", ref, err)
	}
	r := PushResult{Reference: ref.Name(), Digest: digest.String()}
	for _, tag := range o.Tags {
		if err := s.manifest(ctx, tag, o.Image.Artifact()); err != nil {
			return PushResult{}, explain(ctx, "tagging", tag, err)
		}
		r.Tags = append(r.Tags, tag.TagStr())
	}
	r.Sent, r.Mounted, r.Existing, r.Bytes = log.sent.Load(), log.mounted.Load(), log.existing.Load(), log.bytes.Load()
	r.Unchanged = log.manifests.Load() == 0
	r.Seconds = time.Since(start).Seconds()
	if !r.Unchanged {
		remember(ctx, o)
	}
	return r, nil
}

// sending is one push.
type sending struct {
	PushOptions
	client *Client
	log    *audit
	pusher *remote.Pusher
	mount  bool        // take layers over from other repositories
	marked atomic.Bool // there was one to take over
}

// image sends what the registry lacks of the image, its own manifest last.
func (s *sending) image(ctx context.Context, ref name.Digest) error {
	opts := s.client.options(ctx, s.client.opts.Settings.Uploads, s.log)
	pusher, err := remote.NewPusher(opts...)
	if err != nil {
		return err
	}
	s.pusher = pusher
	if there, err := s.there(ctx, ref, opts); err != nil || there {
		return err
	}
	all, err := images(s.Image)
	if err != nil {
		return err
	}
	if err := s.blobs(ctx, all); err != nil {
		return err
	}
	if s.Image.Index != nil {
		for _, img := range all {
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			if err := s.manifest(ctx, s.Repository.Digest(digest.String()), img); err != nil {
				return err
			}
		}
	}
	return s.manifest(ctx, ref, s.Image.Artifact())
}

func (s *sending) there(ctx context.Context, ref name.Digest, opts []remote.Option) (there bool, err error) {
	err = Again(ctx, s.client.opts.Backoff, passing, func() error {
		_, err := remote.Head(ref, opts...)
		there = err == nil
		var te *transport.Error
		// Some registries answer 403 for what does not exist.
		if errors.As(err, &te) && (te.StatusCode == http.StatusNotFound || te.StatusCode == http.StatusForbidden) {
			return nil
		}
		return err
	})
	return there, err
}

// blobs sends layers and configurations side by side, each until it is there.
func (s *sending) blobs(ctx context.Context, all []v1.Image) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.client.opts.Settings.Uploads)
	seen := map[v1.Hash]bool{}
	for _, img := range all {
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		settings, err := partial.ConfigLayer(img)
		if err != nil {
			return err
		}
		for _, l := range append(slices.Clone(layers), settings) {
			digest, err := l.Digest()
			if err != nil {
				return err
			}
			if seen[digest] {
				continue
			}
			seen[digest] = true
			l := s.mark(l, digest)
			g.Go(func() error {
				return Again(gctx, s.client.opts.Backoff, passing, func() error { return s.pusher.Upload(gctx, s.Repository, l) })
			})
		}
	}
	return g.Wait()
}

// described is a manifest without what it refers to.
type described interface {
	remote.Taggable
	partial.Describable
}

// manifest puts a manifest in place, unless it is there.
func (s *sending) manifest(ctx context.Context, ref name.Reference, m described) error {
	alone := struct{ described }{m} // its blobs are there; the library would ask for each again
	return Again(ctx, s.client.opts.Backoff, passing, func() error { return s.pusher.Push(ctx, ref, alone) })
}

func denied(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden)
}

// explain says which registry refused what, and what to do.
func explain(ctx context.Context, doing string, ref name.Reference, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host, repo := ref.Context().RegistryStr(), ref.Context().RepositoryStr()
	what := fmt.Sprintf("%s %s", doing, ref.Name())
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	text := tell(err.Error(), ref.Context().Scheme())
	var te *transport.Error
	if errors.As(err, &te) && !strings.Contains(text, "x509:") {
		text = answer(te)
		switch code := te.StatusCode; {
		case quota(te):
			return fault.Failedf("registry.quota", "%s: registry %s is out of quota: %s", what, host, text).
				WithFix("delete old images of %s or raise its quota", repo)
		case code == http.StatusUnauthorized:
			return fault.Failedf("registry.unauthorized", "%s: registry %s wants credentials for %s: %s", what, host, repo, text).
				WithFix("run docker login %s, or set SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD", host)
		case code == http.StatusForbidden:
			return fault.Failedf("registry.forbidden", "%s: registry %s does not let these credentials do that in %s: %s", what, host, repo, text).
				WithFix("ask for the right to use %s/%s", host, repo)
		case code == http.StatusNotFound:
			return fault.Failedf("registry.not-found", "%s: registry %s does not know %s: %s", what, host, repo, text).
				WithFix("check the name, or create the project or repository on %s first", host)
		case code == http.StatusTooManyRequests:
			return fault.Failedf("registry.rate-limited", "%s: registry %s still answers 429 after all tries: %s", what, host, text).
				WithFix("try later, log in, or set a mirror under registry.mirrors")
		case code >= 500:
			return fault.Failedf("registry.unavailable", "%s: registry %s still answers %d after all tries: %s", what, host, code, text).
				WithFix("try again; nothing half-pushed is visible")
		default:
			return fault.Failedf("registry.refused", "%s: registry %s answers %d: %s", what, host, code, text)
		}
	}
	if lie, ok := errors.AsType[*lieError](err); ok {
		return fault.Failedf("registry.digest", "%s: registry %s cannot be trusted: %w", what, host, lie).
			WithFix("no tag was moved; something between here and %s changes what is sent", host)
	}
	cause := &causeError{text, err}
	e := fault.Failedf("registry.unreachable", "%s: registry %s: %w", what, host, cause)
	switch {
	case strings.Contains(text, "x509:"):
		return e.WithFix("name its certificate authority under registry.ca in slipway.yaml")
	case strings.Contains(text, plainHTTP):
		return e.WithFix("it speaks plain HTTP: list %s under registry.insecure in slipway.yaml", host)
	}
	return e.WithFix("check that %s can be reached from here", host)
}

// plainHTTP is what [net/http] says when TLS meets a server without it.
const plainHTTP = "http: server gave HTTP response to HTTPS client"

// causeError is a cause told in one line without secrets.
type causeError struct {
	text  string
	cause error
}

func (e *causeError) Error() string { return e.text }

func (e *causeError) Unwrap() error { return e.cause }

var (
	requested  = regexp.MustCompile(`[A-Za-z]+ "[^"\s]*": `)        // how [url.Error] begins
	parameters = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`) // they sign uploads and redirects
	tokenReply = regexp.MustCompile(`(no token in bearer response).*`)
)

// tell puts an error in one line and leaves out what may be secret in it.
func tell(s string, scheme string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = requested.ReplaceAllString(s, "")
	s = tokenReply.ReplaceAllString(s, "$1")
	s = parameters.ReplaceAllString(s, "$1")
	if scheme == "http" {
		// Where plain HTTP is allowed, TLS is tried before it.
		s = strings.TrimPrefix(s, plainHTTP+"; ")
	}
	return s
}

func answer(te *transport.Error) string {
	var parts []string
	for _, d := range te.Errors {
		parts = append(parts, strings.TrimSuffix(strings.TrimSpace(string(d.Code)+": "+d.Message), ":"))
	}
	if len(parts) == 0 {
		return http.StatusText(te.StatusCode)
	}
	return tell(strings.Join(slices.Compact(parts), "; "), "")
}

// quota tells a full project; Harbor answers 403 or 412, others 413 or 507.
func quota(te *transport.Error) bool {
	if te.StatusCode == http.StatusInsufficientStorage || te.StatusCode == http.StatusRequestEntityTooLarge {
		return true
	}
	return slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool {
		return strings.Contains(strings.ToLower(d.Message), "quota")
	})
}

// slot is where it is remembered which repositories of a registry hold a blob.
func slot(repo name.Repository, h v1.Hash) []string {
	return []string{"mounts", strings.ReplaceAll(repo.RegistryStr(), ":", "_"), h.Hex + ".json"}
}

// remember notes that the repository now holds the image's layers.
func remember(ctx context.Context, o PushOptions) {
	all, err := images(o.Image)
	if err != nil {
		return
	}
	for _, img := range all {
		layers, err := img.Layers()
		if err != nil {
			continue
		}
		for _, l := range layers {
			h, err := l.Digest()
			if err != nil {
				continue
			}
			var repos []string
			o.Cache.Load(&repos, slot(o.Repository, h)...)
			if slices.Contains(repos, o.Repository.RepositoryStr()) {
				continue
			}
			repos = append([]string{o.Repository.RepositoryStr()}, repos[:min(len(repos), 3)]...)
			if err := o.Cache.Store(repos, slot(o.Repository, h)...); err != nil {
				progress.Warnf(ctx, "remembering where layers are: %v", err)
				return
			}
		}
	}
}

func images(i image.Image) ([]v1.Image, error) {
	if i.Index == nil {
		return []v1.Image{i.Single}, nil
	}
	manifest, err := i.Index.IndexManifest()
	if err != nil {
		return nil, err
	}
	all := make([]v1.Image, 0, len(manifest.Manifests))
	for _, d := range manifest.Manifests {
		img, err := i.Index.Image(d.Digest)
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

// mark marks a layer to be taken over from another repository of the same
// registry. A registry that has lost it gets it sent.
func (s *sending) mark(l v1.Layer, h v1.Hash) v1.Layer {
	if m, ok := l.(*remote.MountableLayer); ok {
		if !s.mount {
			return m.Layer
		}
		s.marked.Store(true)
		return l // a base's layer knows where it is from
	}
	var repos []string
	s.Cache.Load(&repos, slot(s.Repository, h)...)
	for _, r := range repos {
		if s.mount && r != s.Repository.RepositoryStr() {
			s.marked.Store(true)
			return &remote.MountableLayer{Layer: l, Reference: s.Repository.Registry.Repo(r).Tag("latest")}
		}
	}
	return l
}

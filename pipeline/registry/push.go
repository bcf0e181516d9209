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

// PushOptions is the input of [Client.Push].
type PushOptions struct {
	Image      image.Image
	Repository name.Repository
	Tags       []name.Tag // in Repository; if empty, the image has only its digest
	Cache      cache.Dir  // records which repositories hold a layer, for mounting
}

// PushResult describes a completed push.
type PushResult struct {
	Reference string   `json:"reference"` // repository@sha256:...
	Digest    string   `json:"digest"`
	Tags      []string `json:"tags,omitempty"`
	Sent      int64    `json:"blobs_sent"`
	Mounted   int64    `json:"blobs_mounted"`  // from another repository of the registry
	Existing  int64    `json:"blobs_existing"` // already in the repository
	Bytes     int64    `json:"bytes_sent"`
	Unchanged bool     `json:"unchanged"` // the registry already had the image and the tags
	Seconds   float64  `json:"seconds"`
}

// Push pushes an image and sets its tags last, so that a tag never points at an
// incomplete image. It sends nothing that the registry already has.
func (c *Client) Push(ctx context.Context, o PushOptions) (PushResult, error) {
	start := time.Now()
	digest, err := o.Image.Artifact().Digest()
	if err != nil {
		return PushResult{}, fmt.Errorf("computing the image's digest: %w", err)
	}
	log := &audit{
		base:    c.transport(),
		onBytes: func(total int64) { progress.Count(ctx, total, 0, progress.Bytes) },
	}
	ref := o.Repository.Digest(digest.String())
	progress.Statusf(ctx, "pushing to %s", o.Repository.Name())
	u := &upload{client: c, PushOptions: o, log: log, mount: true}
	err = u.image(ctx, ref)
	if denied(err) && u.mountable.Load() {
		// The credentials may not permit reading the repository that a layer
		// would be mounted from. Push again without mounting.
		u = &upload{client: c, PushOptions: o, log: log}
		err = u.image(ctx, ref)
	}
	if err != nil {
		return PushResult{}, c.explain(ctx, "pushing to", ref, err)
	}
	r := PushResult{Reference: ref.Name(), Digest: digest.String()}
	for _, tag := range o.Tags {
		if err := u.manifest(ctx, tag, o.Image.Artifact()); err != nil {
			return PushResult{}, c.explain(ctx, "tagging", tag, err)
		}
		r.Tags = append(r.Tags, tag.TagStr())
	}
	r.Sent, r.Mounted, r.Existing, r.Bytes = log.sent.Load(), log.mounted.Load(), log.existing.Load(), log.bytes.Load()
	r.Unchanged = log.manifests.Load() == 0
	r.Seconds = time.Since(start).Seconds()
	if !r.Unchanged {
		recordMounts(ctx, o)
	}
	return r, nil
}

// upload is the state of one push.
type upload struct {
	PushOptions
	client    *Client
	log       *audit
	pusher    *remote.Pusher
	mount     bool        // mount layers from other repositories
	mountable atomic.Bool // at least one layer can be mounted
}

// image sends the parts of the image that the registry does not have. The
// manifest of the image itself is the last one.
func (u *upload) image(ctx context.Context, ref name.Digest) error {
	opts := u.client.options(ctx, u.client.opts.Settings.Uploads, u.log)
	pusher, err := remote.NewPusher(opts...)
	if err != nil {
		return err
	}
	u.pusher = pusher
	if exists, err := u.exists(ctx, ref, opts); err != nil || exists {
		return err
	}
	all, err := images(u.Image)
	if err != nil {
		return err
	}
	if err := u.blobs(ctx, all); err != nil {
		return err
	}
	if u.Image.Index != nil {
		for _, img := range all {
			digest, err := img.Digest()
			if err != nil {
				return err
			}
			if err := u.manifest(ctx, u.Repository.Digest(digest.String()), img); err != nil {
				return err
			}
		}
	}
	return u.manifest(ctx, ref, u.Image.Artifact())
}

func (u *upload) exists(ctx context.Context, ref name.Digest, opts []remote.Option) (exists bool, err error) {
	err = Again(ctx, u.client.opts.Backoff, transient, func() error {
		_, err := remote.Head(ref, opts...)
		exists = err == nil
		var te *transport.Error
		// Some registries respond with 403 if the manifest does not exist.
		if errors.As(err, &te) && (te.StatusCode == http.StatusNotFound || te.StatusCode == http.StatusForbidden) {
			return nil
		}
		return err
	})
	return exists, err
}

// blobs sends layers and image configurations concurrently and retries each.
func (u *upload) blobs(ctx context.Context, all []v1.Image) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(u.client.opts.Settings.Uploads)
	seen := map[v1.Hash]bool{}
	for _, img := range all {
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		configuration, err := partial.ConfigLayer(img)
		if err != nil {
			return err
		}
		for _, l := range append(slices.Clone(layers), configuration) {
			digest, err := l.Digest()
			if err != nil {
				return err
			}
			if seen[digest] {
				continue
			}
			seen[digest] = true
			l := u.mountableLayer(l, digest)
			g.Go(func() error {
				return Again(gctx, u.client.opts.Backoff, transient, func() error { return u.pusher.Upload(gctx, u.Repository, l) })
			})
		}
	}
	return g.Wait()
}

// manifestOnly hides from the library that a manifest refers to blobs or other
// manifests. They have been sent already, and the library would send a request
// for each of them again.
type manifestOnly interface {
	remote.Taggable
	partial.Describable
}

// manifest stores a manifest under ref, unless the registry has it there.
func (u *upload) manifest(ctx context.Context, ref name.Reference, m manifestOnly) error {
	only := struct{ manifestOnly }{m}
	return Again(ctx, u.client.opts.Backoff, transient, func() error { return u.pusher.Push(ctx, ref, only) })
}

func denied(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden)
}

// explain turns an error of the library into a [fault.Error] with the registry,
// what was being done, a code and a fix. Errors that are a [fault.Error] already
// are returned unchanged.
func (c *Client) explain(ctx context.Context, doing string, ref name.Reference, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host, repo := ref.Context().RegistryStr(), ref.Context().RepositoryStr()
	what := fmt.Sprintf("%s %s", doing, ref.Name())
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	text := redact(err.Error(), ref.Context().Scheme())
	var te *transport.Error
	if errors.As(err, &te) && !strings.Contains(text, "x509:") {
		text = diagnostics(te)
		switch code := te.StatusCode; {
		case quotaExceeded(te):
			return fault.Failedf("registry.quota", "%s: the storage quota of registry %s is exceeded: %s", what, host, text).
				WithFix("delete old images of %s or raise its quota", repo)
		case code == http.StatusRequestEntityTooLarge:
			return fault.Failedf("registry.too-large", "%s: registry %s, or a proxy in front of it, rejects a request as too large: %s", what, host, text).
				WithFix("raise the limit for the size of requests there, for example client_max_body_size of nginx, or make the image smaller")
		case c.withoutCredentials(te, host) != nil:
			return c.withoutCredentials(te, host)
		case code == http.StatusUnauthorized:
			return fault.Failedf("registry.unauthorized", "%s: registry %s requires credentials for %s: %s", what, host, repo, text).
				WithFix("run docker login %s, or set SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD", host)
		case code == http.StatusForbidden:
			return fault.Failedf("registry.forbidden", "%s: registry %s does not grant these credentials access to %s: %s", what, host, repo, text).
				WithFix("request access to %s/%s from its administrator", host, repo)
		case code == http.StatusNotFound:
			return fault.Failedf("registry.not-found", "%s: registry %s cannot find it in %s: %s", what, host, repo, text).
				WithFix("check the name, or create the project or repository on %s first", host)
		case code == http.StatusTooManyRequests:
			return fault.Failedf("registry.rate-limited", "%s: registry %s still responds with status 429 after all retries: %s", what, host, text).
				WithFix("retry later, log in, or set a mirror under registry.mirrors in slipway.yaml")
		case code >= 500:
			return fault.Failedf("registry.unavailable", "%s: registry %s still responds with status %d after all retries: %s", what, host, code, text).
				WithFix("retry later; no tag points at an incomplete image")
		default:
			return fault.Failedf("registry.refused", "%s: registry %s responds with status %d: %s", what, host, code, text)
		}
	}
	if errors.Is(err, ErrTooLarge) {
		return fault.Failedf("registry.malformed", "%s: registry %s: %w", what, host, &causeError{text, err}).WithFix("do not use this image; find out who changed the registry")
	}
	if mismatch, ok := errors.AsType[*digestMismatchError](err); ok {
		return fault.Failedf("registry.digest", "%s: digest mismatch at registry %s: %w", what, host, mismatch).
			WithFix("check for a proxy between this machine and %s that changes manifests; no tag was set", host)
	}
	cause := &causeError{text, err}
	e := fault.Failedf("registry.unreachable", "%s: registry %s: %w", what, host, cause)
	switch {
	case strings.Contains(text, "x509:"):
		return e.WithFix("set registry.ca in slipway.yaml to the file of its certificate authority")
	case strings.Contains(text, plainHTTP):
		return e.WithFix("%s serves plain HTTP: list it under registry.insecure in slipway.yaml", host)
	}
	return e.WithFix("check that %s can be reached from this machine", host)
}

// plainHTTP is the error of [net/http] for a server that does not use TLS.
const plainHTTP = "http: server gave HTTP response to HTTPS client"

// causeError is an error whose text is on one line and contains no secrets.
type causeError struct {
	text  string
	cause error
}

func (e *causeError) Error() string { return e.text }

func (e *causeError) Unwrap() error { return e.cause }

var (
	requested  = regexp.MustCompile(`[A-Za-z]+ "[^"\s]*": `)           // the beginning of a [url.Error]
	parameters = regexp.MustCompile(`(https?://[^\s"?]*)\?[^\s"]*`)    // may hold the signature of an upload or a redirect
	tokenReply = regexp.MustCompile(`(no token in bearer response).*`) // the library quotes the response
)

// redact puts an error on one line and removes the parts that may be secret.
func redact(s string, scheme string) string {
	s = strings.Join(strings.Fields(s), " ")
	s = requested.ReplaceAllString(s, "")
	s = tokenReply.ReplaceAllString(s, "$1")
	s = parameters.ReplaceAllString(s, "$1")
	if scheme == "http" {
		// If plain HTTP is allowed, the library tries TLS first.
		s = strings.TrimPrefix(s, plainHTTP+"; ")
	}
	return s
}

// diagnostics returns the errors that the registry gives in its response, or
// the text of the status if it gives none.
func diagnostics(te *transport.Error) string {
	var parts []string
	for _, d := range te.Errors {
		parts = append(parts, strings.TrimSuffix(strings.TrimSpace(string(d.Code)+": "+d.Message), ":"))
	}
	if len(parts) == 0 {
		return http.StatusText(te.StatusCode)
	}
	return redact(strings.Join(slices.Compact(parts), "; "), "")
}

// quotaExceeded reports whether the storage quota is exceeded. Harbor responds
// with 403 or 412 and a message about it, other registries with 507.
func quotaExceeded(te *transport.Error) bool {
	if te.StatusCode == http.StatusInsufficientStorage {
		return true
	}
	return slices.ContainsFunc(te.Errors, func(d transport.Diagnostic) bool {
		return strings.Contains(strings.ToLower(d.Message), "quota")
	})
}

// withoutCredentials returns the reason for which a registry that denies access was
// used without credentials, or nil if te does not deny it or there is no such reason.
func (c *Client) withoutCredentials(te *transport.Error, host string) error {
	if k, ok := c.opts.Keychain.(interface{ problem(string) error }); ok && denied(te) {
		return k.problem(host)
	}
	return nil
}

// mountKey is the cache key of the list of a registry's repositories that hold a
// blob.
func mountKey(repo name.Repository, h v1.Hash) []string {
	return []string{"mounts", strings.ReplaceAll(repo.RegistryStr(), ":", "_"), h.Hex + ".json"}
}

// recordMounts records in the cache that the repository now holds the layers of
// the image. If that fails, later pushes only send more than necessary, so it
// warns.
func recordMounts(ctx context.Context, o PushOptions) {
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
			o.Cache.Load(&repos, mountKey(o.Repository, h)...)
			if slices.Contains(repos, o.Repository.RepositoryStr()) {
				continue
			}
			repos = append([]string{o.Repository.RepositoryStr()}, repos[:min(len(repos), 3)]...)
			if err := o.Cache.Store(repos, mountKey(o.Repository, h)...); err != nil {
				progress.Warnf(ctx, "recording in the cache which repository holds a layer: %v", err)
				return
			}
		}
	}
}

// images returns the images of an index, or the single image.
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

// mountableLayer returns a layer that the library mounts from another repository
// of the same registry, or l if no other repository is known to hold it. If the
// registry cannot mount the layer, the library sends it.
func (u *upload) mountableLayer(l v1.Layer, h v1.Hash) v1.Layer {
	if m, ok := l.(*remote.MountableLayer); ok {
		if !u.mount {
			return m.Layer
		}
		u.mountable.Store(true)
		return l // a layer of a base image carries the repository it was pulled from
	}
	var repos []string
	u.Cache.Load(&repos, mountKey(u.Repository, h)...)
	for _, r := range repos {
		if u.mount && r != u.Repository.RepositoryStr() {
			u.mountable.Store(true)
			return &remote.MountableLayer{Layer: l, Reference: u.Repository.Registry.Repo(r).Tag("latest")}
		}
	}
	return l
}

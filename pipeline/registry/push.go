package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

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
	pusher, err := remote.NewPusher(c.options(ctx, c.opts.Uploads, func(rt http.RoundTripper) http.RoundTripper {
		log.base = rt
		return log
	})...)
	if err != nil {
		return PushResult{}, fmt.Errorf("preparing the push: %w", err)
	}
	ref := o.Repository.Digest(digest.String())
	progress.Statusf(ctx, "pushing to %s", o.Repository.Name())
	artifact := mountable(o)
	if err := pusher.Push(ctx, ref, artifact); err != nil {
		return PushResult{}, explain(ctx, "pushing to", ref, err)
	}
	r := PushResult{Reference: ref.Name(), Digest: digest.String()}
	for _, tag := range o.Tags {
		if err := pusher.Push(ctx, tag, artifact); err != nil {
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

// explain says which registry refused what, and what to do.
func explain(ctx context.Context, doing string, ref name.Reference, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host, repo := ref.Context().RegistryStr(), ref.Context().RepositoryStr()
	what := fmt.Sprintf("%s %s", doing, ref.Name())
	var te *transport.Error
	if errors.As(err, &te) {
		text := answer(te)
		switch code := te.StatusCode; {
		case quota(te):
			return fault.Failedf("registry.quota", "%s: registry %s is out of quota: %s", what, host, text).
				WithFix("delete old images of %s or raise its quota", repo)
		case code == http.StatusUnauthorized:
			return fault.Failedf("registry.unauthorized", "%s: registry %s wants credentials for %s: %s", what, host, repo, text).
				WithFix("run docker login %s, or set SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD", host)
		case code == http.StatusForbidden:
			return fault.Failedf("registry.forbidden", "%s: registry %s does not let these credentials do that in %s: %s", what, host, repo, text).
				WithFix("ask for push rights on %s/%s", host, repo)
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
	cause := err
	var ue *url.Error
	if errors.As(err, &ue) {
		cause = ue.Err // the URL may hold an upload's token
	}
	e := fault.Failedf("registry.unreachable", "%s: registry %s: %w", what, host, cause)
	if strings.Contains(cause.Error(), "HTTP response to HTTPS client") {
		return e.WithFix("it speaks plain HTTP: list %s under registry.insecure in slipway.yaml", host)
	}
	if strings.Contains(cause.Error(), "x509:") {
		return e.WithFix("name its certificate authority under registry.ca in slipway.yaml")
	}
	return e.WithFix("check that %s can be reached from here", host)
}

func answer(te *transport.Error) string {
	var parts []string
	for _, d := range te.Errors {
		parts = append(parts, strings.TrimSuffix(strings.TrimSpace(string(d.Code)+": "+d.Message), ":"))
	}
	if len(parts) == 0 {
		return http.StatusText(te.StatusCode)
	}
	return strings.Join(strings.Fields(strings.Join(slices.Compact(parts), "; ")), " ")
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
	for _, img := range images(o.Image) {
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

func images(i image.Image) []v1.Image {
	if i.Index == nil {
		return []v1.Image{i.Single}
	}
	manifest, err := i.Index.IndexManifest()
	if err != nil {
		return nil
	}
	var all []v1.Image
	for _, d := range manifest.Manifests {
		if img, err := i.Index.Image(d.Digest); err == nil {
			all = append(all, img)
		}
	}
	return all
}

// mountable returns the image with its layers marked to be taken over from
// other repositories of the same registry. A registry that has lost them, or
// whose credentials do not reach them, gets them sent.
func mountable(o PushOptions) remote.Taggable {
	if o.Image.Index != nil {
		return &mountableIndex{o.Image.Index, o}
	}
	return &mountableImage{o.Image.Single, o}
}

type mountableIndex struct {
	v1.ImageIndex
	o PushOptions
}

func (i *mountableIndex) Image(h v1.Hash) (v1.Image, error) {
	img, err := i.ImageIndex.Image(h)
	if err != nil {
		return nil, err
	}
	return &mountableImage{img, i.o}, nil
}

type mountableImage struct {
	v1.Image
	o PushOptions
}

func (i *mountableImage) Layers() ([]v1.Layer, error) {
	layers, err := i.Image.Layers()
	if err != nil {
		return nil, err
	}
	out := make([]v1.Layer, 0, len(layers))
	for _, l := range layers {
		out = append(out, i.mark(l))
	}
	return out, nil
}

func (i *mountableImage) mark(l v1.Layer) v1.Layer {
	if _, ok := l.(*remote.MountableLayer); ok {
		return l // a base's layer knows where it is from
	}
	h, err := l.Digest()
	if err != nil {
		return l
	}
	var repos []string
	i.o.Cache.Load(&repos, slot(i.o.Repository, h)...)
	for _, r := range repos {
		if r != i.o.Repository.RepositoryStr() {
			return &remote.MountableLayer{Layer: l, Reference: i.o.Repository.Registry.Repo(r).Tag("latest")}
		}
	}
	return l
}

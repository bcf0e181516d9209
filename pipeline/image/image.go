// Package image puts binaries into OCI images without a container engine. The
// same inputs give the same bytes: no clock, user, path or map order enters a
// layer, a configuration or a manifest.
package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// Base is a base image for one platform.
type Base struct {
	Image  v1.Image
	Name   string  // as it was asked for
	Digest v1.Hash // of what the name stands for now: the index where there is one
}

// Bases finds base images.
type Bases interface {
	// Base returns the image that name stands for on a platform.
	Base(ctx context.Context, name string, p v1.Platform) (Base, error)
}

// Options says what goes into the image.
type Options struct {
	Source   source.Source
	Binaries []build.Binary
	Settings config.Image
	ZoneInfo string // zoneinfo.zip of the pinned Go toolchain
	Bases    Bases  // asked when Settings.Base is not scratch
	Cache    cache.Dir
	RunDir   string // folder of this run on the cache's file system
}

// Image is a finished image: one manifest, or an index over one manifest a
// platform where there are several.
type Image struct {
	Index  v1.ImageIndex // nil for a single platform
	Single v1.Image      // nil for several
}

// Platform describes one platform's image.
type Platform struct {
	Platform string  `json:"platform"`
	Digest   string  `json:"digest"`
	Size     int64   `json:"size"` // bytes to pull: layers, configuration and manifest
	Layers   []Layer `json:"layers"`
}

// Layer describes a layer slipway made.
type Layer struct {
	Name   string `json:"name"` // certificates, zones, accounts, program
	Digest string `json:"digest"`
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"`   // compressed bytes
	Reused bool   `json:"reused"` // an earlier run made it
}

// Result is what was made.
type Result struct {
	Image      Image      `json:"-"`
	Digest     string     `json:"digest"` // of the index, or of the only manifest
	MediaType  string     `json:"media_type"`
	BaseName   string     `json:"base_name,omitempty"`
	BaseDigest string     `json:"base_digest,omitempty"`
	Platforms  []Platform `json:"platforms"`
	Seconds    float64    `json:"seconds"`
}

// Run makes the image.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	m := maker{Options: o, kind: mediaTypes(o.Settings.Format)}
	// The fixed layers are made beside the programs', and waited for after them.
	fixed := sync.OnceValues(func() ([]*layer, error) { return m.fixedLayers(ctx) })
	images := make([]v1.Image, len(o.Binaries))
	r := Result{Platforms: make([]Platform, len(o.Binaries))}
	bases := make([]Base, len(o.Binaries))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := fixed()
		return err
	})
	for i, b := range o.Binaries {
		g.Go(func() (err error) {
			images[i], bases[i], r.Platforms[i], err = m.platform(gctx, b, fixed)
			return err
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if err != nil {
		return Result{}, err
	}
	base := bases[0]
	if base.Image != nil {
		r.BaseName, r.BaseDigest = base.Name, base.Digest.String()
		if !strings.Contains(base.Name, "@sha256:") {
			progress.Warnf(ctx, "base %s is a tag that can move; to keep the image reproducible write %s@%s", base.Name, base.Name, base.Digest)
		}
	}
	if len(images) == 1 {
		r.Image.Single = images[0]
	} else {
		r.Image.Index = m.index(images, base)
	}
	if err := r.describe(); err != nil {
		return Result{}, err
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// Artifact is what an index and a manifest have in common.
func (i Image) Artifact() interface {
	partial.Describable
	RawManifest() ([]byte, error)
} {
	if i.Index != nil {
		return i.Index
	}
	return i.Single
}

func (r *Result) describe() error {
	digest, err := r.Image.Artifact().Digest()
	if err != nil {
		return fmt.Errorf("computing the image's digest: %w", err)
	}
	mt, err := r.Image.Artifact().MediaType()
	if err != nil {
		return fmt.Errorf("reading the image's media type: %w", err)
	}
	r.Digest, r.MediaType = digest.String(), string(mt)
	return nil
}

type kinds struct {
	manifest, config, index, gzip, zstd types.MediaType
	docker                              bool
}

func mediaTypes(format string) kinds {
	if format == "docker" {
		return kinds{
			manifest: types.DockerManifestSchema2, config: types.DockerConfigJSON, index: types.DockerManifestList,
			gzip: types.DockerLayer, zstd: types.OCILayerZStd, docker: true,
		}
	}
	return kinds{
		manifest: types.OCIManifestSchema1, config: types.OCIConfigJSON, index: types.OCIImageIndex,
		gzip: types.OCILayer, zstd: types.OCILayerZStd,
	}
}

type maker struct {
	Options
	kind kinds
}

func (m *maker) platform(ctx context.Context, b build.Binary, fixed func() ([]*layer, error)) (v1.Image, Base, Platform, error) {
	program, err := m.programLayer(ctx, b)
	if err != nil {
		return nil, Base{}, Platform{}, err
	}
	layers, err := fixed()
	if err != nil {
		return nil, Base{}, Platform{}, err
	}
	layers = append(slices.Clone(layers), program)
	var base Base
	if m.Settings.Base != "scratch" {
		if base, err = m.Bases.Base(ctx, m.Settings.Base, b.Platform); err != nil {
			return nil, Base{}, Platform{}, err
		}
	}
	img, err := m.assemble(b.Platform, base, layers)
	if err != nil {
		return nil, Base{}, Platform{}, fmt.Errorf("assembling the image for %s: %w", b.Platform, err)
	}
	p, err := describePlatform(img, b.Platform, layers)
	if err != nil {
		return nil, Base{}, Platform{}, fmt.Errorf("assembling the image for %s: %w", b.Platform, err)
	}
	return img, base, p, nil
}

func (m *maker) assemble(p v1.Platform, base Base, layers []*layer) (v1.Image, error) {
	var img = empty.Image
	img = mutate.MediaType(img, m.kind.manifest)
	img = mutate.ConfigMediaType(img, m.kind.config)
	var settings v1.Config
	var add []mutate.Addendum
	var history []v1.History
	if base.Image != nil {
		cf, err := base.Image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of base %s: %w", base.Name, err)
		}
		if cf.Architecture != p.Architecture || cf.OS != p.OS {
			return nil, fault.Inputf("image.base-platform", "base %s is for %s/%s, not %s", base.Name, cf.OS, cf.Architecture, p).
				WithFix("name a base that has %s, or leave %s out of app.platforms", p, p)
		}
		settings, history = cf.Config, cf.History
		ls, err := base.Image.Layers()
		if err != nil {
			return nil, fmt.Errorf("reading the layers of base %s: %w", base.Name, err)
		}
		for _, l := range ls {
			mt, err := l.MediaType()
			if err != nil {
				return nil, fmt.Errorf("reading the layers of base %s: %w", base.Name, err)
			}
			add = append(add, mutate.Addendum{Layer: retyped(l, mt, m.retype(mt)), MediaType: m.retype(mt)})
		}
	}
	created := v1.Time{Time: m.Source.Time}
	for _, l := range layers {
		add = append(add, mutate.Addendum{Layer: l.Layer, MediaType: l.mediaType})
		history = append(history, v1.History{Created: created, CreatedBy: "slipway: " + l.name})
	}
	img, err := mutate.Append(img, add...)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Variant = p.OS, p.Architecture, p.Variant
	cf.Created, cf.History = created, history
	cf.Config = m.configure(settings, base)
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, err
	}
	if m.kind.docker {
		return img, nil // Docker's manifest has no annotations; the labels say the same
	}
	annotated, ok := mutate.Annotations(img, m.annotations(base)).(v1.Image)
	if !ok {
		return nil, fmt.Errorf("annotating: %T is not an image", annotated)
	}
	return annotated, nil
}

// retype gives a base's layer the media type of the manifest it goes into.
func (m *maker) retype(mt types.MediaType) types.MediaType {
	switch mt {
	case types.DockerLayer, types.OCILayer:
		return m.kind.gzip
	case types.DockerUncompressedLayer, types.OCIUncompressedLayer:
		if m.kind.docker {
			return types.DockerUncompressedLayer
		}
		return types.OCIUncompressedLayer
	default:
		return mt
	}
}

// retyped makes a layer say the media type it has in our manifest. A layer that
// a registry can take over from its base's repository stays one.
func retyped(l v1.Layer, from, to types.MediaType) v1.Layer {
	if from == to {
		return l
	}
	if m, ok := l.(*remote.MountableLayer); ok {
		return &remote.MountableLayer{Layer: retypedLayer{m.Layer, to}, Reference: m.Reference}
	}
	return retypedLayer{l, to}
}

type retypedLayer struct {
	v1.Layer
	mediaType types.MediaType
}

// MediaType returns the type in our manifest.
func (l retypedLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

func (m *maker) configure(c v1.Config, base Base) v1.Config {
	s := m.Settings
	c.User = s.User
	c.Entrypoint, c.Cmd = []string{s.Entrypoint}, s.Args
	if c.WorkingDir == "" {
		c.WorkingDir = "/"
	}
	c.Env = mergeEnv(c.Env, s.Env)
	c.ExposedPorts = map[string]struct{}{}
	for _, port := range s.Ports {
		c.ExposedPorts[strconv.Itoa(port)+"/tcp"] = struct{}{}
	}
	for _, v := range s.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[v] = struct{}{}
	}
	labels := maps.Clone(c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, m.annotations(base))
	c.Labels = labels
	c.Healthcheck = nil
	if m.kind.docker {
		c.Healthcheck = healthCheck(s)
	}
	return c
}

// healthCheck is Docker's HEALTHCHECK; the OCI image specification has no such
// field.
func healthCheck(s config.Image) *v1.HealthConfig {
	h := s.HealthCheck
	command := h.Command
	if command == nil {
		command = []string{s.Entrypoint, "health"}
	}
	if len(command) == 0 {
		return &v1.HealthConfig{Test: []string{"NONE"}}
	}
	return &v1.HealthConfig{
		Test:     append([]string{"CMD"}, command...),
		Interval: time.Duration(h.Interval), Timeout: time.Duration(h.Timeout),
		StartPeriod: time.Duration(h.StartPeriod), Retries: h.Retries,
	}
}

// mergeEnv overrides a base's environment, which keeps its order.
func mergeEnv(base []string, more map[string]string) []string {
	var out []string
	for _, kv := range base {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := more[name]; !ok {
			out = append(out, kv)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(more)) {
		out = append(out, name+"="+more[name])
	}
	return out
}

// annotations are the pre-defined keys of
// https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md.
func (m *maker) annotations(base Base) map[string]string {
	a := map[string]string{
		"org.opencontainers.image.created": m.Source.Time.Format(time.RFC3339),
		"org.opencontainers.image.title":   m.Source.Name,
		"org.opencontainers.image.version": m.Source.Version,
	}
	if m.Source.Revision != "" {
		a["org.opencontainers.image.revision"] = m.Source.Revision
	}
	if url := SourceURL(m.Settings.Source, m.Source.Module); url != "" {
		a["org.opencontainers.image.source"] = url
	}
	if base.Image != nil {
		a["org.opencontainers.image.base.name"] = base.Name
		a["org.opencontainers.image.base.digest"] = base.Digest.String()
	}
	maps.Copy(a, m.Settings.Labels)
	return a
}

// SourceURL is the URL of the source repository: the configured one, or what
// the module path says. A git remote would differ between the clones of one
// commit.
func SourceURL(configured, module string) string {
	if configured != "" {
		return configured
	}
	parts := strings.Split(module, "/")
	if len(parts) < 3 {
		return ""
	}
	switch parts[0] {
	case "github.com", "gitlab.com", "bitbucket.org", "codeberg.org":
		return "https://" + strings.Join(parts[:3], "/")
	}
	return ""
}

func (m *maker) index(images []v1.Image, base Base) v1.ImageIndex {
	idx := mutate.IndexMediaType(empty.Index, m.kind.index)
	add := make([]mutate.IndexAddendum, 0, len(images))
	for i, img := range images {
		add = append(add, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &m.Binaries[i].Platform}})
	}
	idx = mutate.AppendManifests(idx, add...)
	if m.kind.docker {
		return idx
	}
	if annotated, ok := mutate.Annotations(idx, m.annotations(base)).(v1.ImageIndex); ok {
		return annotated
	}
	return idx
}

func describePlatform(img v1.Image, p v1.Platform, layers []*layer) (Platform, error) {
	digest, err := img.Digest()
	if err != nil {
		return Platform{}, err
	}
	size, err := img.Size()
	if err != nil {
		return Platform{}, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return Platform{}, err
	}
	size += manifest.Config.Size
	for _, l := range manifest.Layers {
		size += l.Size
	}
	d := Platform{Platform: p.String(), Digest: digest.String(), Size: size}
	for _, l := range layers {
		d.Layers = append(d.Layers, Layer{
			Name: l.name, Digest: l.record.Digest.String(), DiffID: l.record.DiffID.String(), Size: l.record.Size, Reused: l.reused,
		})
	}
	return d, nil
}

// Package image assembles OCI images from binaries, without a container engine.
// The same inputs give the same bytes: no layer, configuration or manifest
// depends on the clock, the user, a path on this machine or the order of a map.
//
// The package promises no compatibility to programs other than slipway.
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
	Name   string  // the name it was requested by
	Digest v1.Hash // what the name resolves to now: the digest of the index, if there is one
}

// Bases resolves base images.
type Bases interface {
	// Base returns the image that a name resolves to for a platform.
	Base(ctx context.Context, name string, p v1.Platform) (Base, error)
}

// Options are the options of [Run] and [Unpacked].
type Options struct {
	Source   source.Source
	Binaries []build.Binary
	Settings config.Image
	ZoneInfo string // path of zoneinfo.zip of the pinned Go toolchain
	Bases    Bases  // resolves Settings.Base; not used for scratch
	Cache    cache.Dir
	RunDir   string // folder of this run, on the file system of the cache
}

// Image is an assembled image. It is a single manifest for one platform, and an
// index with one manifest per platform for several.
type Image struct {
	Index  v1.ImageIndex // nil for one platform
	Single v1.Image      // nil for several platforms
}

// Platform describes the image for one platform.
type Platform struct {
	Platform string  `json:"platform"`
	Digest   string  `json:"digest"`
	Size     int64   `json:"size"` // bytes that a pull transfers: layers, configuration and manifest
	Layers   []Layer `json:"layers"`
}

// Layer describes a layer that slipway created.
type Layer struct {
	Name   string `json:"name"` // certificates, zones, accounts, program
	Digest string `json:"digest"`
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"`   // compressed bytes
	Reused bool   `json:"reused"` // an earlier run created it
}

// Result is the result of [Run].
type Result struct {
	Image      Image      `json:"-"`
	Digest     string     `json:"digest"` // of the index, or of the only manifest
	MediaType  string     `json:"media_type"`
	BaseName   string     `json:"base_name,omitempty"`
	BaseDigest string     `json:"base_digest,omitempty"`
	Platforms  []Platform `json:"platforms"`
	Seconds    float64    `json:"seconds"`
}

// Run assembles the image for the platforms of all binaries.
//
// It returns [fault.Input] errors if the zone data cannot be read or the base does
// not support a platform, and the errors of o.Bases.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	a := assembler{Options: o, kind: mediaTypes(o.Settings.Format)}
	// The fixed layers are created at the same time as the layers of the programs.
	fixed := sync.OnceValues(func() ([]*layer, error) { return a.fixedLayers(ctx) })
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
			images[i], bases[i], r.Platforms[i], err = a.platform(gctx, b, fixed)
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
			progress.Warnf(ctx, "base %s is a tag, which can change; to keep the image reproducible, use %s@%s", base.Name, base.Name, base.Digest)
		}
	}
	if len(images) == 1 {
		r.Image.Single = images[0]
	} else {
		r.Image.Index = a.index(images, base)
	}
	if err := r.describe(); err != nil {
		return Result{}, err
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// Artifact returns the index, or the only manifest.
func (i Image) Artifact() interface {
	partial.Describable
	RawManifest() ([]byte, error)
} {
	if i.Index != nil {
		return i.Index
	}
	return i.Single
}

// describe sets the digest and the media type of the result.
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

// kinds are the media types of an image format.
type kinds struct {
	manifest, config, index, gzip, zstd types.MediaType
	docker                              bool // the format is docker, not oci
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

// assembler assembles an image.
type assembler struct {
	Options
	kind kinds
}

// platform assembles the image for one binary on top of the fixed layers.
func (a *assembler) platform(ctx context.Context, b build.Binary, fixed func() ([]*layer, error)) (v1.Image, Base, Platform, error) {
	program, err := a.programLayer(ctx, b)
	if err != nil {
		return nil, Base{}, Platform{}, err
	}
	layers, err := fixed()
	if err != nil {
		return nil, Base{}, Platform{}, err
	}
	layers = append(slices.Clone(layers), program)
	var base Base
	if a.Settings.Base != "scratch" {
		if base, err = a.Bases.Base(ctx, a.Settings.Base, b.Platform); err != nil {
			return nil, Base{}, Platform{}, err
		}
	}
	img, err := a.assemble(b.Platform, base, layers)
	if err != nil {
		return nil, Base{}, Platform{}, fmt.Errorf("assembling the image for %s: %w", b.Platform, err)
	}
	p, err := describePlatform(img, b.Platform, layers)
	if err != nil {
		return nil, Base{}, Platform{}, fmt.Errorf("describing the image for %s: %w", b.Platform, err)
	}
	return img, base, p, nil
}

// assemble returns an image with the layers of the base, if there is one, and then
// the given layers.
func (a *assembler) assemble(p v1.Platform, base Base, layers []*layer) (v1.Image, error) {
	var img = empty.Image
	img = mutate.MediaType(img, a.kind.manifest)
	img = mutate.ConfigMediaType(img, a.kind.config)
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
				WithFix("use a base that supports %s, or remove %s from app.platforms", p, p)
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
			add = append(add, mutate.Addendum{Layer: withMediaType(l, mt, a.convert(mt)), MediaType: a.convert(mt)})
		}
	}
	created := v1.Time{Time: a.Source.Time}
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
	cf.Config = a.configure(settings, base)
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, err
	}
	if a.kind.docker {
		return img, nil // Docker's manifest has no annotations; the labels have the same content
	}
	annotated, ok := mutate.Annotations(img, a.annotations(base)).(v1.Image)
	if !ok {
		return nil, fmt.Errorf("adding annotations to the image: got %T instead of an image", annotated)
	}
	return annotated, nil
}

// convert returns the media type, in the format of the image, for a layer of a
// base.
func (a *assembler) convert(mt types.MediaType) types.MediaType {
	switch mt {
	case types.DockerLayer, types.OCILayer:
		return a.kind.gzip
	case types.DockerUncompressedLayer, types.OCIUncompressedLayer:
		if a.kind.docker {
			return types.DockerUncompressedLayer
		}
		return types.OCIUncompressedLayer
	default:
		return mt
	}
}

// withMediaType returns a layer with another media type. A layer that a registry
// can mount from the repository of the base stays mountable.
func withMediaType(l v1.Layer, from, to types.MediaType) v1.Layer {
	if from == to {
		return l
	}
	if m, ok := l.(*remote.MountableLayer); ok {
		return &remote.MountableLayer{Layer: convertedLayer{m.Layer, to}, Reference: m.Reference}
	}
	return convertedLayer{l, to}
}

// convertedLayer is a layer with another media type.
type convertedLayer struct {
	v1.Layer
	mediaType types.MediaType
}

// MediaType returns the media type in the manifest of the image.
func (l convertedLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// configure returns the configuration of the image: that of the base, overridden
// by the settings.
func (a *assembler) configure(c v1.Config, base Base) v1.Config {
	s := a.Settings
	c.User = s.User
	c.Entrypoint, c.Cmd = []string{s.Entrypoint}, s.Args
	if c.WorkingDir == "" {
		c.WorkingDir = "/"
	}
	c.Env = mergeEnv(c.Env, s.Env)
	c.ExposedPorts = nil
	for _, port := range s.Ports {
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
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
	maps.Copy(labels, a.annotations(base))
	c.Labels = labels
	c.Healthcheck = nil
	if a.kind.docker {
		c.Healthcheck = healthCheck(s)
	}
	return c
}

// healthCheck returns Docker's HEALTHCHECK. The OCI image specification has no
// field for it. By default the check runs the program with the argument health.
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

// mergeEnv returns the environment of a base, in its order, without the variables
// in more, followed by those in more, sorted.
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

// annotations returns the values of the keys that are defined in
// https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md, and the
// configured labels.
func (a *assembler) annotations(base Base) map[string]string {
	values := map[string]string{
		"org.opencontainers.image.created": a.Source.Time.Format(time.RFC3339),
		"org.opencontainers.image.title":   a.Source.Name,
		"org.opencontainers.image.version": a.Source.Version,
	}
	if a.Source.Revision != "" {
		values["org.opencontainers.image.revision"] = a.Source.Revision
	}
	if url := SourceURL(a.Settings.Source, a.Source.Module); url != "" {
		values["org.opencontainers.image.source"] = url
	}
	if base.Image != nil {
		values["org.opencontainers.image.base.name"] = base.Name
		values["org.opencontainers.image.base.digest"] = base.Digest.String()
	}
	maps.Copy(values, a.Settings.Labels)
	return values
}

// SourceURL returns the URL of the source repository: the configured one, or the
// one that follows from the module path for well-known hosts, or "". It does not
// use a git remote, because the remotes of two clones differ.
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

// index returns an index over the images, in the order of the binaries.
func (a *assembler) index(images []v1.Image, base Base) v1.ImageIndex {
	idx := mutate.IndexMediaType(empty.Index, a.kind.index)
	add := make([]mutate.IndexAddendum, 0, len(images))
	for i, img := range images {
		add = append(add, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &a.Binaries[i].Platform}})
	}
	idx = mutate.AppendManifests(idx, add...)
	if a.kind.docker {
		return idx
	}
	if annotated, ok := mutate.Annotations(idx, a.annotations(base)).(v1.ImageIndex); ok {
		return annotated
	}
	return idx
}

// describePlatform returns the description of the image for one platform.
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

package deploy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// ChartValues is what a chart reveals about the values that it is rendered with.
type ChartValues struct {
	Chart    string         // the name of the chart
	Defaults map[string]any // values.yaml of the chart
	Given    map[string]any // the values of the environment
	// Annotations are those in Chart.yaml. VersionAnnotation names the value that receives
	// the version of the app.
	Annotations map[string]string
	Uses        func(string) bool // reports whether a template contains .Values. followed by a dotted path
}

// has reports whether the chart knows a value. A value without a default is known only
// to the templates.
func (c ChartValues) has(path string) bool {
	_, ok := lookup(c.Defaults, path)
	return ok || c.Uses != nil && c.Uses(path)
}

// first returns the first of the values that the chart has, or an empty text.
func (c ChartValues) first(paths ...string) string {
	for _, p := range paths {
		if c.has(p) {
			return p
		}
	}
	return ""
}

// VersionAnnotation is the annotation of a chart with the default of
// [config.ImageValues].Version.
const VersionAnnotation = "slipway-ci.github.io/version-value"

// FindImageValues fills in the values of v that are not set in the configuration, from
// the shape of the values of the chart:
//
//   - image.repository and image.digest, rendered as repository@digest
//   - image.repository and image.tag, rendered as repository:tag. The charts that helm
//     create makes have this shape.
//   - either of them together with image.registry
//   - image as one text, alone or with a separate tag or digest
//
// If the chart has none of them, the error is a [fault.Input] error. Whether the chart
// then really runs the image is checked after it is rendered.
func FindImageValues(v config.ImageValues, c ChartValues) (config.ImageValues, error) {
	v.Version = cmp.Or(v.Version, c.Annotations[VersionAnnotation])
	if v.Reference != "" {
		return v, nil
	}
	if v.Repository == "" && v.Registry == "" && v.Digest == "" && v.Tag == "" {
		image, known := lookup(c.Defaults, "image")
		if !known {
			image, known = lookup(c.Given, "image")
		}
		if _, text := image.(string); text {
			v.Digest = c.first("imageDigest", "digest")
			v.Tag = c.first("imageTag", "tag")
			switch {
			case v.Digest != "":
				v.Repository, v.Tag = "image", ""
			case v.Tag != "":
				v.Repository = "image"
			default:
				v.Reference = "image"
			}
			return v, nil
		}
		if !known && c.first("image.repository", "image.name", "image.digest", "image.tag") == "" {
			return v, unknownShape(c)
		}
	}
	v.Repository = cmp.Or(v.Repository, c.first("image.repository", "image.name"), "image.repository")
	beside := func(key string) string {
		if i := strings.LastIndexByte(v.Repository, '.'); i >= 0 {
			return v.Repository[:i+1] + key
		}
		return key
	}
	if v.Digest == "" && v.Tag == "" {
		v.Digest = beside("digest")
		if !c.has(v.Digest) && c.has(beside("tag")) {
			v.Digest, v.Tag = "", beside("tag")
		}
	}
	if v.Registry == "" && c.has(beside("registry")) {
		v.Registry = beside("registry")
	}
	return v, nil
}

// unknownShape returns the error for a chart whose values do not show how it selects its
// image. Another value is never chosen by a guess, because it can be that of a sidecar.
func unknownShape(c ChartValues) error {
	e := fault.Inputf("deploy.image-values", "the values of the chart %s do not show which of them select the image: it has no image.repository and no image", c.Chart)
	fix := "set deploy.imageValues in slipway.yaml: repository with digest or tag, or reference"
	if others := imagesIn(c.Defaults, ""); len(others) > 0 {
		fix += "; the chart has " + strings.Join(others[:min(len(others), 3)], ", ")
	}
	return e.WithFix("%s", fix)
}

// imagesIn returns the dotted paths of the values that look like a repository, sorted.
func imagesIn(values map[string]any, prefix string) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		inner, _ := values[key].(map[string]any)
		if _, text := values[key].(string); key == "repository" || text && key == "image" {
			out = append(out, prefix+key)
		}
		out = append(out, imagesIn(inner, prefix+key+".")...)
	}
	return out
}

// ImageValueNames returns the values that receive the image, for messages.
func ImageValueNames(v config.ImageValues) string {
	var names []string
	for _, n := range []string{v.Registry, v.Repository, v.Tag, v.Digest, v.Reference} {
		if n != "" {
			names = append(names, n)
		}
	}
	return strings.Join(names, " and ")
}

// Values returns the values of the chart that override the values files: first those
// that the environment sets, then those that select image.
func (o Options) Values(image Image) map[string]any {
	values := maps.Clone(o.Settings.Set)
	if values == nil {
		values = map[string]any{}
	}
	v := o.ImageValues
	repository, tag := image.Repository, tagOf(o.Version, image.Digest)
	if v.Registry != "" {
		var registry string
		registry, repository = split(image.Repository)
		put(values, v.Registry, registry)
	}
	if v.Digest == "" {
		tag += "@" + image.Digest
	}
	put(values, v.Repository, repository)
	put(values, v.Digest, image.Digest)
	put(values, v.Tag, tag)
	put(values, v.Reference, image.String())
	if o.Version != "" {
		put(values, v.Version, o.Version)
	}
	if o.PullSecret != nil {
		put(values, v.PullSecrets, []any{map[string]any{"name": o.PullSecret.Name}})
	}
	return values
}

// tagOf returns a tag that shows the version of the app. The nodes pull by digest and
// ignore it. Characters that a tag cannot contain are replaced by "-". Without a version
// the tag is the beginning of the digest.
func tagOf(version, digest string) string {
	tag := strings.TrimLeft(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, version), ".-")
	if tag == "" {
		tag = strings.TrimPrefix(digest, "sha256:")
		return tag[:min(len(tag), 12)]
	}
	return tag[:min(len(tag), 128)] // the longest tag that the OCI distribution specification allows
}

// split splits a repository into the registry and the rest.
func split(repository string) (registry, rest string) {
	r, err := name.NewRepository(repository)
	if err != nil { // checked again after the chart is rendered
		registry, rest, _ = strings.Cut(repository, "/")
		return registry, rest
	}
	return r.RegistryStr(), r.RepositoryStr()
}

// lookup returns the value at a dotted path. A value of null exists.
func lookup(values map[string]any, path string) (any, bool) {
	key, rest, deeper := strings.Cut(path, ".")
	v, ok := values[key]
	if !deeper {
		return v, ok
	}
	inner, _ := v.(map[string]any)
	return lookup(inner, rest)
}

// put sets the value at a dotted path. If the path is empty, it does nothing. It
// copies the maps along the path, because they may be part of the configuration.
func put(values map[string]any, path string, v any) {
	if path == "" {
		return
	}
	key, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		values[key] = v
		return
	}
	inner := map[string]any{}
	if old, ok := values[key].(map[string]any); ok {
		maps.Copy(inner, old)
	}
	values[key] = inner
	put(inner, rest, v)
}

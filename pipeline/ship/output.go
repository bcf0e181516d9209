package ship

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// OutputKind is a form an image is written in.
type OutputKind string

// The forms.
const (
	Layout  OutputKind = "oci"            // an OCI layout folder
	Archive OutputKind = "docker-archive" // a file for docker load; one platform
)

// Output is a place an image is written to.
type Output struct {
	Kind OutputKind `json:"kind"`
	Path string     `json:"path"`
}

// ParseOutput reads oci:DIR or docker-archive:FILE. It returns a
// [fault.Input] error for anything else.
func ParseOutput(s string) (Output, error) {
	kind, path, ok := strings.Cut(s, ":")
	if o := (Output{OutputKind(kind), path}); ok && path != "" && (o.Kind == Layout || o.Kind == Archive) {
		return o, nil
	}
	return Output{}, fault.Inputf("output.malformed", "%q is not an output", s).
		WithFix("use text, json, oci:DIR, docker-archive:FILE or registry:REPOSITORY")
}

// export writes the image to every place asked for.
func (p *run) export(ctx context.Context) (outcome, error) {
	exports := p.Exports
	if len(exports) == 0 {
		dir, err := p.outputDir("image")
		if err != nil {
			return outcome{}, err
		}
		exports = []Output{{Layout, dir}}
	}
	var places []string
	for _, o := range exports {
		abs, err := filepath.Abs(o.Path)
		if err != nil {
			return outcome{}, fault.Inputf("output.malformed", "%s: %w", o.Path, err)
		}
		o.Path = abs
		progress.Statusf(ctx, "writing %s", o.Path)
		if err := p.write(ctx, o); err != nil {
			return outcome{}, err
		}
		p.report.Exports = append(p.report.Exports, o)
		places = append(places, string(o.Kind)+":"+o.Path)
	}
	return outcome{progress.Passed, strings.Join(places, ", ")}, nil
}

func (p *run) write(ctx context.Context, o Output) error {
	img := p.report.Image.Image
	tags := p.tags()
	if o.Kind == Layout {
		ref := ""
		if len(tags) > 0 {
			ref = tags[0]
		}
		return image.WriteLayout(ctx, o.Path, img, ref)
	}
	if img.Single == nil {
		return fault.Inputf("output.platforms", "an archive for docker load holds one platform, this image has %d", len(p.report.Image.Platforms)).
			WithFix("choose one, for example --platforms linux/amd64")
	}
	repository := p.Config.Image.Repository
	if repository == "" {
		repository = p.source.Name
	}
	text := repository + ":latest"
	if len(tags) > 0 {
		text = repository + ":" + tags[0]
	}
	tag, err := name.NewTag(text)
	if err != nil {
		return fault.Inputf("reference.malformed", "naming the image %s: %w", text, err)
	}
	return image.WriteArchive(ctx, o.Path, img.Single, tag)
}

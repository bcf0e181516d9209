package ship

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// OutputKind is the format of an exported image.
type OutputKind string

// The kinds of outputs.
const (
	Layout  OutputKind = "oci"            // a folder with an OCI image layout
	Archive OutputKind = "docker-archive" // a file for docker load, which can hold only one platform
)

// Output is a file or folder to which an image is written.
type Output struct {
	Kind OutputKind `json:"kind"`
	Path string     `json:"path"`
}

// ParseOutput parses oci:DIR or docker-archive:FILE. For any other value it returns a
// [fault.Input] error.
func ParseOutput(s string) (Output, error) {
	kind, path, ok := strings.Cut(s, ":")
	if o := (Output{OutputKind(kind), path}); ok && path != "" && (o.Kind == Layout || o.Kind == Archive) {
		return o, nil
	}
	return Output{}, fault.Inputf("output.malformed", "%q is not an output", s).
		WithFix("use text, json, oci:DIR, docker-archive:FILE or registry:REPOSITORY")
}

// checkExport makes the folder of the default output, so that a source that cannot be
// written to is reported before anything is compiled.
func (p *run) checkExport() error {
	if len(p.Exports) > 0 {
		return nil
	}
	_, err := p.outputDir("image", "-o oci:DIR")
	return err
}

// export writes the image to all requested outputs.
func (p *run) export(ctx context.Context) (graph.Outcome, error) {
	exports := p.Exports
	if len(exports) == 0 {
		dir, err := p.outputDir("image", "-o oci:DIR")
		if err != nil {
			return graph.Outcome{}, err
		}
		exports = []Output{{Layout, dir}}
	}
	places := make([]string, 0, len(exports))
	for _, o := range exports {
		abs, err := filepath.Abs(o.Path)
		if err != nil {
			return graph.Outcome{}, fault.Inputf("output.malformed", "%s: %w", o.Path, err)
		}
		o.Path = abs
		progress.Statusf(ctx, "writing %s", o.Path)
		if err := p.write(ctx, o); err != nil {
			return graph.Outcome{}, err
		}
		p.report.Exports = append(p.report.Exports, o)
		places = append(places, string(o.Kind)+":"+o.Path)
	}
	return graph.Outcome{Kind: progress.Passed, Summary: strings.Join(places, ", ")}, nil
}

func (p *run) write(ctx context.Context, o Output) error {
	img := p.report.Image.Image
	tag := ""
	if tags := p.tags(); len(tags) > 0 {
		tag = tags[0]
	}
	if o.Kind == Layout {
		return image.WriteLayout(ctx, o.Path, img, tag)
	}
	if img.Single == nil {
		return fault.Inputf("output.platforms", "an archive for docker load holds one platform, but this image has %d", len(p.report.Image.Platforms)).
			WithFix("choose one, for example --platforms linux/amd64")
	}
	repository := p.Config.Image.Repository
	if repository == "" {
		repository = p.source.Name
	}
	if tag == "" {
		tag = "latest"
	}
	ref, err := name.NewTag(repository + ":" + tag)
	if err != nil {
		return fault.Inputf("reference.malformed", "naming the image %s:%s: %w", repository, tag, err)
	}
	return image.WriteArchive(ctx, o.Path, img.Single, ref)
}

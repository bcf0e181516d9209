package release

import (
	"bytes"
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/postrender"
	helm "helm.sh/helm/v3/pkg/release"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// sourceComment is what Helm writes before each document of a manifest.
const sourceComment = "---\n# Source: "

// frozen returns the chart with the texts that were rendered as its templates. Helm renders
// a chart again when it applies it, and the functions now, lookup and randAlphaNum then
// have other results, so that something else would be applied than what was checked. The
// templates of the frozen chart have only one result.
func (r Rendered) frozen() (*chart.Chart, error) {
	texts := map[string][]string{} // by path, including the name of the chart
	var paths []string
	add := func(path, text string) {
		if _, ok := texts[path]; !ok {
			paths = append(paths, path)
		}
		texts[path] = append(texts[path], text)
	}
	for doc := range strings.SplitSeq("\n"+r.target.Manifest, "\n"+sourceComment) {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		path, text, ok := strings.Cut(doc, "\n")
		if !ok {
			return nil, fmt.Errorf("the rendered chart has a document without content: %q", doc)
		}
		add(path, text)
	}
	for _, h := range r.target.Hooks {
		add(h.Path, h.Manifest)
	}
	out := *r.chart
	metadata := *r.chart.Metadata
	metadata.Dependencies = nil // what they render is in the templates
	out.Metadata, out.Lock = &metadata, nil
	out.Templates = nil
	out.SetDependencies()
	if notes := r.target.Info.Notes; notes != "" {
		out.Templates = append(out.Templates, &chart.File{Name: "templates/NOTES.txt", Data: literal(notes)})
	}
	for _, path := range paths {
		name, ok := strings.CutPrefix(path, r.chart.Name()+"/")
		if !ok {
			return nil, fmt.Errorf("the rendered chart has the template %q, which is not in the chart", path)
		}
		out.Templates = append(out.Templates, &chart.File{Name: name, Data: literal(strings.Join(texts[path], "\n---\n"))})
	}
	return &out, nil
}

// literal returns a template that is rendered as text.
func literal(text string) []byte {
	return []byte(strings.ReplaceAll(text, "{{", `{{"{{"}}`))
}

// sameManifest is a post-renderer that fails if the manifest is not byte for byte the one
// that was checked. Helm calls it before it changes anything.
type sameManifest struct{ want string }

var _ postrender.PostRenderer = sameManifest{}

// Run implements [postrender.PostRenderer].
func (s sameManifest) Run(got *bytes.Buffer) (*bytes.Buffer, error) {
	if got.String() != s.want {
		return nil, errDiffers("the manifest")
	}
	return got, nil
}

func errDiffers(what string) error {
	return fault.Failedf("deploy.rendered-differently", "%s that Helm is about to apply is not the one that was checked; nothing of it was applied", what).
		WithFix("look for templates of the chart that render something that is no text, and report this if there are none")
}

// checkHook returns an error if a manifest that Helm is about to create as a hook is not
// one that was checked.
func checkHook(checked []*helm.Hook, text string) error {
	for _, h := range checked {
		if h.Manifest == text {
			return nil
		}
	}
	return errDiffers("a hook")
}

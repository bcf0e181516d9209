package ship

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/license"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// license judges the licences of the modules in the plain binaries. It does not need
// the image, so that one is made at the same time.
func (p *run) license(ctx context.Context) (graph.Outcome, error) {
	if len(p.Config.License.Allow) == 0 {
		return graph.Outcome{Kind: progress.Skipped, Summary: "license.allow is empty"}, nil
	}
	o := license.Options{
		Dir: p.source.Dir, Go: p.toolchain, Settings: p.Config.License, Env: toolchain.Environ(p.Config.App.Env),
	}
	given := []any{p.Program} // another slipway may recognise other licences
	for _, b := range p.report.Build.Binaries {
		o.Programs = append(o.Programs, b.Path)
		given = append(given, b.SHA256)
	}
	key, err := p.verdictKey("license", p.Config.License, given)
	if err != nil {
		return graph.Outcome{}, err
	}
	var v verdict[license.Result]
	if p.loadVerdict(&v, key) && allExist(v.Result.Reports) {
		p.report.License = &v.Result
		return graph.Outcome{Kind: progress.Unchanged, Summary: summarizeLicenses(v.Result) + " " + v.age()}, nil
	}
	r, err := license.Run(ctx, o)
	if r.Modules != nil { // there is a verdict
		var writeErr error
		if r.Reports, writeErr = p.writeLicenses(r); writeErr != nil {
			err = errors.Join(err, writeErr)
		}
		p.report.License = &r
	}
	if err != nil {
		return graph.Outcome{}, err
	}
	p.storeVerdict(ctx, verdict[license.Result]{time.Now(), r}, key)
	return graph.Outcome{Kind: progress.Passed, Summary: summarizeLicenses(r)}, nil
}

func summarizeLicenses(r license.Result) string {
	exceptions := 0
	for _, m := range r.Modules {
		if m.Exception != "" {
			exceptions++
		}
	}
	s := fmt.Sprintf("%d modules", len(r.Modules))
	if exceptions > 0 {
		s += fmt.Sprintf(", %d exceptions", exceptions)
	}
	return s
}

// writeLicenses writes the report of the modules and their licences.
func (p *run) writeLicenses(r license.Result) ([]string, error) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the report of licences: %w", err)
	}
	path := filepath.Join(p.Reports, "license.json")
	if err := writeReport(path, append(text, '\n')); err != nil {
		return nil, err
	}
	return []string{path}, nil
}

package ship

import (
	"context"
	"fmt"
	"slices"

	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// checkPush validates the repository and the tags.
func (p *run) checkPush() error {
	if p.target() == "" {
		return nil
	}
	client, err := p.registry()
	if err != nil {
		return err
	}
	repo, err := client.Repository(p.target())
	if err != nil {
		return err
	}
	for _, tag := range p.tags() {
		if _, err := client.Tag(repo, tag); err != nil {
			return err
		}
	}
	return nil
}

func (p *run) push(ctx context.Context) (graph.Outcome, error) {
	if p.includes(Sign) { // an unusable key is reported before anything is sent
		if _, err := p.signer(); err != nil {
			return graph.Outcome{}, err
		}
	}
	client, err := p.registry()
	if err != nil {
		return graph.Outcome{}, err
	}
	repo, err := p.repository(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	o := registry.PushOptions{Image: p.report.Image.Image, Repository: repo, Cache: p.Cache}
	for _, tag := range p.tags() {
		t, err := client.Tag(repo, tag)
		if err != nil {
			return graph.Outcome{}, err
		}
		o.Tags = append(o.Tags, t)
	}
	r, err := client.Push(ctx, o)
	if err != nil {
		return graph.Outcome{}, err
	}
	p.report.Push, p.report.Reference = &r, r.Reference
	if r.Unchanged {
		return graph.Outcome{Kind: progress.Unchanged, Summary: "the registry has it"}, nil
	}
	return graph.Outcome{
		Kind:    progress.Passed,
		Summary: fmt.Sprintf("%d blobs sent (%s), %d there already, %d mounted", r.Sent, bytesText(r.Bytes), r.Existing, r.Mounted),
	}, nil
}

// tags returns the given tags or, if there are none, the short revision and the extra
// tags. Duplicates are removed.
func (p *run) tags() []string {
	tags := slices.Clone(p.Tags)
	if len(tags) == 0 {
		if rev := p.source.ShortRevision(); rev != "" {
			tags = append(tags, rev)
		}
		tags = append(tags, p.ExtraTags...)
	}
	var unique []string
	for _, t := range tags {
		if !slices.Contains(unique, t) {
			unique = append(unique, t)
		}
	}
	return unique
}

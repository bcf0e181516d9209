package ship

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// SBOM is a software bill of materials for the image of one platform.
type SBOM struct {
	Platform string      `json:"platform"`
	Format   scan.Format `json:"format"`
	Path     string      `json:"path"`
	SHA256   string      `json:"sha256"` // hex
}

// intact reports whether the file still exists with the same content.
func (b SBOM) intact() bool {
	sum, err := cache.HashFile(b.Path)
	return err == nil && sum == b.SHA256
}

// sbom writes the SBOMs of the image of every platform in both formats. The documents
// refer to the image by the digest of the built image.
func (p *run) sbom(ctx context.Context) (graph.Outcome, error) {
	images, err := p.unpacked(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	summary := fmt.Sprintf("SPDX and CycloneDX of %d images", len(images.targets))
	for i := range images.targets {
		images.targets[i].Digest = p.report.Image.Platforms[i].Digest
		images.given = append(images.given, images.targets[i].Digest)
	}
	key, err := p.verdictKey("sbom", nil, images.given)
	if err != nil {
		return graph.Outcome{}, err
	}
	var v verdict[[]SBOM]
	if p.loadVerdict(&v, key) && !slices.ContainsFunc(v.Result, func(b SBOM) bool { return !b.intact() }) {
		p.report.SBOMs = v.Result
		return graph.Outcome{Kind: progress.Unchanged, Summary: summary}, nil
	}
	for _, t := range images.targets {
		for _, form := range []struct {
			format    scan.Format
			extension string
		}{{scan.SPDX, "spdx.json"}, {scan.CycloneDX, "cdx.json"}} {
			text, err := p.Scanner.SBOM(ctx, t, form.format)
			if err != nil {
				return graph.Outcome{}, err
			}
			file := filepath.Join(p.Reports, "sbom-"+strings.ReplaceAll(t.Platform, "/", "-")+"."+form.extension)
			if err := writeReport(file, text); err != nil {
				return graph.Outcome{}, err
			}
			sum := sha256.Sum256(text)
			p.report.SBOMs = append(p.report.SBOMs, SBOM{t.Platform, form.format, file, hex.EncodeToString(sum[:])})
		}
	}
	p.storeVerdict(ctx, verdict[[]SBOM]{time.Now(), p.report.SBOMs}, key)
	return graph.Outcome{Kind: progress.Passed, Summary: summary}, nil
}

package trivy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// withDependencies calls use with a folder that contains a chart with its dependencies: the
// chart itself or, if some of them are in other folders, a temporary copy.
func withDependencies(ctx context.Context, dir string, use func(dir string) error) error {
	if len(deploy.LocalDependencies(dir)) == 0 {
		return use(dir)
	}
	temporary, err := os.MkdirTemp("", "slipway-chart-")
	if err != nil {
		return fmt.Errorf("copying the chart %s: %w", dir, err)
	}
	defer os.RemoveAll(temporary)
	if err := copyChart(ctx, dir, temporary, 0); err != nil {
		return fault.Inputf("scan.chart", "copying the chart %s and its dependencies: %w", dir, err)
	}
	return use(temporary)
}

// maxDepth is the limit for dependencies of dependencies, which can refer to each other.
const maxDepth = 10

// copyChart copies a chart, and its dependencies in other folders, into a folder.
func copyChart(ctx context.Context, from, into string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("the dependencies of %s are nested more than %d levels deep", from, maxDepth)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := os.CopyFS(into, os.DirFS(from)); err != nil {
		return err
	}
	for _, d := range deploy.Dependencies(from) {
		if err := copyChart(ctx, d, filepath.Join(into, "charts", filepath.Base(d)), depth+1); err != nil {
			return err
		}
	}
	return nil
}

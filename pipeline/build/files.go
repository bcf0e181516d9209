package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Files returns the absolute paths of the files in the repository that the program for a
// platform is compiled from, the embedded ones included, as the go command says.
func Files(ctx context.Context, s source.Source, g *toolchain.Go, app config.App, platform string) ([]string, error) {
	p, err := config.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	args := []string{"-deps", "-json=Dir,Standard,GoFiles,CgoFiles,CFiles,CXXFiles,HFiles,SFiles,SysoFiles,EmbedFiles"}
	if len(app.Tags) > 0 {
		args = append(args, "-tags="+strings.Join(app.Tags, ","))
	}
	cgo := "CGO_ENABLED=0"
	if app.CGO {
		cgo = "CGO_ENABLED=1"
	}
	env := append([]string{"GOOS=" + p.OS, "GOARCH=" + p.Architecture, cgo}, toolchain.Environ(app.Env)...)
	out, messages, err := g.ListPackages(ctx, s.Dir, env, append(args, s.Main)...)
	if err != nil {
		return nil, fmt.Errorf("listing the files that the program is compiled from: %w: %s", err, messages)
	}
	type pkg struct {
		Dir                                                                        string
		Standard                                                                   bool
		GoFiles, CgoFiles, CFiles, CXXFiles, HFiles, SFiles, SysoFiles, EmbedFiles []string
	}
	packages, err := toolchain.Values[pkg](out)
	if err != nil {
		return nil, fmt.Errorf("listing the files that the program is compiled from: %w", err)
	}
	var files []string
	for _, dir := range []string{s.Dir, filepath.Dir(s.Workspace)} {
		for _, name := range []string{"go.mod", "go.sum", "go.work", "go.work.sum", "vendor/modules.txt"} {
			file := filepath.Join(dir, name)
			if _, err := os.Lstat(file); err == nil && filepath.IsAbs(dir) {
				files = append(files, file)
			}
		}
	}
	for _, p := range packages {
		if rel, err := filepath.Rel(s.Top, p.Dir); p.Standard || err != nil || !filepath.IsLocal(rel) {
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.CFiles, p.CXXFiles, p.HFiles, p.SFiles, p.SysoFiles, p.EmbedFiles) {
			files = append(files, filepath.Join(p.Dir, name))
		}
	}
	return files, nil
}

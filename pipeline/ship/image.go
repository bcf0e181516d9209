package ship

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/compress"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/listener"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

func (p *run) build(ctx context.Context) (graph.Outcome, error) {
	r, err := build.Run(ctx, build.Options{Source: p.source, Go: p.toolchain, Settings: p.Config.App, Cache: p.Cache, RunDir: p.work.Dir})
	if err != nil {
		return graph.Outcome{}, err
	}
	p.report.Build = &r
	sizes := make([]string, 0, len(r.Binaries))
	for _, b := range r.Binaries {
		sizes = append(sizes, fmt.Sprintf("%s %s", b.Platform, bytesText(b.Size)))
	}
	return graph.Outcome{Kind: changed(!r.Relinked), Summary: strings.Join(sizes, ", ")}, nil
}

func (p *run) compress(ctx context.Context) (graph.Outcome, error) {
	if !p.Config.Image.UPX {
		return graph.Outcome{Kind: progress.Skipped, Summary: "upx is off"}, nil
	}
	r, err := compress.Run(ctx, compress.Options{Binaries: p.report.Build.Binaries, Cache: p.Cache, RunDir: p.work.Dir})
	if err != nil {
		return graph.Outcome{}, err
	}
	p.report.Compress = &r
	sizes := make([]string, 0, len(r.Binaries))
	for _, b := range r.Binaries {
		sizes = append(sizes, fmt.Sprintf("%s %s to %s", b.Platform, bytesText(b.Before), bytesText(b.Size)))
	}
	return graph.Outcome{Kind: changed(r.Reused), Summary: strings.Join(sizes, ", ")}, nil
}

func (p *run) image(ctx context.Context) (graph.Outcome, error) {
	binaries := p.report.Build.Binaries
	if p.report.Compress != nil {
		binaries = nil
		for _, b := range p.report.Compress.Binaries {
			binaries = append(binaries, b.Binary)
		}
	}
	client, err := p.registry()
	if err != nil {
		return graph.Outcome{}, err
	}
	r, err := image.Run(ctx, image.Options{
		Source: p.source, Binaries: binaries, Settings: p.imageSettings(), ZoneInfo: p.toolchain.ZoneInfo(),
		Bases: client, Cache: p.Cache, RunDir: p.work.Dir,
	})
	if err != nil {
		return graph.Outcome{}, err
	}
	p.report.Image, p.report.Digest = &r, r.Digest
	kind := progress.Unchanged
	sizes := make([]string, 0, len(r.Platforms))
	for _, f := range r.Platforms {
		sizes = append(sizes, fmt.Sprintf("%s %s", f.Platform, bytesText(f.Size)))
		if slices.ContainsFunc(f.Layers, func(l image.Layer) bool { return !l.Reused }) {
			kind = progress.Passed
		}
	}
	return graph.Outcome{Kind: kind, Summary: strings.Join(sizes, ", ")}, nil
}

// imageSettings returns the settings of the image, with the ports that it exposes.
func (p *run) imageSettings() config.Image {
	settings := p.Config.Image
	settings.Ports = p.ports()
	return settings
}

// findPorts returns the ports that the image exposes.
func (p *run) findPorts(ctx context.Context) []int {
	if p.Config.Image.Ports != nil {
		return p.Config.Image.Ports
	}
	main := p.source.Main
	found := listener.Find(ctx, listener.Options{
		Dir: p.source.Dir, Module: p.source.Module, Mains: []string{main}, Tags: p.Config.App.Tags,
		Go: p.source.Go, Env: toolchain.Environ(p.Config.App.Env),
	})
	if at, ok := found[main]; ok && at == "" {
		return nil
	}
	return config.DefaultPorts()
}

// changed returns the outcome of a step that passed, given whether it changed nothing.
func changed(unchanged bool) progress.Outcome {
	if unchanged {
		return progress.Unchanged
	}
	return progress.Passed
}

// bytesText returns a size as text. Like registries, it uses powers of ten.
func bytesText(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }

// outputDir creates a folder in .slipway, where slipway writes its output unless it is told
// another place, and returns its path. A .gitignore file there keeps the output out of git.
// flag names the flag for another place, which the error suggests.
func (p *run) outputDir(name, flag string) (string, error) {
	dir := filepath.Join(p.Root, source.OutputDir)
	unwritable := func(err error) error {
		return fault.Inputf("output.unwritable", "making a folder for the output: %w", err).WithFix("name another one with %s", flag)
	}
	if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
		return "", unwritable(err)
	}
	file := filepath.Join(dir, ".gitignore")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(file, []byte("*\n"), 0o644); err != nil {
			return "", unwritable(err)
		}
	}
	return filepath.Join(dir, name), nil
}

// resolve resolves a path in slipway.yaml relative to the folder of that file.
func (p *run) resolve(path string) string { return config.Resolve(p.Root, path) }

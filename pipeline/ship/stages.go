package ship

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/compress"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/service"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/test"
)

func (p *run) lint(ctx context.Context) (outcome, error) {
	key, err := p.verdictKey("lint", p.Config.Lint, p.lintConfigs())
	if err != nil {
		return outcome{}, err
	}
	var v verdict[lint.Result]
	if p.recall(&v, key) && allExist(v.Result.Reports) {
		p.report.Lint = &v.Result
		return outcome{progress.Unchanged, "no findings " + v.age()}, nil
	}
	o := lint.Options{
		Dir: p.source.Dir, Go: p.toolchain, Version: p.Config.Lint.Version, Timeout: time.Duration(p.Config.Lint.Timeout),
		CacheDir: string(p.Cache), Reports: p.Reports, Prefix: p.prefix(), BuildTags: p.Config.App.Tags, Env: environ(p.Config.App.Env),
	}
	if p.Config.Lint.Config != "" {
		o.ConfigFile = filepath.Join(p.Root, p.Config.Lint.Config)
	}
	r, err := lint.Run(ctx, o)
	p.report.Lint = &r
	if err != nil {
		return outcome{}, err
	}
	p.remember(ctx, verdict[lint.Result]{time.Now(), r}, key)
	return outcome{progress.Passed, "no findings"}, nil
}

func (p *run) test(ctx context.Context) (outcome, error) {
	given := map[string]string{}
	for _, s := range p.Config.Test.Services {
		name := service.Kind(s).Variable()
		given[name] = os.Getenv(name)
	}
	key, err := p.verdictKey("test", p.Config.Test, given)
	if err != nil {
		return outcome{}, err
	}
	var v verdict[test.Result]
	if p.recall(&v, key) && allExist([]string{v.Result.Reports.JUnit, v.Result.Reports.Cobertura}) {
		p.report.Test = &v.Result
		return outcome{progress.Unchanged, summarizeTests(v.Result) + " " + v.age()}, nil
	}
	c := p.Config.Test
	kinds := make([]service.Kind, 0, len(c.Services))
	for _, s := range c.Services {
		kinds = append(kinds, service.Kind(s))
	}
	r, err := test.Run(ctx, test.Options{
		Dir: p.source.Dir, Go: p.toolchain, Race: c.Race == nil || *c.Race, Packages: c.Packages, CoverPackages: c.CoverPackages,
		Floor: c.Coverage, Timeout: time.Duration(c.Timeout), Env: append(environ(p.Config.App.Env), environ(c.Env)...),
		BuildTags: p.Config.App.Tags, Services: kinds, Reports: p.Reports, Prefix: p.prefix(),
	})
	p.report.Test = &r
	if err != nil {
		return outcome{}, err
	}
	p.remember(ctx, verdict[test.Result]{time.Now(), r}, key)
	return outcome{progress.Passed, summarizeTests(r)}, nil
}

func summarizeTests(r test.Result) string {
	s := fmt.Sprintf("%d tests", r.Tests)
	if r.Skipped > 0 {
		s += fmt.Sprintf(" (%d skipped)", r.Skipped)
	}
	if r.CoverageLine != "" {
		s += fmt.Sprintf(", coverage %.1f%%", r.Coverage)
	}
	return s
}

func (p *run) build(ctx context.Context) (outcome, error) {
	platforms, err := config.ParsePlatforms(p.Config.App.Platforms)
	if err != nil {
		return outcome{}, err
	}
	a := p.Config.App
	r, err := build.Run(ctx, build.Options{
		Source: p.source, Go: p.toolchain, Platforms: platforms, LDFlags: a.LDFlags, Tags: a.Tags, Env: a.Env,
		CGO: a.CGO, CC: a.CC, Cache: p.Cache, RunDir: p.work.Dir,
	})
	if err != nil {
		return outcome{}, err
	}
	p.report.Build = &r
	kind := progress.Unchanged
	if r.Relinked {
		kind = progress.Passed
	}
	var sizes []string
	for _, b := range r.Binaries {
		sizes = append(sizes, fmt.Sprintf("%s %s", b.Platform, bytesText(b.Size)))
	}
	return outcome{kind, strings.Join(sizes, ", ")}, nil
}

func (p *run) compress(ctx context.Context) (outcome, error) {
	if !p.Config.Image.UPX {
		return outcome{progress.Skipped, "upx is off"}, nil
	}
	r, err := compress.Run(ctx, compress.Options{Binaries: p.report.Build.Binaries, Cache: p.Cache, RunDir: p.work.Dir})
	if err != nil {
		return outcome{}, err
	}
	p.report.Compress = &r
	var sizes []string
	for _, b := range r.Binaries {
		sizes = append(sizes, fmt.Sprintf("%s %s to %s", b.Platform, bytesText(b.Before), bytesText(b.Size)))
	}
	kind := progress.Passed
	if r.Reused {
		kind = progress.Unchanged
	}
	return outcome{kind, strings.Join(sizes, ", ")}, nil
}

func (p *run) image(ctx context.Context) (outcome, error) {
	binaries := p.report.Build.Binaries
	if p.report.Compress != nil {
		binaries = nil
		for _, b := range p.report.Compress.Binaries {
			binaries = append(binaries, b.Binary)
		}
	}
	client, err := p.client(p.Config.Image.Repository) // a base may lie beside the target
	if err != nil {
		return outcome{}, err
	}
	defer client.Close()
	r, err := image.Run(ctx, image.Options{
		Source: p.source, Binaries: binaries, Settings: p.Config.Image, ZoneInfo: p.toolchain.ZoneInfo(),
		Bases: client, Cache: p.Cache, RunDir: p.work.Dir,
	})
	if err != nil {
		return outcome{}, err
	}
	p.report.Image, p.report.Digest = &r, r.Digest
	kind := progress.Unchanged
	var sizes []string
	for _, f := range r.Platforms {
		sizes = append(sizes, fmt.Sprintf("%s %s", f.Platform, bytesText(f.Size)))
		if slices.ContainsFunc(f.Layers, func(l image.Layer) bool { return !l.Reused }) {
			kind = progress.Passed
		}
	}
	return outcome{kind, strings.Join(sizes, ", ")}, nil
}

func (p *run) push(ctx context.Context) (outcome, error) {
	if slices.Contains(p.Stages, Sign) { // a key that cannot sign is found before anything is sent
		if _, err := p.signer(); err != nil {
			return outcome{}, err
		}
	}
	client, repo, err := p.target(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer client.Close()
	o := registry.PushOptions{Image: p.report.Image.Image, Repository: repo, Cache: p.Cache}
	for _, tag := range p.tags() {
		t, err := client.Tag(repo, tag)
		if err != nil {
			return outcome{}, err
		}
		o.Tags = append(o.Tags, t)
	}
	r, err := client.Push(ctx, o)
	if err != nil {
		return outcome{}, err
	}
	p.report.Push, p.report.Reference = &r, r.Reference
	if r.Unchanged {
		return outcome{progress.Unchanged, "the registry has it"}, nil
	}
	return outcome{progress.Passed, fmt.Sprintf("%d blobs sent (%s), %d there already, %d mounted", r.Sent, bytesText(r.Bytes), r.Existing, r.Mounted)}, nil
}

// target is where the image goes, with a client for it.
func (p *run) target(ctx context.Context) (*registry.Client, name.Repository, error) {
	repository := p.Config.Image.Repository
	if repository == "" {
		addr, err := p.embedded(ctx)
		if err != nil {
			return nil, name.Repository{}, err
		}
		repository = addr + "/" + p.source.Name
	}
	client, err := p.client(repository)
	if err != nil {
		return nil, name.Repository{}, err
	}
	repo, err := client.Repository(repository)
	return client, repo, err
}

// checkTarget finds mistakes in the target before any work is done.
func (p *run) checkTarget() error {
	if p.Config.Image.Repository == "" || !slices.Contains(p.Stages, Push) {
		return nil
	}
	client, err := p.client(p.Config.Image.Repository)
	if err != nil {
		return err
	}
	defer client.Close()
	repo, err := client.Repository(p.Config.Image.Repository)
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

// tags are the given tags, or the revision; in both cases with the extra ones.
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

func (p *run) client(target string) (*registry.Client, error) {
	host, _, _ := strings.Cut(target, "/")
	keychain, err := registry.Keychain(host, p.Credentials, nil)
	if err != nil {
		return nil, err
	}
	r := p.Config.Registry
	o := registry.Options{
		Mirrors: r.Mirrors, Insecure: r.Insecure, Uploads: r.Uploads, Downloads: r.Downloads, Keychain: keychain, Backoff: p.Backoff,
	}
	if p.RegistryServer != "" {
		address := host
		if !strings.Contains(host, ":") {
			address = net.JoinHostPort(host, "443")
		}
		o.Servers = map[string]string{address: p.RegistryServer}
	}
	if r.CA != "" {
		o.CAFile = filepath.Join(p.Root, r.CA)
		if filepath.IsAbs(r.CA) {
			o.CAFile = r.CA
		}
	}
	return registry.New(o)
}

// outputDir makes a folder for what slipway writes beside the source. The
// .gitignore in it keeps a run from making the tree dirty.
func (p *run) outputDir(name string) (string, error) {
	dir := filepath.Join(p.Root, source.OutputDir)
	if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
		return "", fault.Inputf("output.unwritable", "making a folder for reports: %w", err).WithFix("name another with --reports")
	}
	file := filepath.Join(dir, ".gitignore")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(file, []byte("*\n"), 0o644); err != nil {
			return "", fault.Inputf("output.unwritable", "making a folder for reports: %w", err)
		}
	}
	return filepath.Join(dir, name), nil
}

// prefix is the app's folder as seen from the root.
func (p *run) prefix() string {
	rel, err := filepath.Rel(p.Root, p.source.Dir)
	if err != nil || rel == "." {
		return ""
	}
	return filepath.ToSlash(rel)
}

// verdict is what lint or the tests said of a source. Only good ones are kept.
type verdict[T any] struct {
	At     time.Time
	Result T
}

func (v verdict[T]) age() string { return "(" + humanize.Time(v.At) + ")" }

// verdictKey identifies everything a verdict depends on.
func (p *run) verdictKey(stage string, settings, given any) (string, error) {
	fingerprint, err := p.fingerprint()
	if err != nil {
		return "", err
	}
	data, err := json.Marshal([]any{"1", stage, fingerprint, p.source.Dir, p.Reports, p.toolchain.Version, p.Config.App, settings, given})
	if err != nil {
		return "", fmt.Errorf("identifying the verdict: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + ".json", nil
}

func (p *run) recall(v any, key string) bool {
	return !p.Force && p.Cache.Load(v, "verdicts", key)
}

func (p *run) remember(ctx context.Context, v any, key string) {
	if err := p.Cache.Store(v, "verdicts", key); err != nil {
		progress.Warnf(ctx, "the next run starts over: %v", err)
	}
}

// lintConfigs hashes golangci-lint's configuration above the app, which the
// app's own fingerprint does not cover.
func (p *run) lintConfigs() map[string]string {
	sums := map[string]string{}
	names := []string{p.Config.Lint.Config, ".golangci.yml", ".golangci.yaml", ".golangci.toml", ".golangci.json"}
	for dir := p.source.Dir; ; dir = filepath.Dir(dir) {
		for _, name := range names {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if name == "" || err != nil {
				continue
			}
			sum := sha256.Sum256(data)
			sums[filepath.Join(dir, name)] = hex.EncodeToString(sum[:])
		}
		if dir == filepath.Dir(dir) {
			return sums
		}
	}
}

func allExist(files []string) bool {
	return !slices.ContainsFunc(files, func(f string) bool {
		_, err := os.Stat(f)
		return f == "" || err != nil
	})
}

func environ(m map[string]string) []string {
	var env []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		env = append(env, name+"="+m[name])
	}
	return env
}

// bytesText writes a size as registries do, in powers of ten.
func bytesText(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }

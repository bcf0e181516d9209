package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// scenario is the situation in which a run is measured.
type scenario string

const (
	cold      scenario = "cold"      // all caches except the module cache are empty
	changed   scenario = "changed"   // one line has changed since the last run
	unchanged scenario = "unchanged" // nothing has changed since the last run
)

func scenarios() []scenario { return []scenario{cold, changed, unchanged} }

// results is the content of results.json.
type results struct {
	Machine    machine     `json:"machine"`
	Tools      tools       `json:"tools"`
	Rounds     int         `json:"rounds"`
	ColdRounds int         `json:"cold_rounds"`
	Apps       []appResult `json:"apps"`
	Ship       *shipResult `json:"ship,omitempty"`
	Variants   *variants   `json:"variants,omitempty"`
	Bars       []bar       `json:"bars"`
}

// appResult is the result of one application.
type appResult struct {
	Name        string             `json:"name"`
	Module      string             `json:"module"`
	Version     string             `json:"version,omitempty"`  // if it comes from the module proxy
	Main        string             `json:"main"`               // main package
	EditFile    string             `json:"edit_file"`          // file with the one-line change
	Program     int64              `json:"program_bytes"`      // the program that go build links
	ProgramGzip int64              `json:"program_gzip_bytes"` // compressed with gzip, level 6
	ProgramZstd int64              `json:"program_zstd_bytes"` // compressed with zstd, default level
	Contestants []contestantResult `json:"contestants"`
}

// contestantResult is the result of one contestant for one application.
type contestantResult struct {
	Name  string                 `json:"name"`
	Note  string                 `json:"note"`
	Runs  map[scenario][]reading `json:"runs"`
	Image *imageSize             `json:"image,omitempty"` // the image of the last run
}

// of returns the result of the named contestant, or nil if there is none.
func (a *appResult) of(name string) *contestantResult {
	i := slices.IndexFunc(a.Contestants, func(c contestantResult) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &a.Contestants[i]
}

// tools are the programs that the benchmark runs. The results contain their
// versions, but not their paths.
type tools struct {
	Go             string `json:"-"`
	Goroot         string `json:"-"`
	Ko             string `json:"-"`
	Slipway        string `json:"-"`
	GoVersion      string `json:"go"`
	KoVersion      string `json:"ko"`
	SlipwayVersion string `json:"slipway"`
	UPXVersion     string `json:"upx,omitempty"`
}

// bench is one run of the benchmark.
type bench struct {
	options
	work    string
	self    string
	log     *slog.Logger
	tools   tools
	goEnv   map[string]string
	supply  supply
	number  int // of the last change; every change has another number
	results results
}

// newBench returns a bench with all tools found or built.
func newBench(ctx context.Context, o options, work string, stderr io.Writer) (*bench, error) {
	b := &bench{options: o, work: work, log: slog.New(slog.NewTextHandler(stderr, nil))}
	b.number = int(time.Now().Unix()) // the user's build cache may contain the changes of an earlier run
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("finding the path of this program: %w", err)
	}
	for _, program := range []string{"go", "git"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("the benchmark needs the program %s: %w", program, err)
		}
	}
	if b.results.Machine, err = describeMachine(ctx); err != nil {
		return nil, err
	}
	if m := b.results.Machine; m.busy() {
		b.log.Warn("this machine is busy, so the measurements will vary", "load", m.Load, "cpus", m.CPUs)
	}
	if err := b.buildTools(ctx); err != nil {
		return nil, err
	}
	b.results.Tools, b.results.Rounds, b.results.ColdRounds = b.tools, o.rounds, o.coldRounds
	return b, nil
}

// buildTools builds ko, and slipway unless --slipway names it, and reads the
// versions of all tools.
func (b *bench) buildTools(ctx context.Context) error {
	b.log.Info("building ko")
	b.tools.Ko = filepath.Join(b.work, "ko")
	here := filepath.Join(b.root, "bench")
	plain := append(os.Environ(), "GOEXPERIMENT=", "GOFLAGS=-trimpath")
	if _, err := output(ctx, here, plain, "go", "build", "-ldflags", "-s -w", "-o", b.tools.Ko, "github.com/google/ko"); err != nil {
		return err
	}
	version, err := output(ctx, here, os.Environ(), "go", "list", "-m", "-f", "{{.Version}}", "github.com/google/ko")
	if err != nil {
		return err
	}
	b.tools.KoVersion = strings.TrimSpace(string(version))
	b.tools.Slipway = b.slipway
	if b.tools.Slipway == "" {
		b.log.Info("building slipway")
		b.tools.Slipway = filepath.Join(b.work, "slipway")
		env := append(os.Environ(), "GOEXPERIMENT=jsonv2", "GOFLAGS=-trimpath")
		if _, err := output(ctx, b.root, env, "go", "build", "-ldflags", "-s -w", "-o", b.tools.Slipway, "./pipeline/cmd/slipway"); err != nil {
			return err
		}
	}
	b.tools.SlipwayVersion = "of this repository"
	if commit, err := output(ctx, b.root, os.Environ(), "git", "describe", "--always", "--dirty", "--exclude", "*"); err == nil {
		b.tools.SlipwayVersion = strings.TrimSpace(string(commit))
	}
	if out, err := output(ctx, b.root, os.Environ(), "upx", "--version"); err == nil {
		line, _, _ := strings.Cut(string(out), "\n")
		b.tools.UPXVersion = strings.TrimPrefix(line, "upx ")
	}
	return nil
}

// useToolchain selects the Go toolchain that the application in dir requires.
func (b *bench) useToolchain(ctx context.Context, dir string) error {
	names := []string{"GOVERSION", "GOROOT", "GOMODCACHE", "GOCACHE", "GOOS", "GOARCH"}
	out, err := output(ctx, dir, os.Environ(), "go", append([]string{"env", "-json"}, names...)...)
	if err != nil {
		return err
	}
	b.goEnv = map[string]string{}
	if err := json.Unmarshal(out, &b.goEnv); err != nil {
		return fmt.Errorf("reading the output of go env: %w", err)
	}
	if platform := b.goEnv["GOOS"] + "/" + b.goEnv["GOARCH"]; platform != "linux/amd64" {
		return fmt.Errorf("the benchmark runs only on linux/amd64, not on %s", platform)
	}
	b.tools.Goroot, b.tools.GoVersion = b.goEnv["GOROOT"], b.goEnv["GOVERSION"]
	b.tools.Go = filepath.Join(b.tools.Goroot, "bin", "go")
	b.results.Tools.GoVersion = b.tools.GoVersion
	return nil
}

// environ returns the environment that all contestants have in common. It contains
// no settings of the user, and it prevents downloads.
func (b *bench) environ() []string {
	return []string{
		"PATH=" + filepath.Join(b.tools.Goroot, "bin") + string(os.PathListSeparator) + os.Getenv("PATH"),
		"GOMODCACHE=" + b.goEnv["GOMODCACHE"], "GOTOOLCHAIN=" + b.tools.GoVersion, "GOENV=off", "GOPROXY=off",
		"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
	}
}

// app measures one application.
func (b *bench) app(ctx context.Context, name string) (err error) {
	all := apps()
	a := all[slices.IndexFunc(all, func(a app) bool { return a.Name == name })]
	origin, err := a.origin(ctx, b.root)
	if err != nil {
		return err
	}
	if err := b.useToolchain(ctx, origin); err != nil {
		return err
	}
	work := filepath.Join(b.work, a.Name)
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // the caches of several applications would need too much disk space
	if err := os.MkdirAll(filepath.Join(work, "registry"), 0o755); err != nil {
		return fmt.Errorf("creating a temporary directory: %w", err)
	}
	reg, err := serve(ctx, filepath.Join(work, "registry"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.close()) }()
	files, err := staticFiles(b.tools.Goroot)
	if err != nil {
		return err
	}
	base, err := pushBase(ctx, reg.addr+"/bases/static", files)
	if err != nil {
		return err
	}
	place := place{app: a, origin: origin, work: work, registry: reg.addr, base: base}
	sites, err := b.sites(ctx, place, contestants())
	if err != nil {
		return err
	}
	b.log.Info("filling the module cache", "app", a.Name)
	if _, err := output(ctx, sites[0].tree.dir, os.Environ(), "go", "mod", "download"); err != nil {
		return err
	}
	module, err := output(ctx, sites[0].tree.dir, os.Environ(), "go", "list", "-m")
	if err != nil {
		return err
	}
	r := appResult{
		Name: a.Name, Module: strings.TrimSpace(string(module)), Version: a.Version, Main: a.Main, EditFile: a.Edit.File,
		Contestants: make([]contestantResult, len(sites)),
	}
	for i, s := range sites {
		r.Contestants[i] = contestantResult{Name: s.Name, Note: s.Note, Runs: map[scenario][]reading{}}
	}
	if err := b.measureAll(ctx, sites, r.Contestants, b.rounds, b.coldRounds); err != nil {
		return err
	}
	if err := r.weighProgram(sites[0].program()); err != nil {
		return err
	}
	b.results.Apps = append(b.results.Apps, r)
	if a.Untested != nil && b.shipRounds > 0 {
		if err := b.measureShip(ctx, place); err != nil {
			return err
		}
	}
	if a.Start == nil || b.starts == 0 {
		return nil
	}
	return b.measureVariants(ctx, a, sites[0], reg.addr, filepath.Join(work, "variants"), files)
}

// place is what the contestants of one application have in common.
type place struct {
	app            app
	origin         string // directory with the application's files
	work           string
	registry, base string
}

// sites prepares a separate working directory for each contestant.
func (b *bench) sites(ctx context.Context, p place, all []contestant) ([]*site, error) {
	var sites []*site
	for _, c := range all {
		name := strings.Map(func(r rune) rune {
			if r == ' ' || r == '=' {
				return '-'
			}
			return r
		}, c.Name)
		s := &site{
			contestant: c, app: p.app, tools: b.tools, base: p.base, common: b.environ(),
			dir: filepath.Join(p.work, name), repository: p.registry + "/" + p.app.Name + "/" + strings.ToLower(strings.Trim(name, "-")),
		}
		s.goCache = s.path("gocache")
		var err error
		if s.tree, err = newTree(ctx, p.origin, s.path("app"), p.app.Tag, p.app.Edit); err != nil {
			return nil, err
		}
		sites = append(sites, s)
	}
	return sites, nil
}

// measureAll runs all rounds. In every round each contestant runs once, and every
// round starts with another contestant, so that other load on the machine affects
// all contestants equally.
//
// If there are no cold rounds, each contestant first runs once without being
// measured, to fill its caches.
func (b *bench) measureAll(ctx context.Context, sites []*site, into []contestantResult, rounds, coldRounds int) error {
	turn := func(k scenario, round, rounds int) error {
		for i := range sites {
			n := (round + i) % len(sites)
			if err := b.measureOne(ctx, k, sites[n], &into[n]); err != nil {
				return err
			}
			r := into[n].Runs[k]
			b.log.Info("measured", "app", sites[n].app.Name, "case", k, "round", fmt.Sprintf("%d/%d", round+1, rounds),
				"contestant", sites[n].Name, "seconds", fmt.Sprintf("%.2f", r[len(r)-1].Wall))
		}
		return nil
	}
	for _, s := range sites {
		if coldRounds > 0 {
			break
		}
		s.goCache = b.goEnv["GOCACHE"]
		if err := b.measureOne(ctx, cold, s, &contestantResult{Runs: map[scenario][]reading{}}); err != nil {
			return err
		}
	}
	for round := range coldRounds {
		if err := turn(cold, round, coldRounds); err != nil {
			return err
		}
	}
	for round := range rounds {
		for _, k := range []scenario{changed, unchanged} {
			if err := turn(k, round, rounds); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureOne measures one run of one contestant.
func (b *bench) measureOne(ctx context.Context, k scenario, s *site, into *contestantResult) error {
	if k == cold {
		for _, name := range []string{"gocache", "cache", "out", "home", "tmp"} {
			if err := os.RemoveAll(s.path(name)); err != nil {
				return fmt.Errorf("deleting a cache: %w", err)
			}
			if name == "cache" {
				continue // the contestant creates its own cache directory
			}
			if err := os.MkdirAll(s.path(name), 0o755); err != nil {
				return fmt.Errorf("creating a directory: %w", err)
			}
		}
	}
	if k != unchanged {
		b.number++
		if err := s.tree.change(ctx, b.number); err != nil {
			return err
		}
	}
	unix.Sync() // this run must not wait until data of the run before has been written
	r, stdout, err := measure(ctx, b.self, s.tree.dir, s.environ(), s.command(s))
	if err != nil {
		return fmt.Errorf("%s, %s: %w", s.Name, k, err)
	}
	into.Runs[k] = append(into.Runs[k], r)
	if s.reference == nil {
		return nil
	}
	reference, err := s.reference(stdout)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	into.Image, err = weigh(ctx, reference)
	return err
}

// weighProgram records the size of the program that go build linked, uncompressed
// and compressed. An image cannot be smaller than its compressed program.
func (a *appResult) weighProgram(file string) error {
	program, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	a.Program = int64(len(program))
	var packed bytes.Buffer
	gz, err := gzip.NewWriterLevel(&packed, 6)
	if err == nil {
		_, err = gz.Write(program)
		err = errors.Join(err, gz.Close())
	}
	if err != nil {
		return fmt.Errorf("compressing the program: %w", err)
	}
	a.ProgramGzip = int64(packed.Len())
	zs, err := zstd.NewWriter(nil)
	if err != nil {
		return fmt.Errorf("compressing the program: %w", err)
	}
	a.ProgramZstd = int64(len(zs.EncodeAll(program, nil)))
	return nil
}

// spread is the median and the range of a set of values.
type spread struct{ Median, Min, Max float64 }

// spreadOf returns the spread of one value of each item.
func spreadOf[T any](items []T, of func(T) float64) spread {
	if len(items) == 0 {
		return spread{}
	}
	values := make([]float64, len(items))
	for i, item := range items {
		values[i] = of(item)
	}
	slices.SortFunc(values, cmp.Compare)
	n := len(values)
	return spread{Median: (values[(n-1)/2] + values[n/2]) / 2, Min: values[0], Max: values[n-1]}
}

// wall returns the spread of the wall-clock times in a scenario, in seconds.
func (c *contestantResult) wall(k scenario) spread {
	return spreadOf(c.Runs[k], func(r reading) float64 { return r.Wall })
}

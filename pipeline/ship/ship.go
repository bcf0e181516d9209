// Package ship defines slipway's pipeline: its steps and what each of them needs. A
// caller names goals. Package graph computes which steps the goals require and runs
// them. The packages of the stages do not depend on each other; this package passes
// the result of one stage to the next.
//
// The package promises no compatibility to programs other than slipway.
package ship

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/compress"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/license"
	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/test"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Options are the options of a run.
type Options struct {
	Root   string        // folder of slipway.yaml, or of the app if there is none; absolute
	Config config.Config // with defaults for all settings that slipway.yaml does not set
	Goals  []graph.Name  // the steps to run; the steps that they need are added
	Force  bool          // run lint and tests even if nothing changed
	// Allow lists the gates whose failure does not stop the run, out of [Allowable]. If the
	// run verifies the image, and the policy does not accept an image that was made
	// although a gate failed, that gate is not allowed to fail.
	Allow []graph.Name

	Version  string // version to stamp; default: derived from the commit
	Revision string // commit to stamp, if there is no .git folder
	Top      string // root of the repository, if there is no .git folder; default: Root
	Epoch    string // SOURCE_DATE_EPOCH

	Tags        []string // image tags; default: the short revision
	ExtraTags   []string // image tags in addition to that default
	Exports     []Output // what the step export writes; default: an OCI layout in .slipway/image
	Credentials registry.Credentials
	Backoff     remote.Backoff // delays between attempts to reach the registry; the zero value is the default

	// Reference is an image in a registry, which is used instead of an image that
	// this run would build. The steps sign, plan and deploy require a digest in
	// it.
	Reference string
	// RegistryServer is the address, HOST or HOST:PORT, to connect to instead of
	// that of the image's registry.
	RegistryServer string
	// Forward maps ports of this machine's loopback address to addresses,
	// HOST:PORT, to connect to instead. With it, a run in a container can reach a
	// registry or a cluster on the machine that started the container.
	Forward     map[string]string
	Environment string // the environment to deploy to, whose policy is checked
	Signing     Signing
	Deployment  Deployment

	Scanner  scan.Scanner // nil in a program that cannot scan
	Signer   sign.Tool    // nil in a program that cannot sign
	Deployer deploy.Tool  // nil in a program that cannot deploy
	Program  string       // version of slipway; verdicts of other versions are not reused
	// Executable is the path of a slipway program, which enters the sandbox of tests and
	// linters. Default: this program.
	Executable string

	Cache   cache.Dir
	Kept    cache.Dir // has the embedded registry and the key of this machine; default: Cache
	Reports string    // folder for reports; default: .slipway/reports in Root
	Sink    progress.Sink
}

// Report is the result of a run. A failed run also has a report.
type Report struct {
	App       string               `json:"app"`
	Source    *source.Source       `json:"source,omitempty"`
	Outcome   progress.Outcome     `json:"outcome"`
	Stages    []graph.Result       `json:"stages"`
	Allowed   []graph.Name         `json:"allowed,omitempty"` // the gates that failed, which was allowed
	Lint      *lint.Result         `json:"lint,omitempty"`
	Test      *test.Result         `json:"test,omitempty"`
	Build     *build.Result        `json:"build,omitempty"`
	Compress  *compress.Result     `json:"compress,omitempty"`
	Image     *image.Result        `json:"image,omitempty"`
	Exports   []Output             `json:"exports,omitempty"`
	Scan      *scan.Result         `json:"scan,omitempty"`
	License   *license.Result      `json:"license,omitempty"`
	SBOMs     []SBOM               `json:"sboms,omitempty"`
	Push      *registry.PushResult `json:"push,omitempty"`
	Sign      *sign.Result         `json:"sign,omitempty"`
	Attest    *sign.AttestResult   `json:"attest,omitempty"`
	Verify    *sign.VerifyResult   `json:"verify,omitempty"`
	Plan      *deploy.Plan         `json:"plan,omitempty"`
	Deploy    *deploy.Result       `json:"deploy,omitempty"`
	Reference string               `json:"reference,omitempty"` // repository@sha256:...
	Digest    string               `json:"digest,omitempty"`
	Seconds   float64              `json:"seconds"`
}

// Unchanged reports whether the run changed nothing, because the verdicts, binaries,
// layers and the content of the registry of earlier runs are still valid. The step
// verify is ignored: it is always run again, but it changes nothing.
func (r *Report) Unchanged() bool {
	for _, s := range r.Stages {
		if s.Name == Verify && s.Outcome == progress.Passed && len(r.Stages) > 1 {
			continue
		}
		if s.Outcome != progress.Unchanged && s.Outcome != progress.Skipped {
			return false
		}
	}
	return len(r.Stages) > 0
}

// run is one run of the pipeline.
type run struct {
	Options
	steps     []graph.Step
	source    source.Source
	toolchain *toolchain.Go
	work      *cache.Run
	subject   subject
	verified  sign.VerifiedImage // the result of the step verify, for the step deploy

	fingerprint func() (string, error)
	ports       func() []int
	signer      func() (sign.Signer, error)
	deployment  deploy.Options  // set by checkDeploy
	tracked     map[string]bool // see committed; set by scanOptions

	allowedMu sync.Mutex // guards report.Allowed while steps run
	closersMu sync.Mutex
	closers   []func() error // called in reverse order when the run ends

	report Report // each step writes its own fields and reads only those of earlier steps
}

// Run runs the goals and all steps that they need. The report is valid even if the
// error is not nil.
func Run(ctx context.Context, o Options) (report Report, err error) {
	start := time.Now()
	p := &run{Options: o}
	defer func() {
		err = errors.Join(err, p.close())
		report = p.report
		report.Seconds = time.Since(start).Seconds()
		report.Outcome = overall(report, err)
	}()
	if err := p.prepare(ctx); err != nil {
		return p.report, err
	}
	if p.report.Stages, err = graph.Run(ctx, p.Sink, p.steps); err != nil {
		return p.report, err
	}
	if !p.report.Unchanged() { // a run that adds to the cache also cleans it
		if _, err := p.Cache.Prune(ctx, 0, 0); err != nil {
			progress.Warnf(progress.With(ctx, p.Sink, "cache"), "%v", err)
		}
	}
	return p.report, nil
}

// close calls what atEnd has registered, in reverse order.
func (p *run) close() (err error) {
	for _, f := range slices.Backward(p.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// atEnd registers f to be called when the run ends.
func (p *run) atEnd(f func() error) {
	p.closersMu.Lock()
	defer p.closersMu.Unlock()
	p.closers = append(p.closers, f)
}

func overall(r Report, err error) progress.Outcome {
	switch {
	case errors.Is(err, context.Canceled):
		return progress.Cancelled
	case err != nil:
		return progress.Failed
	case r.Unchanged():
		return progress.Unchanged
	default:
		return progress.Passed
	}
}

// includes reports whether a step is part of the run.
func (p *run) includes(names ...graph.Name) bool {
	return slices.ContainsFunc(p.steps, func(s graph.Step) bool { return slices.Contains(names, s.Name) })
}

// prepare reads what all steps need, and reports mistakes in the input before any step
// starts.
func (p *run) prepare(ctx context.Context) (err error) {
	ctx = progress.With(ctx, p.Sink, "source")
	if p.steps, err = graph.Closure(p.pipeline(), p.Goals...); err != nil {
		return err
	}
	p.resolveSubject()
	if p.given() && !p.includes(Lint, Test, Build) { // the run needs no source
		repository, err := p.repository(ctx)
		if err != nil {
			return err
		}
		p.report.App = path.Base(repository.RepositoryStr())
	} else {
		if p.source, err = p.OpenSource(ctx, p.includes(Build)); err != nil {
			return err
		}
		p.toolchain = p.source.Go
		p.report.App, p.report.Source = p.source.Name, &p.source
	}
	if err := graph.Preflight(p.steps); err != nil {
		return err
	}
	if err := p.checkAllow(ctx); err != nil {
		return err
	}
	// A folder that no step writes to is not made, because the source may be read-only.
	if p.Reports == "" && p.includes(reporting()...) {
		if p.Reports, err = p.outputDir("reports", "--reports DIR"); err != nil {
			return err
		}
	}
	if p.Executable == "" {
		if p.Executable, err = os.Executable(); err != nil {
			return fmt.Errorf("finding the path of slipway: %w", err)
		}
	}
	if p.work, err = p.Cache.Run(); err != nil {
		return err
	}
	p.atEnd(p.work.Close)
	p.fingerprint = sync.OnceValues(func() (string, error) { return p.source.Fingerprint(ctx) })
	p.ports = sync.OnceValue(func() []int { return p.findPorts(ctx) })
	p.prepareSigner(ctx)
	return p.findGiven(ctx)
}

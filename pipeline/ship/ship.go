// Package ship is the pipeline: which stages there are, what runs beside what,
// and what stops what. It alone knows the order; the stages know nothing of
// each other.
package ship

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/compress"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/test"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Name is the name of a stage.
type Name string

// The stages, in the order people think of them.
const (
	Lint     Name = "lint"
	Test     Name = "test"
	Build    Name = "build"
	Scan     Name = "scan"
	Compress Name = "compress"
	Image    Name = "image"
	SBOMs    Name = "sbom"
	Export   Name = "export"
	Push     Name = "push"
	Sign     Name = "sign"
	Attest   Name = "attest"
	Verify   Name = "verify"
	Plan     Name = "plan"
	Deploy   Name = "deploy"
)

// Options says what to run and with what.
type Options struct {
	Root   string // folder of slipway.yaml, or the app's where there is none
	Config config.Config
	Stages []Name // which of the stages; what they need must be among them
	Force  bool   // run lint and tests though nothing changed

	Version  string // stamped version; default from the commit
	Revision string // commit, where git's folder is not at hand
	Epoch    string // SOURCE_DATE_EPOCH

	Tags        []string // image tags; default: the short revision
	ExtraTags   []string // image tags besides that default
	Exports     []Output // where the image is written beside a registry
	Credentials registry.Credentials
	Backoff     remote.Backoff // between tries of the registry; zero for the default

	// Reference names an image in a registry, in place of the one this run
	// builds: what is scanned and verified, or, by digest, signed.
	Reference string
	// RegistryServer is where the image's registry is reached in place of the
	// address in its name.
	RegistryServer string
	Environment    string // whose policy is verified, and where it is deployed
	Signing        Signing
	Scanner        scan.Scanner // nil in a program without it
	Signer         sign.Tool    // nil in a program without it
	Deployment     Deployment
	Deployer       deploy.Tool // nil in a program without it
	Program        string      // slipway's own version; a verdict of another one is not kept

	Cache   cache.Dir
	Reports string // folder for reports; default .slipway/reports in Root
	Sink    progress.Sink
}

// Stage is how one stage ended.
type Stage struct {
	Name    Name             `json:"name"`
	Outcome progress.Outcome `json:"outcome"`
	Summary string           `json:"summary,omitempty"` // what it gave, in a few words
	Reason  string           `json:"reason,omitempty"`  // why it did not run or did not pass
	Code    string           `json:"code,omitempty"`    // stable, of the error
	Seconds float64          `json:"seconds"`
}

// Report is what a run gave. A failed run has one too.
type Report struct {
	App       string               `json:"app"`
	Source    *source.Source       `json:"source,omitempty"`
	Outcome   progress.Outcome     `json:"outcome"`
	Stages    []Stage              `json:"stages"`
	Lint      *lint.Result         `json:"lint,omitempty"`
	Test      *test.Result         `json:"test,omitempty"`
	Build     *build.Result        `json:"build,omitempty"`
	Compress  *compress.Result     `json:"compress,omitempty"`
	Image     *image.Result        `json:"image,omitempty"`
	Exports   []Output             `json:"exports,omitempty"`
	Scan      *scan.Result         `json:"scan,omitempty"`
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

// Unchanged reports whether the run found everything as it was: verdicts,
// binaries, layers and the registry. Verification is always done anew and
// changes nothing.
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

// step is a stage in the graph.
type step struct {
	name  Name
	after []Name // must have passed first
	// verdict steps finish whatever else fails, because their report is what
	// the developer needs next; the others stop at the first failure.
	verdict bool
	run     func(context.Context) (outcome, error)
}

// outcome is what a step says of its success.
type outcome struct {
	kind    progress.Outcome
	summary string
}

// steps is the pipeline, read from top to bottom.
func (p *run) steps() []step {
	return []step{
		{name: Lint, verdict: true, run: p.lint},
		{name: Test, verdict: true, run: p.test},
		{name: Build, run: p.build},
		{name: Compress, after: []Name{Build}, run: p.compress},
		{name: Image, after: []Name{Compress}, run: p.image},
		{name: Scan, after: []Name{Build}, verdict: true, run: p.scan},
		{name: SBOMs, after: []Name{Image}, run: p.sbom},
		{name: Export, after: []Name{Image}, run: p.export},
		{name: Push, after: []Name{Lint, Test, Scan, Image, SBOMs}, run: p.push},
		{name: Sign, after: []Name{Scan, SBOMs, Push}, run: p.sign},
		{name: Attest, after: []Name{Scan, SBOMs, Push}, run: p.attest},
		{name: Verify, after: []Name{Sign, Attest}, run: p.verify},
		{name: Plan, after: []Name{Image}, run: p.plan},
		{name: Deploy, after: []Name{Push, Verify}, run: p.deploy},
	}
}

// run is one run of the pipeline.
type run struct {
	Options
	source      source.Source
	toolchain   *toolchain.Go
	work        *cache.Run
	fingerprint func() (string, error)
	registry    *embedded.Server // of this run, once a stage needed it
	starting    sync.Mutex
	remote      registry.Remote // what Reference stands for
	deployment  deploy.Options  // without the image
	signer      func() (sign.Signer, error)
	ending      sync.Mutex
	closers     []func() // what ends with the run

	report Report // every step writes its own part, and reads only those of steps it comes after
}

// Run runs the chosen stages. The report holds all that was found, also when
// the error is not nil.
func Run(ctx context.Context, o Options) (report Report, err error) {
	start := time.Now()
	p := &run{Options: o}
	defer func() {
		for _, f := range p.closers {
			f()
		}
		if p.registry != nil {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err = errors.Join(err, p.registry.Close(stop))
		}
		if p.work != nil {
			err = errors.Join(err, p.work.Close())
		}
		report = p.report
		report.Seconds = time.Since(start).Seconds()
		report.Outcome = overall(report, err)
	}()
	if err := p.prepare(ctx); err != nil {
		return p.report, err
	}
	if err := p.walk(ctx); err != nil {
		return p.report, err
	}
	if !p.report.Unchanged() { // what adds to the cache also clears it
		if _, err := p.Cache.Prune(ctx, 0, 0); err != nil {
			progress.Warnf(progress.With(ctx, p.Sink, "cache"), "%v", err)
		}
	}
	return p.report, nil
}

// atEnd has something done when the run ends.
func (p *run) atEnd(f func()) {
	p.ending.Lock()
	defer p.ending.Unlock()
	p.closers = append(p.closers, f)
}

// embedded is the address of the embedded registry, which serves from its
// first use to the end of the run.
func (p *run) embedded(ctx context.Context) (string, error) {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.registry == nil {
		server, err := embedded.Start(ctx, p.Cache.Path("registry"), embedded.Port)
		if err != nil {
			return "", err
		}
		p.registry = server
	}
	return p.registry.Addr, nil
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

// prepare reads what all stages need. Its mistakes are the user's to mend, so
// they come before any stage starts.
func (p *run) prepare(ctx context.Context) error {
	ctx = progress.With(ctx, p.Sink, "source")
	var findErr error
	if p.sourceless() {
		_, name := path.Split(p.Reference)
		name, _, _ = strings.Cut(name, "@")
		p.report.App, _, _ = strings.Cut(name, ":")
	} else {
		var err error
		// Both take some ten milliseconds, which is felt when nothing changed.
		var finding sync.WaitGroup
		finding.Go(func() {
			p.toolchain, findErr = toolchain.Find(ctx, filepath.Join(p.Root, p.Config.App.Dir), p.Config.App.Toolchain)
		})
		p.source, err = source.Open(ctx, source.Options{
			Root: p.Root, Dir: p.Config.App.Dir, Main: p.Config.App.Main, Name: p.Config.App.Name, Tags: p.Config.App.Tags,
			Version: p.Version, Revision: p.Revision, Epoch: p.Epoch,
		})
		finding.Wait()
		if err != nil {
			return err
		}
		p.report.App, p.report.Source = p.source.Name, &p.source
	}
	for _, check := range []func() error{p.checkTarget, p.checkSigner, p.checkPolicy, p.checkScanner, p.checkDeploy} {
		if err := check(); err != nil {
			return err
		}
	}
	if findErr != nil {
		return findErr
	}
	var err error
	if p.Reports == "" {
		if p.Reports, err = p.outputDir("reports"); err != nil {
			return err
		}
	}
	if p.work, err = p.Cache.Run(); err != nil {
		return err
	}
	p.fingerprint = sync.OnceValues(func() (string, error) { return p.source.Fingerprint(ctx) })
	p.signer = sync.OnceValues(func() (sign.Signer, error) { return p.newSigner(ctx) })
	if slices.Contains(p.Stages, Sign) && p.Config.Sign.Keyless == nil { // a key's password is hashed, which takes its time
		var loading sync.WaitGroup
		loading.Go(func() { _, _ = p.signer() }) // the stage that needs it reports what is wrong
		p.atEnd(loading.Wait)
	}
	return p.open(ctx)
}

// sourceless reports whether the run is about an image in a registry alone.
func (p *run) sourceless() bool {
	return p.Reference != "" && !slices.ContainsFunc(p.Stages, func(s Name) bool { return s == Lint || s == Test || s == Build })
}

// walk runs every chosen step as soon as those it comes after have ended.
func (p *run) walk(ctx context.Context) error {
	rest, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var steps []step
	done := map[Name]chan struct{}{}
	for _, s := range p.steps() {
		if slices.Contains(p.Stages, s.name) {
			steps = append(steps, s)
			done[s.name] = make(chan struct{})
		}
	}
	results := make([]Stage, len(steps))
	errs := make([]error, len(steps))
	passed := func(name Name) bool {
		i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
		return i < 0 || errs[i] == nil && results[i].Outcome != progress.Cancelled
	}
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() {
			defer close(done[s.name])
			for _, before := range s.after {
				if c, ok := done[before]; ok {
					<-c
				}
			}
			own := rest
			if s.verdict {
				own = ctx
			}
			if !slices.ContainsFunc(s.after, func(n Name) bool { return !passed(n) }) {
				results[i], errs[i] = p.execute(own, s)
			} else {
				results[i] = Stage{Name: s.name, Outcome: progress.Cancelled, Reason: reason(rest)}
				progress.Emit(progress.With(ctx, p.Sink, string(s.name)), progress.Event{Kind: progress.Finished, Outcome: progress.Cancelled, Text: results[i].Reason})
			}
			if errs[i] != nil && !errors.Is(errs[i], context.Canceled) {
				stop(fmt.Errorf("%s failed", s.name))
			}
		})
	}
	wg.Wait()
	p.report.Stages = results
	return join(ctx, errs)
}

// join keeps what is worth reading: when one stage failed, that others were
// stopped because of it is not.
func join(ctx context.Context, errs []error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var causes []error
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			causes = append(causes, err)
		}
	}
	return errors.Join(causes...)
}

func reason(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "interrupted"
}

// execute runs one step and tells the display and, where there is one, the
// trace how it went.
func (p *run) execute(ctx context.Context, s step) (Stage, error) {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer("github.com/slipway-ci/slipway").Start(ctx, string(s.name))
	defer span.End()
	ctx = progress.With(ctx, p.Sink, string(s.name))
	progress.Emit(ctx, progress.Event{Kind: progress.Started})
	start := time.Now()
	var out outcome
	err := ctx.Err()
	if err == nil {
		out, err = s.run(ctx)
	}
	took := time.Since(start)
	stage := Stage{Name: s.name, Outcome: out.kind, Summary: out.summary, Seconds: took.Seconds()}
	switch {
	case err != nil && ctx.Err() != nil:
		stage.Outcome, stage.Reason, err = progress.Cancelled, reason(ctx), ctx.Err()
	case err != nil:
		stage.Outcome, stage.Reason, stage.Code = progress.Failed, err.Error(), fault.CodeOf(err)
		err = fmt.Errorf("%s: %w", s.name, err)
	case out.kind == progress.Skipped:
		stage.Reason, stage.Summary = out.summary, ""
	}
	said := firstLine(stage.Summary + stage.Reason)
	span.SetAttributes(attribute.String("slipway.outcome", string(stage.Outcome)), attribute.String("slipway.summary", said))
	if stage.Outcome == progress.Failed {
		span.SetStatus(codes.Error, firstLine(stage.Reason))
	}
	progress.Emit(ctx, progress.Event{Kind: progress.Finished, Outcome: stage.Outcome, Text: said, Duration: took})
	return stage, err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"dagger/slipway/advice"
	"dagger/slipway/internal/dagger"
)

// Report is the result of a gate that passed or failed. If a call ends
// with it, a gate that failed is an error.
type Report struct {
	// Whether the gate passed.
	Passed bool
	// What the program printed.
	Text string
	// The folder of report files: lint.json, lint.sarif and lint.txt; test.json,
	// junit.xml, cobertura.xml and coverage.out; scan.json, scan.sarif, scan.txt,
	// scan-junit.xml and gl-container-scanning-report.json; license.json.
	Report *dagger.Directory
	// +private
	Stage string
	// +private
	Failure string
}

// Fail if the gate failed.
//
// Dagger calls it for dagger call lint, dagger call test and dagger check.
func (r *Report) Sync(ctx context.Context) (string, error) {
	if err := r.failed(); err != nil {
		return "", err
	}
	id, err := r.Report.ID(ctx)
	return string(id), err
}

// Return one line, or fail if the gate failed.
//
// In one session with the reports:
//
//	dagger -c 'test | report | export .slipway/reports; test | verdict'
func (r *Report) Verdict() (string, error) {
	if err := r.failed(); err != nil {
		return "", err
	}
	return "passed\n", nil
}

// The findings of lint or scan in SARIF 2.1.0, for GitHub code scanning.
//
//	dagger call lint sarif export --path .slipway/lint.sarif
func (r *Report) Sarif() *dagger.File { return r.Report.File(r.Stage + ".sarif") }

// Results of test or scan in JUnit's XML.
//
//	dagger call test junit export --path .slipway/junit.xml
func (r *Report) Junit() *dagger.File {
	if r.Stage == "scan" {
		return r.Report.File("scan-junit.xml")
	}
	return r.Report.File("junit.xml")
}

// Coverage in Cobertura's XML.
//
//	dagger call test cobertura export --path .slipway/cobertura.xml
func (r *Report) Cobertura() *dagger.File { return r.Report.File("cobertura.xml") }

func (r *Report) failed() error {
	if r.Passed {
		return nil
	}
	return errors.New(r.Failure)
}

// Run golangci-lint on the app.
//
// It fails on findings and keeps its report.
//
//	dagger call lint
//	dagger call lint text
//	dagger call lint report export --path .slipway/reports
//
// +check
// +cache="session"
func (s *Slipway) Lint(ctx context.Context) (*Report, error) { return s.lint(ctx, "lint") }

// lint, test, license and scan run a gate for the function that was called.
func (s *Slipway) lint(ctx context.Context, function string) (*Report, error) {
	c, err := s.stage(ctx, s.Checked, checks())
	if err != nil {
		return nil, err
	}
	if s.Compared {
		c = s.withHistory(c)
	}
	program := s.pull(s.images().Lint).File("/usr/bin/golangci-lint")
	return s.gate(ctx, function, "lint", c.WithMountedFile("/usr/local/bin/golangci-lint", program))
}

// Run the app's tests with the race detector.
//
// The Postgres and Redis that slipway.yaml asks for are started for them. It fails if
// a test fails or the coverage is below the minimum, and keeps its report.
//
//	dagger call test
//	dagger call test text
//	dagger call test report export --path .slipway/reports
//
// +check
// +cache="session"
func (s *Slipway) Test(ctx context.Context) (*Report, error) { return s.test(ctx, "test") }

func (s *Slipway) test(ctx context.Context, function string) (*Report, error) {
	c, err := s.stage(ctx, s.Checked, checks())
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancelCause(ctx)
	go func() {
		if reason := s.unready(running, function); reason != nil {
			stop(reason)
		}
	}()
	report, err := s.gate(running, function, "test", c.With(s.withServices))
	if err != nil && ctx.Err() == nil && running.Err() != nil {
		return nil, context.Cause(running)
	}
	stop(nil)
	return report, err
}

// Run lint and test at the same time: the gate before a push.
//
//	dagger call check
//	dagger call check report export --path .slipway/reports
//
// +cache="session"
func (s *Slipway) Check(ctx context.Context) (*Report, error) {
	var reports [2]*Report
	g, gctx := errgroup.WithContext(ctx)
	for i, gate := range []func(context.Context, string) (*Report, error){s.lint, s.test} {
		g.Go(func() (err error) {
			reports[i], err = gate(gctx, "check")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := &Report{Stage: "lint", Passed: true, Report: dag.Directory()}
	for _, r := range reports {
		all.Passed = all.Passed && r.Passed
		all.Text += r.Text
		all.Failure = strings.TrimPrefix(all.Failure+"\n"+r.Failure, "\n")
		all.Report = all.Report.WithDirectory("/", r.Report)
	}
	return all, nil
}

// run is the script that runs a gate. The engine caches a step that passed and forgets
// a step that failed, together with its files. So a gate that fails runs again on the
// next call, and leaves its reports in a cache volume, from which gate reads them.
const run = `stage=$1 kept=/kept/$2; shift 2
mkdir -p /reports
slipway "$stage" --reports /reports "$@" && exit
status=$?
rm -rf "$kept" && mkdir -p "$kept" && cp -r /reports/. "$kept/"
exit $status`

// isGate reports whether the step that failed is a gate that ran, and not a service that it
// needs. A step that was not started has a negative exit code.
func isGate(failed *dagger.ExecError) bool {
	return failed.ExitCode >= 0 && len(failed.Cmd) > 2 && failed.Cmd[2] == run
}

// gate runs a stage that judges the source, for the function that was called.
func (s *Slipway) gate(ctx context.Context, function, stage string, c *dagger.Container, args ...string) (*Report, error) {
	digest, err := s.Checked.Digest(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the source: %w", err)
	}
	kept := stage + "-" + digest[strings.LastIndexByte(digest, ':')+1:]
	volume := dag.CacheVolume("failed-reports")
	judge := func(c *dagger.Container) (*dagger.Container, error) {
		return c.WithMountedCache("/kept", volume).
			WithExec(slices.Concat([]string{"sh", "-c", run, "sh", stage, kept}, s.stageFlags(), args)).
			Sync(ctx)
	}
	done, err := judge(c)
	if err == nil {
		r := &Report{Stage: stage, Passed: true, Report: done.Directory("/reports")}
		if r.Text, err = text(ctx, function, done); err != nil {
			return nil, err
		}
		return r, nil
	}
	err = s.unhidden(c, err, judge)
	failed, isExec := errors.AsType[*dagger.ExecError](err)
	if !isExec || failed.ExitCode != 1 || !isGate(failed) {
		if stage == "test" && (isExec && !isGate(failed) || strings.Contains(err.Error(), "service exited before healthcheck")) {
			if reason := s.unstarted(ctx, function); reason != nil {
				return nil, reason
			}
		}
		return nil, s.explain(function, err)
	}
	reports := s.base().
		WithMountedCache("/kept", volume).
		WithEnvVariable("SLIPWAY_RUN", nonce()).
		WithExec([]string{"cp", "-r", path.Join("/kept", kept), "/reports"}).
		Directory("/reports")
	return &Report{
		Stage: stage, Text: advice.Output(function, failed.Stderr) + failed.Stdout, Report: reports, Failure: s.lines(function, failed.Stderr),
	}, nil
}

func text(ctx context.Context, function string, c *dagger.Container) (string, error) {
	stderr, err := c.Stderr(ctx)
	if err != nil {
		return "", err
	}
	stdout, err := c.Stdout(ctx)
	return advice.Output(function, stderr) + stdout, err
}

// lines are the lines in which the program reports why it failed, in the terms of the
// module.
func (s *Slipway) lines(function, stderr string) string {
	text := advice.Errors(function, stderr)
	for _, folder := range s.Outside {
		if strings.Contains(text, folder) {
			return text + fmt.Sprintf(" (%s is outside the repository, and only the repository is uploaded; "+
				"to upload more, name a folder that has both with --source)", folder)
		}
	}
	return text
}

// explain returns the program's own message as the error, if there is one, in the terms
// of the module. Of an error of the engine it says what to do about it.
func (s *Slipway) explain(function string, err error) error {
	if failed, ok := errors.AsType[*dagger.ExecError](err); ok {
		if why := s.lines(function, failed.Stderr); why != "" {
			return errors.New(why)
		}
	}
	if text := advice.Engine(err.Error(), s.images().Named()); text != err.Error() {
		return errors.New(text)
	}
	return err
}

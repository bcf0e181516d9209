package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

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
//	dagger -c 'test | report | export reports; test | verdict'
func (r *Report) Verdict() (string, error) {
	if err := r.failed(); err != nil {
		return "", err
	}
	return "passed\n", nil
}

// The findings of lint or scan in SARIF 2.1.0, for GitHub code scanning.
//
//	dagger call lint sarif export --path lint.sarif
func (r *Report) Sarif() *dagger.File { return r.Report.File(r.Stage + ".sarif") }

// Results of test or scan in JUnit's XML.
//
//	dagger call test junit export --path junit.xml
func (r *Report) Junit() *dagger.File {
	if r.Stage == "scan" {
		return r.Report.File("scan-junit.xml")
	}
	return r.Report.File("junit.xml")
}

// Coverage in Cobertura's XML.
//
//	dagger call test cobertura export --path cobertura.xml
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
//	dagger call lint report export --path reports
//
// +check
// +cache="session"
func (s *Slipway) Lint(ctx context.Context) (*Report, error) {
	c, err := s.stage(ctx, s.Checked)
	if err != nil {
		return nil, err
	}
	program := s.pull(s.images().Lint).File("/usr/bin/golangci-lint")
	return s.gate(ctx, "lint", c.WithMountedFile("/usr/local/bin/golangci-lint", program))
}

// Run the app's tests with the race detector.
//
// The Postgres and Redis that slipway.yaml asks for are started for them. It fails if
// a test fails or the coverage is below the minimum, and keeps its report.
//
//	dagger call test
//	dagger call test text
//	dagger call test report export --path reports
//
// +check
// +cache="session"
func (s *Slipway) Test(ctx context.Context) (*Report, error) {
	c, err := s.stage(ctx, s.Checked)
	if err != nil {
		return nil, err
	}
	return s.gate(ctx, "test", c.With(s.withServices))
}

// Run lint and test at the same time: the gate before a push.
//
//	dagger call check
//	dagger call check report export --path reports
//
// +cache="session"
func (s *Slipway) Check(ctx context.Context) (*Report, error) {
	var reports [2]*Report
	g, gctx := errgroup.WithContext(ctx)
	for i, gate := range []func(context.Context) (*Report, error){s.Lint, s.Test} {
		g.Go(func() (err error) {
			reports[i], err = gate(gctx)
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

// withServices binds the services of slipway.yaml to a container.
func (s *Slipway) withServices(c *dagger.Container) *dagger.Container {
	for _, name := range s.TestServices {
		switch name {
		case "postgres":
			c = c.WithServiceBinding("postgres", s.postgres()).
				WithEnvVariable("DATABASE_URL", "postgres://test:test@postgres:5432/testdb?sslmode=disable")
		case "redis":
			c = c.WithServiceBinding("redis", s.redis()).
				WithEnvVariable("REDIS_URL", "redis://redis:6379/0")
		}
	}
	return c
}

// The credentials are not secret: the servers end with the call.
func (s *Slipway) postgres() *dagger.Service {
	return s.pull(s.images().Postgres).
		WithEnvVariable("POSTGRES_USER", "test").
		WithEnvVariable("POSTGRES_PASSWORD", "test").
		WithEnvVariable("POSTGRES_DB", "testdb").
		WithExposedPort(5432).
		AsService(dagger.ContainerAsServiceOpts{UseEntrypoint: true})
}

func (s *Slipway) redis() *dagger.Service {
	return s.pull(s.images().Redis).
		WithExposedPort(6379).
		AsService(dagger.ContainerAsServiceOpts{
			UseEntrypoint: true,
			// Without a password, Redis answers only its own machine by default.
			Args: []string{"redis-server", "--protected-mode", "no"},
		})
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

// gate runs a stage that judges the source.
func (s *Slipway) gate(ctx context.Context, stage string, c *dagger.Container, args ...string) (*Report, error) {
	digest, err := s.Checked.Digest(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the source: %w", err)
	}
	kept := stage + "-" + digest[strings.LastIndexByte(digest, ':')+1:]
	volume := dag.CacheVolume("failed-reports")
	done, err := c.
		WithMountedCache("/kept", volume).
		WithExec(slices.Concat([]string{"sh", "-c", run, "sh", stage, kept}, s.stageFlags(), args)).
		Sync(ctx)
	var failed *dagger.ExecError
	switch {
	case err == nil:
		r := &Report{Stage: stage, Passed: true, Report: done.Directory("/reports")}
		if r.Text, err = text(ctx, done); err != nil {
			return nil, err
		}
		return r, nil
	case errors.As(err, &failed) && failed.ExitCode == 1:
		reports := s.base().
			WithMountedCache("/kept", volume).
			WithEnvVariable("SLIPWAY_RUN", nonce()).
			WithExec([]string{"cp", "-r", path.Join("/kept", kept), "/reports"}).
			Directory("/reports")
		return &Report{Stage: stage, Text: failed.Stderr + failed.Stdout, Report: reports, Failure: lines(failed.Stderr)}, nil
	}
	return nil, explain(err)
}

func text(ctx context.Context, c *dagger.Container) (string, error) {
	stderr, err := c.Stderr(ctx)
	if err != nil {
		return "", err
	}
	stdout, err := c.Stdout(ctx)
	return stderr + stdout, err
}

// explain returns the program's own message as the error, if there is one.
func explain(err error) error {
	if failed, ok := errors.AsType[*dagger.ExecError](err); ok {
		if said := lines(failed.Stderr); said != "" {
			return errors.New(said)
		}
	}
	return err
}

// lines are the lines in which the program reports why it failed.
func lines(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		if line, ok := strings.CutPrefix(line, "slipway: "); ok {
			said = append(said, strings.TrimSpace(line))
		}
	}
	return strings.Join(said, "\n")
}

// Package lint runs a pinned version of golangci-lint on an app's module and
// converts its findings to a result, reports and progress events.
//
// The package promises no compatibility to programs other than slipway.
package lint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// overtime is how long golangci-lint may run beyond its own timeout before it is
// interrupted, because it checks the timeout between analyzers only.
const overtime = 30 * time.Second

// Options are the options of [Run].
type Options struct {
	Root string        // folder of slipway.yaml, absolute
	Dir  string        // folder of the app's module, absolute
	Go   *toolchain.Go // the app's toolchain
	// Settings is the section lint of slipway.yaml. If Settings.Config is empty,
	// the nearest .golangci.{yml,yaml,toml,json} is used, from Dir up to the root of
	// the git repository. Without one, the defaults of golangci-lint apply. A
	// configuration in the home folder is not read, because the result would
	// differ between machines.
	Settings  config.Lint
	CacheDir  string         // slipway's cache folder, for golangci-lint and its results
	Reports   string         // folder for lint.txt, lint.json and lint.sarif; no reports if empty
	Pass      toolchain.Pass // which variables of slipway's environment golangci-lint sees
	Prefix    string         // path of Dir in the repository, prepended to the path of every file
	Env       []string       // additional environment variables, NAME=value
	BuildTags []string       // build tags
	Isolation *Isolation     // runs golangci-lint in a sandbox; if it is nil, it has all rights of slipway
	// Changes is a patch with paths relative to Dir. If it is not nil, only findings in
	// lines that it adds or changes count, and compiler errors.
	Changes []byte
}

// Finding is a problem that a linter found.
type Finding struct {
	Linter   string `json:"linter"`
	File     string `json:"file"` // relative to the module, below Options.Prefix
	Line     int    `json:"line"` // 1-based; 0 if the finding is about the whole file
	Column   int    `json:"column,omitempty"`
	Text     string `json:"text"`
	Severity string `json:"severity,omitempty"` // as configured; empty by default
}

// Result is the result of [Run].
type Result struct {
	Version  string    `json:"version"`            // of golangci-lint
	Config   string    `json:"config,omitempty"`   // path of the configuration, if there is one
	NewFrom  string    `json:"new_from,omitempty"` // the setting; older findings are not listed
	Findings []Finding `json:"findings"`           // sorted by file, line, column and linter
	Seconds  float64   `json:"seconds"`
	Reports  []string  `json:"reports,omitempty"` // absolute paths of the files written
}

// Run lints the module in o.Dir.
//
// If there are findings, Run writes the reports and returns a complete result and a
// [fault.Gate] error. It returns [fault.Input] errors for a malformed
// configuration, a module without Go files and a golangci-lint that is too old for
// the module's Go version, and [fault.Failed] errors if the timeout is exceeded or
// golangci-lint fails. If ctx ends, Run returns the error of ctx.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	result := Result{Version: o.Settings.Version, NewFrom: o.Settings.NewFrom, Findings: []Finding{}}
	// golangci-lint prints paths without symbolic links, so Dir must not have any.
	dir, err := filepath.EvalSymlinks(o.Dir)
	if err != nil {
		return result, fault.Inputf("lint.dir", "resolving the folder of the module: %w", err)
	}
	o.Dir = dir
	if result.Config, err = configuration(o); err != nil {
		return result, err
	}
	program, err := find(ctx, o)
	if err != nil {
		return result, err
	}
	out, err := os.MkdirTemp("", "slipway-lint-")
	if err != nil {
		return result, fmt.Errorf("creating a folder for the reports of golangci-lint: %w", err)
	}
	defer os.RemoveAll(out)
	if err := toolchain.MakeHome(filepath.Join(out, "home")); err != nil {
		return result, fmt.Errorf("creating a home folder for golangci-lint: %w", err)
	}

	progress.Statusf(ctx, "golangci-lint %s", o.Settings.Version)
	text, logged, err := analyse(ctx, o, program, result.Config, out)
	result.Seconds = time.Since(start).Seconds()
	if ctx.Err() != nil {
		return result, fmt.Errorf("linting %s: %w", o.Dir, ctx.Err())
	}
	status, exited := toolchain.ExitStatus(err)
	if err != nil && (!exited || status != exitFindings) {
		// The output so far is kept, because it helps to find the cause.
		result.Reports, _ = write(o.Reports, map[string][]byte{"lint.txt": text})
		return result, runError(o, result.Config, status, logged, err)
	}
	reports := map[string][]byte{"lint.txt": text}
	for _, name := range []string{"lint.json", "lint.sarif"} {
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			return result, fmt.Errorf("reading the report of golangci-lint: %w", err)
		}
		reports[name] = o.relative(data)
	}
	if result.Findings, err = o.parse(reports["lint.json"]); err != nil {
		return result, err
	}
	if result.Reports, err = write(o.Reports, reports); err != nil {
		return result, err
	}
	for _, f := range result.Findings {
		progress.Emit(ctx, progress.Event{
			Kind: progress.Output, Text: f.Linter + ": " + f.Text,
			File: f.File, Row: f.Line, Column: f.Column,
		})
	}
	switch n := len(result.Findings); {
	case n > 0:
		return result, fault.Gatef("lint.findings", "golangci-lint found %s: %s", count(n), summary(result.Findings))
	case status == exitFindings:
		// The exit status and the report must agree, or the gate could pass by mistake.
		return result, fault.Failedf("lint.report", "golangci-lint exited with the status for findings, but its report has no findings")
	}
	return result, nil
}

// analyse runs golangci-lint and returns its text output and the last error that it
// logged.
func analyse(ctx context.Context, o Options, program, config, out string) (text []byte, lastError string, err error) {
	limited, cancel := context.WithTimeout(ctx, time.Duration(o.Settings.Timeout)+overtime)
	defer cancel()
	args := []string{
		"run", "--color=never", "--timeout=" + o.Settings.Timeout.String(),
		// These override the configuration. The exit status must distinguish
		// findings from a failure, and all findings must be shown at once.
		fmt.Sprintf("--issues-exit-code=%d", exitFindings), "--max-issues-per-linter=0", "--max-same-issues=0",
		// Without this flag, golangci-lint fails if another one is running.
		"--allow-parallel-runners",
		// By default, paths are relative to the configuration file.
		"--path-mode=abs",
		"--output.text.path=stdout",
		"--output.json.path=" + filepath.Join(out, "lint.json"),
		"--output.sarif.path=" + filepath.Join(out, "lint.sarif"),
	}
	if o.Changes != nil {
		patch := filepath.Join(out, "changes.patch")
		if err := os.WriteFile(patch, o.Changes, 0o600); err != nil {
			return nil, "", fmt.Errorf("writing the patch for golangci-lint: %w", err)
		}
		// This is what its option new-from-merge-base does, but it would run git, and
		// with it programs that the repository's own configuration names.
		args = append(args, "--new-from-patch="+patch)
	}
	if len(o.BuildTags) > 0 {
		args = append(args, "--build-tags="+strings.Join(o.BuildTags, ","))
	}
	if config == "" {
		args = append(args, "--no-config")
	} else {
		args = append(args, "--config="+config)
	}
	// The go commands that golangci-lint runs cannot remove their temporary folders
	// if they are killed, so these folders are created in out, which Run removes.
	env := append([]string{"TMPDIR=" + out, "HOME=" + filepath.Join(out, "home")}, o.Env...)
	cmd, err := o.command(limited, program, config, out, env, append(args, "./...")...)
	if err != nil {
		return nil, "", err
	}
	stdout := &lines{each: func(line string) {
		line = o.shorten(line)
		text = append(append(text, line...), '\n')
		progress.Line(ctx, line)
	}}
	stderr := &lines{each: func(line string) {
		if message := errorMessage(line); message != "" {
			lastError = message
		}
		progress.Line(ctx, o.shorten(line))
	}}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = run(cmd)
	stdout.flush()
	stderr.flush()
	if limited.Err() != nil && ctx.Err() == nil {
		err = limited.Err()
	}
	return text, lastError, err
}

// Exit codes of golangci-lint v2
// (https://github.com/golangci/golangci-lint/blob/v2.15.0/pkg/exitcodes/exitcodes.go).
const (
	exitFindings  = 1
	exitFailure   = 3
	exitTimeout   = 4
	exitNoGoFiles = 5
	exitLogged    = 7
)

// runError returns the error for a golangci-lint that ended without a result. The
// status is its exit status, file is its configuration and logged is the last error that
// it logged.
func runError(o Options, file string, status int, logged string, err error) error {
	switch {
	case status == exitTimeout || errors.Is(err, context.DeadlineExceeded):
		return fault.Failedf("lint.timeout", "golangci-lint did not finish within %s", o.Settings.Timeout).
			WithFix("retry, which is faster because results are cached, or increase lint.timeout in slipway.yaml")
	case status == exitNoGoFiles:
		return fault.Inputf("lint.no-go-files", "there are no Go files in %s", o.Dir).
			WithFix("set app.dir in slipway.yaml to the folder of the app's go.mod")
	case strings.Contains(logged, "used to build golangci-lint is lower than"):
		return fault.Inputf("lint.go-version", "golangci-lint cannot check this module: %s", trim(logged)).
			WithFix("set run.go in the configuration of golangci-lint to the module's Go version, or remove it")
	case strings.Contains(logged, "unsupported version of the configuration"):
		return fault.Inputf("lint.config", "%s is not a configuration for golangci-lint v2", o.shown(file)).
			WithFix("convert it with: golangci-lint migrate --config %s", o.shown(file))
	case strings.Contains(logged, "can't load config"), strings.Contains(logged, "unknown linters"):
		return fault.Inputf("lint.config", "the configuration of golangci-lint is invalid: %s: %s", o.shown(file), trim(logged)).
			WithFix("check it with: golangci-lint config verify --config %s", o.shown(file))
	case logged != "":
		return fault.Failedf("lint.failed", "golangci-lint failed: %s", trim(logged))
	}
	return fault.Failedf("lint.failed", "golangci-lint failed: %w", err)
}

// shown returns the path of a configuration relative to the folder of slipway.yaml, for
// messages.
func (o Options) shown(file string) string {
	if rel, err := filepath.Rel(o.Root, file); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return file
}

// trim removes the prefixes that golangci-lint adds to every error.
func trim(message string) string {
	for _, prefix := range []string{"Running error: ", "The command is terminated due to an error: ", "can't load config: "} {
		message = strings.TrimPrefix(message, prefix)
	}
	return message
}

// errorMessage returns the message of a line in which golangci-lint logs an error,
// or "" for other lines.
func errorMessage(line string) string {
	if rest, ok := strings.CutPrefix(line, "Error: "); ok {
		return rest
	}
	rest, ok := strings.CutPrefix(line, "level=error msg=")
	if !ok {
		return ""
	}
	if text, err := strconv.Unquote(rest); err == nil {
		return text
	}
	return rest
}

// configuration returns the absolute path of the configuration of golangci-lint, or
// "" if there is none.
func configuration(o Options) (string, error) {
	if file := config.Resolve(o.Root, o.Settings.Config); file != "" {
		if _, err := os.Stat(file); err != nil {
			return "", fault.Inputf("lint.config", "reading the configuration of golangci-lint: %w", err).
				WithFix("correct lint.config in slipway.yaml")
		}
		return file, nil
	}
	for dir := o.Dir; ; dir = filepath.Dir(dir) {
		for _, ext := range []string{".yml", ".yaml", ".toml", ".json"} {
			file := filepath.Join(dir, ".golangci"+ext)
			if _, err := os.Stat(file); err == nil {
				return file, nil
			}
		}
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil || dir == filepath.Dir(dir) {
			return "", nil
		}
	}
}

// parse returns the findings in the JSON report of golangci-lint.
func (o Options) parse(data []byte) ([]Finding, error) {
	var report struct {
		Issues []struct {
			FromLinter, Text, Severity string
			Pos                        struct {
				Filename     string
				Line, Column int
			}
		}
	}
	if err := json.Unmarshal(data, &report); err != nil {
		return nil, fmt.Errorf("parsing the report of golangci-lint: %w", err)
	}
	findings := make([]Finding, 0, len(report.Issues))
	for _, i := range report.Issues {
		if all := o.compilerErrors(i.Text); i.FromLinter == "typecheck" && len(all) > 0 {
			findings = append(findings, all...)
			continue
		}
		findings = append(findings, Finding{
			Linter: i.FromLinter, Text: i.Text, Severity: i.Severity,
			File: i.Pos.Filename, Line: i.Pos.Line, Column: i.Pos.Column,
		})
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column), cmp.Compare(a.Linter, b.Linter))
	})
	return findings, nil
}

// compilerError matches an error of the Go compiler.
var compilerError = regexp.MustCompile(`(?m)^(\S+\.go):(\d+):(?:(\d+):)? (.*)$`)

// compilerErrors returns the compiler errors in the text of a finding as single
// findings, because golangci-lint combines them into one finding, which is at the
// top of one of the files.
func (o Options) compilerErrors(text string) []Finding {
	var findings []Finding
	for _, m := range compilerError.FindAllStringSubmatch(text, -1) {
		line, _ := strconv.Atoi(m[2]) // the pattern matches digits only
		column, _ := strconv.Atoi(m[3])
		findings = append(findings, Finding{
			Linter: "typecheck", Text: m[4], Line: line, Column: column,
			File: path.Join(o.base(), strings.TrimPrefix(o.shorten(m[1]), o.base())),
		})
	}
	return findings
}

// relative makes the absolute paths in a JSON report relative to the module.
func (o Options) relative(data []byte) []byte {
	return []byte(strings.ReplaceAll(string(data), `"`+quoted(o.Dir+"/"), `"`+quoted(o.base())))
}

// shorten makes the absolute paths in a line of text relative to the module.
func (o Options) shorten(line string) string {
	return strings.ReplaceAll(line, o.Dir+"/", o.base())
}

// base returns the prefix for the paths of files in the module.
func (o Options) base() string {
	if o.Prefix == "" || o.Prefix == "." {
		return ""
	}
	return path.Clean(filepath.ToSlash(o.Prefix)) + "/"
}

// quoted returns s as it is escaped within a JSON string.
func quoted(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		return s // encoding a string does not fail
	}
	return string(data[1 : len(data)-1])
}

// write writes every report atomically to dir and returns their sorted paths.
func write(dir string, reports map[string][]byte) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("creating the folder for reports: %w", err)
	}
	var written []string
	for name, data := range reports {
		file := filepath.Join(dir, name)
		if err := renameio.WriteFile(file, data, 0o644); err != nil {
			return written, fmt.Errorf("writing %s: %w", file, err)
		}
		written = append(written, file)
	}
	slices.Sort(written)
	return written, nil
}

// count returns the number of findings with its unit.
// summary names the first finding, and how many there are besides. Where only the last
// line of the output is shown, it must lead to the problem.
func summary(findings []Finding) string {
	f := findings[0]
	at := f.File
	if f.Line > 0 {
		at += ":" + strconv.Itoa(f.Line)
	}
	if f.Column > 0 {
		at += ":" + strconv.Itoa(f.Column)
	}
	text, _, _ := strings.Cut(f.Text, "\n")
	s := fmt.Sprintf("%s: %s (%s)", at, text, f.Linter)
	if more := len(findings) - 1; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

func count(n int) string {
	if n == 1 {
		return "1 problem"
	}
	return fmt.Sprintf("%d problems", n)
}

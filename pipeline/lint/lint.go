// Package lint runs golangci-lint at a pinned version over an app's module and
// turns what it finds into a verdict, reports and annotations.
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

// overtime is what golangci-lint gets beyond its own timeout to end by itself:
// it looks at its clock only between analyzers.
const overtime = 30 * time.Second

// Options say what to lint and with what.
type Options struct {
	Root string        // folder of slipway.yaml, absolute
	Dir  string        // the app's module, absolute
	Go   *toolchain.Go // the app's toolchain
	// Settings are the section lint of slipway.yaml. Without Settings.Config the
	// nearest .golangci.{yml,yaml,toml,json} from Dir up to the root of the git
	// repository is used, and without one golangci-lint's own defaults. A
	// configuration in the home folder is never read: it would give another
	// verdict on another machine.
	Settings  config.Lint
	CacheDir  string   // slipway's cache folder: golangci-lint itself and its results
	Reports   string   // folder for lint.txt, lint.json and lint.sarif; empty for none
	Prefix    string   // path of Dir in the repository, put before every file's path
	Env       []string // more environment, NAME=value
	BuildTags []string // build tags
}

// Finding is one thing a linter has to say.
type Finding struct {
	Linter   string `json:"linter"`
	File     string `json:"file"` // relative to the module, below Options.Prefix
	Line     int    `json:"line"` // 1-based; 0 where the finding is about the whole file
	Column   int    `json:"column,omitempty"`
	Text     string `json:"text"`
	Severity string `json:"severity,omitempty"` // as configured; mostly empty
}

// Result is what linting gave.
type Result struct {
	Version  string    `json:"version"` // of golangci-lint
	Config   string    `json:"config,omitempty"`
	Findings []Finding `json:"findings"` // by file, line, column and linter
	Seconds  float64   `json:"seconds"`
	Reports  []string  `json:"reports,omitempty"` // absolute paths of the files written
}

// Run lints the module in o.Dir.
//
// When there are findings it writes the reports and returns the full Result
// beside a [fault.Gate] error. A broken configuration, a module without Go files
// and a golangci-lint too old for the module's Go version are [fault.Input]
// errors; an exceeded time limit and a golangci-lint that breaks down are
// [fault.Failed] errors. When ctx ends, it returns ctx's error.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	result := Result{Version: o.Settings.Version, Findings: []Finding{}}
	// golangci-lint prints resolved paths; ours must compare equal to them.
	dir, err := filepath.EvalSymlinks(o.Dir)
	if err != nil {
		return result, fault.Inputf("lint.dir", "finding the module: %w", err)
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
		return result, fmt.Errorf("making a directory for lint reports: %w", err)
	}
	defer os.RemoveAll(out)

	progress.Statusf(ctx, "golangci-lint %s", o.Settings.Version)
	text, complaint, err := analyse(ctx, o, program, result.Config, out)
	result.Seconds = time.Since(start).Seconds()
	if ctx.Err() != nil {
		return result, fmt.Errorf("linting %s: %w", o.Dir, ctx.Err())
	}
	status, exited := toolchain.ExitStatus(err)
	if err != nil && (!exited || status != exitFindings) {
		// What was said so far is kept: it is what the reader will look for.
		result.Reports, _ = write(o.Reports, map[string][]byte{"lint.txt": text})
		return result, verdict(o, status, complaint, err)
	}
	reports := map[string][]byte{"lint.txt": text}
	for _, name := range []string{"lint.json", "lint.sarif"} {
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			return result, fmt.Errorf("reading golangci-lint's report: %w", err)
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
		return result, fault.Gatef("lint.findings", "golangci-lint found %s", count(n))
	case status == exitFindings:
		// Exit status and report must agree, or the gate would pass by mistake.
		return result, fault.Failedf("lint.report", "golangci-lint reports findings but lists none")
	}
	return result, nil
}

// analyse runs golangci-lint and returns its text output and, for the case that
// it fails, the last error it logged.
func analyse(ctx context.Context, o Options, program, config, out string) (text []byte, complaint string, err error) {
	hard, cancel := context.WithTimeout(ctx, time.Duration(o.Settings.Timeout)+overtime)
	defer cancel()
	args := []string{
		"run", "--color=never", "--timeout=" + o.Settings.Timeout.String(),
		// Whatever the configuration says: findings must not look like a breakdown,
		// and a gate that shows 50 of 80 findings is run twice.
		fmt.Sprintf("--issues-exit-code=%d", exitFindings), "--max-issues-per-linter=0", "--max-same-issues=0",
		// Without it, a golangci-lint in another window makes this one fail.
		"--allow-parallel-runners",
		// Relative paths would be relative to the configuration file.
		"--path-mode=abs",
		"--output.text.path=stdout",
		"--output.json.path=" + filepath.Join(out, "lint.json"),
		"--output.sarif.path=" + filepath.Join(out, "lint.sarif"),
	}
	if len(o.BuildTags) > 0 {
		args = append(args, "--build-tags="+strings.Join(o.BuildTags, ","))
	}
	if config == "" {
		args = append(args, "--no-config")
	} else {
		args = append(args, "--config="+config)
	}
	cmd := toolchain.Command(hard, program, append(args, "./...")...)
	cmd.Dir = o.Dir
	// The go commands that golangci-lint runs cannot remove their work folders
	// when they are killed: with TMPDIR we do.
	cmd.Env = o.Go.Env(append([]string{"GOLANGCI_LINT_CACHE=" + filepath.Join(o.CacheDir, "golangci-lint"), "TMPDIR=" + out}, o.Env...)...)
	stdout := &lines{each: func(line string) {
		line = o.shorten(line)
		text = append(append(text, line...), '\n')
		progress.Line(ctx, line)
	}}
	stderr := &lines{each: func(line string) {
		if c := logged(line); c != "" {
			complaint = c
		}
		progress.Line(ctx, o.shorten(line))
	}}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = run(cmd)
	stdout.flush()
	stderr.flush()
	if hard.Err() != nil && ctx.Err() == nil {
		err = hard.Err()
	}
	return text, complaint, err
}

// Exit codes of golangci-lint v2 (pkg/exitcodes).
const (
	exitFindings  = 1
	exitFailure   = 3
	exitTimeout   = 4
	exitNoGoFiles = 5
	exitLogged    = 7
)

// verdict says in one line why golangci-lint gave no answer.
func verdict(o Options, status int, complaint string, err error) error {
	switch {
	case status == exitTimeout || errors.Is(err, context.DeadlineExceeded):
		return fault.Failedf("lint.timeout", "golangci-lint was not done within %s", o.Settings.Timeout).
			WithFix("raise lint.timeout in slipway.yaml; a second run is faster because results are cached")
	case status == exitNoGoFiles:
		return fault.Inputf("lint.no-go-files", "there are no Go files to lint in %s", o.Dir).
			WithFix("set app.dir to the folder of the app's go.mod")
	case strings.Contains(complaint, "used to build golangci-lint is lower than"):
		return fault.Inputf("lint.go-version", "golangci-lint cannot check this module: %s", trim(complaint)).
			WithFix("set run.go in golangci-lint's configuration to the module's Go version or remove it")
	case strings.Contains(complaint, "can't load config"), strings.Contains(complaint, "unknown linters"):
		return fault.Inputf("lint.config", "golangci-lint's configuration is wrong: %s", trim(complaint)).
			WithFix("check it with: golangci-lint config verify")
	case complaint != "":
		return fault.Failedf("lint.failed", "golangci-lint failed: %s", trim(complaint))
	}
	return fault.Failedf("lint.failed", "golangci-lint failed: %w", err)
}

// trim removes the words that golangci-lint puts before every cause.
func trim(complaint string) string {
	for _, words := range []string{"Running error: ", "The command is terminated due to an error: ", "can't load config: "} {
		complaint = strings.TrimPrefix(complaint, words)
	}
	return complaint
}

// logged returns the message of one of golangci-lint's error log lines, or "".
func logged(line string) string {
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

// configuration returns the absolute path of golangci-lint's configuration, or
// "" if there is none.
func configuration(o Options) (string, error) {
	if file := config.Resolve(o.Root, o.Settings.Config); file != "" {
		if _, err := os.Stat(file); err != nil {
			return "", fault.Inputf("lint.config", "finding golangci-lint's configuration: %w", err).
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

// parse reads golangci-lint's JSON report.
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
		return nil, fmt.Errorf("reading golangci-lint's report: %w", err)
	}
	findings := make([]Finding, 0, len(report.Issues))
	for _, i := range report.Issues {
		if all := o.compiler(i.Text); i.FromLinter == "typecheck" && len(all) > 0 {
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

// compiled matches a message of the Go compiler.
var compiled = regexp.MustCompile(`(?m)^(\S+\.go):(\d+):(?:(\d+):)? (.*)$`)

// compiler takes the compiler's messages out of the text of one finding:
// golangci-lint puts all of them into one, at the top of some file.
func (o Options) compiler(text string) []Finding {
	var findings []Finding
	for _, m := range compiled.FindAllStringSubmatch(text, -1) {
		line, _ := strconv.Atoi(m[2]) // digits, as matched
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

// shorten does the same to a line of text.
func (o Options) shorten(line string) string {
	return strings.ReplaceAll(line, o.Dir+"/", o.base())
}

// base is what stands before the path of a file in the module.
func (o Options) base() string {
	if o.Prefix == "" || o.Prefix == "." {
		return ""
	}
	return path.Clean(filepath.ToSlash(o.Prefix)) + "/"
}

// quoted is s as it stands inside a JSON string.
func quoted(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		return s // a string always marshals
	}
	return string(data[1 : len(data)-1])
}

// write writes reports into dir, each at once or not at all, and returns their
// paths in the order of their names.
func write(dir string, reports map[string][]byte) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the reports folder: %w", err)
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

func count(n int) string {
	if n == 1 {
		return "1 problem"
	}
	return fmt.Sprintf("%d problems", n)
}

// Package ci knows the CI systems slipway runs in: how they fold logs, mark
// findings in a change, and hand values to later jobs.
package ci

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// System is a CI system; the zero value is none.
type System struct {
	Name   string // "github", "gitlab" or ""
	getenv func(string) string
}

// Detect tells the system from its variables. getenv is [os.Getenv] but in
// tests.
func Detect(getenv func(string) string) System {
	if getenv == nil {
		getenv = os.Getenv
	}
	switch {
	case getenv("GITHUB_ACTIONS") == "true":
		return System{"github", getenv}
	case getenv("GITLAB_CI") == "true":
		return System{"gitlab", getenv}
	}
	return System{getenv: getenv}
}

// Tags are the image tags besides the revision: the git tag on a tag, and
// "latest" on the default branch and on tags.
func (s System) Tags() []string {
	tag := s.GitTag()
	latest := false
	switch s.Name {
	case "github":
		latest = s.getenv("GITHUB_REF") == "refs/heads/main" || s.getenv("GITHUB_REF") == "refs/heads/master"
	case "gitlab":
		latest = s.getenv("CI_COMMIT_BRANCH") != "" && s.getenv("CI_COMMIT_BRANCH") == s.getenv("CI_DEFAULT_BRANCH")
	}
	var tags []string
	if tag != "" {
		tags = append(tags, strings.Map(tagRune, tag))
	}
	if latest || tag != "" {
		tags = append(tags, "latest")
	}
	return tags
}

// Builder is the URI by which a provenance names who built
// (https://slsa.dev/spec/v1.0/provenance#builder.id): the workflow on GitHub,
// the runner on GitLab, else empty.
func (s System) Builder() string {
	switch s.Name {
	case "github":
		if ref := s.getenv("GITHUB_WORKFLOW_REF"); ref != "" {
			return s.getenv("GITHUB_SERVER_URL") + "/" + ref
		}
	case "gitlab":
		if runner := s.getenv("CI_RUNNER_ID"); runner != "" {
			return s.getenv("CI_PROJECT_URL") + "/-/runners/" + runner
		}
	}
	return ""
}

// GitTag is the tag a run is for; empty where it is for a branch.
func (s System) GitTag() string {
	switch s.Name {
	case "github":
		if s.getenv("GITHUB_REF_TYPE") == "tag" {
			return s.getenv("GITHUB_REF_NAME")
		}
	case "gitlab":
		return s.getenv("CI_COMMIT_TAG")
	}
	return ""
}

// Run names this run for people; empty outside CI.
func (s System) Run() string {
	switch s.Name {
	case "github":
		return s.getenv("GITHUB_REPOSITORY") + " run " + s.getenv("GITHUB_RUN_ID") + " (" + s.getenv("GITHUB_ACTOR") + ")"
	case "gitlab":
		return s.getenv("CI_PROJECT_PATH") + " job " + s.getenv("CI_JOB_ID") + " (" + s.getenv("GITLAB_USER_LOGIN") + ")"
	}
	return ""
}

// tagRune makes a git tag an image tag: v1.0.0+build has a plus.
func tagRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		return r
	}
	return '-'
}

// Output is a value for later jobs.
type Output struct{ Name, Value string }

// Publish hands values to later jobs and a summary in Markdown to the run's
// page, where the system has a place for them. GitLab's place is a dotenv
// file, which the job names as a report.
func (s System) Publish(outputs []Output, summary string) error {
	if s.Name != "github" {
		return nil
	}
	var b strings.Builder
	for _, o := range outputs {
		fmt.Fprintf(&b, "%s=%s\n", o.Name, oneLine(o.Value))
	}
	return errors.Join(appendTo(s.getenv("GITHUB_OUTPUT"), b.String()), appendTo(s.getenv("GITHUB_STEP_SUMMARY"), summary))
}

// Dotenv writes values in the form of GitLab's dotenv reports
// (https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv).
func Dotenv(outputs []Output) []byte {
	var b strings.Builder
	for _, o := range outputs {
		fmt.Fprintf(&b, "SLIPWAY_%s=%s\n", strings.ToUpper(o.Name), oneLine(o.Value))
	}
	return []byte(b.String())
}

func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

func appendTo(file, text string) (err error) {
	if file == "" || text == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing CI outputs: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteString(text)
	return err
}

// Display is the system's log form: what is happening comes at once, and each
// stage's own output follows in a fold of its own when the stage ends, because
// stages run side by side and a log has one column.
func (s System) Display(w io.Writer) display.Display {
	return &folds{w: w, system: s.Name, output: map[string][]progress.Event{}}
}

type folds struct {
	mu     sync.Mutex
	w      io.Writer
	system string
	output map[string][]progress.Event
	status string
}

// Close writes the output of stages that never came to their end.
func (f *folds) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, stage := range slices.Sorted(maps.Keys(f.output)) {
		f.fold(progress.Event{Time: time.Now(), Stage: stage, Outcome: progress.Cancelled})
	}
}

func (f *folds) Emit(e progress.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e.Kind {
	case progress.Started, progress.Counted, progress.Detailed:
	case progress.Status:
		if key, _, _ := strings.Cut(e.Text, ":"); key != f.status {
			f.status = key
			fmt.Fprintf(f.w, "%-8s  %s\n", e.Stage, f.inert(e.Text))
		}
	case progress.Warned:
		if f.system == "github" {
			fmt.Fprintf(f.w, "::warning title=%s::%s\n", e.Stage, data(e.Text))
			return
		}
		fmt.Fprintf(f.w, "%-8s  warning: %s\n", e.Stage, display.Clean(e.Text))
	case progress.Output:
		f.output[e.Stage] = append(f.output[e.Stage], e)
	case progress.Finished:
		f.fold(e)
	}
}

func (f *folds) fold(end progress.Event) {
	events := f.output[end.Stage]
	delete(f.output, end.Stage)
	title := fmt.Sprintf("%-8s  %s", end.Stage, f.inert(display.Finish(end)))
	if len(events) == 0 {
		fmt.Fprintln(f.w, title)
		return
	}
	id, token := "slipway_"+end.Stage, ""
	if f.system == "github" {
		fmt.Fprintf(f.w, "::group::%s\n", data(title))
		// What a test prints must not be taken for a command.
		token = rand.Text()
		fmt.Fprintf(f.w, "::stop-commands::%s\n", token)
	} else {
		collapsed := "true"
		if end.Outcome == progress.Failed {
			collapsed = "false"
		}
		fmt.Fprintf(f.w, "\x1b[0Ksection_start:%d:%s[collapsed=%s]\r\x1b[0K%s\n", end.Time.Add(-end.Duration).Unix(), id, collapsed, title)
	}
	for _, e := range events {
		if e.File == "" {
			fmt.Fprintln(f.w, display.Clean(e.Text))
		}
	}
	if f.system == "github" {
		fmt.Fprintf(f.w, "::%s::\n::endgroup::\n", token)
		for _, e := range events {
			if e.File != "" {
				// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
				fmt.Fprintf(f.w, "::error file=%s,line=%d,col=%d,title=%s::%s\n", property(e.File), e.Row, max(e.Column, 1), e.Stage, data(e.Text))
			}
		}
		return
	}
	fmt.Fprintf(f.w, "\x1b[0Ksection_end:%d:%s\r\x1b[0K\n", end.Time.Unix(), id)
}

// inert makes a text safe outside a fold. GitHub's runner finds its older form
// of commands, ##[name], anywhere in a line
// (https://github.com/actions/runner, src/Runner.Common/ActionCommand.cs).
func (f *folds) inert(s string) string {
	s = display.Clean(s)
	if f.system == "github" {
		s = strings.ReplaceAll(s, "##[", "#\u200b#[")
	}
	return s
}

// data and property escape what GitHub's commands give a meaning to, so that
// a test's output cannot issue commands.
func data(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = display.Clean(line)
	}
	s = strings.Join(lines, "\n")
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	s = display.Clean(s)
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

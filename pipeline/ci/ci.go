// Package ci integrates slipway with CI systems: collapsible sections in logs,
// annotations for findings, and outputs for later jobs.
//
// The package promises no compatibility to programs other than slipway.
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

// System is the CI system that slipway runs in. Outside CI its name is empty.
type System struct {
	Name   string // "github" for GitHub Actions, "gitlab" for GitLab CI, or ""
	getenv func(string) string
}

// Detect detects the CI system from its environment variables. If getenv is nil, it
// uses [os.Getenv].
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

// Tags returns the image tags in addition to the revision: the git tag as [ImageTag]
// writes it if the run is for a tag, and "latest" for a tag and for the default branch.
// On GitHub, the default branch is assumed to be main or master.
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
		tags = append(tags, ImageTag(tag))
	}
	if latest || tag != "" {
		tags = append(tags, "latest")
	}
	return tags
}

// Builder returns the URI that identifies the builder in a provenance
// (https://slsa.dev/spec/v1.0/provenance#builder.id): the workflow on GitHub, the
// runner on GitLab, and "" outside CI.
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

// GitTag returns the git tag that the run is for, or "" if it is for a branch.
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

// Protected reports whether the run is for a branch or a tag that is protected, so that only
// reviewed code is in it.
func (s System) Protected() bool {
	switch s.Name {
	case "github":
		return s.getenv("GITHUB_REF_PROTECTED") == "true"
	case "gitlab":
		return s.getenv("CI_COMMIT_REF_PROTECTED") == "true"
	}
	return false
}

// Run returns a description of this run for people, or "" outside CI.
func (s System) Run() string {
	switch s.Name {
	case "github":
		return s.getenv("GITHUB_REPOSITORY") + " run " + s.getenv("GITHUB_RUN_ID") + " (" + s.getenv("GITHUB_ACTOR") + ")"
	case "gitlab":
		return s.getenv("CI_PROJECT_PATH") + " job " + s.getenv("CI_JOB_ID") + " (" + s.getenv("GITLAB_USER_LOGIN") + ")"
	}
	return ""
}

// Output is an output for later jobs.
type Output struct{ Name, Value string }

// Publish sets outputs for later jobs and adds a summary in Markdown to the page of
// the run. It supports GitHub only and does nothing for other systems. For GitLab,
// use [Dotenv].
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

// Dotenv returns the outputs in the format of GitLab's dotenv reports
// (https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv).
func Dotenv(outputs []Output) []byte {
	var b strings.Builder
	for _, o := range outputs {
		fmt.Fprintf(&b, "SLIPWAY_%s=%s\n", strings.ToUpper(o.Name), oneLine(o.Value))
	}
	return []byte(b.String())
}

func oneLine(s string) string {
	return display.Clean(strings.NewReplacer("\n", " ", "\r", " ").Replace(s))
}

// appendTo appends text to a file. It does nothing if one of them is empty.
func appendTo(file, text string) (err error) {
	if file == "" || text == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing outputs for CI: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err = f.WriteString(text); err != nil {
		return fmt.Errorf("writing outputs for CI: %w", err)
	}
	return nil
}

// Display returns a display for the log of the system. It writes statuses and warnings
// immediately. It writes the output of a stage in a collapsible section when the stage
// ends, because stages run at the same time.
func (s System) Display(w io.Writer) display.Display {
	return &sections{w: w, system: s, output: map[string][]progress.Event{}}
}

// sections is a display with one section for every stage.
type sections struct {
	mu     sync.Mutex
	w      io.Writer
	system System
	output map[string][]progress.Event // output of running stages, by stage
	status string                      // last status that was written, up to its colon
}

// Close writes the output of the stages that have not ended.
func (s *sections) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stage := range slices.Sorted(maps.Keys(s.output)) {
		s.write(progress.Event{Time: time.Now(), Stage: stage, Outcome: progress.Cancelled})
	}
}

func (s *sections) Emit(e progress.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Kind {
	case progress.Started, progress.Counted, progress.Detailed:
	case progress.Status:
		if key, _, _ := strings.Cut(e.Text, ":"); key != s.status {
			s.status = key
			fmt.Fprintf(s.w, "%-8s  %s\n", e.Stage, s.system.Inert(e.Text))
		}
	case progress.Warned:
		if s.system.Name == "github" {
			fmt.Fprintf(s.w, "::warning title=%s::%s\n", e.Stage, data(e.Text))
			return
		}
		fmt.Fprintf(s.w, "%-8s  warning: %s\n", e.Stage, s.system.Inert(e.Text))
	case progress.Output:
		s.output[e.Stage] = append(s.output[e.Stage], e)
	case progress.Finished:
		s.write(e)
	}
}

// write writes the result of a stage and its output.
func (s *sections) write(end progress.Event) {
	events := s.output[end.Stage]
	delete(s.output, end.Stage)
	title := fmt.Sprintf("%-8s  %s", end.Stage, s.system.Inert(display.Finish(end)))
	if len(events) == 0 {
		fmt.Fprintln(s.w, title)
		return
	}
	id, token := "slipway_"+end.Stage, ""
	if s.system.Name == "github" {
		fmt.Fprintf(s.w, "::group::%s\n", data(title))
		// The output of a test must not be executed as commands.
		token = rand.Text()
		fmt.Fprintf(s.w, "::stop-commands::%s\n", token)
	} else {
		collapsed := "true"
		if end.Outcome == progress.Failed {
			collapsed = "false"
		}
		fmt.Fprintf(s.w, "\x1b[0Ksection_start:%d:%s[collapsed=%s]\r\x1b[0K%s\n", end.Time.Add(-end.Duration).Unix(), id, collapsed, title)
	}
	for _, e := range events {
		if e.File == "" {
			fmt.Fprintln(s.w, s.system.Inert(e.Text))
		}
	}
	if s.system.Name == "github" {
		fmt.Fprintf(s.w, "::%s::\n::endgroup::\n", token)
		for _, e := range events {
			if e.File != "" {
				// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
				fmt.Fprintf(s.w, "::error file=%s,line=%d,col=%d,title=%s::%s\n", property(e.File), e.Row, max(e.Column, 1), e.Stage, data(e.Text))
			}
		}
		return
	}
	fmt.Fprintf(s.w, "\x1b[0Ksection_end:%d:%s\r\x1b[0K\n", end.Time.Unix(), id)
}

// data escapes a text for the data of a GitHub command, so that the text cannot
// contain a command.
func data(s string) string {
	s = display.EachLine(strings.ReplaceAll(s, "\r\n", "\n"), display.Clean)
	s = strings.ReplaceAll(s, "##[", "#\u200b#[")
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

// property escapes a text for a property of a GitHub command.
func property(s string) string {
	s = display.Clean(s)
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

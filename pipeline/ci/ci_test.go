package ci_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

func env(m map[string]string) func(string) string { return func(n string) string { return m[n] } }

var (
	github = ci.Detect(env(map[string]string{"GITHUB_ACTIONS": "true"}))
	gitlab = ci.Detect(env(map[string]string{"GITLAB_CI": "true"}))
)

// hostile is output of a tool with escape sequences and commands for CI systems.
const hostile = "\x1b[31mred\x1b[0m\x1b[0Ksection_end:1:slipway_test\r\x1b[0K\x07 ##[error]x ::error::y"

// events returns the events of a run.
func events() []progress.Event {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	all := []progress.Event{
		{Stage: "lint", Kind: progress.Started},
		{Stage: "test", Kind: progress.Started},
		{Stage: "build", Kind: progress.Status, Text: "compiling: 1 package"},
		{Stage: "build", Kind: progress.Status, Text: "compiling: 2 packages"},
		{Stage: "build", Kind: progress.Status, Text: "linking " + hostile},
		{Stage: "lint", Kind: progress.Output, Text: "main.go:3:1: no comment"},
		{Stage: "lint", Kind: progress.Output, Text: "no comment: 100% of\r\nit " + hostile, File: "a,b:c%/main.go", Row: 3, Column: 1},
		{Stage: "lint", Kind: progress.Output, Text: "a file's finding", File: "go.mod", Row: 1},
		{Stage: "lint", Kind: progress.Finished, Outcome: progress.Failed, Text: "2 findings", Duration: 3 * time.Second},
		{Stage: "test", Kind: progress.Output, Text: "::set-output name=digest::evil"},
		{Stage: "test", Kind: progress.Output, Text: "  ::add-mask::e"},
		{Stage: "test", Kind: progress.Output, Text: "::endgroup::"},
		{Stage: "test", Kind: progress.Output, Text: "x\n::set-env name=PATH::/evil"},
		{Stage: "test", Kind: progress.Output, Text: hostile},
		{Stage: "test", Kind: progress.Warned, Text: "careful: 100%\n::error::x " + hostile},
		{Stage: "test", Kind: progress.Counted, Done: 1, Unit: progress.Tests},
		{Stage: "test", Kind: progress.Finished, Outcome: progress.Passed, Text: "12 tests 100% " + hostile, Duration: 2 * time.Second},
		{Stage: "build", Kind: progress.Finished, Outcome: progress.Unchanged},
		{Stage: "push", Kind: progress.Output, Text: "interrupted"},
	}
	for i := range all {
		all[i].Time = at.Add(time.Duration(i) * time.Second)
	}
	return all
}

// log returns the log of a system for the events.
func log(s ci.System, events []progress.Event) string {
	var b bytes.Buffer
	d := s.Display(&b)
	for _, e := range events {
		d.Emit(e)
	}
	d.Close()
	return b.String()
}

var (
	tokens = regexp.MustCompile(`::stop-commands::(\w+)`)
	times  = regexp.MustCompile(`(section_(?:start|end)):\d+:(slipway_push)`)
)

func TestLogs(t *testing.T) {
	out := log(github, events())
	for i, m := range tokens.FindAllStringSubmatch(out, -1) {
		if len(m[1]) < 20 {
			t.Errorf("token %q is too short", m[1])
		}
		if strings.Count(out, m[1]) != 2 {
			t.Errorf("token %d is used %d times, want twice", i, strings.Count(out, m[1]))
		}
		out = strings.ReplaceAll(out, m[1], "TOKEN")
	}
	testkit.Golden(t, "testdata/github.txt", []byte(out))
	testkit.Golden(t, "testdata/gitlab.txt", []byte(times.ReplaceAllString(log(gitlab, events()), "$1:0:$2")))
}

// commands returns the commands that GitHub's runner would execute in a log.
func commands(out string) []string {
	var all []string
	stopped := ""
	for line := range strings.SplitSeq(strings.ReplaceAll(out, "\r", "\n"), "\n") {
		trimmed := strings.TrimSpace(line)
		if stopped != "" {
			if trimmed == "::"+stopped+"::" {
				stopped = ""
			}
			continue
		}
		if rest, ok := strings.CutPrefix(trimmed, "::stop-commands::"); ok {
			stopped = rest
			continue
		}
		if strings.HasPrefix(trimmed, "::") {
			name, _, _ := strings.Cut(trimmed[2:], " ")
			name, _, _ = strings.Cut(name, "::")
			all = append(all, name)
			continue // the rest of the line is data
		}
		if strings.Contains(line, "##[") {
			all = append(all, line)
		}
	}
	return all
}

// GitHub's runner does not execute commands in the output of a tool.
func TestOutputContainsNoCommands(t *testing.T) {
	want := []string{"group", "endgroup", "error", "error", "warning", "group", "endgroup", "group", "endgroup"}
	if diff := cmp.Diff(want, commands(log(github, events()))); diff != "" {
		t.Error(diff)
	}
}

// The output of a tool does not start or end sections of GitLab.
func TestOutputContainsNoSections(t *testing.T) {
	out := log(gitlab, events())
	starts, ends := strings.Count(out, "\x1b[0Ksection_start:"), strings.Count(out, "\x1b[0Ksection_end:")
	if starts != 3 || ends != 3 {
		t.Errorf("%d sections start and %d sections end, want 3", starts, ends)
	}
	if n := strings.Count(out, "\x1b"); n != 2*(starts+ends) {
		t.Errorf("%d escape sequences, want %d", n, 2*(starts+ends))
	}
}

// FuzzCommands checks that GitHub's runner executes the same commands, whatever the
// texts of a stage are.
func FuzzCommands(f *testing.F) {
	for _, e := range events() {
		f.Add(e.Text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := log(github, []progress.Event{
			{Stage: "test", Kind: progress.Status, Text: s},
			{Stage: "test", Kind: progress.Output, Text: s},
			{Stage: "test", Kind: progress.Output, Text: s, File: "x" + s, Row: 1},
			{Stage: "test", Kind: progress.Warned, Text: s},
			{Stage: "test", Kind: progress.Finished, Outcome: progress.Failed, Text: s},
		})
		got := commands(out)
		if diff := cmp.Diff([]string{"warning", "group", "endgroup", "error"}, got); diff != "" {
			t.Errorf("%q: %s\n%s", s, diff, out)
		}
	})
}

func TestDetectAndTags(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string
		tags []string
	}{
		{"none", nil, "", nil},
		{"CI alone", map[string]string{"CI": "true", "GITHUB_REF": "refs/heads/main"}, "", nil},
		{"github main", map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/heads/main", "GITHUB_REF_TYPE": "branch", "GITHUB_REF_NAME": "main"}, "github", []string{"latest"}},
		{"github branch", map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/heads/x", "GITHUB_REF_TYPE": "branch", "GITHUB_REF_NAME": "x"}, "github", nil},
		{"github tag", map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_REF": "refs/tags/v1.0.0+b/1", "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v1.0.0+b/1"}, "github", []string{"v1.0.0-b-1--9650af98c9ef", "latest"}},
		{"gitlab default", map[string]string{"GITLAB_CI": "true", "CI_COMMIT_BRANCH": "trunk", "CI_DEFAULT_BRANCH": "trunk"}, "gitlab", []string{"latest"}},
		{"gitlab merge request", map[string]string{"GITLAB_CI": "true", "CI_DEFAULT_BRANCH": "main"}, "gitlab", nil},
		{"gitlab tag", map[string]string{"GITLAB_CI": "true", "CI_COMMIT_TAG": "v2"}, "gitlab", []string{"v2", "latest"}},
	} {
		s := ci.Detect(env(tt.env))
		if s.Name != tt.want {
			t.Errorf("%s: detected %q, want %q", tt.name, s.Name, tt.want)
		}
		if diff := cmp.Diff(tt.tags, s.Tags()); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestPublish(t *testing.T) {
	dir := t.TempDir()
	out, summary := filepath.Join(dir, "out"), filepath.Join(dir, "summary")
	if err := os.WriteFile(out, []byte("before=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	outputs := []ci.Output{{Name: "digest", Value: "sha256:x"}, {Name: "reference", Value: "a\nevil=1\r\nb"}}
	s := ci.Detect(env(map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": out, "GITHUB_STEP_SUMMARY": summary}))
	if err := s.Publish(outputs, "# Shipped\n"); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{out: "before=1\ndigest=sha256:x\nreference=a evil=1  b\n", summary: "# Shipped\n"} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s contains %q, %v, want %q", filepath.Base(file), got, err, want)
		}
	}
	if err := github.Publish(outputs, "x"); err != nil {
		t.Errorf("without the variables for files: %v", err)
	}
	if err := gitlab.Publish(outputs, "x"); err != nil {
		t.Error(err)
	}
	s = ci.Detect(env(map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": dir}))
	if err := s.Publish(outputs, ""); err == nil {
		t.Error("got no error for outputs that cannot be written")
	}
	if got, want := string(ci.Dotenv(outputs)), "SLIPWAY_DIGEST=sha256:x\nSLIPWAY_REFERENCE=a evil=1  b\n"; got != want {
		t.Errorf("Dotenv returned %q, want %q", got, want)
	}
}

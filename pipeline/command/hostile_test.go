package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// hostileText is what a failing test prints to run commands in the log of a CI system, and
// to change the terminal.
const hostileText = `##[set-output name=image]evil \n::set-output name=image::evil2\n \x1b]0;title\x07 \x1b[2J \u009b31m \u202e redro`

// TestHostileOutputOfATest runs a test whose output contains commands for the CI system and
// control sequences. None of them reaches standard output, standard error, the summary or
// the outputs, as text and as JSON.
func TestHostileOutputOfATest(t *testing.T) {
	files := helloApp()
	files["x_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestX(t *testing.T) { t.Fatal(\"" + hostileText + "\") }\n"
	for _, args := range [][]string{{"test"}, {"test", "--progress", "plain"}, {"test", "--progress", "json"}, {"test", "-o", "json"}} {
		p := newProgram(t, testkit.Repository(t, files))
		out := filepath.Join(t.TempDir(), "output")
		summary := filepath.Join(t.TempDir(), "summary")
		p.env = append(p.env, "GITHUB_ACTIONS=true", "GITHUB_OUTPUT="+out, "GITHUB_STEP_SUMMARY="+summary)
		e := p.run(t, args...)
		if e.code != fault.ExitFailed {
			t.Fatalf("%v: exit %d\n%s", args, e.code, e.stderr)
		}
		all := map[string]string{"stdout": e.stdout, "stderr": e.stderr}
		for _, file := range []string{out, summary} {
			if text, err := os.ReadFile(file); err == nil {
				all[filepath.Base(file)] = string(text)
			}
		}
		for where, text := range all {
			folded := false
			for line := range strings.SplitSeq(text, "\n") {
				switch trimmed := strings.TrimSpace(line); {
				case strings.HasPrefix(trimmed, "::stop-commands::"):
					folded = true
				case strings.Contains(line, "##["), strings.HasPrefix(trimmed, "::set-output"):
					t.Errorf("%v: %s has a command (folded: %v): %q", args, where, folded, line)
				case strings.ContainsAny(line, "\x1b\x07\u009b\u202e"):
					t.Errorf("%v: %s has a control sequence: %q", args, where, line)
				}
			}
		}
		if args[len(args)-1] == "json" && args[1] == "-o" && !json.Valid([]byte(e.stdout)) {
			t.Errorf("%v: standard output is not JSON:\n%s", args, e.stdout)
		}
		if !strings.Contains(e.stdout+e.stderr, "evil2") {
			t.Errorf("%v: the output of the test is missing, so this test shows nothing", args)
		}
	}
}

package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// shape is a repository of a certain shape, and how an app in it is built.
type shape struct {
	name string
	// lay makes the repository in a new folder and returns the folder to call from.
	lay func(t *testing.T, s *shapes, dir string) string
	// program and module are further arguments of the slipway program, and what stands
	// before the function in a call of the module.
	program []string
	module  func(t *testing.T, s *shapes, dir string) []string
	stage   string // "build" if empty, or "test"

	fails string // what both messages must match; empty: both doors must succeed
	dirty bool   // the version must end in +dirty
	// commit names the commit. Shapes with the same name must give the same digest.
	commit string
	// alone is what the message of the module must match where it cannot do what the
	// program does, because only the repository is uploaded.
	alone string
}

// shapes builds apps with the program and with the module.
type shapes struct {
	*suite
	base    string            // a repository with one commit
	digests map[string]string // by the name of the commit
	table   *tabwriter.Writer
}

// outcome is what one of the two gave.
type outcome struct {
	exit    int
	digest  string // without the algorithm; of a stage other than build, whether it passed
	message string
}

// TestShapes builds apps in repositories of different shapes, once with the slipway
// program and once with the Dagger module, and compares exit, digest and message.
func TestShapes(t *testing.T) {
	s := shapes{suite: &suite{}, digests: map[string]string{}}
	var err error
	if s.module, err = filepath.Abs(".."); err != nil {
		t.Fatal(err)
	}
	needEngine(t, s.module)
	s.program = filepath.Join(t.TempDir(), "slipway")
	s.must(t, s.module, "go", "build", "-o", s.program, "./pipeline/cmd/slipway-core")
	s.base = t.TempDir()
	s.lay(t, s.base, app)
	s.commitAll(t, s.base)

	var text bytes.Buffer
	s.table = tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(s.table, "shape\tprogram\tDagger\tsame?")
	for _, tc := range allShapes() {
		t.Run(tc.name, func(t *testing.T) { s.compare(t, tc) })
	}
	if err := s.table.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
}

func (s *shapes) compare(t *testing.T, tc shape) {
	dir := tc.lay(t, s, t.TempDir())
	program, module := s.runProgram(t, dir, tc), s.runModule(t, dir, tc)
	same := "no"
	defer func() {
		fmt.Fprintf(s.table, "%s\t%s\t%s\t%s\n", tc.name, program, module, same)
	}()
	switch {
	case tc.alone != "":
		if program.exit != 0 || module.exit == 0 || !regexp.MustCompile(tc.alone).MatchString(module.message) {
			t.Errorf("the program gave %+v\nthe module gave %+v\nwant only the module to fail, with %s", program, module, tc.alone)
			return
		}
		same = "no, only the repository is uploaded"
		return
	case tc.fails != "":
		for name, o := range map[string]outcome{"program": program, "module": module} {
			if o.exit == 0 || !regexp.MustCompile(tc.fails).MatchString(o.message) {
				t.Errorf("the %s gave %+v, want a failure with %s", name, o, tc.fails)
			}
		}
	case program.exit != 0 || module.exit != 0:
		t.Errorf("the program gave %+v\nthe module gave %+v", program, module)
	case program.digest != module.digest:
		t.Errorf("the digest is %s with slipway and %s with Dagger", program.digest, module.digest)
	}
	if !t.Failed() {
		same = "yes"
	}
	if tc.fails == "" && cmp.Or(tc.stage, "build") == "build" {
		s.checkVersion(t, dir, tc, program.digest)
	}
}

// checkVersion checks that the version is dirty exactly if it should be, and that other
// shapes of the same commit gave the same digest.
func (s *shapes) checkVersion(t *testing.T, dir string, tc shape, digest string) {
	t.Helper()
	stdout, stderr, err := s.try(t, dir, s.program, append([]string{"source", "-o", "json"}, tc.program...)...)
	var source struct{ Dirty bool }
	if err == nil {
		err = json.Unmarshal([]byte(stdout), &source)
	}
	if err != nil || source.Dirty != tc.dirty {
		t.Errorf("slipway source: %v, dirty %v, want %v\n%s", err, source.Dirty, tc.dirty, stderr)
	}
	if tc.commit == "" {
		return
	}
	if other := s.digests[tc.commit]; other != "" && other != digest {
		t.Errorf("the digest is %s, but in another shape of the same commit %s", digest, other)
	}
	s.digests[tc.commit] = digest
}

func (s *shapes) runProgram(t *testing.T, dir string, tc shape) outcome {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	args := []string{"build", "--platforms", "linux/amd64", "-o", "oci:" + out}
	if tc.stage != "" {
		args = []string{tc.stage}
	}
	_, stderr, err := s.try(t, dir, s.program, slices.Concat(args, []string{"--progress", "plain"}, tc.program)...)
	return finish(t, tc, err, dir, stderr, out, `(?m)^slipway: (.*)$`)
}

func (s *shapes) runModule(t *testing.T, dir string, tc shape) outcome {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dagger")
	args := []string{"-m", s.module, "--progress", "plain", "call"}
	if v := os.Getenv("SLIPWAY_IMAGES"); v != "" {
		args = append(args, "--images", v)
	}
	if tc.module != nil {
		args = append(args, tc.module(t, s, dir)...)
	}
	if tc.stage == "" {
		args = append(args, "build-layout", "--platforms", "linux/amd64", "export", "--path", out)
	} else {
		args = append(args, tc.stage)
	}
	_, stderr, err := s.try(t, dir, "dagger", args...)
	return finish(t, tc, err, dir, stderr, out, `(?ms)^Error: (.*)\z`)
}

// finish reads the outcome of a program. The pattern finds the message in what it printed.
func finish(t *testing.T, tc shape, err error, dir, stderr, out, pattern string) outcome {
	t.Helper()
	var o outcome
	if err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		o.exit = exit.ExitCode()
		o.message = stderr
		if m := regexp.MustCompile(pattern).FindStringSubmatch(stderr); m != nil {
			o.message = strings.ReplaceAll(strings.TrimSpace(m[1]), dir, ".")
		}
		return o
	}
	if o.digest = "passed"; tc.stage == "" {
		o.digest = strings.TrimPrefix(indexDigest(t, out), "sha256:")
	}
	return o
}

// String is a cell of the table.
func (o outcome) String() string {
	if o.exit != 0 {
		message, _, _ := strings.Cut(o.message, " [traceparent")
		if short := []rune(message); len(short) > 70 {
			message = string(short[:70]) + "..."
		}
		return fmt.Sprintf("%d %s", o.exit, message)
	}
	return "0 " + o.digest[:min(len(o.digest), 12)]
}

package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func (s *suite) failed(t *testing.T) {
	defer s.write(t, files)
	s.write(t, map[string]string{"main_test.go": strings.Replace(files["main_test.go"], "hello from x", "goodbye", 1)})
	_, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "call", "test")
	if err == nil || !strings.Contains(stderr, "TestGreeting") {
		t.Errorf("the failed test was not reported: %v\n%s", err, stderr)
	}
	dir := t.TempDir()
	s.call(t, "test", "report", "export", "--path", dir)
	data, err := os.ReadFile(filepath.Join(dir, "junit.xml"))
	if err != nil || !bytes.Contains(data, []byte("<failure")) {
		t.Errorf("junit.xml: %v\n%s", err, data)
	}
	if out := s.call(t, "test", "passed"); out != "false" {
		t.Errorf("passed is %s", out)
	}
	for _, args := range [][]string{{"check"}, {"call", "check"}, {"-c", "test | report | export out; test | verdict"}} {
		if _, _, err := s.try(t, s.app, "dagger", append([]string{"-m", s.module}, args...)...); err == nil {
			t.Errorf("dagger %s passed", strings.Join(args, " "))
		}
	}
	if _, err := os.Stat(filepath.Join(s.app, "out", "junit.xml")); err != nil {
		t.Errorf("no report although the test failed: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.app, "out")); err != nil {
		t.Fatal(err)
	}
}

// findings checks that the last line of a failed lint names the file and the linter.
func (s *suite) findings(t *testing.T) {
	defer func() {
		if err := os.Remove(filepath.Join(s.app, "unused.go")); err != nil {
			t.Error(err)
		}
	}()
	s.write(t, map[string]string{"unused.go": "package main\n\nfunc unused() {}\n"})
	_, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "--progress", "plain", "call", "lint")
	if err == nil || !regexp.MustCompile(`(?m)^Error: lint: .* unused\.go:3:6: .*\(unused\)`).MatchString(stderr) {
		t.Errorf("%v\n%s", err, stderr)
	}
}

// services checks that a service that does not start, and an image that does not exist,
// are not taken for failed tests.
func (s *suite) services(t *testing.T) {
	defer s.write(t, files)
	s.write(t, map[string]string{"slipway.yaml": "test: {services: [redis]}\n"})
	others := map[string]string{}
	for entry := range strings.SplitSeq(os.Getenv("SLIPWAY_IMAGES"), ",") {
		if name, reference, ok := strings.Cut(entry, "="); ok {
			others[name] = reference
		}
	}
	golang := cmp.Or(others["go"], "golang:1.26.8-bookworm") // it has no redis-server
	for image, want := range map[string]string{
		golang:              `the service redis did not start: its image ` + regexp.QuoteMeta(golang) + ` ended with status \d+.*--images redis=REFERENCE`,
		golang + "-nowhere": `failed to resolve image .*--images redis=REFERENCE`,
	} {
		images := []string{"redis=" + image}
		for name, reference := range others {
			if name != "redis" {
				images = append(images, name+"="+reference)
			}
		}
		// The report of a gate that failed has the field passed; a gate that did not run
		// has no report.
		stdout, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "--progress", "plain", "call", "--images", strings.Join(images, ","), "test", "passed")
		if err == nil || !regexp.MustCompile(`(?m)^Error: .*`+want).MatchString(stderr) {
			t.Errorf("%s: %v, printed %q\n%s", image, err, stdout, stderr)
		}
	}
}

// flaky adds a test that fails the first time it runs on an engine. The engine must
// not reuse the result of the failed run.
func (s *suite) flaky(t *testing.T) {
	defer func() {
		if err := os.Remove(filepath.Join(s.app, "flaky_test.go")); err != nil {
			t.Error(err)
		}
	}()
	marker, err := json.Marshal("slipway-e2e-" + time.Now().Format(time.RFC3339Nano))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, map[string]string{"flaky_test.go": `package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFlaky(t *testing.T) {
	marker := filepath.Join(os.Getenv("GOCACHE"), ` + string(marker) + `)
	if os.Remove(marker) == nil {
		return
	}
	if err := os.WriteFile(marker, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Fatal("first time")
}
`})
	if out := s.call(t, "test", "passed"); out != "false" {
		t.Errorf("the first run passed: %s", out)
	}
	if out := s.call(t, "test", "passed"); out != "true" {
		t.Errorf("the second run did not pass: %s", out)
	}
}

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plantingTest is a test that overwrites every file that it can write, outside its own folder,
// and adds one to every folder. Its output says how many it has reached.
const plantingTest = `package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlants(t *testing.T) {
	var wrote []string
	for _, root := range []string{"/cache", "/go", "/root", "/usr/local", "/src", "/tmp", "/var/tmp", os.Getenv("GOCACHE"), os.Getenv("GOMODCACHE")} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || strings.HasPrefix(path, os.Getenv("TMPDIR")) {
				return nil
			}
			if d.IsDir() {
				if os.WriteFile(filepath.Join(path, "planted.go"), []byte("package planted\n"), 0o755) == nil {
					wrote = append(wrote, path)
				}
			} else if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "hello") {
				if os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "hello", "EVIL!")), 0o755) == nil {
					wrote = append(wrote, path)
				}
			}
			return nil
		})
	}
	outside := 0
	for _, path := range wrote {
		if !strings.Contains(path, "-slipway-test") && !strings.HasPrefix(path, "/tmp") {
			t.Logf("wrote %s", path)
			outside++
		}
	}
	t.Logf("PLANTED %d files, %d of them outside the tests' own folders", len(wrote), outside)
	t.Fail() // so that the output is shown
}
`

// plants runs a test that plants into every path that it can reach, and then publishes the
// main branch: the image is the one that a machine without a trace of that test builds.
func (s *suite) plants(t *testing.T) {
	s.write(t, map[string]string{"plants_test.go": plantingTest})
	stdout, stderr, err := s.try(t, s.app, "dagger", "-m", s.module, "--progress", "plain", "call", "test", "text")
	out := stdout + stderr
	if !strings.Contains(out, "PLANTED") {
		t.Fatalf("the test did not run: %v\n%s", err, out)
	}
	if !strings.Contains(out, ", 0 of them outside") {
		t.Errorf("the test wrote outside its own folders:\n%s", out)
	}
	changed := maps.Clone(files)
	for name, text := range changed {
		changed[name] = strings.ReplaceAll(text, "hello", "honest")
	}
	if err := os.Remove(filepath.Join(s.app, "plants_test.go")); err != nil {
		t.Fatal(err)
	}
	s.write(t, changed) // what was built before is not built again
	dir := t.TempDir()
	s.must(t, s.app, s.program, "build", "-o", "oci:"+dir)
	if got, want := s.layout(t), indexDigest(t, dir); got != want {
		t.Errorf("after the test: the digest is %s with Dagger and %s with slipway", got, want)
	}
	s.write(t, files)
}

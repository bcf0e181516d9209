package ci_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPinnedCIFiles: what the CI files of this repository run is pinned by a digest, and no
// download is piped into a program.
func TestPinnedCIFiles(t *testing.T) {
	root := filepath.Join("..", "..")
	files := []string{filepath.Join(root, ".gitlab-ci.yml"), filepath.Join(root, "scripts", "ci")}
	for _, pattern := range []string{".github/workflows/*.yml", ".github/actions/*/*.yml"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	uses := regexp.MustCompile(`^-? *uses: *(\S+)`)
	image := regexp.MustCompile(`^(?:- name|image): *(\S+:\S+)`)
	piped := regexp.MustCompile(`(curl|wget)[^|;&]*\|[^|]*\b(sh|bash|python3?|tar)\b`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if m := uses.FindStringSubmatch(line); m != nil && !strings.HasPrefix(m[1], "./") && !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(m[1]) {
				t.Errorf("%s: %s is not pinned by its commit", file, m[1])
			}
			if m := image.FindStringSubmatch(line); m != nil && !regexp.MustCompile(`@sha256:[0-9a-f]{64}$`).MatchString(m[1]) {
				t.Errorf("%s: %s is not pinned by its digest", file, m[1])
			}
			if piped.MatchString(line) {
				t.Errorf("%s: a download is piped into a program: %s", file, line)
			}
		}
	}
}

package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// TestSourceIsEnoughForABuildWithoutGit does what the Dagger module does: what
// slipway source says of a repository gives its files alone the same digest.
func TestSourceIsEnoughForABuildWithoutGit(t *testing.T) {
	for _, changed := range []bool{false, true} {
		dir := testkit.Repository(t, hello())
		if changed {
			testkit.Write(t, dir, map[string]string{"greet/text.txt": "changed"})
		}
		p := here(t, dir)
		want := p.report(t, "build").Digest
		e := p.run(t, "source", "-o", "json")
		var s source.Source
		if err := json.Unmarshal([]byte(e.stdout), &s); err != nil || s.Dirty != changed {
			t.Fatalf("%v: %+v\n%s%s", err, s, e.stdout, e.stderr)
		}
		if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
			t.Fatal(err)
		}
		revision := s.Revision
		if s.Dirty {
			revision += "-dirty"
		}
		p.env = append(p.env, "SOURCE_DATE_EPOCH="+strconv.FormatInt(s.Time.Unix(), 10))
		if got := p.report(t, "build", "--revision", revision).Digest; got != want {
			t.Errorf("changed %v: %s without git, %s with it", changed, got, want)
		}
	}
}

func TestSourceInText(t *testing.T) {
	dir := testkit.Repository(t, hello())
	testkit.Write(t, dir, map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	e := here(t, dir).run(t, "source")
	for _, want := range []string{"app      hello\n", "module   example.com/acme/hello\n", "changed  main.go\n", "+dirty\n"} {
		if e.code != fault.ExitOK || !strings.Contains(e.stdout, want) {
			t.Errorf("exit %d, no %q in\n%s%s", e.code, want, e.stdout, e.stderr)
		}
	}
}

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

// TestBuildWithoutGit builds like the Dagger module: with the revision and the time that
// slipway source prints, a build without the .git folder must have the same digest.
func TestBuildWithoutGit(t *testing.T) {
	for _, changed := range []bool{false, true} {
		dir := testkit.Repository(t, helloApp())
		if changed {
			testkit.Write(t, dir, map[string]string{"greet/text.txt": "changed"})
		}
		p := newProgram(t, dir)
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
	dir := testkit.Repository(t, helloApp())
	testkit.Write(t, dir, map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	e := newProgram(t, dir).run(t, "source")
	for _, want := range []string{"app      hello\n", "module   example.com/acme/hello\n", "changed  main.go\n", "+dirty\n"} {
		if e.code != fault.ExitOK || !strings.Contains(e.stdout, want) {
			t.Errorf("exit %d, no %q in\n%s%s", e.code, want, e.stdout, e.stderr)
		}
	}
}

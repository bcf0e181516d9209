package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// licensed is the app of serverApp, which links golang.org/x/net and golang.org/x/text,
// with further settings.
func licensed(t *testing.T, settings string) map[string]string {
	t.Helper()
	files := serverApp(t, "v0.44.0")
	files["slipway.yaml"] += settings
	return files
}

// TestLicense: the gate is off without a setting, passes, finds everything as it was,
// and says no.
func TestLicense(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	dir := testkit.Repository(t, licensed(t, ""))
	p := newProgram(t, dir)
	if r := p.report(t, "license"); outcome(t, r, ship.License) != progress.Skipped || r.License != nil {
		t.Errorf("without a setting: %s, %+v", outcome(t, r, ship.License), r.License)
	}
	for _, want := range []progress.Outcome{progress.Passed, progress.Unchanged} {
		r := p.report(t, "license", "--allow-license", "BSD-3-Clause")
		if got := outcome(t, r, ship.License); got != want || !r.License.Passed || len(r.License.Modules) != 2 {
			t.Errorf("%s, want %s: %+v", got, want, r.License)
		}
	}
	if e := p.run(t, "license", "--allow-license", "MIT"); e.code != fault.ExitFailed { // the verdict was about another list
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	testkit.Write(t, dir, map[string]string{"slipway.yaml": "license: {allow: [MIT], exceptions: {golang.org/x/text: we know it}}\n"})
	e := p.run(t, "license", "--progress", "plain", "-o", "json")
	var r struct {
		ship.Report
		Error struct{ Code string }
	}
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
		t.Fatalf("%v\n%s%s", err, e.stdout, e.stderr)
	}
	if e.code != fault.ExitFailed || r.Error.Code != "license.denied" || len(r.License.Modules) != 2 || r.License.Modules[1].Exception != "we know it" {
		t.Errorf("exit %d: %s: %+v", e.code, r.Error.Code, r.License)
	}
	const line = "license   golang.org/x/net v0.44.0: BSD-3-Clause, not in license.allow (read from LICENSE)\n"
	if !strings.Contains(e.stderr, line) || strings.Contains(e.stderr, "golang.org/x/text v") {
		t.Errorf("want %s\n%s", line, e.stderr)
	}
	report, err := os.ReadFile(filepath.Join(dir, ".slipway", "reports", "license.json"))
	if err != nil || !strings.Contains(string(report), "not in license.allow") {
		t.Errorf("license.json: %v\n%s", err, report)
	}
	// The flag takes the place of the setting.
	if r := p.report(t, "license", "--allow-license", "BSD-3-Clause"); !r.License.Passed {
		t.Errorf("got %+v", r.License)
	}
}

// TestDeniedLicenseDoesNotShip: nothing is pushed, signed or not.
func TestDeniedLicenseDoesNotShip(t *testing.T) {
	testkit.Slow(t, "runs ship twice")
	p := newProgram(t, testkit.Repository(t, licensed(t, "license: {allow: [MIT]}\n")))
	withLinter(t, p)
	generateKeys(t, p, "release", "secret")
	for _, args := range [][]string{{"ship", "--unsigned"}, {"ship", "--key", "release.key"}} {
		repository := testkit.Registry(t) + "/serves"
		e := p.run(t, append(args, "--repository", repository, "--platforms", "linux/amd64", "--progress", "plain")...)
		if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "slipway: license: 2 of 2 modules do not have an allowed licence") {
			t.Errorf("%v: exit %d\n%s", args, e.code, e.stderr)
		}
		repo, err := name.NewRepository(repository)
		if err != nil {
			t.Fatal(err)
		}
		if tags, err := remote.List(repo); err == nil {
			t.Errorf("%v pushed %v", args, tags)
		}
	}
}

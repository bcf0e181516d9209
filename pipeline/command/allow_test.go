package command

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// failingApp returns the files of an app for which every gate fails.
func failingApp(t *testing.T) map[string]string {
	t.Helper()
	files := serverApp(t, "v0.20.0")
	files["extra.go"] = "package main\n\nimport \"os\"\n\nfunc unchecked() { os.Remove(\"x\") }\n\nvar _ = unchecked\n"
	files["main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestNo(t *testing.T) { t.Error(\"it is broken\") }\n"
	files["slipway.yaml"] = `app: {platforms: [linux/amd64]}
scan: {databases: [bundled], reachability: false}
license: {allow: [MIT]}
test: {race: false}
sign: {key: release.key}
deploy:
  environments:
    dev: {}
    strict: {verify: {allow: []}}
    lenient: {protected: true, verify: {allow: [lint, test, scan, license]}}
    prod: {protected: true}
`
	return files
}

// allGates are the gates that --allow can name.
const allGates = "lint,test,scan,license"

// failed runs a command that must fail, and returns its code and JSON report.
func failed(t *testing.T, p *program, args ...string) (code string, r ship.Report) {
	t.Helper()
	e := p.run(t, append(args, "-o", "json", "--progress", "plain")...)
	var report struct {
		ship.Report
		Error struct{ Code string }
	}
	if err := json.Unmarshal([]byte(e.stdout), &report); err != nil || e.code != fault.ExitFailed {
		t.Fatalf("%v: exit %d, %v\n%s%s", args, e.code, err, e.stdout, e.stderr)
	}
	return report.Error.Code, report.Report
}

// TestAllowedGates ships an app for which every gate fails. With --allow the run goes on,
// and the report and the provenance say so. Only a policy that accepts such an image
// accepts it.
func TestAllowedGates(t *testing.T) {
	testkit.Slow(t, "ships an app several times")
	p := newProgram(t, testkit.Repository(t, failingApp(t)))
	withLinter(t, p)
	generateKeys(t, p, "release", "secret")
	repository := testkit.Registry(t) + "/serves"

	_, r := failed(t, p, "ship", "--repository", repository, "--allow", "lint", "--allow", "test,scan")
	if got := describeStages(r); !strings.HasPrefix(got, "lint failed allowed, test failed allowed, build passed, compress skipped, image ") || !strings.Contains(got, "license failed, ") {
		t.Errorf("without license: %s", got)
	}
	if r.Push != nil {
		t.Error("an image was pushed although a gate failed")
	}

	r = p.report(t, "ship", "--repository", repository, "--allow", allGates)
	want := "lint failed allowed, test failed allowed, build unchanged, compress skipped, image unchanged, scan failed allowed, license failed allowed, sbom unchanged, push passed, sign passed, attest passed, verify passed"
	if got := describeStages(r); got != want || r.Outcome != progress.Passed {
		t.Errorf("outcome %s, stages: %s\nwant:   %s", r.Outcome, got, want)
	}
	if got := fmt.Sprint(r.Allowed); got != "[license lint scan test]" {
		t.Errorf("the report has the allowed gates %s", got)
	}
	for _, s := range r.Verify.Subjects {
		i := slices.IndexFunc(s.Attestations, func(a sign.Attestation) bool { return a.Type == sign.TypeProvenance })
		if got := fmt.Sprint(s.Attestations[i].Allowed); got != "[license lint scan test]" {
			t.Errorf("the provenance of %s has the allowed gates %s", s.Platform, got)
		}
	}
	wantPolicies(t, p, r.Reference)

	e := p.run(t, "check", "--allow", "lint,test", "--progress", "plain")
	for _, text := range []string{"lint      failed", "allowed: golangci-lint found", "  allowed   lint, test failed\n"} {
		if e.code != fault.ExitOK || !strings.Contains(e.stdout, text) {
			t.Errorf("exit %d, want %q in\n%s%s", e.code, text, e.stdout, e.stderr)
		}
	}
	if code, _ := failed(t, p, "check", "--allow", "lint"); code != "test.failed" {
		t.Errorf("the code is %s", code)
	}
}

// describeStages returns the outcome of each stage.
func describeStages(r ship.Report) string {
	var all []string
	for _, s := range r.Stages {
		text := fmt.Sprintf("%s %s", s.Name, s.Outcome)
		if s.Allowed {
			text += " allowed"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// wantPolicies checks which policies accept an image that was made although all gates
// failed.
func wantPolicies(t *testing.T, p *program, image string) {
	t.Helper()
	for _, tt := range []struct {
		flags string
		want  string // the code of the error
	}{
		{"", sign.CodeAllowed},
		{"--allow lint,test,scan", sign.CodeAllowed},
		{"--allow " + allGates, ""},
		{"--env dev", sign.CodeAllowed},
		{"--env dev --allow " + allGates, ""},
		{"--env strict --allow " + allGates, sign.CodeAllowed},
		{"--env prod --allow " + allGates, sign.CodeAllowed},
		{"--env lenient", ""},
	} {
		args := append([]string{"verify", "--image", image}, strings.Fields(tt.flags)...)
		if tt.want == "" {
			p.report(t, args...)
			continue
		}
		if code, _ := failed(t, p, args...); code != tt.want {
			t.Errorf("verify %s: %s, want %s", tt.flags, code, tt.want)
		}
	}
}

// TestAllowHasNoEffectAgainstThePolicy checks that a gate stops the run, in spite of
// --allow, if the environment would refuse the image in the end.
func TestAllowHasNoEffectAgainstThePolicy(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	files := failingApp(t)
	files["chart/Chart.yaml"] = "apiVersion: v2\nname: serves\nversion: 1.0.0\n"
	p := newProgram(t, testkit.Repository(t, files))
	testkit.Git(t, p.dir, "tag", "v1.0.0")
	withLinter(t, p)
	generateKeys(t, p, "release", "secret")
	for _, environment := range []string{"prod", "strict"} {
		args := []string{"ship", "--repository", "127.0.0.1:1/serves", "--env", environment, "--yes", "--allow", "lint", "--progress", "plain"}
		e := p.run(t, args...)
		want := "warning: --allow lint has no effect, because verify.allow of environment " + environment + " does not accept an image"
		if e.code != fault.ExitFailed || !strings.Contains(e.stderr, want) || !strings.Contains(e.stderr, "slipway: lint: golangci-lint found") {
			t.Errorf("exit %d\n%swant %s", e.code, e.stderr, want)
		}
	}
}

// TestAllowScanWithoutADatabase checks that a scan that has no result may fail too. Then
// there is no attestation of it, and the policy must accept that.
func TestAllowScanWithoutADatabase(t *testing.T) {
	testkit.Slow(t, "ships an app")
	files := serverApp(t, "v0.44.0")
	p := newProgram(t, testkit.Repository(t, files))
	withLinter(t, p)
	generateKeys(t, p, "release", "secret")
	r := p.report(t, "ship", "--platforms", "linux/amd64", "--repository", testkit.Registry(t)+"/serves", "--allow", "scan", "--db-repository", "127.0.0.1:1/trivy-db:2")
	if r.Scan != nil || fmt.Sprint(r.Allowed) != "[scan]" || len(r.Attest.Attestations) != 2 {
		t.Errorf("scan %v, allowed %v, attestations %+v", r.Scan, r.Allowed, r.Attest.Attestations)
	}
	if code, _ := failed(t, p, "verify", "--image", r.Reference); code != sign.CodeMissing && code != sign.CodeAllowed {
		t.Errorf("verify without --allow: %s", code)
	}
}

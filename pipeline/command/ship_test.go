package command

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// serverApp returns the files of an app that serves HTTP/2 with the given version of
// golang.org/x/net. In the bundled database v0.20.0 has CVE-2023-45288, and v0.44.0 has no
// vulnerability.
func serverApp(t *testing.T, version string) map[string]string {
	t.Helper()
	files := helloApp()
	maps.Copy(files, map[string]string{
		"main.go": `package main

import (
	"net/http"
	"os"

	"golang.org/x/net/http2"
)

func main() {
	s := &http.Server{Addr: "127.0.0.1:0"}
	if err := http2.ConfigureServer(s, nil); err != nil {
		os.Exit(1)
	}
	_ = s.ListenAndServe()
}
`,
		"slipway.yaml": "app:\n  platforms: [linux/amd64, linux/arm64]\nscan:\n  databases: [bundled]\nsign: {key: release.key}\n",
		"go.mod":       "module example.com/acme/serves\n\ngo 1.26\n",
		".gitignore":   ".slipway\n*.key\n*.pub\n",
	})
	delete(files, "greet/text.go")
	delete(files, "greet/text.txt")
	dir := t.TempDir()
	testkit.Write(t, dir, files)
	for _, args := range [][]string{{"get", "golang.org/x/net@" + version}, {"mod", "tidy"}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
	return files
}

// withLinter makes the program use the golangci-lint in the cache of the user, because
// building it takes a minute.
func withLinter(t *testing.T, p *program) {
	t.Helper()
	user, err := cache.User()
	if err != nil {
		t.Fatal(err)
	}
	tools, err := user.Make("tools")
	if err != nil {
		t.Fatal(err)
	}
	own := p.variable("SLIPWAY_CACHE")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tools, filepath.Join(own, "tools")); err != nil {
		t.Fatal(err)
	}
}

// TestVulnerableAppIsNotPushed checks that the error contains the vulnerability and the
// command that fixes it, that nothing is pushed, and that the findings are the same if the
// binary is packed. After the upgrade, the scan must pass.
func TestVulnerableAppIsNotPushed(t *testing.T) {
	testkit.Slow(t, "runs ship on a vulnerable app several times")
	dir := testkit.Repository(t, serverApp(t, "v0.20.0"))
	p := newProgram(t, dir)
	withLinter(t, p)
	generateKeys(t, p, "release", "secret")
	host := testkit.Registry(t)
	run := func(args ...string) ship.Report {
		t.Helper()
		e := p.run(t, append([]string{"ship", "--repository", host + "/serves", "--key", "release.key", "-o", "json", "--progress", "plain"}, args...)...)
		var r struct {
			ship.Report
			Error struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
			t.Fatalf("%v\n%s%s", err, e.stdout, e.stderr)
		}
		for _, want := range []string{"CVE-2023-45288 (HIGH) in golang.org/x/net v0.20.0, called, fixed in 0.23.0", "go get golang.org/x/net@v0."} {
			if e.code != fault.ExitFailed || r.Error.Code != "scan.findings" || !strings.Contains(r.Error.Message, want) {
				t.Errorf("exit %d: %s: %s; want %s", e.code, r.Error.Code, r.Error.Message, want)
			}
		}
		return r.Report
	}
	plain := run()
	args := []string{"--upx"}
	if _, err := exec.LookPath("upx"); err != nil {
		t.Log("SKIPPED: upx is not installed, so the findings of a packed image are not compared")
		args = nil
	}
	packed := run(args...)
	ids := func(r ship.Report) (all []string) {
		for _, f := range r.Scan.Findings {
			all = append(all, f.Short())
		}
		return all
	}
	if got, want := ids(packed), ids(plain); !slices.Equal(got, want) {
		t.Errorf("packed\n%q\nplain\n%q", got, want)
	}
	if repo, err := name.NewRepository(host + "/serves"); err != nil {
		t.Error(err)
	} else if tags, err := remote.List(repo); err == nil {
		t.Errorf("pushed %v", tags)
	}
	for _, name := range []string{"scan.json", "scan.sarif", "scan-junit.xml", "scan.txt", "gl-container-scanning-report.json"} {
		if text, err := os.ReadFile(filepath.Join(dir, ".slipway", "reports", name)); err != nil || !strings.Contains(string(text), "CVE-2023-45288") {
			t.Errorf("%s: %v", name, err)
		}
	}

	testkit.Write(t, dir, serverApp(t, "v0.44.0"))
	testkit.Commit(t, dir)
	if r := p.report(t, "scan", "--platforms", "linux/amd64"); !r.Scan.Passed || len(r.Scan.Findings) > 0 {
		t.Errorf("after the upgrade: %q", ids(r))
	}
}

// TestShip runs all steps without a deployment twice. The image must be scanned, signed,
// attested and verified, and the second run must change nothing.
func TestShip(t *testing.T) {
	dir := testkit.Repository(t, serverApp(t, "v0.44.0"))
	p := newProgram(t, dir)
	withLinter(t, p)
	generateKeys(t, p, "release", "secret")
	args := []string{"ship", "--repository", testkit.Registry(t) + "/serves"}
	first := p.report(t, args...)
	var names []string
	for _, s := range first.Stages {
		names = append(names, string(s.Name)+" "+string(s.Outcome))
	}
	want := "lint passed, test passed, build passed, compress skipped, image passed, scan passed, license skipped, sbom passed, push passed, sign passed, attest passed, verify passed"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("stages: %s\nwant:   %s", got, want)
	}
	if !first.Verify.Passed || len(first.Verify.Subjects) != 3 || len(first.Sign.Subjects) != 3 || first.Verify.Reference != first.Reference {
		t.Errorf("verified %+v", first.Verify)
	}
	for _, s := range first.Verify.Subjects {
		if len(s.Attestations) != 3 {
			t.Errorf("%s has %d attestations, want 3", s.Reference, len(s.Attestations))
		}
	}
	if len(first.SBOMs) != 4 {
		t.Errorf("%d SBOMs, want 4", len(first.SBOMs))
	}
	second := p.report(t, args...)
	if second.Outcome != progress.Unchanged || second.Digest != first.Digest {
		for _, s := range second.Stages {
			t.Logf("%s %s %s", s.Name, s.Outcome, s.Summary)
		}
		t.Errorf("the outcome of the second run is %s", second.Outcome)
	}

	// In another environment the SBOMs are identical, byte for byte.
	for i, b := range newProgram(t, testkit.Repository(t, serverApp(t, "v0.44.0"))).report(t, "sbom").SBOMs {
		if b.SHA256 != first.SBOMs[i].SHA256 {
			t.Errorf("%s of %s differs", b.Format, b.Platform)
		}
	}

	// The SBOM contains the modules, the program and Go.
	e := p.run(t, "sbom", "--platforms", "linux/amd64", "--as", "spdx-json")
	for _, want := range []string{"golang.org/x/net", "v0.44.0", "example.com/acme/serves", "stdlib", first.Source.Version} {
		if !strings.Contains(e.stdout, want) {
			t.Errorf("the SBOM does not contain %s", want)
		}
	}
	if e := p.run(t, "scan", "--as", "sarif"); e.code != fault.ExitOK || !json.Valid([]byte(e.stdout)) {
		t.Errorf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}

	// The image in the registry can be scanned without a build.
	if r := p.report(t, "scan", "--image", first.Reference); len(r.Scan.Targets) != 2 || r.Scan.Targets[0].Digest == "" {
		t.Errorf("scanned %+v", r.Scan.Targets)
	}
	// After a change of the source, the image can no longer be attested, because this
	// source builds a different one.
	testkit.Write(t, dir, map[string]string{"main_test.go": "package main\n", "other.go": "package main\n\nvar _ = 1\n"})
	e = p.run(t, "sign", "--image", first.Reference, "--key", "release.key", "--progress", "plain")
	if e.code != fault.ExitInput || !strings.Contains(e.stderr, "is not what this source builds") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

// TestScanWithOutputs checks that a scan with outputs for the image writes and pushes the
// image, but only if the scan passes. It is a regression test for a panic.
func TestScanWithOutputs(t *testing.T) {
	testkit.Slow(t, "scans two images")
	dir := testkit.Repository(t, serverApp(t, "v0.44.0"))
	p := newProgram(t, dir)
	layout := filepath.Join(t.TempDir(), "layout")
	repository := testkit.Registry(t) + "/serves"
	r := p.report(t, "scan", "--platforms", "linux/amd64", "-o", "oci:"+layout, "-o", "registry:"+repository)
	if !r.Scan.Passed || len(r.Exports) != 1 || r.Reference != repository+"@"+r.Digest {
		t.Errorf("scan passed: %v, exports %v, reference %s", r.Scan.Passed, r.Exports, r.Reference)
	}
	if _, err := os.Stat(filepath.Join(layout, "index.json")); err != nil {
		t.Error(err)
	}
	ref, err := name.NewDigest(r.Reference)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Head(ref); err != nil {
		t.Error(err)
	}

	testkit.Write(t, dir, serverApp(t, "v0.20.0"))
	testkit.Commit(t, dir)
	repository, layout = testkit.Registry(t)+"/serves", filepath.Join(t.TempDir(), "layout")
	e := p.run(t, "scan", "--platforms", "linux/amd64", "-o", "oci:"+layout, "-o", "registry:"+repository)
	if e.code != fault.ExitFailed || strings.Contains(e.stderr, "panic") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	if _, err := os.Stat(layout); !os.IsNotExist(err) {
		t.Errorf("the layout was written although the gate failed: %v", err)
	}
	repo, err := name.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := remote.List(repo); err == nil {
		t.Errorf("pushed %v although the gate failed", tags)
	}
}

// TestScanWithoutADatabaseFails checks that a scan fails if it cannot get a vulnerability
// database.
func TestScanWithoutADatabaseFails(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, helloApp()))
	e := p.run(t, "scan", "--db-repository", "127.0.0.1:1/trivy-db:2", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "127.0.0.1:1/trivy-db:2") || !strings.Contains(e.stderr, "--db-repository") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	e = p.run(t, "scan", "--offline", "-o", "json")
	var r struct{ Error struct{ Code string } }
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil || e.code != fault.ExitFailed || r.Error.Code != "scan.no-database" {
		t.Errorf("exit %d: %v\n%s", e.code, err, e.stdout)
	}
}

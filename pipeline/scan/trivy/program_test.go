package trivy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
)

// distributions has advisories for packages of Debian 12 and Alpine 3.22. One of
// them has no fix.
const distributions = `
updated: 2025-07-10
advisories:
  - {id: CVE-2099-1001, severity: CRITICAL, title: openssl, affected: [{distro: debian 12, module: openssl, fixed: 99.0.0-1}, {distro: alpine 3.22, module: openssl, fixed: 99.0.0-r0}]}
  - {id: CVE-2099-1002, severity: LOW, title: glibc, affected: [{distro: debian 12, module: glibc}]}
  - {id: CVE-2099-1003, severity: HIGH, title: bash, affected: [{distro: debian 12, module: bash, fixed: 0.0.1-1}]}
  - {id: CVE-2099-1004, severity: MEDIUM, title: tar, affected: [{distro: debian 12, module: tar, fixed: 99-1}]}
  - {id: CVE-2099-1005, severity: HIGH, title: musl, affected: [{distro: alpine 3.22, module: musl, fixed: 1.2.99-r0}]}
  - {id: CVE-2099-1006, severity: HIGH, title: busybox, affected: [{distro: alpine 3.22, module: busybox, fixed: 1.0.0-r0}]}
`

const apk = `C:Q1abcdefghijklmnopqrstuvwxyz0=
P:musl
V:1.2.5-r10
A:x86_64
o:musl
T:the musl c library
L:MIT

C:Q1abcdefghijklmnopqrstuvwxyz1=
P:busybox
V:1.37.0-r18
A:x86_64
o:busybox
L:GPL-2.0-only

C:Q1abcdefghijklmnopqrstuvwxyz2=
P:libssl3
V:3.5.1-r0
A:x86_64
o:openssl
L:Apache-2.0

`

// older builds a program that requires many old modules.
func older(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "install", "-trimpath", "-ldflags=-s -w", "github.com/grpc-ecosystem/grpc-health-probe@v0.4.11")
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOEXPERIMENT=", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return []byte(read(t, dir, "grpc-health-probe"))
}

// buildTrivy builds the trivy program of the version in go.mod and returns its path.
func buildTrivy(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "trivy")
	// The program requires modules that slipway does not. They are added to a copy
	// of go.mod.
	dir := testkit.Tree(t, map[string]string{"go.mod": read(t, "../../..", "go.mod"), "go.sum": read(t, "../../..", "go.sum")})
	mod := filepath.Join(dir, "go.mod")
	build := exec.Command("go", "build", "-trimpath", "-modfile="+mod, "-mod=mod", "-o", program, "github.com/aquasecurity/trivy/cmd/trivy")
	build.Env = append(os.Environ(), "GOEXPERIMENT=jsonv2", "GOFLAGS=-trimpath")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building Trivy: %v\n%s", err, out)
	}
	return program
}

// programCache returns a cache folder for the trivy program. Its folder db has the
// bundled advisories and those in distributions.
func programCache(t *testing.T) string {
	t.Helper()
	bundled, _, err := trivy.BundledAdvisories()
	if err != nil {
		t.Fatal(err)
	}
	extra, err := trivy.ParseAdvisories([]byte(distributions))
	if err != nil {
		t.Fatal(err)
	}
	bundled.List = append(bundled.List, extra.List...)
	dir := t.TempDir()
	if err := trivy.BuildDatabase(filepath.Join(dir, "db"), bundled); err != nil {
		t.Fatal(err)
	}
	return dir
}

// programFindings scans img with the trivy program and returns its findings, one
// per line and sorted.
func programFindings(t *testing.T, program, cacheDir string, img v1.Image) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "image", "--input", dir, "--format", "json", "--cache-dir", cacheDir, "--skip-db-update", "--skip-java-db-update",
		"--skip-version-check", "--disable-telemetry", "--offline-scan", "--quiet", "--scanners", "vuln,secret")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var report struct {
		Results []struct {
			Type            string
			Vulnerabilities []struct {
				VulnerabilityID, PkgName, InstalledVersion, FixedVersion, Severity, Status string
			}
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, res := range report.Results {
		for _, v := range res.Vulnerabilities {
			all = append(all, strings.Join([]string{v.VulnerabilityID, v.PkgName, v.InstalledVersion, v.FixedVersion, v.Severity, v.Status, res.Type}, " "))
		}
	}
	slices.Sort(all)
	return all
}

// The findings are those of the trivy program, which is built from the same module.
func TestFindingsEqualThoseOfTheTrivyProgram(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the trivy program")
	}
	program, cacheDir := buildTrivy(t), programCache(t)
	debian := map[string]string{
		"etc/os-release":      read(t, "/etc/os-release"),
		"var/lib/dpkg/status": read(t, "/var/lib/dpkg/status"),
		"etc/debian_version":  read(t, "/etc/debian_version"),
		"server":              string(fixture(t, "imported")),
	}
	for name, c := range map[string]struct {
		files map[string]string
		least int // minimal number of findings
	}{
		"scratch": {map[string]string{"server": string(fixture(t, "called"))}, 4},
		"debian":  {debian, 4},
		"alpine":  {map[string]string{"etc/alpine-release": "3.22.1\n", "etc/os-release": "ID=alpine\nVERSION_ID=3.22.1\n", "lib/apk/db/installed": apk, "server": string(fixture(t, "called"))}, 6},
		"older":   {map[string]string{"bin/probe": string(older(t))}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			img := imageOf(t, archive(t, c.files))
			o := options(t, target(t, img))
			o.Settings.Databases = []string{"oci:mirror"}
			if err := trivy.WriteArtifact(filepath.Join(o.Root, "mirror"), filepath.Join(cacheDir, "db")); err != nil {
				t.Fatal(err)
			}
			o.Cache += "-program"
			r, _ := scanner.Scan(t.Context(), o)
			var got []string
			for _, f := range r.Findings {
				got = append(got, strings.Join([]string{f.ID, f.Package, f.Installed, f.Fixed, f.Severity, f.Status, f.Type}, " "))
			}
			slices.Sort(got)
			if want := programFindings(t, program, cacheDir, img); !slices.Equal(got, want) {
				t.Errorf("findings of slipway:\n%s\nfindings of the trivy program:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if len(got) < c.least {
				t.Errorf("got %d findings, want at least %d: %q", len(got), c.least, got)
			}
			t.Logf("%d findings", len(got))
		})
	}
}

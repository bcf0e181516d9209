package trivy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
)

// richTarget returns an image with packages of Debian, Node.js and two Go programs.
func richTarget(t *testing.T) scan.Target {
	t.Helper()
	return target(t, imageOf(t,
		archive(t, map[string]string{
			"etc/os-release": "ID=debian\nVERSION_ID=12\n", "etc/debian_version": "12.1\n",
			"var/lib/dpkg/status":                          "Package: libssl3\nStatus: install ok installed\nVersion: 3.0.11-1\nArchitecture: amd64\nSource: openssl\nMaintainer: a <b@c>\n\nPackage: libc6\nStatus: install ok installed\nVersion: 2.36-9\nArchitecture: amd64\nMaintainer: a <b@c>\n",
			"usr/lib/node_modules/left-pad/package.json":   `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`,
			"usr/lib/node_modules/left-pad-2/package.json": `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`,
		}),
		archive(t, map[string]string{"server": string(fixture(t, "called")), "other": string(fixture(t, "imported"))}),
	))
}

func TestSBOMDescribesTheShippedImage(t *testing.T) {
	target := richTarget(t)
	target.Digest = "sha256:" + strings.Repeat("cd", 32) // of the packed image
	data, err := scanner.SBOM(t.Context(), target, scan.CycloneDX)
	if err != nil {
		t.Fatal(err)
	}
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	release, _, _ := strings.Cut(runtime.Version(), "-X:") // without the experiments
	stdlib := "stdlib v" + strings.TrimPrefix(release, "go")
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.Name+" "+c.Version)
	}
	for _, want := range []string{"golang.org/x/net v0.20.0", "golang.org/x/text v0.14.0", "example.com/called ", stdlib, "libssl3 3.0.11-1", "left-pad 1.3.0"} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("packages %q do not include %q", got, want)
		}
	}
	root := bom.Metadata.Component
	if root.Name != target.Name || root.Version != target.Digest || !strings.Contains(root.PackageURL, "pkg:oci/orders@sha256:"+strings.Repeat("cd", 32)) {
		t.Errorf("root %+v", root)
	}
	if bom.Metadata.Timestamp != "2025-07-01T10:00:00+00:00" || !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(bom.SerialNumber) {
		t.Errorf("%s %s", bom.Metadata.Timestamp, bom.SerialNumber)
	}
	if own := digestOf(t, target.Image); bytes.Contains(data, []byte(own)) {
		t.Errorf("the SBOM contains the digest of the plain image, %s", own)
	}
	refs := map[string]bool{root.BOMRef: true}
	for _, c := range *bom.Components {
		if refs[c.BOMRef] {
			t.Errorf("duplicate reference %s", c.BOMRef)
		}
		refs[c.BOMRef] = true
	}
	for _, d := range *bom.Dependencies {
		for _, ref := range append(*d.Dependencies, d.Ref) {
			if !refs[ref] {
				t.Errorf("no component has the reference %s", ref)
			}
		}
	}

	data, err = scanner.SBOM(t.Context(), target, scan.SPDX)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spdxjson.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, p := range doc.Packages {
		got = append(got, p.PackageName+" "+p.PackageVersion)
	}
	for _, want := range []string{"golang.org/x/net v0.20.0", "example.com/called", stdlib, "libc6 2.36-9", target.Name + " " + target.Digest} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("packages %q do not include %q", got, want)
		}
	}
	if doc.CreationInfo.Created != "2025-07-01T10:00:00Z" || doc.DocumentName != target.Name {
		t.Errorf("%+v", doc.CreationInfo)
	}
	_, err = scanner.SBOM(t.Context(), target, scan.Table)
	wantFault(t, err, fault.Input, "sbom.format", "cyclonedx")
}

// Two processes with different temporary folders create the same SBOM.
func TestSBOMIsReproducible(t *testing.T) {
	sums := func() string {
		var b strings.Builder
		for _, f := range []scan.Format{scan.CycloneDX, scan.SPDX} {
			data, err := trivy.New(cache.Dir(filepath.Join(shared, "cache"))).SBOM(t.Context(), richTarget(t), f)
			if err != nil {
				t.Fatal(err)
			}
			if os.Getenv("SBOM_SHOW") != "" {
				fmt.Println(string(data))
			}
			fmt.Fprintf(&b, "%s %x\n", f, sha256.Sum256(data))
		}
		return b.String()
	}
	want := sums()
	if os.Getenv("SBOM_CHILD") != "" {
		fmt.Print("sums ", want)
		return
	}
	for range 3 {
		if got := sums(); got != want {
			t.Fatalf("the same image gives different SBOMs:\n%s%s", want, got)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestSBOMIsReproducible$", "-test.v")
	cmd.Env = append(os.Environ(), "SBOM_CHILD=1", "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "sums "+want) {
		t.Errorf("the other process: %v\n%s\nwant %s", err, out, want)
	}
}

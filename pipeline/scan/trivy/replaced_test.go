package trivy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// replaced builds a program with modules that are replaced by folders, one of them with an
// absolute path.
func replaced(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	testkit.Write(t, dir, map[string]string{
		"app/go.mod": "module example.com/acme/app\n\ngo 1.26\n\nrequire (\n\texample.com/Acme/Lib v0.0.0\n\texample.com/acme/absolute/v2 v2.1.0\n\texample.com/acme/inner v1.2.3\n)\n\n" +
			"replace (\n\texample.com/Acme/Lib => ../lib\n\texample.com/acme/absolute/v2 => " + dir + "/absolute\n\texample.com/acme/inner => ./inner\n)\n",
		"app/main.go":         "package main\n\nimport (\n\t\"example.com/Acme/Lib\"\n\t\"example.com/acme/absolute/v2\"\n\t\"example.com/acme/inner\"\n)\n\nfunc main() { println(lib.X, absolute.X, inner.X) }\n",
		"app/inner/go.mod":    "module example.com/acme/inner\n",
		"app/inner/inner.go":  "package inner\n\nvar X = 1\n",
		"lib/go.mod":          "module example.com/Acme/Lib\n",
		"lib/lib.go":          "package lib\n\nvar X = 1\n",
		"absolute/go.mod":     "module example.com/acme/absolute/v2\n",
		"absolute/package.go": "package absolute\n\nvar X = 1\n",
	})
	out := filepath.Join(dir, "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, ".")
	cmd.Dir = filepath.Join(dir, "app")
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOEXPERIMENT=", "GOPROXY=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(dir)) {
		t.Fatal("the program does not contain the absolute path, so this test proves nothing")
	}
	return data
}

// A module that go.mod replaces by a folder has its own name and a package URL in the SBOM,
// and no path of this machine.
func TestSBOMNamesReplacedModules(t *testing.T) {
	img := imageOf(t, archive(t, map[string]string{"bin/server": string(replaced(t))}))
	want := map[string]string{
		"example.com/Acme/Lib":         "pkg:golang/example.com/acme/lib",
		"example.com/acme/absolute/v2": "pkg:golang/example.com/acme/absolute/v2",
		"example.com/acme/inner":       "pkg:golang/example.com/acme/inner",
	}
	for _, format := range []scan.Format{scan.CycloneDX, scan.SPDX, scan.CycloneDX} { // Trivy's cache is used again
		data, err := scanner.SBOM(t.Context(), target(t, img), format)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		if format == scan.SPDX {
			doc, err := spdxjson.Read(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range doc.Packages {
				for _, r := range p.PackageExternalReferences {
					got[p.PackageName] = r.Locator
				}
			}
		} else {
			got = cycloneDX(t, data)
		}
		for name, url := range want {
			if got[name] != url {
				t.Errorf("%s: %s has the package URL %q, want %q", format, name, got[name], url)
			}
		}
		for _, path := range []string{os.TempDir() + "/", `"../lib"`, `"./inner"`} {
			if strings.Contains(string(data), path) {
				t.Errorf("%s contains the path %s", format, path)
			}
		}
	}
}

// cycloneDX returns the package URLs in a document by the names of their components. It
// checks that the app depends on the components.
func cycloneDX(t *testing.T, data []byte) map[string]string {
	t.Helper()
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		t.Fatal(err)
	}
	urls, needed := map[string]string{}, map[string]bool{}
	for _, d := range *bom.Dependencies {
		for _, ref := range *d.Dependencies {
			needed[ref] = true
		}
	}
	for _, c := range *bom.Components {
		urls[c.Name] = c.PackageURL
		if !needed[c.BOMRef] {
			t.Errorf("nothing depends on %s", c.Name)
		}
	}
	return urls
}

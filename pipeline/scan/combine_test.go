package scan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// document returns the SPDX document of an image. Two documents have one package
// in common, and one package with the same identifier but another version.
func document(t *testing.T, image, version string) []byte {
	t.Helper()
	text := fmt.Sprintf(`{
  "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": %[1]q,
  "documentNamespace": "https://example.com/%[1]s",
  "creationInfo": {"creators": ["Tool: t"], "created": "2026-01-02T03:04:05Z"},
  "packages": [
    {"SPDXID": "SPDXRef-%[1]s", "name": %[1]q, "downloadLocation": "NONE", "filesAnalyzed": false},
    {"SPDXID": "SPDXRef-same", "name": "golang.org/x/net", "versionInfo": "v0.44.0", "downloadLocation": "NONE", "filesAnalyzed": false},
    {"SPDXID": "SPDXRef-differs", "name": "app", "versionInfo": %[2]q, "downloadLocation": "NONE", "filesAnalyzed": false}
  ],
  "relationships": [
    {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-%[1]s"},
    {"spdxElementId": "SPDXRef-%[1]s", "relationshipType": "CONTAINS", "relatedSpdxElement": "SPDXRef-differs"},
    {"spdxElementId": "SPDXRef-differs", "relationshipType": "DEPENDS_ON", "relatedSpdxElement": "SPDXRef-same"}
  ]
}`, image, version)
	if !json.Valid([]byte(text)) {
		t.Fatal(text)
	}
	return []byte(text)
}

// The combined document lists each package of the images once. Different packages
// with the same identifier get different identifiers.
func TestCombineSPDX(t *testing.T) {
	documents := [][]byte{document(t, "amd64", "v1"), document(t, "arm64", "v2")}
	text, err := scan.CombineSPDX("orders", "sha256:00aa", documents)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := scan.CombineSPDX("orders", "sha256:00aa", documents); err != nil || !bytes.Equal(again, text) {
		t.Errorf("the same documents give a different result, error %v", err)
	}
	d, err := spdxjson.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var names, relations []string
	for _, p := range d.Packages {
		names = append(names, p.PackageName+" "+p.PackageVersion)
	}
	for _, r := range d.Relationships {
		relations = append(relations, fmt.Sprintf("%s %s %s", r.RefA.ElementRefID, r.Relationship, r.RefB.ElementRefID))
	}
	slices.Sort(names)
	if want := []string{"amd64 ", "app v1", "app v2", "arm64 ", "golang.org/x/net v0.44.0", "orders sha256:00aa"}; !slices.Equal(names, want) {
		t.Errorf("packages %q, want %q", names, want)
	}
	want := []string{
		"DOCUMENT DESCRIBES Index",
		"amd64 VARIANT_OF Index", "amd64 CONTAINS differs", "differs DEPENDS_ON same",
		"arm64 VARIANT_OF Index", "arm64 CONTAINS differs-2", "differs-2 DEPENDS_ON same",
	}
	if !slices.Equal(relations, want) {
		t.Errorf("relations\n%q, want\n%q", relations, want)
	}
	for _, bad := range [][][]byte{nil, {[]byte("{")}, {[]byte(`{"spdxVersion":"CycloneDX"}`)}} {
		if _, err := scan.CombineSPDX("orders", "sha256:00aa", bad); fault.ExitCode(err) != fault.ExitInput {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

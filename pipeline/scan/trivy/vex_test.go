package trivy_test

import (
	"slices"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
)

const (
	openVEX = `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://example.com/vex","author":"a","timestamp":"2025-07-01T00:00:00Z","version":1,"statements":[
		{"vulnerability":{"name":"CVE-2023-45288"},"products":[{"@id":"pkg:golang/golang.org/x/net@v0.20.0"}],"status":"not_affected","justification":"vulnerable_code_not_in_execute_path"}]}`
	productVEX = `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://example.com/vex","author":"a","timestamp":"2025-07-01T00:00:00Z","version":1,"statements":[
		{"vulnerability":{"name":"CVE-2023-45288"},"products":[{"@id":"pkg:oci/orders?repository_url=registry.example.com%2Facme%2Forders","subcomponents":[{"@id":"pkg:golang/golang.org/x/net"}]}],"status":"fixed"}]}`
	csafVEX = `{"document":{"category":"csaf_vex","csaf_version":"2.0","publisher":{"category":"vendor","name":"a","namespace":"https://a"},"title":"t","tracking":{"current_release_date":"2025-01-01T00:00:00Z","id":"1","initial_release_date":"2025-01-01T00:00:00Z","revision_history":[{"date":"2025-01-01T00:00:00Z","number":"1","summary":"s"}],"status":"final","version":"1"}},
		"product_tree":{"branches":[{"category":"vendor","name":"go","branches":[{"category":"product_name","name":"net","product":{"name":"net","product_id":"NET","product_identification_helper":{"purl":"pkg:golang/golang.org/x/net@v0.20.0"}}}]}]},
		"vulnerabilities":[{"cve":"CVE-2023-45288","product_status":{"known_not_affected":["NET"]},"threats":[{"category":"impact","details":"not used"}]}]}`
	cdxVEX = `{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"vulnerabilities":[
		{"id":"CVE-2023-45288","analysis":{"state":"not_affected","justification":"code_not_reachable"},"affects":[{"ref":"urn:cdx:3e671687-395b-41f5-a30f-a58921a69b79/1#pkg:golang/golang.org/x/net@v0.20.0"}]}]}`
)

func TestVEXExcludesFindings(t *testing.T) {
	for name, text := range map[string]string{"open.json": openVEX, "product.json": productVEX, "csaf.json": csafVEX, "cdx.json": cdxVEX} {
		t.Run(name, func(t *testing.T) {
			o := options(t, target(t, imageOf(t, archive(t, map[string]string{"server": string(fixture(t, "imported"))}))))
			testkit.Write(t, o.Root, map[string]string{name: text})
			o.Settings.VEX = []string{name}
			r, err := scanner.Scan(t.Context(), o)
			wantFault(t, err, fault.Gate, "scan.findings", "CVE-2024-45338") // is not in the document
			if find(r, "CVE-2023-45288") != nil || !slices.ContainsFunc(r.Ignored, func(i scan.Ignored) bool {
				return i.ID == "CVE-2023-45288" && i.By == name && i.Reason != "" && i.Package == "golang.org/x/net"
			}) {
				t.Errorf("ignored %+v, findings %+v", r.Ignored, r.Findings)
			}
		})
	}
}

func TestMalformedVEX(t *testing.T) {
	for text, want := range map[string]string{
		``:                                   "not a JSON object",
		`[]`:                                 "not a JSON object",
		`{}`:                                 "it has none of",
		`null`:                               "it has none of",
		`{"@context":"https://example.com"}`: "not OpenVEX",
		`{"@context":"https://openvex.dev/ns/v0.2.0"}`: "no statements",
		`{"@context":"https://openvex.dev/ns/v0.2.0","statements":[{"vulnerability":{"name":"A"},"products":[{"@id":"a"}],"status":"not_afected"}]}`:  `status "not_afected"`,
		`{"@context":"https://openvex.dev/ns/v0.2.0","statements":[{"vulnerability":{"name":"A"},"products":[{"@id":"a"}],"status":"not_affected"}]}`: "without a justification",
		`{"@context":"https://openvex.dev/ns/v0.2.0","statements":[{"vulnerability":{"name":"A"},"status":"fixed"}]}`:                                 "names no product",
		`{"@context":"https://openvex.dev/ns/v0.2.0","statements":[{"status":"fixed"}]}`:                                                              "names no vulnerability",
		`{"document":{},"vulnerabilities":[{}]}`:                                                                   "no product_tree",
		`{"document":{},"product_tree":{},"vulnerabilities":[{}]}`:                                                 "has no cve",
		`{"document":{},"product_tree":{},"vulnerabilities":[null]}`:                                               "has no cve",
		`{"document":{},"product_tree":{}}`:                                                                        "no vulnerabilities",
		`{"bomFormat":"CycloneDX","specVersion":"1.5"}`:                                                            "no vulnerabilities",
		`{"bomFormat":"CycloneDX","specVersion":"1.5","vulnerabilities":[{"id":"A","analysis":{"state":"fine"}}]}`: `state "fine"`,
		`{"bomFormat":"CycloneDX","specVersion":"1.5","vulnerabilities":[{}]}`:                                     "has no id",
	} {
		o := options(t)
		testkit.Write(t, o.Root, map[string]string{"vex.json": text})
		o.Settings.VEX = []string{"vex.json"}
		_, err := scanner.Scan(t.Context(), o)
		wantFault(t, err, fault.Input, "scan.vex", "vex.json", want)
	}
	o := options(t)
	o.Settings.VEX = []string{"missing.json"}
	_, err := scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Input, "scan.vex", "missing.json")
}

func FuzzVEX(f *testing.F) {
	for _, s := range []string{openVEX, productVEX, csafVEX, cdxVEX, `{"document":null}`, `{"@context":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := trivy.ParseVEX(data)
		if err == nil && d.Format == "" {
			t.Errorf("got no format and no error")
		}
	})
}

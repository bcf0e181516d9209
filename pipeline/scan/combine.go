package scan

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// spdx is an SPDX 2.3 document (https://spdx.github.io/spdx-spec/v2.3/). It has
// only the fields that are needed to combine documents.
type spdx struct {
	Version       string           `json:"spdxVersion"`
	License       string           `json:"dataLicense"`
	ID            string           `json:"SPDXID"`
	Name          string           `json:"name"`
	Namespace     string           `json:"documentNamespace"`
	Creation      json.RawMessage  `json:"creationInfo"`
	Packages      []map[string]any `json:"packages"`
	Files         []map[string]any `json:"files,omitempty"`
	Relationships []map[string]any `json:"relationships"`
	Licenses      []map[string]any `json:"hasExtractedLicensingInfos,omitempty"`
}

const (
	spdxDocument = "SPDXRef-DOCUMENT"
	spdxIndex    = "SPDXRef-Index"
)

// CombineSPDX combines the SPDX documents of the images of an index into one
// document for the index, which has the given name and digest. A package that
// several images contain is listed once. The same documents give the same bytes.
// CombineSPDX returns a [fault.Input] error if there is no document, or if one is
// not an SPDX 2 document.
func CombineSPDX(name, digest string, documents [][]byte) ([]byte, error) {
	if len(documents) == 0 {
		return nil, fault.Inputf("scan.sbom", "combining the SBOMs of %s: it has no SBOM", name)
	}
	algorithm, hex, _ := strings.Cut(digest, ":")
	all := spdx{ID: spdxDocument, Name: name, Packages: []map[string]any{{
		"SPDXID": spdxIndex, "name": name, "versionInfo": digest, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
		"primaryPackagePurpose": "CONTAINER",
		"checksums":             []any{map[string]any{"algorithm": strings.ToUpper(algorithm), "checksumValue": hex}},
	}}}
	all.Relationships = []map[string]any{relation(spdxDocument, "DESCRIBES", spdxIndex)}
	m := merger{all: &all, elements: map[string]map[string]any{}, seen: map[string]bool{}}
	sum := sha256.New()
	for i, text := range documents {
		var d spdx
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		err := decoder.Decode(&d)
		if err == nil && !strings.HasPrefix(d.Version, "SPDX-2.") {
			err = fmt.Errorf("its version is %q", d.Version)
		}
		if err != nil {
			return nil, fault.Inputf("scan.sbom", "combining the SBOMs of %s: SBOM %d is not an SPDX 2 document: %w", name, i+1, err)
		}
		sum.Write(text)
		if i == 0 {
			all.Version, all.License, all.Creation = d.Version, d.License, d.Creation
		}
		m.add(d, i+1)
	}
	all.Namespace = fmt.Sprintf("https://github.com/slipway-ci/slipway/spdx/%s-%x", name, sum.Sum(nil))
	var out bytes.Buffer
	if err := encode(&out, all); err != nil {
		return nil, fmt.Errorf("writing the SBOM of %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// merger adds documents to the combined document.
type merger struct {
	all      *spdx
	elements map[string]map[string]any // packages and files by identifier
	seen     map[string]bool           // licences and relationships
}

// add adds the n-th document.
func (m *merger) add(d spdx, n int) {
	renamed := m.addElements(&m.all.Packages, d.Packages, n)
	maps.Copy(renamed, m.addElements(&m.all.Files, d.Files, n))
	for _, l := range d.Licenses {
		if id, _ := l["licenseId"].(string); !m.seen[id] {
			m.seen[id] = true
			m.all.Licenses = append(m.all.Licenses, l)
		}
	}
	for _, r := range d.Relationships {
		from, _ := r["spdxElementId"].(string)
		to, _ := r["relatedSpdxElement"].(string)
		kind, _ := r["relationshipType"].(string)
		from, to = cmp.Or(renamed[from], from), cmp.Or(renamed[to], to)
		if from == spdxDocument && kind == "DESCRIBES" {
			from, kind, to = to, "VARIANT_OF", spdxIndex
		}
		if key := from + " " + kind + " " + to; !m.seen[key] {
			m.seen[key] = true
			m.all.Relationships = append(m.all.Relationships, relation(from, kind, to))
		}
	}
}

// addElements adds packages or files of the n-th document. If an identifier is
// already used for a different element, n is appended to it. addElements returns
// the new identifiers by the old ones.
func (m *merger) addElements(to *[]map[string]any, elements []map[string]any, n int) (renamed map[string]string) {
	renamed = map[string]string{}
	for _, e := range elements {
		id, _ := e["SPDXID"].(string)
		if other, ok := m.elements[id]; ok {
			if reflect.DeepEqual(other, e) {
				continue
			}
			renamed[id] = fmt.Sprintf("%s-%d", id, n)
			e["SPDXID"] = renamed[id]
		} else {
			m.elements[id] = e
		}
		*to = append(*to, e)
	}
	return renamed
}

func relation(from, kind, to string) map[string]any {
	return map[string]any{"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to}
}

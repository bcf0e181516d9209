package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"

	"github.com/slipway-ci/slipway/pipeline/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestSchemaMatchesTypes keeps the committed schema, against which files are
// checked, equal to the types they are read into.
func TestSchemaMatchesTypes(t *testing.T) {
	r := jsonschema.Reflector{
		DoNotReference: true, ExpandedStruct: true, Anonymous: true,
		Mapper: func(typ reflect.Type) *jsonschema.Schema {
			if typ == reflect.TypeFor[config.Duration]() {
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$`}
			}
			return nil
		},
	}
	s := r.Reflect(&config.Config{})
	s.ID = "https://raw.githubusercontent.com/slipway-ci/slipway/main/pipeline/config/schema.json"
	s.Title = "slipway.yaml"
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("schema.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(got, config.Schema()) {
		t.Errorf("schema.json is not up to date, run: go test ./pipeline/config -update\n%s",
			cmp.Diff(string(config.Schema()), string(got)))
	}
}

// TestReferenceMatchesSchema keeps docs/configuration.md equal to the schema.
func TestReferenceMatchesSchema(t *testing.T) {
	const file = "../../docs/configuration.md"
	got := reference(t)
	if *update {
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("docs/configuration.md is not up to date, run: go test ./pipeline/config -update\n%s", cmp.Diff(string(want), string(got)))
	}
}

func reference(t *testing.T) []byte {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal(config.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteString("# slipway.yaml\n\nThe file lies at the root of the repository. Every setting is optional, and an empty or\n" +
		"missing file is valid. Flags win over the file. Editors that read the first line below\ncomplete and check it:\n\n" +
		"```yaml\n# yaml-language-server: $schema=" + s.ID.String() + "\n```\n")
	for top := s.Properties.Oldest(); top != nil; top = top.Next() {
		b.WriteString("\n## " + top.Key + "\n\n" + top.Value.Description + "\n\n| setting | type | default | |\n|---|---|---|---|\n")
		rows(&b, top.Key, top.Value)
	}
	return b.Bytes()
}

func rows(b *bytes.Buffer, prefix string, s *jsonschema.Schema) {
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		name := prefix + "." + p.Key
		if p.Value.Properties != nil && p.Value.Properties.Len() > 0 {
			rows(b, name, p.Value)
			continue
		}
		if m := p.Value.AdditionalProperties; m != nil && m.Properties != nil && m.Properties.Len() > 0 {
			rows(b, name+".NAME", m)
			continue
		}
		if items := p.Value.Items; items != nil && items.Properties != nil && items.Properties.Len() > 0 {
			rows(b, name+"[]", items)
			continue
		}
		typ := p.Value.Type
		switch {
		case p.Value.Items != nil:
			typ = "list of " + p.Value.Items.Type
			if len(p.Value.Items.Enum) > 0 {
				typ = "list of " + choices(p.Value.Items.Enum)
			}
		case len(p.Value.Enum) > 0:
			typ = choices(p.Value.Enum)
		case typ == "object":
			typ = "mapping"
		}
		def := ""
		if p.Value.Default != nil {
			def = fmt.Sprintf("`%v`", p.Value.Default)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, typ, def, p.Value.Description)
	}
}

func choices(enum []any) string {
	names := make([]string, 0, len(enum))
	for _, e := range enum {
		names = append(names, fmt.Sprintf("`%v`", e))
	}
	return strings.Join(names, ", ")
}

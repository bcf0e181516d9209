package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
)

// TestSchemaMatchesTypes checks that the committed schema, which files are validated
// against, matches the Go types and [config.Default].
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
	setDefaults(t, s, values(t, config.Default()))
	deploy, _ := s.Properties.Get("deploy")
	environments, _ := deploy.Properties.Get("environments")
	setDefaults(t, environments.AdditionalProperties, values(t, config.DefaultEnvironment()))
	sign, _ := s.Properties.Get("sign")
	keyless, _ := sign.Properties.Get("keyless")
	setDefaults(t, keyless, values(t, config.DefaultKeyless()))
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Golden(t, "schema.json", append(got, '\n'))
}

// values returns a configuration as a JSON object.
func values(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// setDefaults writes values into a schema as the defaults of its properties. The
// default of a boolean that is absent is false, and that of a number is zero, unless zero is
// not allowed or the description names another default.
func setDefaults(t *testing.T, s *jsonschema.Schema, values map[string]any) {
	t.Helper()
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		value, set := values[p.Key]
		switch inner, _ := value.(map[string]any); {
		case p.Value.Properties != nil && p.Value.Properties.Len() > 0:
			setDefaults(t, p.Value, inner)
		case set:
			p.Value.Default = value
		case p.Value.Type == "boolean":
			p.Value.Default = false
		case p.Value.Minimum != "" && p.Value.Minimum != "0", strings.Contains(p.Value.Description, "Default: "):
		case p.Value.Type == "number", p.Value.Type == "integer":
			p.Value.Default = 0
		}
		delete(values, p.Key)
	}
	for key := range values {
		t.Errorf("there is a default for %s, but no setting", key)
	}
}

// TestReferenceMatchesSchema checks that docs/configuration.md matches the schema.
func TestReferenceMatchesSchema(t *testing.T) {
	testkit.Golden(t, "../../docs/configuration.md", reference(t))
}

// reference returns docs/configuration.md.
func reference(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("schema.json") // the embedded schema is outdated after -update
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteString("# slipway.yaml\n\nThe file slipway.yaml is located at the root of the repository. Every setting is optional, and\n" +
		"an empty or missing file is valid. Flags override the file. If the file begins with the following\n" +
		"line, editors that support it complete and validate the settings:\n\n" +
		"```yaml\n# yaml-language-server: $schema=" + s.ID.String() + "\n```\n")
	for top := s.Properties.Oldest(); top != nil; top = top.Next() {
		b.WriteString("\n## " + top.Key + "\n\n" + top.Value.Description + "\n\n| setting | type | default | description |\n|---|---|---|---|\n")
		rows(&b, top.Key, top.Value)
	}
	return b.Bytes()
}

// rows writes a table row for every setting of a schema.
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
			def = inYAML(p.Value.Default)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, typ, def, p.Value.Description)
	}
}

// inYAML returns a default as it is written in slipway.yaml.
func inYAML(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprintf("`%v`", v)
	}
	texts := make([]string, 0, len(list))
	for _, e := range list {
		texts = append(texts, fmt.Sprint(e))
	}
	return "`[" + strings.Join(texts, ", ") + "]`"
}

func choices(enum []any) string {
	names := make([]string, 0, len(enum))
	for _, e := range enum {
		names = append(names, fmt.Sprintf("`%v`", e))
	}
	return strings.Join(names, ", ")
}

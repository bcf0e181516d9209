package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
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

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Check validates a configuration that was changed after it was read, for example by
// flags. If a setting is invalid, it returns a [fault.Input] error with the code
// "usage" that names the setting.
func (c *Config) Check() error {
	d := document{name: "setting"}
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("checking the settings: %w", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("checking the settings: %w", err)
	}
	if err := d.validate(value); err != nil {
		return err
	}
	d.semantics(c)
	lines := make([]string, 0, len(d.mistakes))
	for _, m := range d.mistakes {
		lines = append(lines, m.text)
	}
	if len(lines) == 0 {
		return nil
	}
	return fault.Inputf("usage", "%s", strings.Join(lines, "\n"))
}

// validate checks a value against the schema and records the mistakes. The returned
// error is not about the value: the schema itself could not be used.
func (d *document) validate(value any) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return fmt.Errorf("reading the embedded schema: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("slipway.json", doc); err != nil {
		return fmt.Errorf("reading the embedded schema: %w", err)
	}
	compiled, err := compiler.Compile("slipway.json")
	if err != nil {
		return fmt.Errorf("compiling the embedded schema: %w", err)
	}
	var invalid *jsonschema.ValidationError
	if err := compiled.Validate(value); errors.As(err, &invalid) {
		d.explain(invalid)
	} else if err != nil {
		return fmt.Errorf("checking %s: %w", d.name, err)
	}
	return nil
}

// explain converts the leaves of a validation error into mistakes.
func (d *document) explain(e *jsonschema.ValidationError) {
	if len(e.Causes) > 0 {
		for _, c := range e.Causes {
			d.explain(c)
		}
		return
	}
	var b strings.Builder
	for _, s := range e.InstanceLocation {
		b.WriteString("/" + escape(s))
	}
	pointer := b.String()
	setting := strings.Join(e.InstanceLocation, ".")
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, key := range k.Properties {
			d.unknown(pointer, setting, key)
		}
	case *kind.Type:
		hint := ""
		if slices.Contains(k.Want, "string") && k.Got != "object" && k.Got != "array" {
			hint = "; put it in quotes"
		}
		d.at(pointer, "%s must be %s, not %s%s", or(setting, "the file"), strings.Join(article(k.Want), " or "), article([]string{k.Got})[0], hint)
	case *kind.Enum:
		want := make([]string, 0, len(k.Want))
		for _, w := range k.Want {
			want = append(want, fmt.Sprint(w))
		}
		d.at(pointer, "%s is %v; it must be one of %s%s", setting, k.Got, strings.Join(want, ", "), similar(fmt.Sprint(k.Got), want))
	case *kind.Pattern:
		d.at(pointer, "%s is %q; it must match %s", setting, k.Got, k.Want)
	case *kind.Minimum:
		d.at(pointer, "%s must be at least %s", setting, k.Want.RatString())
	case *kind.Maximum:
		d.at(pointer, "%s must be at most %s", setting, k.Want.RatString())
	case *kind.MinLength:
		d.at(pointer, "%s must not be empty", setting)
	case *kind.MinItems:
		d.at(pointer, "%s must not be an empty list", setting)
	case *kind.UniqueItems:
		d.at(pointer+"/"+strconv.Itoa(k.Duplicates[1]), "%s contains the same value twice", setting)
	default:
		d.at(pointer, "%s: %s", setting, strings.ReplaceAll(e.Error(), "\n", " "))
	}
}

// unknown records a key that the schema does not define. setting is the dotted path of
// the mapping that contains the key.
func (d *document) unknown(pointer, setting, key string) {
	n := d.positions[pointer+"/"+escape(key)+"\x00key"]
	if n == nil {
		n = d.positions[pointer]
	}
	in := "at the top level"
	if setting != "" {
		in = "in " + setting
	}
	d.add(n.Line, n.Column, "unknown key %q %s%s", key, in, suggestion(key, keysAt(pointer)))
}

// keysAt returns the keys that the schema defines for the mapping at a JSON pointer.
func keysAt(pointer string) []string {
	type object struct {
		Properties map[string]*json.RawMessage `json:"properties"`
	}
	raw := json.RawMessage(schema)
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if part == "" {
			continue
		}
		var o object
		if json.Unmarshal(raw, &o) != nil || o.Properties[part] == nil {
			return nil
		}
		raw = *o.Properties[part]
	}
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return nil
	}
	var keys []string
	for k := range o.Properties {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// suggestion suggests the known word that is most similar to word. If no word is
// similar, it lists all of them.
func suggestion(word string, known []string) string {
	if hint := similar(word, known); hint != "" || len(known) == 0 {
		return hint
	}
	return "; valid keys: " + strings.Join(known, ", ")
}

// similar suggests the known word that is most similar to word. It returns an empty
// text if no word is similar.
func similar(word string, known []string) string {
	best, distance := "", 4
	for _, k := range known {
		if n := levenshtein.Distance(strings.ToLower(word), strings.ToLower(k), nil); n < distance {
			best, distance = k, n
		}
	}
	if best != "" && distance <= (len(word)+1)/2 {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// article returns the names of JSON types in words, with their articles.
func article(types []string) []string {
	names := map[string]string{
		"object": "a mapping", "array": "a list", "string": "a string", "integer": "a whole number",
		"number": "a number", "boolean": "true or false", "null": "empty",
	}
	out := make([]string, 0, len(types))
	for _, t := range types {
		out = append(out, or(names[t], t))
	}
	return out
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

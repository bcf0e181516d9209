package config

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"go.yaml.in/yaml/v3"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// schema is generated from the types of this package: go test -update.
//
//go:embed schema.json
var schema []byte

// Schema is the JSON schema of slipway.yaml (draft 2020-12), for editors.
func Schema() []byte { return bytes.Clone(schema) }

// maxSize bounds slipway.yaml; a real one has a few kilobytes.
const maxSize = 1 << 20

// maxNodes and maxDepth bound what aliases may expand to; an alias inside its
// own anchor would have no end.
const (
	maxNodes = 100_000
	maxDepth = 64
)

// Find returns the path of slipway.yaml in dir or the nearest folder above it
// within the same git repository, and "" where there is none.
func Find(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("resolving %s: %w", dir, err)
	}
	for {
		path := filepath.Join(dir, FileName)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fault.Inputf("config.unreadable", "looking for %s: %w", path, err)
		}
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil || dir == filepath.Dir(dir) {
			return "", nil
		}
		dir = filepath.Dir(dir)
	}
}

// Load reads a configuration file. Every mistake in it becomes a line of the
// returned [fault.Input] error.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fault.Inputf("config.unreadable", "reading the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return Config{}, fault.Inputf("config.unreadable", "reading the configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a configuration; name is used in messages.
func Parse(name string, data []byte) (Config, error) {
	c := Default()
	if len(data) > maxSize {
		return Config{}, fault.Inputf("config.malformed", "%s is larger than 1 MiB", name)
	}
	d := document{name: name, positions: map[string]*yaml.Node{}}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return c, nil // an empty file
	} else if err != nil {
		return Config{}, d.syntax(err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		d.add(second.Line, second.Column, "a second document; slipway.yaml holds one")
	} else if !errors.Is(err, io.EOF) {
		return Config{}, d.syntax(err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return c, nil
	}
	value := d.plain(root, "")
	if err := d.err(); err != nil {
		return Config{}, err
	}
	if err := d.validate(value); err != nil {
		return Config{}, err
	}
	if err := d.err(); err != nil {
		return Config{}, err
	}
	// The value is decoded through JSON, so that the schema that was checked
	// and the types that are filled agree on what a number or a string is.
	text, err := json.Marshal(value)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return Config{}, fault.Inputf("config.malformed", "%s: %w", name, err)
	}
	d.semantics(&c)
	return c, d.err()
}

// document collects the mistakes of one file.
type document struct {
	name      string
	positions map[string]*yaml.Node // by JSON pointer
	nodes     int
	depth     int
	mistakes  []mistake
}

type mistake struct {
	line, column int
	text         string
}

func (d *document) add(line, column int, format string, args ...any) {
	d.mistakes = append(d.mistakes, mistake{max(line, 1), max(column, 1), fmt.Sprintf(format, args...)})
}

func (d *document) at(pointer string, format string, args ...any) {
	n := d.positions[pointer]
	for n == nil && pointer != "" {
		pointer = pointer[:strings.LastIndexByte(pointer, '/')]
		n = d.positions[pointer]
	}
	if n == nil {
		n = &yaml.Node{}
	}
	d.add(n.Line, n.Column, format, args...)
}

func (d *document) err() error {
	if len(d.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(d.mistakes, func(a, b mistake) int {
		return (a.line-b.line)*1000 + a.column - b.column
	})
	lines := make([]string, 0, len(d.mistakes))
	for _, m := range d.mistakes {
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s", d.name, m.line, m.column, m.text))
	}
	return fault.Inputf("config.malformed", "%s", strings.Join(slices.Compact(lines), "\n"))
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func (d *document) syntax(err error) error {
	text, line := err.Error(), 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	d.add(line, 1, "%s", strings.ReplaceAll(text, "\n", " "))
	return d.err()
}

// plain turns a node into the plain values a JSON schema speaks of and
// remembers where each came from.
func (d *document) plain(n *yaml.Node, pointer string) any {
	d.nodes++
	if d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.add(n.Line, n.Column, "aliases expand to more than %d values", maxNodes)
		}
		return nil
	}
	d.depth++
	defer func() { d.depth-- }()
	if d.depth > maxDepth {
		d.add(n.Line, n.Column, "nested more than %d levels deep", maxDepth)
		d.nodes = maxNodes + 1 // one such message is enough
		return nil
	}
	d.positions[pointer] = n
	switch n.Kind {
	case yaml.AliasNode:
		return d.plain(n.Alias, pointer)
	case yaml.MappingNode:
		m, seen := map[string]any{}, map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			if k.Kind != yaml.ScalarNode {
				d.add(k.Line, k.Column, "a key must be a plain word")
				continue
			}
			if k.Tag == "!!merge" {
				d.add(k.Line, k.Column, "merge keys (<<) are not supported; write the settings out")
				continue
			}
			if seen[k.Value] {
				d.add(k.Line, k.Column, "key %q is given twice", k.Value)
				continue
			}
			seen[k.Value] = true
			child := pointer + "/" + escape(k.Value)
			if value := d.plain(v, child); value != nil {
				m[k.Value] = value // a key without a value keeps its default
			}
			d.positions[child+"\x00key"] = k
		}
		return m
	case yaml.SequenceNode:
		s := make([]any, 0, len(n.Content))
		for i, v := range n.Content {
			s = append(s, d.plain(v, pointer+"/"+strconv.Itoa(i)))
		}
		return s
	case yaml.ScalarNode:
		return d.scalar(n)
	default:
		d.add(n.Line, n.Column, "cannot be read")
		return nil
	}
}

func (d *document) scalar(n *yaml.Node) any {
	var v any
	if err := n.Decode(&v); err != nil {
		d.add(n.Line, n.Column, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	switch v := v.(type) {
	case nil, bool, string:
		return v
	case int:
		return json.Number(strconv.Itoa(v))
	case float64:
		text, err := json.Marshal(v)
		if err != nil { // NaN and the infinities
			d.add(n.Line, n.Column, "%s is not a number that can be used here", n.Value)
			return nil
		}
		return json.Number(text)
	default: // timestamps, binary, integers beyond 64 bits: people mean the text
		return n.Value
	}
}

func escape(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}

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

// explain turns the leaves of a validation error into mistakes.
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
	where := strings.Join(e.InstanceLocation, ".")
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, key := range k.Properties {
			d.unknown(pointer, where, key)
		}
	case *kind.Type:
		hint := ""
		if slices.Contains(k.Want, "string") && k.Got != "object" && k.Got != "array" {
			hint = "; put it in quotes"
		}
		d.at(pointer, "%s must be %s, not %s%s", or(where, "the file"), strings.Join(article(k.Want), " or "), article([]string{k.Got})[0], hint)
	case *kind.Enum:
		want := make([]string, 0, len(k.Want))
		for _, w := range k.Want {
			want = append(want, fmt.Sprint(w))
		}
		d.at(pointer, "%s is %v; it must be one of %s%s", where, k.Got, strings.Join(want, ", "), near(fmt.Sprint(k.Got), want))
	case *kind.Pattern:
		d.at(pointer, "%s is %q; it must match %s", where, k.Got, k.Want)
	case *kind.Minimum:
		d.at(pointer, "%s must be at least %s", where, k.Want.RatString())
	case *kind.Maximum:
		d.at(pointer, "%s must be at most %s", where, k.Want.RatString())
	case *kind.MinLength:
		d.at(pointer, "%s must not be empty", where)
	case *kind.MinItems:
		d.at(pointer, "%s must not be an empty list", where)
	case *kind.UniqueItems:
		d.at(pointer+"/"+strconv.Itoa(k.Duplicates[1]), "%s holds the same value twice", where)
	default:
		d.at(pointer, "%s: %s", where, strings.ReplaceAll(e.Error(), "\n", " "))
	}
}

func (d *document) unknown(pointer, where, key string) {
	n := d.positions[pointer+"/"+escape(key)+"\x00key"]
	if n == nil {
		n = d.positions[pointer]
	}
	in := "at the top level"
	if where != "" {
		in = "in " + where
	}
	d.add(n.Line, n.Column, "unknown key %q %s%s", key, in, meant(key, keysAt(pointer)))
}

// keysAt lists the keys the schema knows at a place.
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

// meant suggests the nearest of the known words, or lists them where none is
// near.
func meant(word string, known []string) string {
	if hint := near(word, known); hint != "" || len(known) == 0 {
		return hint
	}
	return "; known: " + strings.Join(known, ", ")
}

// near suggests the nearest of the known words where one is near.
func near(word string, known []string) string {
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

// semantics checks what a schema cannot say.
func (d *document) semantics(c *Config) {
	for i, s := range c.App.Platforms {
		if _, err := ParsePlatform(s); err != nil {
			d.at(fmt.Sprintf("/app/platforms/%d", i), "%v", err)
		}
	}
	for p := range c.App.CC {
		if _, err := ParsePlatform(p); err != nil {
			d.at("/app/cc/"+escape(p), "%v", err)
		}
	}
	for key := range c.App.Env {
		if !buildSetting(key) {
			d.at("/app/env/"+escape(key), "%s is not a setting of the Go compiler; allowed: GOEXPERIMENT, GOAMD64, GOARM, GOARM64, GO386, GOMIPS, GOPPC64, GORISCV64, CGO_CFLAGS, CGO_LDFLAGS and the like", key)
		}
	}
	if err := within(c.App.Dir); err != nil {
		d.at("/app/dir", "app.dir: %v", err)
	}
	if c.Image.Repository != "" {
		if _, err := name.NewRepository(c.Image.Repository); err != nil {
			d.at("/image/repository", "image.repository: %v", err)
		}
	}
	switch c.Image.Base {
	case "scratch", "alpine", "distroless":
	default:
		if _, err := name.ParseReference(c.Image.Base); err != nil {
			d.at("/image/base", "image.base: %v", err)
		}
	}
	if path.Clean(c.Image.Entrypoint) != c.Image.Entrypoint {
		d.at("/image/entrypoint", "image.entrypoint: %q is not a plain absolute path", c.Image.Entrypoint)
	}
	for i, p := range c.Image.Ports {
		if p < 1 || p > 65535 {
			d.at(fmt.Sprintf("/image/ports/%d", i), "%d is not a port (1 to 65535)", p)
		}
	}
	for i, v := range c.Image.Volumes {
		if !strings.HasPrefix(v, "/") {
			d.at(fmt.Sprintf("/image/volumes/%d", i), "%q is not an absolute path", v)
		}
	}
	if c.Sign.Key != "" && c.Sign.Keyless != nil {
		d.at("/sign/key", "sign.key and sign.keyless exclude each other")
	}
	d.policy("/verify", c.Verify)
	for name, e := range c.Deploy.Environments {
		at := "/deploy/environments/" + escape(name)
		d.policy(at+"/verify", e.Verify)
		if e.Context != "" && len(e.Clusters) > 0 {
			d.at(at+"/context", "context and clusters exclude each other")
		}
		for secret, keys := range e.Secrets {
			for key, variable := range keys {
				if variable == "" || strings.ContainsAny(variable, "= \x00") {
					d.at(at+"/secrets/"+escape(secret)+"/"+escape(key), "%q is not the name of an environment variable", variable)
				}
			}
		}
	}
	for key := range c.Image.Env {
		if key == "" || strings.ContainsAny(key, "= \x00") {
			d.at("/image/env/"+escape(key), "%q is not the name of a variable", key)
		}
	}
}

// policy checks what the schema cannot: that an identity says who and by whom,
// and that patterns are ones.
func (d *document) policy(pointer string, v Verify) {
	for i, id := range v.Identities {
		at := fmt.Sprintf("%s/identities/%d", pointer, i)
		for _, part := range []struct{ name, text, pattern string }{
			{"issuer", id.Issuer, id.IssuerPattern}, {"subject", id.Subject, id.SubjectPattern},
		} {
			switch {
			case part.text == "" && part.pattern == "":
				d.at(at, "an identity needs %s or %sPattern", part.name, part.name)
			case part.text != "" && part.pattern != "":
				d.at(at, "%s and %sPattern exclude each other", part.name, part.name)
			}
			if _, err := regexp.Compile(part.pattern); err != nil {
				d.at(at+"/"+part.name+"Pattern", "%sPattern: %v", part.name, err)
			}
		}
	}
}

// Check checks a configuration that was changed after it was read, by flags
// for one. It returns a [fault.Input] error that names the setting.
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

// within reports whether a relative path stays inside the folder it is
// relative to.
func within(path string) error {
	if filepath.IsAbs(path) || !filepath.IsLocal(path) {
		return fmt.Errorf("%q leaves the folder of slipway.yaml", path)
	}
	return nil
}

// buildSetting tells the Go settings that change a build in a way that is the
// same on every machine from those that would not be.
func buildSetting(key string) bool {
	switch key {
	case "GOEXPERIMENT", "GO386", "GOAMD64", "GOARM", "GOARM64", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64", "GOFIPS140",
		"CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS", "GOWORK":
		return true
	}
	return false
}

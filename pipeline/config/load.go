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
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// schema is generated from the types of this package by go test -update.
//
//go:embed schema.json
var schema []byte

// Schema returns the JSON schema of slipway.yaml (draft 2020-12), for editors.
func Schema() []byte { return bytes.Clone(schema) }

// maxSize limits the size of slipway.yaml in bytes. A real file has a few kilobytes.
const maxSize = 1 << 20

// maxNodes and maxDepth limit what YAML aliases may expand to. An alias inside its
// own anchor would expand without end.
const (
	maxNodes = 100_000
	maxDepth = 64
)

// Find returns the path of the nearest slipway.yaml in dir or a folder above it, up
// to the root of the git repository. If the file does not exist, the path is empty.
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
			return "", fault.Inputf("config.unreadable", "checking whether %s exists: %w", path, err)
		}
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil || dir == filepath.Dir(dir) {
			return "", nil
		}
		dir = filepath.Dir(dir)
	}
}

// Load reads a configuration file. If the file contains mistakes, it returns a
// [fault.Input] error with one line for each mistake.
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

// Parse parses a configuration. The name of the file appears in errors only.
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
		d.add(second.Line, second.Column, "slipway.yaml must contain only one YAML document")
	} else if !errors.Is(err, io.EOF) {
		return Config{}, d.syntax(err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return c, nil
	}
	value := d.value(root, "")
	if err := d.err(); err != nil {
		return Config{}, err
	}
	if err := d.validate(value); err != nil {
		return Config{}, err
	}
	if err := d.err(); err != nil {
		return Config{}, err
	}
	// The value is decoded by way of JSON, so that the schema and the Go types agree
	// on what is a number and what is a string.
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

// at records a mistake at the value that a JSON pointer refers to, or at the nearest
// value above it that is in the file.
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

// err returns the recorded mistakes as one error, with one line for each of them.
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

// syntax converts an error of the YAML parser into a mistake with its position.
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

// value converts a node into the values that a JSON schema describes, and records the
// position of each of them.
func (d *document) value(n *yaml.Node, pointer string) any {
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
		d.nodes = maxNodes + 1 // one message of this kind is enough
		return nil
	}
	d.positions[pointer] = n
	switch n.Kind {
	case yaml.AliasNode:
		return d.value(n.Alias, pointer)
	case yaml.MappingNode:
		return d.mapping(n, pointer)
	case yaml.SequenceNode:
		s := make([]any, 0, len(n.Content))
		for i, v := range n.Content {
			s = append(s, d.value(v, pointer+"/"+strconv.Itoa(i)))
		}
		return s
	case yaml.ScalarNode:
		return d.scalar(n)
	default:
		d.add(n.Line, n.Column, "this is not a mapping, a list or a value")
		return nil
	}
}

// chartValues matches the pointers of the mappings in an environment whose keys belong
// to the chart.
var chartValues = regexp.MustCompile(`^/deploy/(environments/[^/]+/set|service/values)(/|$)`)

func (d *document) mapping(n *yaml.Node, pointer string) map[string]any {
	m, seen := map[string]any{}, map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.add(k.Line, k.Column, "a key must be a plain word")
			continue
		}
		if k.Tag == "!!merge" {
			d.add(k.Line, k.Column, "merge keys (<<) are not supported; repeat the settings instead")
			continue
		}
		if seen[k.Value] {
			d.add(k.Line, k.Column, "key %q is set twice", k.Value)
			continue
		}
		seen[k.Value] = true
		child := pointer + "/" + escape(k.Value)
		// A setting without a value keeps its default. In the values of a chart a null
		// has a meaning: Helm removes the key from the defaults of the chart.
		if value := d.value(v, child); value != nil || chartValues.MatchString(pointer) {
			m[k.Value] = value
		}
		d.positions[child+"\x00key"] = k
	}
	return m
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
			d.add(n.Line, n.Column, "%s is not a finite number", n.Value)
			return nil
		}
		return json.Number(text)
	default: // timestamps, binary data and integers beyond 64 bits are meant as text
		return n.Value
	}
}

// escape escapes a key for use in a JSON pointer
// (https://www.rfc-editor.org/rfc/rfc6901#section-3).
func escape(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}

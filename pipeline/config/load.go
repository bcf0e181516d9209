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

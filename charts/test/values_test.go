package charts

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yamlv3 "go.yaml.in/yaml/v3"
)

// rejectedValues are values that the schema or the templates reject, and what they say.
var rejectedValues = []struct{ values, want string }{
	// Unknown keys at any depth are reported with their path.
	{`{replica: 3}`, `additional properties 'replica' not allowed`},
	{`{image: {registry: x}}`, `at '/image': additional properties 'registry' not allowed`},
	{`{config: {databse: {url: x}}}`, `at '/config': additional properties 'databse' not allowed`},
	{`{config: {server: {listen: ":80"}}}`, `at '/config/server': additional properties 'listen' not allowed`},
	{`{probes: {readiness: {period: 5}}}`, `at '/probes/readiness': additional properties 'period' not allowed`},
	{`{secretEnv: [{name: A, secretName: b, key: c}]}`, `at '/secretEnv/0': additional properties 'secretName' not allowed`},
	{`{affinity: {mode: required}}`, `at '/affinity': additional properties 'mode' not allowed`},
	// Invalid values.
	{`{image: {digest: 2cf24d}}`, `at '/image/digest': '2cf24d' does not match pattern`},
	{`{image: {repository: "shop/order-service:v1"}}`, `at '/image/repository'`},
	{`{image: {pullPolicy: always}}`, `at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'`},
	{`{replicas: "5"}`, `at '/replicas': got string, want integer`},
	{`{replicas: -1}`, `at '/replicas': minimum`},
	{`{strategy: {maxSurge: 2 pods}}`, `at '/strategy/maxSurge': '2 pods' does not match pattern`},
	{`{ports: {http: 70000}}`, `at '/ports/http': maximum`},
	{`{env: {LEVEL: 5}}`, `at '/env/LEVEL': got number, want string`},
	{`{env: {my-level: x}}`, `at '/env': additional properties 'my-level' not allowed`},
	{`{config: {shutdown: {drain_delay: 5}}}`, `at '/config/shutdown/drain_delay': got number, want string`},
	{`{config: {shutdown: {drain_delay: 5 s}}}`, `at '/config/shutdown/drain_delay': '5 s' does not match pattern`},
	{`{config: {payment: {url: payment}}}`, `at '/config/payment/url': 'payment' does not match pattern`},
	{`{configReload: restart}`, `at '/configReload': value must be one of 'roll', 'reload'`},
	{`{waitFor: [{name: x}]}`, `at '/waitFor/0': missing property 'url'`},
	{`{podAntiAffinity: {mode: soft}}`, `at '/podAntiAffinity/mode': value must be one of 'preferred', 'required', 'none'`},
	{`{podAntiAffinity: {weight: 0}}`, `at '/podAntiAffinity/weight': minimum`},
	{`{gomemlimit: 1800Mi}`, `at '/gomemlimit': '1800Mi' does not match pattern`},
	{`{cache: {sizeLimit: 1GB}}`, `at '/cache/sizeLimit': '1GB' does not match pattern`},
	{`{ingress: {hosts: ["https://orders.example.com"]}}`, `at '/ingress/hosts/0'`},
	{`{ingress: {sourceRanges: [everybody]}}`, `at '/ingress/sourceRanges/0'`},
	{`{environment: ""}`, `at '/environment'`},
	// The templates reject these values. They report all problems together.
	{`{image: {repository: ""}}`, `image.repository is empty: set it to the name of the image`},
	{`{image: {digest: ""}}`, `image.digest and image.tag are both empty: set image.digest (sha256:...), or at least image.tag`},
	{`{image: {repository: "", digest: ""}, ingress: {enabled: true}}`, "set image.digest (sha256:...), or at least image.tag\ningress.hosts is empty"},
	{`{image: {digest: "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}, config: {database: {url: "postgres://app:hunter2@db/orders"}}}`, `config.database.url contains a password`},
	{`{config: {database: {url: "postgres://app@db/orders?password=hunter2"}}}`, `config.database.url contains a password`},
	{`{config: {redis: {url: "redis://:hunter2@redis:6379/0"}}}`, `set REDIS_PASSWORD from a key of a Secret with secretEnv`},
	{`{config: {redis: {url: "http://:hunter2@redis:6379/0"}}}`, `config.redis.url does not match ^rediss?://`},
	{`{env: {DATABASE_PASSWORD: hunter2}}`, `env.DATABASE_PASSWORD contains a password in plain text`},
	{`{autoscaling: {enabled: true}, verticalAutoscaling: {enabled: true}}`, "autoscaling and verticalAutoscaling would both act on cpu"},
	{`{autoscaling: {enabled: true, targets: {cpu: null}}, verticalAutoscaling: {enabled: true}}`, "set autoscaling.targets.memory to null"},
	{`{ingress: {enabled: true, hosts: [{host: api.example.com}]}}`, `at '/ingress/hosts/0': missing property 'paths'`},
	{`{ingress: {enabled: true, hosts: [{host: api.example.com, paths: [{path: api}]}]}}`, `at '/ingress/hosts/0/paths/0/path'`},
	{`{verticalAutoscaling: {updateMode: Auto}}`, `at '/verticalAutoscaling/updateMode': value must be one of`},
	{`{vault: {enabled: true}}`, "vault.enabled is true, but vault.files is empty"},
	{`{vault: {enabled: true, files: {db: {}}}}`, `at '/vault/files/db': missing property 'secret'`},
	{`{secretFiles: [{secret: a, mountPath: /a, mode: rw}]}`, `at '/secretFiles/0/mode'`},
	{`{configReload: reload, reloadable: []}`, `configReload is reload, but reloadable is empty`},
	{`{config: {otlp: {endpoint: "collector:4317"}}}`, "config.otlp.endpoint is not the URL of a host and a port"},
	{`{config: {otlp: {endpoint: "http://a:hunter2@collector:4317"}}}`, "config.otlp.endpoint is not the URL of a host and a port"},
	{`{env: {OTEL_EXPORTER_OTLP_HEADERS: "authorization=x"}}`, "env.OTEL_EXPORTER_OTLP_HEADERS contains a password in plain text"},
	{`{reloadable: [server.read_timeout]}`, `at '/reloadable/0': 'server.read_timeout' does not match pattern`},
	{`{config: {otlp: {sample_ratio: 2}}}`, `at '/config/otlp/sample_ratio': maximum`},
	{`{gomemlimit: 110%}`, `at '/gomemlimit': '110%' does not match pattern`},
	{`{configFiles: {config.yaml: "a"}}`, `configFiles contains config.yaml`},
	{`{affinity: {podAntiAffinity: {}}}`, `affinity.podAntiAffinity cannot be combined with podAntiAffinity.mode`},
	{`{serviceAccount: {create: false}}`, `rbac.create would grant permissions to all pods`},
	{`{ingress: {enabled: true}}`, `ingress.hosts is empty`},
	{`{autoscaling: {enabled: true, minReplicas: 60}}`, `autoscaling.minReplicas (60) is greater than autoscaling.maxReplicas (50)`},
	{`{autoscaling: {enabled: true, targets: {cpu: null, memory: null, requestsPerSecond: null}}}`, `autoscaling.targets is empty`},
}

func TestRejectsValues(t *testing.T) {
	for _, tt := range rejectedValues {
		t.Run(tt.values, func(t *testing.T) {
			_, err := install(t.Context(), loadChart(t, orders), parseValues(t, tt.values), kubeVersion)
			if err == nil {
				t.Fatal("the values are accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v\ndoes not contain %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error message contains the password: %v", err)
			}
		})
	}
}

// wholeObjects are objects that have one comment in values.yaml. Their fields are
// documented by Kubernetes.
var wholeObjects = []string{
	"resources", "probes.startup", "probes.liveness", "probes.readiness",
	"podSecurityContext", "securityContext", "autoscaling.behavior",
	"verticalAutoscaling.minAllowed", "verticalAutoscaling.maxAllowed",
	"statefulSet.retention",
}

// value is a key of values.yaml with its comment.
type value struct {
	path, comment string
	node          *yamlv3.Node
	section       bool // its keys have their own comments
}

// documented returns all keys of values.yaml in depth-first order. Keys without a
// comment are test failures.
func documented(t *testing.T, chart string) []value {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(folder(chart), "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc yamlv3.Node
	if err := yamlv3.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	wholes := wholeObjects
	if chart == service {
		wholes = append([]string{"ports"}, wholes...) // whose names are free
	}
	var all []value
	var walk func(node *yamlv3.Node, parent string)
	walk = func(node *yamlv3.Node, parent string) {
		for i := 0; i < len(node.Content); i += 2 {
			key, content := node.Content[i], node.Content[i+1]
			v := value{path: join(parent, key.Value), comment: comment(key.HeadComment), node: content}
			if v.comment == "" {
				t.Errorf("values.yaml:%d: %s has no comment (# -- ...)", key.Line, v.path)
			}
			v.section = content.Kind == yamlv3.MappingNode && len(content.Content) > 0 && !slices.Contains(wholes, v.path)
			all = append(all, v)
			if v.section {
				walk(content, v.path)
			}
		}
	}
	walk(doc.Content[0], "")
	return all
}

func join(parent, key string) string {
	return strings.TrimPrefix(parent+"."+key, ".")
}

// comment returns the text after the last "# -- " of a comment block.
func comment(block string) string {
	_, text, ok := strings.Cut("\n"+block, "\n# -- ")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(text, "\n# ", " ")
}

// schema contains the fields of a JSON schema that the tests use.
type schema struct {
	Description string             `json:"description"`
	Type        any                `json:"type"`
	Properties  map[string]*schema `json:"properties"`
	Items       *schema            `json:"items"`
	Additional  any                `json:"additionalProperties"`
}

// typeName returns the type as text.
func (s *schema) typeName() string {
	switch t := s.Type.(type) {
	case string:
		return t
	case []any:
		names := make([]string, 0, len(t))
		for _, name := range t {
			names = append(names, fmt.Sprint(name))
		}
		return strings.Join(names, " or ")
	}
	return "any"
}

func readSchema(t *testing.T, chart string) *schema {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(folder(chart), "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// at returns the schema of the value with the given path, or nil.
func (s *schema) at(path string) *schema {
	for key := range strings.SplitSeq(path, ".") {
		if s = s.Properties[key]; s == nil {
			return nil
		}
	}
	return s
}

func TestSchemaMatchesValues(t *testing.T) {
	for _, chart := range []string{orders, service, admission} {
		t.Run(chart, func(t *testing.T) { schemaMatchesValues(t, chart) })
	}
}

func schemaMatchesValues(t *testing.T, chart string) {
	root := readSchema(t, chart)
	keys := map[string][]string{}
	for _, v := range documented(t, chart) {
		s := root.at(v.path)
		if s == nil {
			t.Errorf("values.schema.json has no %s", v.path)
			continue
		}
		if s.Description != v.comment {
			t.Errorf("%s (-values.yaml +values.schema.json):\n%s", v.path, cmp.Diff(v.comment, s.Description))
		}
		parent, key := "", v.path
		if i := strings.LastIndex(v.path, "."); i >= 0 {
			parent, key = v.path[:i], v.path[i+1:]
		}
		keys[parent] = append(keys[parent], key)
	}
	for parent, have := range keys {
		if parent == "config" || strings.HasPrefix(parent, "config.") {
			continue // TestSchemaMatchesService
		}
		s := root
		if parent != "" {
			s = root.at(parent)
		}
		slices.Sort(have)
		if diff := cmp.Diff(have, slices.Sorted(maps.Keys(s.Properties))); diff != "" {
			t.Errorf("keys of %q (-values.yaml +values.schema.json):\n%s", parent, diff)
		}
		if s.Additional != false {
			t.Errorf("%q accepts unknown keys: its additionalProperties must be false", parent)
		}
	}

	var described func(path string, s *schema)
	described = func(path string, s *schema) {
		for key, p := range s.Properties {
			if p.Description == "" {
				t.Errorf("values.schema.json: %s has no description", join(path, key))
			}
			described(join(path, key), p)
		}
		if s.Items != nil {
			described(path+"[]", s.Items)
		}
	}
	described("", root)
}

// TestSchemaMatchesService compares the keys of config with those that the service
// accepts.
func TestSchemaMatchesService(t *testing.T) {
	raw, err := os.ReadFile("../../sample-app/config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var example map[string]map[string]any
	if err := yamlv3.Unmarshal(raw, &example); err != nil {
		t.Fatal(err)
	}
	// The chart derives these two from ports.
	delete(example["server"], "listen")
	delete(example["server"], "metrics_listen")
	want, got := map[string][]string{}, map[string][]string{}
	for section, keys := range example {
		want[section] = slices.Sorted(maps.Keys(keys))
	}
	for section, s := range readSchema(t, orders).at("config").Properties {
		got[section] = slices.Sorted(maps.Keys(s.Properties))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-config.example.yaml +values.schema.json):\n%s", diff)
	}
}

// TestReadme compares the table in README.md with values.yaml.
func TestReadme(t *testing.T) {
	for _, chart := range []string{orders, service, admission} {
		t.Run(chart, func(t *testing.T) { readmeMatchesValues(t, chart) })
	}
}

func readmeMatchesValues(t *testing.T, chart string) {
	const begin, end = "<!-- values: written by go test -update -->\n", "<!-- end of values -->"
	root := readSchema(t, chart)
	var table strings.Builder
	table.WriteString("| Key | Type | Default | Description |\n|---|---|---|---|\n")
	for _, v := range documented(t, chart) {
		preset := ""
		if !v.section {
			var decoded any
			if err := v.node.Decode(&decoded); err != nil {
				t.Fatal(err)
			}
			preset = "`" + toJSON(t, decoded) + "`"
		}
		kind := "any"
		if s := root.at(v.path); s != nil {
			kind = s.typeName()
		}
		cell := strings.NewReplacer("|", `\|`)
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", v.path, kind, cell.Replace(preset), cell.Replace(v.comment))
	}

	file := filepath.Join(folder(chart), "README.md")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s does not contain the markers of the table", file)
	}
	golden(t, file, head+begin+"\n"+table.String()+"\n"+end+tail)
}

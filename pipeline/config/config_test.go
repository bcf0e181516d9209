package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestEmptyFileIsTheDefault(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "{}", "app:\n", "---\n", "~"} {
		got, err := config.Parse("slipway.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(config.Default(), got); diff != "" {
			t.Errorf("%q differs from the default:\n%s", text, diff)
		}
	}
}

func TestParse(t *testing.T) {
	got, err := config.Parse("slipway.yaml", []byte(`
app:
  main: ./cmd/server
  platforms: [linux/arm64, linux/arm/v7]
  env: {GOAMD64: v3}
image:
  repository: ghcr.io/acme/orders
  args: [--config, /etc/app/config.yaml]
  ports: [80]
  env: {TZ: Asia/Shanghai}
  healthCheck: {interval: 1m, retries: 5}
test:
  race: false
  coverage: 72.5
  services: [postgres, redis]
registry:
  mirrors: {docker.io: [mirror.example.com]}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	race := false
	want.App.Main = "./cmd/server"
	want.App.Platforms = []string{"linux/arm64", "linux/arm/v7"}
	want.App.Env = map[string]string{"GOAMD64": "v3"}
	want.Image.Repository = "ghcr.io/acme/orders"
	want.Image.Args = []string{"--config", "/etc/app/config.yaml"}
	want.Image.Ports = []int{80}
	want.Image.Env = map[string]string{"TZ": "Asia/Shanghai"}
	want.Image.HealthCheck.Interval = config.Duration(time.Minute)
	want.Image.HealthCheck.Retries = 5
	want.Test.Race = &race
	want.Test.Coverage = 72.5
	want.Test.Services = []string{"postgres", "redis"}
	want.Registry.Mirrors = map[string][]string{"docker.io": {"mirror.example.com"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNullRemovesAValueOfTheChart covers helm/helm#8665: a null in the values of a chart
// removes a key, while a setting that is null keeps its default.
func TestNullRemovesAValueOfTheChart(t *testing.T) {
	for name, tt := range map[string]struct {
		set  string
		want map[string]any
	}{
		"null":           {"{replicas: null}", map[string]any{"replicas": nil}},
		"tilde":          {"{replicas: ~}", map[string]any{"replicas": nil}},
		"empty":          {"\n        replicas:\n", map[string]any{"replicas": nil}},
		"nested":         {"{a: {b: {c: null, d: 1}}}", map[string]any{"a": map[string]any{"b": map[string]any{"c": nil, "d": 1.0}}}},
		"in a list":      {"{a: [null, {b: null}]}", map[string]any{"a": []any{nil, map[string]any{"b": nil}}}},
		"key set":        {"{set: {set: null}}", map[string]any{"set": map[string]any{"set": nil}}},
		"escaped key":    {"{a/b~c: {d: null}}", map[string]any{"a/b~c": map[string]any{"d": nil}}},
		"alias":          {"{a: &x {b: null}, c: *x}", map[string]any{"a": map[string]any{"b": nil}, "c": map[string]any{"b": nil}}},
		"nothing is set": {"null", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := config.Parse("slipway.yaml", []byte("deploy:\n  chart:\n  environments:\n    prod/eu:\n      timeout: null\n      set: "+tt.set))
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.Environment("prod/eu")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, e.Set); diff != "" {
				t.Error(diff)
			}
			if e.Timeout != config.DefaultEnvironment().Timeout {
				t.Errorf("a timeout of null became %v", e.Timeout)
			}
			if err := c.Check(); err != nil {
				t.Errorf("checking the settings again: %v", err)
			}
		})
	}
}

// invalid is a file with a mistake, and a part of the error about it.
type invalid struct{ text, want string }

//nolint:funlen // a table
func invalidFiles() map[string]invalid {
	return map[string]invalid{
		"image twice": {
			"deploy:\n  imageValues:\n    tag: image.tag\n    reference: image\n",
			"f.yaml:4:16: deploy.imageValues: reference excludes repository, registry, digest and tag",
		},
		"unknown key": {
			"app:\n  man: ./cmd/server\n",
			`f.yaml:2:3: unknown key "man" in app; did you mean "main"?`,
		},
		"unknown top-level key": {
			"imge: {}\n",
			`f.yaml:1:1: unknown key "imge" at the top level; did you mean "image"?`,
		},
		"unknown key that is similar to no other": {
			"lint:\n  frobnicate: 1\n",
			`f.yaml:2:3: unknown key "frobnicate" in lint; valid keys: config, newFrom, timeout, version`,
		},
		"key of a nested mapping": {
			"image:\n  healthCheck:\n    intervall: 3s\n",
			`f.yaml:3:5: unknown key "intervall" in image.healthCheck; did you mean "interval"?`,
		},
		"wrong type": {
			"test:\n  coverage: high\n",
			"f.yaml:2:13: test.coverage must be a number, not a string",
		},
		"number for a string": {
			"image:\n  env:\n    PORT: 8080\n",
			"f.yaml:3:11: image.env.PORT must be a string, not a number; put it in quotes",
		},
		"list for a mapping": {
			"- a\n",
			"f.yaml:1:1: the file must be a mapping, not a list",
		},
		"enumeration": {
			"image:\n  compression: ztsd\n",
			`f.yaml:2:16: image.compression is ztsd; it must be one of gzip, zstd; did you mean "zstd"?`,
		},
		"value out of range": {
			"test:\n  coverage: 120\n",
			"f.yaml:2:13: test.coverage must be at most 100",
		},
		"platform": {
			"app:\n  platforms: [linux/amd64, windows/amd64]\n",
			`f.yaml:2:28: platform "windows/amd64" is not known (use one of linux/386,`,
		},
		"entrypoint": {"image:\n  entrypoint: /../server\n", `f.yaml:2:15: image.entrypoint: "/../server" is not a plain absolute path`},
		"port":       {"image:\n  ports: [8080, 70000]\n", "f.yaml:2:17: 70000 is not a port (1 to 65535)"},
		"licence": {
			"license:\n  allow: [MIT, Apache-2]\n",
			`f.yaml:2:16: license.allow: "Apache-2" is not an SPDX identifier of a licence; did you mean "Apache-2.0"?`,
		},
		"licence in the wrong case": {
			"license: {allow: [mit]}\n",
			`f.yaml:1:19: license.allow: "mit" is not an SPDX identifier of a licence; did you mean "MIT"?`,
		},
		"expression instead of a licence": {
			"license: {allow: [MIT OR Apache-2.0]}\n",
			`f.yaml:1:19: license.allow: "MIT OR Apache-2.0" is not an SPDX identifier of a licence; https://spdx.org/licenses lists them`,
		},
		"exception without a reason": {
			"license:\n  exceptions: {example.com/x: ' '}\n",
			"f.yaml:2:31: license.exceptions: example.com/x needs a reason",
		},
		"repository": {"image:\n  repository: Acme/Orders\n", "f.yaml:2:15: image.repository: "},
		"base":       {"image:\n  base: 'a b'\n", "f.yaml:2:9: image.base: "},
		"key twice":  {"app:\n  main: a\n  main: b\n", `f.yaml:3:3: key "main" is set twice`},
		"outside":    {"app:\n  dir: ../x\n", `f.yaml:2:8: app.dir: "../x" is outside the folder of slipway.yaml`},
		"environment": {
			"app:\n  env: {PATH: /evil}\n",
			"f.yaml:2:15: PATH is not a setting of the Go compiler",
		},
		"workspace of one machine":    {"app:\n  env: {GOWORK: /home/me/go.work}\n", "f.yaml:2:17: GOWORK can only be off"},
		"empty workspace":             {"app:\n  env: {GOWORK: ''}\n", "f.yaml:2:17: GOWORK can only be off"},
		"duration":                    {"lint:\n  timeout: soon\n", `f.yaml:2:12: lint.timeout is "soon"; it must match`},
		"zero duration":               {"lint:\n  timeout: 0s\n", "must be greater than zero"},
		"syntax":                      {"app:\n\tmain: x\n", "f.yaml:2:1: found character that cannot start any token"},
		"second file":                 {"app: {}\n---\napp: {}\n", "f.yaml:2:1: slipway.yaml must contain only one YAML document"},
		"merge key":                   {"app: &a {}\nimage:\n  <<: *a\n", "f.yaml:3:3: merge keys (<<) are not supported"},
		"not a number":                {"test:\n  coverage: .nan\n", "f.yaml:2:13: .nan is not a finite number"},
		"mapping as key":              {"? [a]\n: b\n", "f.yaml:1:3: a key must be a plain word"},
		"golangci-lint":               {"lint: {version: latest}\n", `f.yaml:1:17: lint.version is "latest"; it must match`},
		"value twice":                 {"test: {services: [redis, redis]}\n", "f.yaml:1:26: test.services contains the same value twice"},
		"empty list":                  {"test: {packages: []}\n", "f.yaml:1:18: test.packages must not be an empty list"},
		"alias of itself":             {"app: &a\n  t: *a\n", "nested more than 64 levels deep"},
		"key and keyless":             {"sign: {key: a, keyless: {}}\n", "f.yaml:1:13: sign.key and sign.keyless exclude each other"},
		"log of version 2 and tags":   {"sign: {rekorVersion: 2}\n", "f.yaml:1:22: a log of version 2 takes only bundles"},
		"log of version 2, no stamps": {"sign: {rekorVersion: 2, formats: [bundle], keyless: {}}\n", "needs sign.timestamp"},
		"no subject":                  {"verify:\n  identities:\n    - issuer: https://a\n", "f.yaml:3:7: an identity needs subject or subjectPattern"},
		"two issuers":                 {"verify: {identities: [{issuer: a, issuerPattern: b, subject: c}]}\n", "issuer and issuerPattern exclude each other"},
		"pattern":                     {"deploy: {environments: {prod: {verify: {identities: [{issuer: a, subjectPattern: '['}]}}}}\n", "f.yaml:1:82: "},
		"two mistakes":                {"imge: {}\ntest: {race: 1}\n", "f.yaml:1:1: unknown key \"imge\" at the top level; did you mean \"image\"?\nf.yaml:2:14: test.race must be true or false, not a number"},
	}
}

func TestMistakesHaveAPositionAndASuggestion(t *testing.T) {
	for name, tt := range invalidFiles() {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse("f.yaml", []byte(tt.text))
			var e *fault.Error
			if !errors.As(err, &e) || e.Kind != fault.Input {
				t.Fatalf("got %v, want an input error", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestPolicyOfAnEnvironment(t *testing.T) {
	c, err := config.Parse("f.yaml", []byte(`
sign: {attestations: [sbom, scan]}
verify: {keys: [all.pub], scanMaxAge: 240h}
deploy:
  environments:
    staging: {}
    prod: {verify: {identities: [{issuer: i, subject: s}], scanMaxAge: 24h, attestations: [provenance]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	day := config.Duration(24 * time.Hour)
	for name, want := range map[string]config.Verify{
		"":        {Keys: []string{"all.pub"}, Attestations: []string{"sbom", "scan"}, ScanMaxAge: 10 * day},
		"staging": {Keys: []string{"all.pub"}, Attestations: []string{"sbom", "scan"}, ScanMaxAge: 10 * day},
		// prod defines who may sign for it, so the key of the other environments must
		// not be trusted.
		"prod": {Identities: []config.Identity{{Issuer: "i", Subject: "s"}}, Attestations: []string{"provenance"}, ScanMaxAge: day},
	} {
		got, err := c.Policy(name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	if _, err := c.Policy("pord"); fault.ExitCode(err) != fault.ExitInput {
		t.Errorf("got %v, want an input error", err)
	}
}

// What a policy says of gates that may have failed is not inherited by a protected
// environment. Nil means that it says nothing.
func TestPolicyOnFailedGates(t *testing.T) {
	c, err := config.Parse("f.yaml", []byte(`
verify: {allow: [lint]}
deploy:
  environments:
    staging: {}
    strict: {verify: {allow: []}}
    other: {verify: {allow: [test]}}
    prod: {protected: true}
    lenient: {protected: true, verify: {allow: [scan]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"": {"lint"}, "staging": {"lint"}, "strict": {}, "other": {"test"}, "prod": {}, "lenient": {"scan"},
	} {
		got, err := c.Policy(name)
		if diff := cmp.Diff(want, got.Allow); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	c, err = config.Parse("f.yaml", []byte("deploy: {environments: {dev: {}, prod: {protected: true}}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, decided := range map[string]bool{"": false, "dev": false, "prod": true} {
		if got, err := c.Policy(name); err != nil || (got.Allow != nil) != decided {
			t.Errorf("%s: %v, %v; want a decision: %v", name, got.Allow, err, decided)
		}
	}
}

func TestAliasesCannotExhaustMemory(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [" + strings.Repeat("x, ", 9) + "x]\n")
	for i := 1; i < 12; i++ {
		r := strings.Repeat("*a"+string(rune('a'+i-1))+", ", 9)
		if i == 1 {
			r = strings.Repeat("*a0, ", 9)
		}
		b.WriteString("a" + string(rune('a'+i)) + ": &a" + string(rune('a'+i)) + " [" + strings.TrimSuffix(r, ", ") + "]\n")
	}
	_, err := config.Parse("f.yaml", []byte(b.String()))
	if fault.ExitCode(err) != fault.ExitInput {
		t.Fatalf("got %v, want an input error", err)
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	sub := filepath.Join(root, "repo", "services", "orders")
	for _, d := range []string{sub, filepath.Join(root, "repo", ".git")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(root, config.FileName)
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := config.Find(sub); err != nil || got != "" {
		t.Errorf("got %q, %v; a file above the repository must be ignored", got, err)
	}
	inside := filepath.Join(root, "repo", config.FileName)
	if err := os.WriteFile(inside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := config.Find(sub); err != nil || got != inside {
		t.Errorf("got %q, %v, want %s", got, err, inside)
	}
}

func TestDurationOmitsZeroUnits(t *testing.T) {
	for in, want := range map[time.Duration]string{
		5 * time.Minute: "5m", time.Hour: "1h", 90 * time.Second: "1m30s", 30 * time.Second: "30s", 90 * time.Minute: "1h30m",
	} {
		if got := config.Duration(in).String(); got != want {
			t.Errorf("%v: got %s, want %s", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("app: {main: ./cmd/server, platforms: [linux/amd64]}\nimage: {ports: [1]}\n"))
	f.Add([]byte("app: &a\n  dir: .\ntest: *a\n"))
	f.Add([]byte("? [a]\n: b\n---\n"))
	f.Add([]byte("app: &a\n t: *a\n"))
	f.Add([]byte("image: {healthCheck: {interval: 1h}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := config.Parse("f.yaml", data)
		if err == nil {
			return
		}
		if fault.ExitCode(err) != fault.ExitInput {
			t.Errorf("%q: the exit code of %v is not 2", data, err)
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "f.yaml") {
				t.Errorf("%q: line %q does not begin with the name of the file", data, line)
			}
		}
	})
}

func FuzzParsePlatform(f *testing.F) {
	f.Add("linux/amd64")
	f.Add("linux/arm/v7")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := config.ParsePlatform(s)
		if err == nil && p.String() != s {
			t.Errorf("%q was parsed as %s", s, p)
		}
	})
}

package deploy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

var digest = "sha256:" + strings.Repeat("a", 64)

// valuesOf parses values in YAML.
func valuesOf(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestImageValues covers the shapes that charts have for the values that select the image.
func TestImageValues(t *testing.T) {
	const image = "ghcr.io/acme/orders"
	for _, tt := range []struct {
		name     string
		defaults string             // values.yaml of the chart
		uses     []string           // the values in its templates
		set      config.ImageValues // deploy.imageValues
		given    string             // the values of the environment
		want     string             // the values that select the image
	}{
		{name: "digest", defaults: "image: {repository: x, digest: ''}", want: "image: {repository: REPO, digest: DIGEST}"},
		{name: "digest and tag", defaults: "image: {repository: x, tag: '1', digest: null}", want: "image: {repository: REPO, digest: DIGEST}"},
		{name: "tag only", defaults: "image: {repository: nginx, pullPolicy: IfNotPresent, tag: ''}", want: "image: {repository: REPO, tag: 'v1.2.3@DIGEST'}"},
		{name: "tag of null", defaults: "image: {repository: nginx, tag: null}", want: "image: {repository: REPO, tag: 'v1.2.3@DIGEST'}"},
		{name: "tag and registry", defaults: "image: {registry: docker.io, repository: x, tag: '1'}", want: "image: {registry: ghcr.io, repository: acme/orders, tag: 'v1.2.3@DIGEST'}"},
		{name: "digest and registry", defaults: "image: {registry: docker.io, repository: x, tag: '1', digest: ''}", want: "image: {registry: ghcr.io, repository: acme/orders, digest: DIGEST}"},
		{name: "name instead of repository", defaults: "image: {name: x, tag: '1'}", want: "image: {name: REPO, tag: 'v1.2.3@DIGEST'}"},
		{name: "one text", defaults: "image: 'nginx:1.27'", want: "image: REPO@DIGEST"},
		{name: "an empty text", defaults: "image: ''", want: "image: REPO@DIGEST"},
		{name: "one text and a tag", defaults: "image: nginx\nimageTag: '1.27'", want: "image: REPO\nimageTag: 'v1.2.3@DIGEST'"},
		{name: "one text and a digest", defaults: "image: nginx\nimageTag: '1.27'\nimageDigest: ''", want: "image: REPO\nimageDigest: DIGEST"},
		{name: "the digest is only in a template", defaults: "image: {repository: x}", uses: []string{"image.digest"}, want: "image: {repository: REPO, digest: DIGEST}"},
		{name: "the tag is only in a template", defaults: "image: {repository: x}", uses: []string{"image.tag"}, want: "image: {repository: REPO, tag: 'v1.2.3@DIGEST'}"},
		{name: "without values", defaults: "", uses: []string{"image.repository", "image.digest"}, want: "image: {repository: REPO, digest: DIGEST}"},
		{name: "only a repository", defaults: "image: {repository: x}", want: "image: {repository: REPO, digest: DIGEST}"},
		{name: "only in a values file", given: "image: {repository: x, tag: '1'}", uses: []string{"image.tag"}, want: "image: {repository: REPO, tag: 'v1.2.3@DIGEST'}"},
		{name: "configured in full", defaults: "image: {repository: x, tag: ''}", set: config.ImageValues{Repository: "app.repo", Digest: "app.sha"}, want: "app: {repo: REPO, sha: DIGEST}"},
		{name: "configured digest", defaults: "image: {repository: x, tag: ''}", set: config.ImageValues{Digest: "image.sha"}, want: "image: {repository: REPO, sha: DIGEST}"},
		{name: "configured repository", defaults: "app: {image: {repository: x, tag: ''}}", set: config.ImageValues{Repository: "app.image.repository"}, want: "app: {image: {repository: REPO, tag: 'v1.2.3@DIGEST'}}"},
		{name: "configured repository with a registry", defaults: "app: {registry: y, repository: x, tag: ''}", set: config.ImageValues{Repository: "app.repository"}, want: "app: {registry: ghcr.io, repository: acme/orders, tag: 'v1.2.3@DIGEST'}"},
		{name: "configured digest and tag", defaults: "image: {repository: x}", set: config.ImageValues{Digest: "image.digest", Tag: "image.tag"}, want: "image: {repository: REPO, digest: DIGEST, tag: v1.2.3}"},
		{name: "configured reference", defaults: "image: {repository: x}", set: config.ImageValues{Reference: "app.image"}, want: "app: {image: REPO@DIGEST}"},
		{name: "a subchart has an image too", defaults: "image: {repository: x, tag: ''}\nredis: {image: {repository: redis, tag: '7', digest: ''}}", want: "image: {repository: REPO, tag: 'v1.2.3@DIGEST'}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found, err := deploy.FindImageValues(tt.set, deploy.ChartValues{
				Chart: "orders", Defaults: valuesOf(t, tt.defaults), Given: valuesOf(t, tt.given),
				Uses: func(v string) bool { return slices.Contains(tt.uses, v) },
			})
			if err != nil {
				t.Fatal(err)
			}
			o := deploy.Options{ImageValues: found, Version: "v1.2.3"}
			want := valuesOf(t, strings.NewReplacer("REPO", image, "DIGEST", digest).Replace(tt.want))
			if diff := cmp.Diff(want, o.Values(deploy.Image{Repository: image, Digest: digest})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestUnknownImageValues checks the error for a chart whose values do not show which of
// them select the image. It must not choose the image of a sidecar or a subchart.
func TestUnknownImageValues(t *testing.T) {
	for _, tt := range []struct{ defaults, want string }{
		{"", "deploy.imageValues"},
		{"replicas: 1", "deploy.imageValues"},
		{"redis: {image: {repository: redis, tag: '7'}}", "redis.image.repository"},
		{"app: {image: x}\nproxy: {image: envoy}", "app.image, proxy.image"},
	} {
		_, err := deploy.FindImageValues(config.ImageValues{PullSecrets: "imagePullSecrets"}, deploy.ChartValues{Chart: "orders", Defaults: valuesOf(t, tt.defaults)})
		if fault.CodeOf(err) != "deploy.image-values" || fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "deploy.imageValues") {
			t.Errorf("%q: %v", tt.defaults, err)
		}
	}
}

// TestTagOfTheImage checks that every version becomes a valid tag.
func TestTagOfTheImage(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                 "v1.2.3",
		"v1.2.3+build.5":         "v1.2.3-build.5",
		"":                       strings.Repeat("a", 12),
		"release/2026":           "release-2026",
		".-x":                    "x",
		"é":                      strings.Repeat("a", 12),
		strings.Repeat("x", 200): strings.Repeat("x", 128),
	} {
		o := deploy.Options{ImageValues: config.ImageValues{Tag: "tag"}, Version: version}
		if got := o.Values(deploy.Image{Repository: "x", Digest: digest})["tag"]; got != want+"@"+digest {
			t.Errorf("%q becomes %q, want %q", version, got, want)
		}
	}
}

// TestImageOfDockerHub checks that the registry of Docker Hub is passed to a chart with a
// value for it.
func TestImageOfDockerHub(t *testing.T) {
	o := deploy.Options{ImageValues: config.ImageValues{Registry: "registry", Repository: "repository", Digest: "digest"}}
	for repository, want := range map[string][2]any{
		"index.docker.io/acme/orders":  {"index.docker.io", "acme/orders"},
		"127.0.0.1:5077/orders":        {"127.0.0.1:5077", "orders"},
		"registry.example.com/a/b/c/d": {"registry.example.com", "a/b/c/d"},
	} {
		v := o.Values(deploy.Image{Repository: repository, Digest: digest})
		if v["registry"] != want[0] || v["repository"] != want[1] {
			t.Errorf("%s becomes %v and %v", repository, v["registry"], v["repository"])
		}
	}
}

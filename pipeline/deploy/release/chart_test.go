package release

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// writeChart writes a chart with values and templates, and returns its folder.
func writeChart(t *testing.T, values string, files map[string]string) string {
	t.Helper()
	all := map[string]string{"Chart.yaml": "apiVersion: v2\nname: orders\nversion: 0.1.0\nappVersion: '9.9'\n", "values.yaml": values}
	maps.Copy(all, files)
	return testkit.Tree(t, all)
}

// render renders a chart without a cluster and returns its objects.
func render(t *testing.T, ch Chart) []*unstructured.Unstructured {
	t.Helper()
	install := action.NewInstall(new(action.Configuration))
	install.ReleaseName, install.Namespace = "orders", "shop"
	install.ClientOnly, install.DryRun = true, true
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.34.2", Major: "1", Minor: "34"}
	r, err := install.Run(ch.chart, chartutil.CoalesceTables(map[string]any{}, ch.values))
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(r.Manifest, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if u.Object != nil {
			out = append(out, u)
		}
	}
	return out
}

// images returns the images of the Deployments of a chart that is rendered with an image.
func images(t *testing.T, dir string, set map[string]any) []string {
	t.Helper()
	ch, err := Load(deploy.Chart{Path: dir}, nil, set)
	if err != nil {
		t.Fatal(err)
	}
	o := deploy.Options{Settings: config.Environment{Set: set}, Version: "v1.2.3"}
	if o.ImageValues, err = deploy.FindImageValues(config.ImageValues{}, ch.Values()); err != nil {
		t.Fatal(err)
	}
	if ch, err = ch.With(o.Values(deploy.Image{Repository: "ghcr.io/acme/orders", Digest: "sha256:" + strings.Repeat("a", 64)})); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, o := range render(t, ch) {
		all = append(all, Images(o)...)
	}
	return all
}

// TestChartsOfEveryShapeRunTheImage renders charts of the shapes that public charts have.
func TestChartsOfEveryShapeRunTheImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	template := func(image string) map[string]string {
		return map[string]string{"templates/d.yaml": "kind: Deployment\nmetadata: {name: x}\nspec: {template: {spec: {containers: [{name: app, image: \"" + image + "\"}]}}}\n"}
	}
	for _, tt := range []struct{ name, values, image, want string }{
		{"tag or appVersion", "image: {repository: nginx, tag: ''}", "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}", "ghcr.io/acme/orders:v1.2.3@" + digest},
		{"digest", "image: {repository: nginx, digest: ''}", "{{ .Values.image.repository }}@{{ .Values.image.digest }}", "ghcr.io/acme/orders@" + digest},
		{"tag and digest", "image: {repository: nginx, tag: v9, digest: ''}", "{{ .Values.image.repository }}:{{ .Values.image.tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}", "ghcr.io/acme/orders:v9@" + digest},
		{"registry", "image: {registry: docker.io, repository: x, tag: v9}", "{{ .Values.image.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}", "ghcr.io/acme/orders:v1.2.3@" + digest},
		{"registry and digest", "image: {registry: docker.io, repository: x, tag: v9, digest: ''}", "{{ .Values.image.registry }}/{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag }}{{ end }}", "ghcr.io/acme/orders@" + digest},
		{"a registry that can be empty", "image: {registry: '', repository: x, tag: v9}", "{{ with .Values.image.registry }}{{ . }}/{{ end }}{{ .Values.image.repository }}:{{ .Values.image.tag }}", "ghcr.io/acme/orders:v1.2.3@" + digest},
		{"one text", "image: nginx:1.27", "{{ .Values.image }}", "ghcr.io/acme/orders@" + digest},
		{"one text and a tag", "image: nginx\nimageTag: '1.27'", "{{ .Values.image }}:{{ .Values.imageTag }}", "ghcr.io/acme/orders:v1.2.3@" + digest},
		{"without values", "", "{{ .Values.image.repository }}:{{ required \"set the tag\" .Values.image.tag }}", "ghcr.io/acme/orders:v1.2.3@" + digest},
		{"printf", "image: {repository: x, tag: ''}", "{{ printf `%s:%s` .Values.image.repository (.Values.image.tag | default .Chart.AppVersion | toString) }}", "ghcr.io/acme/orders:v1.2.3@" + digest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := images(t, writeChart(t, tt.values, template(tt.image)), nil); len(got) != 1 || got[0] != tt.want {
				t.Errorf("the chart runs %v, want %s", got, tt.want)
			}
		})
	}
	t.Run("helm create", func(t *testing.T) {
		dir, err := chartutil.Create("orders", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got := images(t, dir, nil); !slices.Contains(got, "ghcr.io/acme/orders:v1.2.3@"+digest) {
			t.Errorf("the chart runs %v", got)
		}
	})
}

// TestSetOverridesLikeAValuesFile checks that every value in set has the same effect as in
// a values file, in particular null (helm/helm#8665).
func TestSetOverridesLikeAValuesFile(t *testing.T) {
	const defaults = "replicas: 2\nlimits: {cpu: 1, memory: 2}\nlist: [1, 2]\nsub: {size: 1}\nimage: {repository: x, tag: y}\nlarge: 1\n"
	files := map[string]string{
		"templates/c.yaml":              "kind: ConfigMap\nmetadata: {name: x}\ndata:\n  values: {{ toJson .Values | quote }}\n",
		"charts/sub/Chart.yaml":         "apiVersion: v2\nname: sub\nversion: 0.1.0\n",
		"charts/sub/values.yaml":        "size: 5\ncolour: red\n",
		"charts/sub/templates/sub.yaml": "kind: ConfigMap\nmetadata: {name: sub}\ndata:\n  values: {{ toJson .Values | quote }}\n",
	}
	const environment = "replicas: 3\nlimits: {disk: 9}\n" // a values file of the environment
	for _, set := range []string{
		"{replicas: null}", "{limits: {cpu: null}}", "{limits: {disk: null}}", "{limits: null}", "{new: null}", "{sub: {colour: null}}", "{sub: {size: null}}",
		"{list: null}", "{list: [null]}", "{limits: 5}", "{replicas: {a: 1}}", "{global: {a: null}}", "{image: null}", "{large: 1000000}", "{}", "{replicas: 4}",
	} {
		t.Run(set, func(t *testing.T) {
			dir := t.TempDir()
			env, over := filepath.Join(dir, "env.yaml"), filepath.Join(dir, "over.yaml")
			for file, text := range map[string]string{env: environment, over: set} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var values map[string]any
			if err := yaml.Unmarshal([]byte(set), &values); err != nil {
				t.Fatal(err)
			}
			chart := writeChart(t, defaults, files)
			rendered := func(files []string, set map[string]any) (texts []string) {
				ch, err := Load(deploy.Chart{Path: chart}, files, set)
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range render(t, ch) {
					text, _, _ := unstructured.NestedString(o.Object, "data", "values")
					texts = append(texts, text)
				}
				return texts
			}
			got, want := rendered([]string{env}, values), rendered([]string{env, over}, nil)
			if !slices.Equal(got, want) {
				t.Errorf("set gives\n%v\nand the values file\n%v", got, want)
			}
			if set == "{replicas: null}" && strings.Contains(want[1]+want[0], "replicas") {
				t.Errorf("null does not remove the value: %v", want)
			}
		})
	}
}

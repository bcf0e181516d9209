// Package charts tests the charts of this folder: their values, what they render
// and whether a cluster would take it.
package charts

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/release"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files and the README's table instead of comparing them")

const (
	chartDir    = "order-service"
	releaseName = "orders"
	namespace   = "shop"
	// kubeVersion is what the charts are rendered for and checked against.
	kubeVersion = "v1.34.2"
)

func TestMain(m *testing.M) {
	flag.Parse()
	log.SetOutput(io.Discard) // helm lint's remarks on values that it does not require
	os.Exit(run(m))
}

// scratch is a folder for what several tests share.
var scratch string

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "charts-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(scratch)
	return m.Run()
}

// valueSet is a values file, by the name of the file without its suffix.
type valueSet struct {
	name   string
	values chartutil.Values
}

// valueSets returns every values file that the chart comes with.
func valueSets(t *testing.T) []valueSet {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no values files in ci: %v", err)
	}
	var sets []valueSet
	for _, file := range files {
		sets = append(sets, valueSet{strings.TrimSuffix(filepath.Base(file), "-values.yaml"), readValues(t, file)})
	}
	for _, environment := range []string{"dev", "prod"} {
		v := readValues(t, filepath.Join(chartDir, "values-"+environment+".yaml"))
		v["image"] = map[string]any{"repository": "registry.example.com/shop/order-service", "tag": "v1.4.0"}
		sets = append(sets, valueSet{environment, v})
	}
	return sets
}

func readValues(t *testing.T, file string) chartutil.Values {
	t.Helper()
	values, err := chartutil.ReadValuesFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// parseValues returns a minimal set of values with those in raw over it.
func parseValues(t *testing.T, raw string) chartutil.Values {
	t.Helper()
	values, err := chartutil.ReadValues([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return chartutil.MergeTables(values, readValues(t, filepath.Join(chartDir, "ci", "minimal-values.yaml")))
}

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// install renders c as helm install would, without a cluster.
func install(ctx context.Context, c *chart.Chart, values chartutil.Values, kube string) (*release.Release, error) {
	version, err := chartutil.ParseKubeVersion(kube)
	if err != nil {
		return nil, err
	}
	i := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	i.ReleaseName, i.Namespace = releaseName, namespace
	i.ClientOnly, i.DryRun, i.KubeVersion = true, true, version
	return i.RunWithContext(ctx, c, values)
}

func render(t *testing.T, values chartutil.Values) *release.Release {
	t.Helper()
	r, err := install(t.Context(), loadChart(t), values, kubeVersion)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// manifest returns everything that a release makes, hooks last.
func manifest(r *release.Release) string {
	var b strings.Builder
	b.WriteString(strings.TrimPrefix(r.Manifest, "\n"))
	for _, hook := range r.Hooks {
		fmt.Fprintf(&b, "---\n# Source: %s\n%s\n", hook.Path, strings.TrimSpace(hook.Manifest))
	}
	return b.String()
}

// object is a rendered object with the part that all kinds share decoded.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	raw []byte
}

func objects(t *testing.T, r *release.Release) []object {
	t.Helper()
	var all []object
	for doc := range strings.SplitSeq("\n"+manifest(r), "\n---\n") {
		o := object{raw: []byte(doc)}
		if err := yaml.Unmarshal(o.raw, &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if o.Kind != "" {
			all = append(all, o)
		}
	}
	return all
}

// only returns the one object of a kind, decoded into a T, or nil if there is none.
// Fields that T does not have are errors.
func only[T any](t *testing.T, r *release.Release, kind string) *T {
	t.Helper()
	var found *T
	for _, o := range objects(t, r) {
		if o.Kind != kind {
			continue
		}
		if found != nil {
			t.Fatalf("more than one %s", kind)
		}
		found = new(T)
		if err := yaml.UnmarshalStrict(o.raw, found); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	return found
}

func deployment(t *testing.T, r *release.Release) *appsv1.Deployment {
	t.Helper()
	d := only[appsv1.Deployment](t, r, "Deployment")
	if d == nil {
		t.Fatal("no Deployment")
	}
	return d
}

func TestLint(t *testing.T) {
	sets := append(valueSets(t), valueSet{"defaults", chartutil.Values{}})
	for _, set := range sets {
		t.Run(set.name, func(t *testing.T) {
			l := action.NewLint()
			l.Strict, l.Namespace = true, namespace
			result := l.Run([]string{chartDir}, set.values)
			for _, err := range result.Errors {
				t.Error(err)
			}
			for _, m := range result.Messages {
				if m.Severity >= support.WarningSev {
					t.Error(m)
				}
			}
		})
	}
}

func TestGolden(t *testing.T) {
	var want []string
	for _, set := range valueSets(t) {
		want = append(want, set.name+".yaml", set.name+".notes.txt")
		t.Run(set.name, func(t *testing.T) {
			r := render(t, set.values)
			golden(t, filepath.Join("testdata", set.name+".yaml"), manifest(r))
			golden(t, filepath.Join("testdata", set.name+".notes.txt"), r.Info.Notes)
		})
	}
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(want, e.Name()) {
			t.Errorf("testdata/%s belongs to no values file", e.Name())
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is out of date (go test -update writes it) (-file +rendered):\n%s", file, diff)
	}
}

// A Deployment's selector is immutable: if it moved, the upgrade would fail.
func TestSelectorNeverChanges(t *testing.T) {
	want := map[string]string{"app.kubernetes.io/name": "order-service", "app.kubernetes.io/instance": releaseName}
	check := func(t *testing.T, r *release.Release) {
		t.Helper()
		d := deployment(t, r)
		if diff := cmp.Diff(want, d.Spec.Selector.MatchLabels); diff != "" {
			t.Errorf("Deployment (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, only[corev1.Service](t, r, "Service").Spec.Selector); diff != "" {
			t.Errorf("Service (-want +got):\n%s", diff)
		}
		if !selects(want, d.Spec.Template.Labels) {
			t.Errorf("does not select its own pods: %v", d.Spec.Template.Labels)
		}
		for _, o := range objects(t, r) {
			if o.Kind == "Pod" && selects(want, o.Metadata.Labels) {
				t.Errorf("also selects the pod %s, which does not serve", o.Metadata.Name)
			}
		}
	}
	for _, set := range valueSets(t) {
		t.Run(set.name, func(t *testing.T) { check(t, render(t, set.values)) })
	}
	t.Run("other versions", func(t *testing.T) {
		c := loadChart(t)
		c.Metadata.Version, c.Metadata.AppVersion = "9.9.9", "8.8.8"
		r, err := install(t.Context(), c, parseValues(t, `{version: v7, image: {tag: v6}, podLabels: {app.kubernetes.io/name: x}, commonLabels: {app.kubernetes.io/instance: z}}`), kubeVersion)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r)
	})
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func TestReplicas(t *testing.T) {
	for _, tt := range []struct {
		name, values string
		replicas     *int32
		budget       bool
	}{
		{"default", `{}`, new(int32(5)), true},
		{"one", `{replicas: 1}`, new(int32(1)), false},
		{"none", `{replicas: 0}`, new(int32(0)), false},
		{"autoscaled", `{autoscaling: {enabled: true}}`, nil, true},
		{"autoscaled from one", `{replicas: 9, autoscaling: {enabled: true, minReplicas: 1}}`, nil, false},
		{"no budget", `{podDisruptionBudget: {enabled: false}}`, new(int32(5)), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := render(t, parseValues(t, tt.values))
			if diff := cmp.Diff(tt.replicas, deployment(t, r).Spec.Replicas); diff != "" {
				t.Errorf("replicas (-want +got):\n%s", diff)
			}
			if got := only[map[string]any](t, r, "PodDisruptionBudget") != nil; got != tt.budget {
				t.Errorf("PodDisruptionBudget: %t, want %t", got, tt.budget)
			}
			if got, want := only[map[string]any](t, r, "HorizontalPodAutoscaler") != nil, tt.replicas == nil; got != want {
				t.Errorf("HorizontalPodAutoscaler: %t, want %t", got, want)
			}
		})
	}
}

func TestImage(t *testing.T) {
	const repository = "registry.example.com/shop/order-service"
	const digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, tt := range []struct{ name, values, image, version string }{
		{"digest", `{}`, repository + "@" + digest, "0.1.0"},
		{"digest and tag", `{image: {tag: v2}}`, repository + "@" + digest, "v2"},
		{"tag", `{image: {digest: "", tag: v2}}`, repository + ":v2", "v2"},
		{"version", `{version: 1.2.3+b7, image: {tag: v2}}`, repository + "@" + digest, "1.2.3_b7"},
		{"version like a number", `{version: "1.10"}`, repository + "@" + digest, "1.10"},
		{"long version", `{version: ` + strings.Repeat("a", 62) + `-b}`, repository + "@" + digest, strings.Repeat("a", 62)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := deployment(t, render(t, parseValues(t, tt.values))).Spec.Template
			if got := pod.Spec.Containers[0].Image; got != tt.image {
				t.Errorf("image %q, want %q", got, tt.image)
			}
			for _, label := range []string{"version", "app.kubernetes.io/version"} {
				if got := pod.Labels[label]; got != tt.version {
					t.Errorf("label %s %q, want %q", label, got, tt.version)
				}
			}
		})
	}
}

func TestConfigReload(t *testing.T) {
	for _, tt := range []struct {
		mode  string
		rolls bool
	}{{"roll", true}, {"reload", false}} {
		t.Run(tt.mode, func(t *testing.T) {
			before, after := releaseWith(t, tt.mode, "info"), releaseWith(t, tt.mode, "debug")
			was, is := only[corev1.ConfigMap](t, before, "ConfigMap"), only[corev1.ConfigMap](t, after, "ConfigMap")
			if cmp.Equal(was.Data, is.Data) {
				t.Error("the ConfigMap does not change")
			}
			diff := cmp.Diff(deployment(t, before).Spec.Template, deployment(t, after).Spec.Template)
			if rolls := diff != ""; rolls != tt.rolls {
				t.Errorf("new pods: %t, want %t: %s", rolls, tt.rolls, diff)
			}
		})
	}
	t.Run("a new chart alone", func(t *testing.T) {
		values := parseValues(t, `{}`)
		c := loadChart(t)
		c.Metadata.Version = "9.9.9"
		r, err := install(t.Context(), c, values, kubeVersion)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(deployment(t, render(t, values)).Spec.Template, deployment(t, r).Spec.Template); diff != "" {
			t.Errorf("rolls the pods:\n%s", diff)
		}
	})
}

func releaseWith(t *testing.T, mode, level string) *release.Release {
	t.Helper()
	return render(t, parseValues(t, fmt.Sprintf(`{configReload: %s, config: {log: {level: %s}}}`, mode, level)))
}

func TestAnnotations(t *testing.T) {
	r := render(t, parseValues(t, `{podAnnotations: {prometheus.io/path: /other, checksum/secrets: abc}}`))
	got := deployment(t, r).Spec.Template.Annotations
	delete(got, "checksum/config")
	want := map[string]string{
		"kubectl.kubernetes.io/default-container": "order-service",
		"prometheus.io/scrape":                    "true", "prometheus.io/port": "9090", "prometheus.io/path": "/other",
		"checksum/secrets": "abc",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Secrets are readable by name only: a rule without names means all of them.
func TestRole(t *testing.T) {
	for _, set := range valueSets(t) {
		t.Run(set.name, func(t *testing.T) {
			role := only[rbacv1.Role](t, render(t, set.values), "Role")
			if role == nil {
				return
			}
			for _, rule := range role.Rules {
				if slices.Contains(rule.Resources, "secrets") && (len(rule.ResourceNames) == 0 || !slices.Equal(rule.Verbs, []string{"get"})) {
					t.Errorf("gives away Secrets: %v", rule)
				}
			}
		})
	}
	t.Run("secrets", func(t *testing.T) {
		role := only[rbacv1.Role](t, render(t, parseValues(t, `{secretEnv: [{name: A, secret: b, key: c}], secretEnvFrom: [{secret: b}], secretFiles: [{secret: a, mountPath: /x}]}`)), "Role")
		want := []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"a", "b"}, Verbs: []string{"get"}},
			{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
		}
		if diff := cmp.Diff(want, role.Rules); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
	})
}

func TestToken(t *testing.T) {
	for _, tt := range []struct {
		values string
		want   bool
	}{
		{`{}`, true},
		{`{rbac: {create: false}}`, false},
		{`{automountServiceAccountToken: false}`, false},
		{`{rbac: {create: false}, automountServiceAccountToken: true}`, true},
	} {
		t.Run(tt.values, func(t *testing.T) {
			if got := deployment(t, render(t, parseValues(t, tt.values))).Spec.Template.Spec.AutomountServiceAccountToken; *got != tt.want {
				t.Errorf("token mounted: %t, want %t", *got, tt.want)
			}
		})
	}
}

// Old API servers do not know matchLabelKeys and refuse it or, worse, drop it.
func TestKubeVersions(t *testing.T) {
	values := parseValues(t, `{podAntiAffinity: {mode: required}}`)
	for _, tt := range []struct {
		version string
		keys    []string
	}{{"v1.30.9", nil}, {"v1.31.4-gke.100", []string{"pod-template-hash"}}, {kubeVersion, []string{"pod-template-hash"}}} {
		t.Run(tt.version, func(t *testing.T) {
			r, err := install(t.Context(), loadChart(t), values, tt.version)
			if err != nil {
				t.Fatal(err)
			}
			term := deployment(t, r).Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
			if diff := cmp.Diff(tt.keys, term.MatchLabelKeys); diff != "" {
				t.Errorf("matchLabelKeys (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := install(t.Context(), loadChart(t), values, "v1.26.15"); err == nil || !strings.Contains(err.Error(), "kubeVersion") {
		t.Errorf("Kubernetes 1.26 is not refused: %v", err)
	}
}

// The pipeline makes the Secrets. A chart that made one would keep its values in
// the release, too.
func TestNoSecretIsMade(t *testing.T) {
	for _, set := range valueSets(t) {
		for _, o := range objects(t, render(t, set.values)) {
			if o.Kind == "Secret" {
				t.Errorf("%s: makes the Secret %s", set.name, o.Metadata.Name)
			}
		}
	}
}

func TestPackageHasNoTestFiles(t *testing.T) {
	for _, f := range loadChart(t).Raw {
		if strings.HasPrefix(f.Name, "ci/") || strings.HasSuffix(f.Name, ".go") {
			t.Errorf("the packaged chart would hold %s", f.Name)
		}
	}
}

// toJSON is for comparing and printing values.
func toJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

package charts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

func TestLint(t *testing.T) {
	sets := append(allSets(t), valueSet{orders, "defaults", chartutil.Values{}})
	for _, set := range sets {
		t.Run(set.name, func(t *testing.T) {
			l := action.NewLint()
			l.Strict, l.Namespace = true, namespace
			dir := filepath.Join(t.TempDir(), set.chart)
			copies := map[string]string{dir: folder(set.chart)}
			if set.chart == orders {
				copies[filepath.Join(dir, "charts", "workload")] = library
			}
			for into, from := range copies {
				if err := os.CopyFS(into, os.DirFS(from)); err != nil {
					t.Fatal(err)
				}
			}
			result := l.Run([]string{dir}, set.values)
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
	for _, set := range allSets(t) {
		want = append(want, filepath.Join("testdata", set.name+".yaml"), filepath.Join("testdata", set.name+".notes.txt"))
		t.Run(set.name, func(t *testing.T) {
			r := set.render(t)
			golden(t, filepath.Join("testdata", set.name+".yaml"), manifest(r))
			golden(t, filepath.Join("testdata", set.name+".notes.txt"), r.Info.Notes)
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !slices.Contains(want, file) {
			t.Errorf("%s does not belong to a values file", file)
		}
	}
}

// TestSelectorNeverChanges checks that the selector does not depend on values or versions.
// The selector of a Deployment is immutable, so a change would make upgrades fail.
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
			t.Errorf("the selector does not match the pods: %v", d.Spec.Template.Labels)
		}
		for _, o := range objects(t, r) {
			if o.Kind == "Pod" && selects(want, o.Metadata.Labels) {
				t.Errorf("the selector also matches the pod %s, which does not serve requests", o.Metadata.Name)
			}
		}
	}
	for _, set := range valueSets(t, orders) {
		t.Run(set.name, func(t *testing.T) { check(t, render(t, set.values)) })
	}
	t.Run("other versions", func(t *testing.T) {
		c := loadChart(t, orders)
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
		mode, config string
		rolls        bool
	}{
		{"roll", `{log: {level: debug}}`, true},
		{"reload", `{log: {level: debug}}`, false},
		{"reload", `{features: {new_checkout: true}}`, false},
		{"reload", `{log: {level: debug}, database: {max_conns: 7}}`, true},
	} {
		t.Run(tt.mode+" "+tt.config, func(t *testing.T) {
			before, after := releaseWith(t, tt.mode, `{}`), releaseWith(t, tt.mode, tt.config)
			oldMap, newMap := only[corev1.ConfigMap](t, before, "ConfigMap"), only[corev1.ConfigMap](t, after, "ConfigMap")
			if cmp.Equal(oldMap.Data, newMap.Data) {
				t.Error("the ConfigMap does not change")
			}
			diff := cmp.Diff(deployment(t, before).Spec.Template, deployment(t, after).Spec.Template)
			if rolls := diff != ""; rolls != tt.rolls {
				t.Errorf("new pods: %t, want %t: %s", rolls, tt.rolls, diff)
			}
		})
	}
	t.Run("only a new chart version", func(t *testing.T) {
		values := parseValues(t, `{}`)
		c := loadChart(t, orders)
		c.Metadata.Version = "9.9.9"
		r, err := install(t.Context(), c, values, kubeVersion)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(deployment(t, render(t, values)).Spec.Template, deployment(t, r).Spec.Template); diff != "" {
			t.Errorf("a new chart version replaces the pods:\n%s", diff)
		}
	})
}

// releaseWith renders the chart with a mode of configReload and a configuration.
func releaseWith(t *testing.T, mode, config string) *release.Release {
	t.Helper()
	return render(t, parseValues(t, fmt.Sprintf(`{configReload: %s, config: %s}`, mode, config)))
}

func TestMemoryLimitOfGo(t *testing.T) {
	for _, tt := range []struct{ values, want string }{
		{`{}`, "1843MiB"}, // 90 % of 2Gi
		{`{resources: {limits: {memory: 256Mi}}}`, "230MiB"},
		{`{resources: {limits: {memory: 1.5Gi}}, gomemlimit: 50%}`, "768MiB"},
		{`{resources: {limits: {memory: 512M}}, gomemlimit: 80%}`, "390MiB"},
		{`{resources: {limits: {memory: 268435456}}}`, "230MiB"},
		{`{resources: {limits: {memory: null}}}`, ""},
		{`{gomemlimit: 1800MiB}`, "1800MiB"},
		{`{gomemlimit: ""}`, ""},
		{`{gomemlimit: null, vault: null, verticalAutoscaling: null, networkPolicy: {enabled: true, http: null}, config: {otlp: null}}`, ""},
		{`{resources: null}`, ""},
	} {
		got := ""
		for _, env := range deployment(t, render(t, parseValues(t, tt.values))).Spec.Template.Spec.Containers[0].Env {
			if env.Name == "GOMEMLIMIT" {
				got = env.Value
			}
		}
		if got != tt.want {
			t.Errorf("%s: GOMEMLIMIT=%s, want %s", tt.values, got, tt.want)
		}
	}
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

// TestRole checks that the Role allows access to Secrets only by name. A rule without
// resource names would allow access to all Secrets.
func TestRole(t *testing.T) {
	for _, set := range allSets(t) {
		t.Run(set.name, func(t *testing.T) {
			role := only[rbacv1.Role](t, set.render(t), "Role")
			if role == nil {
				return
			}
			for _, rule := range role.Rules {
				if slices.Contains(rule.Resources, "secrets") && (len(rule.ResourceNames) == 0 || !slices.Equal(rule.Verbs, []string{"get"})) {
					t.Errorf("the rule allows access to other Secrets: %v", rule)
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

// TestKubeVersions checks that matchLabelKeys is set only for API servers that support it.
// Older ones reject the field or, worse, ignore it.
func TestKubeVersions(t *testing.T) {
	values := parseValues(t, `{podAntiAffinity: {mode: required}}`)
	for _, tt := range []struct {
		version string
		keys    []string
	}{{"v1.30.9", nil}, {"v1.31.4-gke.100", []string{"pod-template-hash"}}, {kubeVersion, []string{"pod-template-hash"}}} {
		t.Run(tt.version, func(t *testing.T) {
			r, err := install(t.Context(), loadChart(t, orders), values, tt.version)
			if err != nil {
				t.Fatal(err)
			}
			term := deployment(t, r).Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
			if diff := cmp.Diff(tt.keys, term.MatchLabelKeys); diff != "" {
				t.Errorf("matchLabelKeys (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := install(t.Context(), loadChart(t, orders), values, "v1.26.15"); err == nil || !strings.Contains(err.Error(), "kubeVersion") {
		t.Errorf("Kubernetes 1.26 is not rejected: %v", err)
	}
}

// TestNoSecretIsCreated checks that the chart creates no Secrets. The pipeline creates them,
// because Helm would also store the values of a chart's Secrets in the release.
func TestNoSecretIsCreated(t *testing.T) {
	for _, set := range allSets(t) {
		for _, o := range objects(t, set.render(t)) {
			if o.Kind == "Secret" {
				t.Errorf("%s: the chart creates the Secret %s", set.name, o.Metadata.Name)
			}
		}
	}
}

func TestPackageHasNoTestFiles(t *testing.T) {
	for _, f := range slices.Concat(loadChart(t, orders).Raw, loadChart(t, service).Raw) {
		if strings.HasPrefix(f.Name, "ci/") || strings.HasSuffix(f.Name, ".go") {
			t.Errorf("the packaged chart contains %s", f.Name)
		}
	}
}

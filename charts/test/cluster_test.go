package charts

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// kubernetesSum is the checksum of the module that contains the API's schemas.
const kubernetesSum = "h1:WQdDvYJazkmkwSncgNwGvVtaCt4TYXIU3wSMRgvp3MI="

// autoscaler is the module that contains the custom resource definition of
// VerticalPodAutoscaler, with its checksum.
const (
	autoscaler    = "k8s.io/autoscaler/vertical-pod-autoscaler@v1.8.1"
	autoscalerSum = "h1:Pe8bV1wozN4gOKO1rleiIY5alIyAXN+DnXDbXQcL4fI="
)

// download downloads a module that is not required in go.mod, checks its checksum, and
// returns its directory.
func download(module, sum string) (string, error) {
	raw, err := exec.Command("go", "mod", "download", "-json", module).Output()
	var info struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(raw, &info); jsonErr != nil {
		return "", fmt.Errorf("go mod download: %w, %w", err, jsonErr)
	}
	if err != nil {
		return "", fmt.Errorf("go mod download: %w: %s", err, info.Error)
	}
	if info.Sum != sum {
		return "", fmt.Errorf("%s has the sum %s, want %s", module, info.Sum, sum)
	}
	return info.Dir, nil
}

// apiSchemas returns a directory with a JSON schema for each kind. The schemas are
// generated from the OpenAPI description in Kubernetes' Go module. The module is
// downloaded and not required in go.mod, because that would need dozens of replace
// directives.
var apiSchemas = sync.OnceValues(func() (string, error) {
	module, err := download("k8s.io/kubernetes@"+kubeVersion, kubernetesSum)
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(filepath.Join(module, "api", "openapi-spec", "swagger.json"))
	if err != nil {
		return "", err
	}
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(raw, &api); err != nil {
		return "", err
	}
	dir := filepath.Join(scratch, "schemas")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := writeSchemas(dir, api.Definitions); err != nil {
		return "", err
	}
	module, err = download(autoscaler, autoscalerSum)
	if err != nil {
		return "", err
	}
	return dir, writeCustomSchemas(dir, filepath.Join(module, "deploy", "vpa-v1-crd-gen.yaml"))
})

// writeCustomSchemas writes a schema for every version in a file with custom resource
// definitions.
func writeCustomSchemas(dir, file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for document := range strings.SplitSeq(string(raw), "\n---\n") {
		var crd struct {
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Schema struct{ OpenAPIV3Schema map[string]any }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(document), &crd); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		group, _, _ := strings.Cut(crd.Spec.Group, ".")
		for _, version := range crd.Spec.Versions {
			tighten(version.Schema.OpenAPIV3Schema)
			schema, err := json.Marshal(version.Schema.OpenAPIV3Schema)
			if err != nil {
				return err
			}
			name := strings.ToLower(fmt.Sprintf("%s-%s-%s.json", crd.Spec.Names.Kind, group, version.Name))
			if err := os.WriteFile(filepath.Join(dir, name), schema, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeSchemas writes a file kind-group-version.json for each kind, which is the
// name that kubeconform expects.
func writeSchemas(dir string, definitions map[string]map[string]any) error {
	for _, d := range definitions {
		tighten(d)
	}
	// The API accepts both types, which OpenAPI 2 cannot express.
	definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = map[string]any{"type": []string{"integer", "string"}}
	definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = map[string]any{"type": []string{"number", "string"}}
	for name, d := range definitions {
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // with several kinds it is not the type of a manifest
			continue
		}
		kind := kinds[0].(map[string]any)
		group, _, _ := strings.Cut(kind["group"].(string), ".")
		file := fmt.Sprintf("%s-%s-%s.json", kind["kind"], group, kind["version"])
		file = strings.ToLower(strings.ReplaceAll(file, "--", "-")) // the core group has no name
		needed := map[string]any{}
		collect(definitions, d, needed)
		needed[name] = d
		raw, err := json.Marshal(map[string]any{"$ref": "#/definitions/" + name, "definitions": needed})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tighten changes a schema so that it rejects unknown fields.
func tighten(schema any) {
	s, ok := schema.(map[string]any)
	if !ok {
		return
	}
	properties, ok := s["properties"].(map[string]any)
	if _, open := s["additionalProperties"]; ok && !open {
		s["additionalProperties"] = false
	}
	for _, p := range properties {
		tighten(p)
	}
	tighten(s["items"])
	tighten(s["additionalProperties"])
}

// collect adds to needed every definition that node refers to.
func collect(definitions map[string]map[string]any, node any, needed map[string]any) {
	switch node := node.(type) {
	case map[string]any:
		if ref, ok := node["$ref"].(string); ok {
			name := strings.TrimPrefix(ref, "#/definitions/")
			if _, seen := needed[name]; !seen {
				needed[name] = definitions[name]
				collect(definitions, definitions[name], needed)
			}
		}
		for value := range maps.Values(node) {
			collect(definitions, value, needed)
		}
	case []any:
		for _, value := range node {
			collect(definitions, value, needed)
		}
	}
}

// conform validates manifests with kubeconform. It returns the number of valid
// objects and the problems of the others.
func conform(t *testing.T, manifests string) (checked int, problems []string) {
	t.Helper()
	dir, err := apiSchemas()
	if err != nil {
		t.Skipf("no Kubernetes API description: %v", err)
	}
	v, err := validator.New([]string{filepath.Join(dir, "{{.ResourceKind}}{{.KindSuffix}}.json")},
		validator.Opts{Strict: true, KubernetesVersion: strings.TrimPrefix(kubeVersion, "v")})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range v.Validate("manifests", io.NopCloser(strings.NewReader(manifests))) {
		switch r.Status {
		case validator.Empty:
		case validator.Valid:
			checked++
		default:
			problems = append(problems, fmt.Sprintf("%v %v", r.Err, r.ValidationErrors))
		}
	}
	return checked, problems
}

func TestConformsToAPI(t *testing.T) {
	for _, set := range allSets(t) {
		t.Run(set.name, func(t *testing.T) {
			r := set.render(t)
			checked, problems := conform(t, manifest(r))
			for _, p := range problems {
				t.Error(p)
			}
			if want := len(objects(t, r)); checked != want {
				t.Errorf("%d objects are valid, want %d", checked, want)
			}
		})
	}
}

// TestSchemasReject checks that the generated schemas reject invalid manifests.
func TestSchemasReject(t *testing.T) {
	for _, tt := range []struct{ name, manifest, want string }{
		{"unknown field", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}`, "additional properties 'prots' not allowed"},
		{"wrong type", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: http}]}}`, "got string, want integer"},
		{"missing field", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{name: http}]}}`, "missing property 'port'"},
		{"removed version", `{apiVersion: autoscaling/v2beta2, kind: HorizontalPodAutoscaler, metadata: {name: a}}`, "could not find schema"},
		{"duplicate key", "apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}", "already"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, problems := conform(t, tt.manifest)
			if got := strings.Join(problems, "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("%q does not contain %q", got, tt.want)
			}
		})
	}
}

// podsOf returns the pods and pod templates of a release.
func podsOf(t *testing.T, r *release.Release) []corev1.PodTemplateSpec {
	t.Helper()
	var pods []corev1.PodTemplateSpec
	for _, o := range objects(t, r) {
		var template struct {
			corev1.PodTemplateSpec `json:",inline"`
			Spec                   struct {
				corev1.PodSpec `json:",inline"`
				Template       corev1.PodTemplateSpec `json:"template"`
				JobTemplate    struct {
					Spec struct {
						Template corev1.PodTemplateSpec `json:"template"`
					} `json:"spec"`
				} `json:"jobTemplate"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal(o.raw, &template); err != nil {
			t.Fatal(err)
		}
		switch o.Kind {
		case "Pod":
			pods = append(pods, corev1.PodTemplateSpec{ObjectMeta: template.ObjectMeta, Spec: template.Spec.PodSpec})
		case "Deployment", "StatefulSet", "DaemonSet", "Job":
			pods = append(pods, template.Spec.Template)
		case "CronJob":
			pods = append(pods, template.Spec.JobTemplate.Spec.Template)
		}
	}
	return pods
}

// TestRestricted evaluates the pods with the code of the API server's Pod Security
// admission.
func TestRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := psapi.LevelVersion{Level: psapi.LevelRestricted, Version: psapi.LatestVersion()}
	check := func(meta *metav1.ObjectMeta, spec *corev1.PodSpec) string {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, meta, spec))
		if result.Allowed {
			return ""
		}
		return result.ForbiddenDetail()
	}
	evaluate := func(t *testing.T, r *release.Release) string {
		t.Helper()
		var problems []string
		pods := podsOf(t, r)
		if len(pods) == 0 {
			t.Error("no pods")
		}
		for _, pod := range pods {
			problems = append(problems, check(&pod.ObjectMeta, &pod.Spec))
		}
		return strings.Join(problems, "")
	}
	for _, set := range allSets(t) {
		if set.chart == admission {
			continue // it has no pods
		}
		t.Run(set.name, func(t *testing.T) {
			if problems := evaluate(t, set.render(t)); problems != "" {
				t.Error(problems)
			}
		})
	}
	for _, tt := range []struct{ values, want string }{
		{`{podSecurityContext: {runAsNonRoot: null}}`, "runAsNonRoot != true"},
		{`{podSecurityContext: {seccompProfile: null}}`, "seccompProfile"},
		{`{securityContext: {capabilities: {drop: []}}}`, "unrestricted capabilities"},
		{`{securityContext: {allowPrivilegeEscalation: true}}`, "allowPrivilegeEscalation != false"},
		{`{extraVolumes: [{name: x, hostPath: {path: /}}]}`, "hostPath"},
	} {
		t.Run("rejects "+tt.want, func(t *testing.T) {
			if got := evaluate(t, render(t, parseValues(t, tt.values))); !strings.Contains(got, tt.want) {
				t.Errorf("%q does not contain %q", got, tt.want)
			}
		})
	}
}

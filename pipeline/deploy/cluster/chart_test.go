package cluster_test

import (
	"maps"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// The parts of a pod that the Pod Security level restricted requires.
const (
	restrictedPod = "{runAsNonRoot: true, runAsUser: 65534, seccompProfile: {type: RuntimeDefault}}"
	restricted    = "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}"
)

// withChart makes the release use a chart with the given values.yaml and files.
func (p *testRelease) withChart(t *testing.T, values string, files map[string]string) {
	t.Helper()
	all := map[string]string{"Chart.yaml": "apiVersion: v2\nname: testapp\nversion: 0.1.0\nappVersion: '9.9'\n", "values.yaml": values}
	maps.Copy(all, files)
	p.o.Chart.Path = testkit.Tree(t, all)
}

// deploymentOf returns the template of a Deployment without probes that runs an image.
func deploymentOf(image string) string {
	return `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  {{- with .Values.replicas }}
  replicas: {{ . }}
  {{- end }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: ` + restrictedPod + `
      containers: [{name: app, image: "` + image + `", securityContext: ` + restricted + `}]
`
}

// TestChartOfHelmCreate deploys the chart that helm create makes, which has a value for
// the tag and none for the digest.
func TestChartOfHelmCreate(t *testing.T) {
	p := newTestRelease(t)
	var err error
	if p.o.Chart.Path, err = chartutil.Create("app", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	p.o.Version = "v1.2.3+dirty"
	set := map[string]any{
		"service":         map[string]any{"port": 8080},
		"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []any{"ALL"}}},
		"podSecurityContext": map[string]any{
			"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": map[string]any{"type": "RuntimeDefault"},
		},
	}
	p.mustDeploy(t, deploy.Installed, set)
	want := p.image.Context().Name() + ":v1.2.3-dirty@" + p.image.DigestStr()
	if got := p.deployment(t).Spec.Template.Spec.Containers[0].Image; got != want {
		t.Errorf("the chart runs %s, want %s", got, want)
	}
	p.mustDeploy(t, deploy.Untouched, set)
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].Image != want {
		t.Errorf("the status is %+v, %v", status, err)
	}
}

// TestShapesOfCharts deploys charts of the other shapes that public charts have for the
// values that select the image.
func TestShapesOfCharts(t *testing.T) {
	for _, tt := range []struct{ name, values, image, want string }{
		{"registry and tag", "image: {registry: docker.io, repository: x, tag: v9}", "{{ .Values.image.registry }}/{{ .Values.image.repository }}:{{ .Values.image.tag }}", ":v1@DIGEST"},
		{"registry and digest", "image: {registry: docker.io, repository: x, tag: v9, digest: ''}", "{{ .Values.image.registry }}/{{ .Values.image.repository }}@{{ .Values.image.digest }}", "@DIGEST"},
		{"one text", "image: nginx:1.27", "{{ .Values.image }}", "@DIGEST"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newTestRelease(t)
			p.o.Version = "v1"
			p.withChart(t, tt.values, map[string]string{"templates/d.yaml": deploymentOf(tt.image)})
			p.mustDeploy(t, deploy.Installed, nil)
			want := p.image.Context().Name() + strings.ReplaceAll(tt.want, "DIGEST", p.image.DigestStr())
			if got := p.deployment(t).Spec.Template.Spec.Containers[0].Image; got != want {
				t.Errorf("the chart runs %s, want %s", got, want)
			}
		})
	}
}

// TestChartOfUnknownShape checks that a chart that does not run the image is refused with
// one line that names the setting, before anything is applied.
func TestChartOfUnknownShape(t *testing.T) {
	for _, tt := range []struct{ name, values, image, code, want string }{
		{"no image", "app: {image: {repository: x, tag: y}}", "{{ .Values.app.image.repository }}", "deploy.image-values", "app.image.repository"},
		{"only the version of the chart", "image: {repository: x}", "{{ .Values.image.repository }}:{{ .Chart.AppVersion }}", "deploy.other-image", ":9.9"},
		{"the tag is cut", "image: {repository: x, tag: y}", "{{ .Values.image.repository }}:{{ .Values.image.tag | trunc 40 }}", "deploy.image-unused", "image.repository and image.tag"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTestRelease(t)
			p.withChart(t, tt.values, map[string]string{"templates/d.yaml": deploymentOf(tt.image)})
			_, err := cluster.Tool{}.Deploy(t.Context(), p.with(nil), testkit.Verified(p.image))
			if fault.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "deploy.imageValues") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			if list, err := p.Client.AppsV1().Deployments(p.o.Namespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
				t.Errorf("the chart was applied: %v %v", list.Items, err)
			}
		})
	}
}

// TestNullRemovesAValue sets a value of the chart to null in slipway.yaml. It has the same
// effect as in a values file: the default of the chart no longer applies.
func TestNullRemovesAValue(t *testing.T) {
	p := newTestRelease(t)
	p.withChart(t, "image: {repository: x, digest: ''}\nreplicas: 2\nsub: {keep: 1, gone: 2}\n", map[string]string{
		"templates/d.yaml": deploymentOf("{{ .Values.image.repository }}@{{ .Values.image.digest }}"),
		"templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: values}\ndata:\n  sub: {{ toJson .Values.sub | quote }}\n",
	})
	c, err := config.Parse("slipway.yaml", []byte("deploy: {environments: {test: {set: {replicas: null, sub: {gone: null}}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	p.mustDeploy(t, deploy.Installed, c.Deploy.Environments["test"].Set)
	if got := *p.deployment(t).Spec.Replicas; got != 1 {
		t.Errorf("there are %d replicas, want 1, which is the default of Kubernetes", got)
	}
	values, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), "values", metav1.GetOptions{})
	if err != nil || values.Data["sub"] != `{"keep":1}` {
		t.Errorf("the values are %v, %v", values.Data, err)
	}
	p.mustDeploy(t, deploy.Untouched, c.Deploy.Environments["test"].Set)
}

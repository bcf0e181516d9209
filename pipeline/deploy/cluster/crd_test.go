package cluster_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// crdOf returns a CustomResourceDefinition of the kind Widget in an API group that only one
// test uses, because CustomResourceDefinitions are in no namespace.
func crdOf(group string, versions ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.%[1]s}\nspec:\n"+
		"  group: %[1]s\n  scope: Namespaced\n  names: {kind: Widget, plural: widgets, singular: widget}\n  versions:\n", group)
	for i, v := range versions {
		fmt.Fprintf(&b, "    - {name: %s, served: true, storage: %t, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}\n", v, i == 0)
	}
	return b.String()
}

// customRelease is a release of a chart with custom resources.
type customRelease struct {
	*testRelease
	dynamic dynamic.Interface
	group   string
}

// newCustomRelease returns a release with a group for custom resources. What the test
// makes in the group is deleted when it ends.
func newCustomRelease(t *testing.T) customRelease {
	t.Helper()
	return customReleaseOf(t, newTestRelease(t))
}

func customReleaseOf(t *testing.T, release *testRelease) customRelease {
	t.Helper()
	p := customRelease{testRelease: release}
	var err error
	if p.dynamic, err = dynamic.NewForConfig(p.Config); err != nil {
		t.Fatal(err)
	}
	p.group = p.o.Namespace + ".example.com"
	t.Cleanup(func() { p.remove(t, "widgets."+p.group) })
	return p
}

func (p customRelease) remove(t *testing.T, crd string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	if err := p.dynamic.Resource(crdResource).Delete(ctx, crd, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Logf("deleting %s: %v", crd, err)
	}
}

// with makes the release use a chart with a Deployment and other files.
func (p customRelease) files(t *testing.T, values string, files map[string]string) {
	t.Helper()
	all := map[string]string{"templates/d.yaml": deploymentOf("{{ .Values.image.repository }}@{{ .Values.image.digest }}")}
	maps.Copy(all, files)
	p.withChart(t, "image: {repository: x, digest: ''}\n"+values, all)
}

// create creates a CustomResourceDefinition and waits until it is established.
func (p customRelease) create(t *testing.T, text string) {
	t.Helper()
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &crd.Object); err != nil {
		t.Fatal(err)
	}
	if _, err := p.dynamic.Resource(crdResource).Create(t.Context(), crd, metav1.CreateOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	if _, err := rollout.Track(t.Context(), rollout.Options{Config: p.Config, Objects: []*unstructured.Unstructured{crd}, Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
}

// widget returns a Widget of the release.
func (p customRelease) widget(version string) string {
	return "apiVersion: " + p.group + "/" + version + "\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n"
}

// wantWidget checks that the Widget exists.
func (p customRelease) wantWidget(t *testing.T, version string) {
	t.Helper()
	widgets := p.dynamic.Resource(schema.GroupVersionResource{Group: p.group, Version: version, Resource: "widgets"}).Namespace(p.o.Namespace)
	if _, err := widgets.Get(t.Context(), "w", metav1.GetOptions{}); err != nil {
		t.Errorf("the object of the chart: %v", err)
	}
}

// TestFirstInstallWithCRDs installs a chart with a CustomResourceDefinition and an object
// of its kind (helm/helm#9395). Later a new version of the kind is added and used.
func TestFirstInstallWithCRDs(t *testing.T) {
	p := newCustomRelease(t)
	p.files(t, "", map[string]string{"crds/w.yaml": crdOf(p.group, "v1"), "templates/w.yaml": p.widget("v1")})
	plan, err := cluster.Tool{}.Plan(t.Context(), p.o, deploy.ImageOf(p.image))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"customresourcedefinition/widgets." + p.group, "widget/w"} {
		if !slices.ContainsFunc(plan.Clusters[0].Changes, func(c deploy.Change) bool { return c.Object == want && c.Action == "create" }) {
			t.Errorf("the plan does not create %s: %+v", want, plan.Clusters[0].Changes)
		}
	}
	p.mustDeploy(t, deploy.Installed, nil)
	p.wantWidget(t, "v1")
	p.mustDeploy(t, deploy.Untouched, nil)

	p.files(t, "", map[string]string{"crds/w.yaml": crdOf(p.group, "v1", "v2"), "templates/w.yaml": p.widget("v2")})
	p.mustDeploy(t, deploy.Upgraded, nil)
	p.wantWidget(t, "v2")
}

// TestCRDsOfSubcharts installs a chart whose enabled subchart has CustomResourceDefinitions.
// Those of a disabled subchart are not installed.
func TestCRDsOfSubcharts(t *testing.T) {
	p := newCustomRelease(t)
	unused := "unused." + p.group
	t.Cleanup(func() { p.remove(t, "widgets."+unused) })
	p.files(t, "used: {enabled: true}\nunused: {enabled: false}\n", map[string]string{
		"Chart.yaml":             "apiVersion: v2\nname: testapp\nversion: 0.1.0\ndependencies:\n  - {name: used, version: 0.1.0, condition: used.enabled}\n  - {name: unused, version: 0.1.0, condition: unused.enabled}\n",
		"charts/used/Chart.yaml": "apiVersion: v2\nname: used\nversion: 0.1.0\n", "charts/used/crds/w.yaml": "# only a comment\n---\n" + crdOf(p.group, "v1"),
		"charts/used/templates/w.yaml": p.widget("v1"),
		"charts/unused/Chart.yaml":     "apiVersion: v2\nname: unused\nversion: 0.1.0\n", "charts/unused/crds/w.yaml": crdOf(unused, "v1"),
	})
	p.mustDeploy(t, deploy.Installed, nil)
	p.wantWidget(t, "v1")
	if _, err := p.dynamic.Resource(crdResource).Get(t.Context(), "widgets."+unused, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the CustomResourceDefinition of a disabled subchart was installed: %v", err)
	}
}

// TestCRDThatExists installs a chart whose CustomResourceDefinition is already in the
// cluster, and was not written by slipway.
func TestCRDThatExists(t *testing.T) {
	p := newCustomRelease(t)
	p.files(t, "", map[string]string{"crds/w.yaml": crdOf(p.group, "v1"), "templates/w.yaml": p.widget("v1")})
	p.create(t, crdOf(p.group, "v1"))
	p.mustDeploy(t, deploy.Installed, nil)
	p.wantWidget(t, "v1")
}

// TestCRDWithoutPermission installs a chart with a CustomResourceDefinition as a user who
// may not apply it. If an administrator has installed it, the release uses that one.
func TestCRDWithoutPermission(t *testing.T) {
	d := newDeployer(t)
	p := customReleaseOf(t, d.testRelease)
	role := readRole(t)
	role.Rules = append(role.Rules, rbac.PolicyRule{APIGroups: []string{p.group}, Resources: []string{"widgets"}, Verbs: []string{"get", "list", "watch", "create", "patch"}})
	d.setRole(t, role)
	p.files(t, "", map[string]string{"crds/w.yaml": crdOf(p.group, "v1"), "templates/w.yaml": p.widget("v1")})
	if _, err := p.deploy(t, nil); fault.CodeOf(err) != "deploy.forbidden" || !strings.Contains(err.Error(), "widgets."+p.group) {
		t.Errorf("without the CustomResourceDefinition: %v", err)
	}
	p.create(t, crdOf(p.group, "v1"))
	r := p.mustDeploy(t, deploy.Installed, nil)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "widgets."+p.group) {
		t.Errorf("the warnings are %v", r.Warnings)
	}
	p.wantWidget(t, "v1")
}

// TestCRDInTemplates checks the error for a chart whose CustomResourceDefinition is in its
// templates, together with an object of the kind. helm install refuses it too.
func TestCRDInTemplates(t *testing.T) {
	p := newCustomRelease(t)
	p.files(t, "", map[string]string{"templates/crd.yaml": crdOf(p.group, "v1"), "templates/w.yaml": p.widget("v1")})
	r, err := p.deploy(t, nil)
	if fault.CodeOf(err) != "deploy.chart" || fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), "Widget") || !strings.Contains(err.Error(), "the folder crds") || r.Action != deploy.NotReached {
		t.Errorf("%+v %v", r, err)
	}
	p.files(t, "", map[string]string{"templates/crd.yaml": crdOf(p.group, "v1")})
	p.mustDeploy(t, deploy.Installed, nil)
	p.files(t, "", map[string]string{"templates/crd.yaml": crdOf(p.group, "v1"), "templates/w.yaml": p.widget("v1")})
	p.mustDeploy(t, deploy.Upgraded, nil)
	p.wantWidget(t, "v1")
}

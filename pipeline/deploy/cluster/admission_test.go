package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
)

// violatingDeployment creates a Deployment without pods that violates the rules.
func violatingDeployment(t *testing.T, c *testcluster.Cluster, namespace string) *apps.Deployment {
	t.Helper()
	labels := map[string]string{"app": "old"}
	d, err := c.Client.AppsV1().Deployments(namespace).Create(t.Context(), &apps.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "old"},
		Spec: apps.DeploymentSpec{
			Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: core.PodSpec{Containers: []core.Container{{Name: "app", Image: "old:v1"}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// checkOldDeployment changes a Deployment from before the rules: its number of pods, which is
// allowed so that it can be replaced, and its image, which is not.
func checkOldDeployment(t *testing.T, c *testcluster.Cluster, old *apps.Deployment) {
	t.Helper()
	deployments := c.Client.AppsV1().Deployments(old.Namespace)
	for change, want := range map[string]string{
		`{"spec":{"replicas":1}}`: "",
		`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"old:v2"}]}}}}`: "container app must",
	} {
		_, err := deployments.Patch(t.Context(), old.Name, types.StrategicMergePatchType, []byte(change), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", change, err, want)
		}
	}
}

// podTemplate returns the spec of a pod with one container, as YAML in one line.
func podTemplate(image, security, more string) string {
	return fmt.Sprintf("{restartPolicy: Always, securityContext: {runAsNonRoot: true}, containers: [{name: app, image: %s, securityContext: %s}]%s}", image, security, more)
}

// TestAdmissionPolicies creates objects that violate the rules of the chart admission, and some
// that do not. Nothing is stored, because the requests are dry runs.
func TestAdmissionPolicies(t *testing.T) {
	t.Parallel()
	c := testcluster.Need(t)
	namespace := c.Name(t)
	_, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{"guarded": namespace}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := violatingDeployment(t, c, namespace)
	c.InstallChart(t, "../../../charts/admission", namespace, map[string]any{
		"rules": map[string]any{"imagesByDigest": true}, "namespaceSelector": map[string]any{"matchLabels": map[string]any{"guarded": namespace}},
	})
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	create := func(ctx context.Context, resource, text string) error {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
			t.Fatal(err)
		}
		object.SetName("x")
		gv, err := schema.ParseGroupVersion(object.GetAPIVersion())
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Resource(gv.WithResource(resource)).Namespace(namespace).Create(ctx, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	pod := func(spec string) string { return "{apiVersion: v1, kind: Pod, spec: " + spec + "}" }
	template := func(spec string) string { return "{metadata: {labels: {a: b}}, spec: " + spec + "}" }
	controller := func(kind, spec string) string {
		return "{apiVersion: apps/v1, kind: " + kind + ", spec: {selector: {matchLabels: {a: b}}, serviceName: x, template: " + template(spec) + "}}"
	}
	const (
		digest   = "a@sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
		readOnly = "{readOnlyRootFilesystem: true}"
	)
	good, writable := podTemplate(digest, readOnly, ""), podTemplate(digest, "{}", "")
	job := func(spec string) string {
		return "{template: " + template(strings.Replace(spec, "restartPolicy: Always", "restartPolicy: Never", 1)) + "}"
	}
	for _, tt := range []struct{ name, resource, object, want string }{
		{"pod", "pods", pod(writable), "container app must have a read-only root file system"},
		{"deployment", "deployments", strings.Replace(controller("Deployment", writable), "serviceName: x, ", "", 1), "container app must have a read-only root file system"},
		{"statefulset", "statefulsets", controller("StatefulSet", writable), "read-only root file system"},
		{"daemonset", "daemonsets", strings.Replace(controller("DaemonSet", writable), "serviceName: x, ", "", 1), "read-only root file system"},
		{"job", "jobs", "{apiVersion: batch/v1, kind: Job, spec: " + job(writable) + "}", "read-only root file system"},
		{"cronjob", "cronjobs", "{apiVersion: batch/v1, kind: CronJob, spec: {schedule: '0 3 * * *', jobTemplate: {spec: " + job(writable) + "}}}", "read-only root file system"},
		{"init container", "pods", pod(podTemplate(digest, readOnly, ", initContainers: [{name: first, image: "+digest+"}]")), "container first must have a read-only"},
		{"root allowed", "pods", pod(strings.Replace(good, "runAsNonRoot: true", "runAsNonRoot: false", 1)), "container app must not run as root"},
		{"root by number", "pods", pod(podTemplate(digest, "{readOnlyRootFilesystem: true, runAsUser: 0}", "")), "container app must not run as root"},
		{"tag", "pods", pod(podTemplate("a:v1", readOnly, "")), "container app must have an image that is given by digest"},
		{"good pod", "pods", pod(good), ""},
		{"good deployment", "deployments", strings.Replace(controller("Deployment", good), "serviceName: x, ", "", 1), ""},
		{"good cronjob", "cronjobs", "{apiVersion: batch/v1, kind: CronJob, spec: {schedule: '0 3 * * *', jobTemplate: {spec: " + job(good) + "}}}", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			// The API server applies new policies after a moment.
			waited := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 15*time.Second, true, func(ctx context.Context) (bool, error) {
				err = create(ctx, tt.resource, tt.object)
				return tt.want == "" || err != nil && strings.Contains(err.Error(), tt.want), nil
			})
			if waited != nil || tt.want == "" && err != nil {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	checkOldDeployment(t, c, old)
}

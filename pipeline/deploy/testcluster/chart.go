package testcluster

import (
	"context"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
)

// InstallChart installs a chart with Helm, under the name of the namespace, and waits until its
// pods are ready. It is uninstalled when the test ends.
func (c *Cluster) InstallChart(tb testing.TB, dir, namespace string, values map[string]any) {
	tb.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &c.Kubeconfig, &namespace
	var helm action.Configuration
	if err := helm.Init(flags, namespace, "secret", func(string, ...any) {}); err != nil {
		tb.Fatal(err)
	}
	ch, err := loader.Load(dir)
	if err != nil {
		tb.Fatal(err)
	}
	install := action.NewInstall(&helm)
	install.ReleaseName, install.Namespace, install.CreateNamespace = namespace, namespace, true
	install.Wait, install.Timeout = true, 2*time.Minute
	tb.Cleanup(func() {
		uninstall := action.NewUninstall(&helm)
		uninstall.IgnoreNotFound = true
		if _, err := uninstall.Run(namespace); err != nil {
			tb.Error(err)
		}
	})
	if _, err := install.RunWithContext(context.WithoutCancel(tb.Context()), ch, values); err != nil {
		tb.Fatal(err)
	}
}

// InstallSealedSecrets installs the controller of Sealed Secrets with its published chart, and
// an image of it that is built here. It returns its namespace; its Service is named
// sealed-secrets-controller.
func (c *Cluster) InstallSealedSecrets(tb testing.TB) string {
	tb.Helper()
	addon := c.Addon(tb, "github.com/bitnami/sealed-secrets", "github.com/bitnami/sealed-secrets/cmd/controller")
	namespace := c.Name(tb)
	tb.Cleanup(func() { c.deleteCRD(tb, "sealedsecrets.bitnami.com") })
	c.InstallChart(tb, addon.Dir+"/helm/sealed-secrets", namespace, map[string]any{
		"fullnameOverride": "sealed-secrets-controller",
		"command":          []any{"/app"},
		"image": map[string]any{
			"registry": addon.Image.RegistryStr(), "repository": addon.Image.RepositoryStr(), "tag": "any@" + addon.Image.DigestStr(),
		},
	})
	return namespace
}

// deleteCRD deletes a CustomResourceDefinition with all its objects.
func (c *Cluster) deleteCRD(tb testing.TB, name string) {
	tb.Helper()
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		tb.Fatal(err)
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if err := crds.Delete(context.WithoutCancel(tb.Context()), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		tb.Error(err)
	}
}

package cluster_test

import (
	"context"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
)

// installChart installs a chart with Helm, under the name of the namespace, and waits until its
// pods are ready. It is uninstalled when the test ends.
func installChart(t *testing.T, c *testcluster.Cluster, dir, namespace string, values map[string]any) {
	t.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &c.Kubeconfig, &namespace
	var helm action.Configuration
	if err := helm.Init(flags, namespace, "secret", func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	ch, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(&helm)
	install.ReleaseName, install.Namespace, install.CreateNamespace = namespace, namespace, true
	install.Wait, install.Timeout = true, 2*time.Minute
	t.Cleanup(func() {
		uninstall := action.NewUninstall(&helm)
		uninstall.IgnoreNotFound = true
		if _, err := uninstall.Run(namespace); err != nil {
			t.Error(err)
		}
	})
	if _, err := install.RunWithContext(context.WithoutCancel(t.Context()), ch, values); err != nil {
		t.Fatal(err)
	}
}

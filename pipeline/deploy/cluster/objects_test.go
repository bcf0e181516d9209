package cluster

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// pod returns a Pod with a container for each image.
func pod(images ...string) *unstructured.Unstructured {
	var containers []any
	for _, i := range images {
		containers = append(containers, map[string]any{"image": i})
	}
	return &unstructured.Unstructured{Object: map[string]any{"kind": "Pod", "metadata": map[string]any{"name": "a"}, "spec": map[string]any{"containers": containers}}}
}

// TestCheckImageRefusesTheDigestInALabel covers charts that write the tag of the image into
// a label, where the API server accepts no digest.
func TestCheckImageRefusesTheDigestInALabel(t *testing.T) {
	image := deploy.Image{Repository: "ghcr.io/acme/orders", Digest: "sha256:" + strings.Repeat("a", 64)}
	for _, path := range [][]string{{"metadata", "labels"}, {"spec", "template", "metadata", "labels"}, {"spec", "selector", "matchLabels"}} {
		o := pod("ghcr.io/acme/orders:v1@" + image.Digest)
		if err := unstructured.SetNestedField(o.Object, "v1@"+image.Digest, append(path, "app.kubernetes.io/version")...); err != nil {
			t.Fatal(err)
		}
		_, err := imageCheck{image: image, set: "image.repository and image.tag"}.run(t.Context(), []*unstructured.Unstructured{o}, nil)
		if fault.CodeOf(err) != "deploy.chart" || !strings.Contains(err.Error(), "app.kubernetes.io/version") || !strings.Contains(err.Error(), "image.tag") {
			t.Errorf("%v: %v", path, err)
		}
	}
}

func TestMaskHidesTheLongerValueFirst(t *testing.T) {
	mask := masker(deploy.Options{Secrets: []deploy.SecretData{{Data: map[string]string{"a": "pass", "b": "password123", "c": "abc"}}}})
	if got := mask("password123 pass cGFzc3dvcmQxMjM= abc"); got != "*** *** *** abc" {
		t.Errorf("%q", got)
	}
}

func TestForwarded(t *testing.T) {
	forward := map[string]string{"6443": "cluster:6443", "443": "cluster:443"}
	for server, want := range map[string]string{
		"https://127.0.0.1:6443":           "cluster:6443",
		"https://localhost:6443":           "cluster:6443",
		"https://[::1]:6443":               "cluster:6443",
		"https://0.0.0.0:6443":             "cluster:6443", // the address in kubeconfigs of k3d
		"https://127.0.0.1":                "cluster:443",
		"https://127.0.0.1:7443":           "",
		"https://10.0.0.1:6443":            "",
		"https://kubernetes.example.com":   "",
		"https://127.0.0.1.example.com":    "",
		"https://localhost.example.com:80": "",
		"":                                 "",
	} {
		if got := forwarded(server, forward); got != want {
			t.Errorf("%s is forwarded to %q, want %q", server, got, want)
		}
	}
}

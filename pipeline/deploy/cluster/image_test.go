package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

const (
	testDigest  = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	otherDigest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// object reads an object in which APP stands for the verified image and EVIL for another.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	text = strings.NewReplacer("APP", "ghcr.io/acme/orders@"+testDigest, "EVIL", "docker.io/evil/backdoor:latest").Replace(text)
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return o
}

func workload(kind, containers string) string {
	return "{apiVersion: apps/v1, kind: " + kind + ", metadata: {name: a}, spec: {template: {spec: {containers: [" + containers + "]}}}}"
}

// TestOnlyVerifiedImagesRun covers the ways in which a chart could run an image other than
// the verified one.
//
//nolint:funlen // a table
func TestOnlyVerifiedImagesRun(t *testing.T) {
	app := workload("Deployment", "{image: APP}")
	cron := func(suspend bool, image string) string {
		return fmt.Sprintf("{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {suspend: %v, jobTemplate: {spec: {template: {spec: {containers: [{image: %s}]}}}}}}", suspend, image)
	}
	for _, tt := range []struct {
		name           string
		objects, hooks []string
		code           string
	}{
		{"by digest", []string{app}, nil, ""},
		{"by tag and digest", []string{workload("Deployment", "{image: 'ghcr.io/acme/orders:v1@"+testDigest+"'}")}, nil, ""},
		{"StatefulSet", []string{workload("StatefulSet", "{image: APP}")}, nil, ""},
		{"DaemonSet", []string{workload("DaemonSet", "{image: APP}")}, nil, ""},
		{"Rollout of Argo", []string{"{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: a}, spec: {template: {spec: {containers: [{image: APP}]}}}}"}, nil, ""},
		{"Service of Knative", []string{"{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}, spec: {template: {spec: {containers: [{image: APP}]}}}}"}, nil, ""},
		{"only a CronJob", []string{cron(false, "APP")}, nil, ""},
		{"with the port of HTTPS", []string{workload("Deployment", "{image: 'ghcr.io:443/acme/orders@"+testDigest+"'}")}, nil, ""},
		{"hook with the verified image", []string{app}, []string{"{apiVersion: batch/v1, kind: Job, metadata: {name: m}, spec: {template: {spec: {containers: [{image: APP}]}}}}"}, ""},

		{"by tag", []string{workload("Deployment", "{image: 'ghcr.io/acme/orders:v1'}")}, nil, "deploy.other-image"},
		{"without tag and digest", []string{workload("Deployment", "{image: ghcr.io/acme/orders}")}, nil, "deploy.other-image"},
		{"by tag with the port of HTTPS", []string{app, workload("Deployment", "{image: 'ghcr.io:443/acme/orders:v1'}")}, nil, "deploy.other-image"},
		{"by tag in upper case", []string{app, workload("Deployment", "{image: 'GHCR.io/acme/orders:v1'}")}, nil, "deploy.other-image"},
		{"another digest in addition", []string{workload("Deployment", "{image: APP}, {image: 'ghcr.io/acme/orders@"+otherDigest+"'}")}, nil, "deploy.other-image"},
		{"hook by tag", []string{app}, []string{workload("Job", "{image: 'ghcr.io/acme/orders:latest'}")}, "deploy.other-image"},

		{"only in a hook", []string{workload("Deployment", "{image: EVIL}")}, []string{workload("Job", "{image: APP}")}, "deploy.image-unused"},
		{"suspended CronJob beside another Deployment", []string{cron(true, "APP"), workload("Deployment", "{image: EVIL}")}, nil, "deploy.image-unused"},
		{"CronJob beside another Deployment", []string{cron(false, "APP"), workload("Deployment", "{image: EVIL}")}, nil, "deploy.image-unused"},
		{"suspended CronJob alone", []string{cron(true, "APP")}, nil, "deploy.image-unused"},
		{"custom resource that holds the digest", []string{"{apiVersion: example.com/v1, kind: Deployment, metadata: {name: x}, spec: {template: {spec: {containers: [{image: APP}]}}}}"}, nil, "deploy.image-unused"},
		{"only an init container", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {spec: {initContainers: [{image: APP}], containers: [{image: EVIL}]}}}}"}, nil, "deploy.image-unused"},
		{"only a ConfigMap", []string{"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {image: APP}}"}, nil, "deploy.image-unused"},
		{"no container", nil, nil, "deploy.image-unused"},

		{"Deployment beside the app", []string{app, workload("Deployment", "{image: EVIL}")}, nil, "deploy.image-not-allowed"},
		{"sidecar", []string{workload("Deployment", "{image: APP}, {image: EVIL}")}, nil, "deploy.image-not-allowed"},
		{"init container", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {spec: {initContainers: [{image: EVIL}], containers: [{image: APP}]}}}}"}, nil, "deploy.image-not-allowed"},
		{"ephemeral container", []string{app, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {ephemeralContainers: [{image: EVIL}]}}"}, nil, "deploy.image-not-allowed"},
		{"image volume", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {spec: {containers: [{image: APP}], volumes: [{name: v, image: {reference: EVIL}}]}}}}"}, nil, "deploy.image-not-allowed"},
		{"CronJob", []string{app, cron(false, "EVIL")}, nil, "deploy.image-not-allowed"},
		{"Job", []string{app, workload("Job", "{image: EVIL}")}, nil, "deploy.image-not-allowed"},
		{"Pod", []string{app, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{image: EVIL}]}}"}, nil, "deploy.image-not-allowed"},
		{"ReplicaSet", []string{app, workload("ReplicaSet", "{image: EVIL}")}, nil, "deploy.image-not-allowed"},
		{"ReplicationController", []string{app, "{apiVersion: v1, kind: ReplicationController, metadata: {name: a}, spec: {template: {spec: {containers: [{image: EVIL}]}}}}"}, nil, "deploy.image-not-allowed"},
		{"PodTemplate", []string{app, "{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {spec: {containers: [{image: EVIL}]}}}"}, nil, "deploy.image-not-allowed"},
		{"ControllerRevision", []string{app, "{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: a}, data: {spec: {template: {spec: {containers: [{image: EVIL}]}}}}}"}, nil, "deploy.image-not-allowed"},
		{"hook", []string{app}, []string{workload("Job", "{image: EVIL}")}, "deploy.image-not-allowed"},
		{"image of a custom resource", []string{app, "{apiVersion: monitoring.coreos.com/v1, kind: Prometheus, metadata: {name: a}, spec: {image: EVIL}}"}, nil, "deploy.image-not-allowed"},
		{"imageName of a custom resource", []string{app, "{apiVersion: postgresql.cnpg.io/v1, kind: Cluster, metadata: {name: a}, spec: {imageName: EVIL}}"}, nil, "deploy.image-not-allowed"},
		{"parts of an image in a custom resource", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {image: {repository: docker.io/evil/x, tag: v1}}}"}, nil, "deploy.image-not-allowed"},
		{"pod spec deep in a custom resource", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {pods: [{template: {spec: {containers: [{image: EVIL}]}}}]}}"}, nil, "deploy.image-not-allowed"},
		{"annotation of the pod template", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {metadata: {annotations: {sidecar.istio.io/proxyImage: EVIL}}, spec: {containers: [{image: APP}]}}}}"}, nil, "deploy.image-not-allowed"},
		{"annotation of the object", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, annotations: {example.com/agent-image: EVIL}}, spec: {template: {spec: {containers: [{image: APP}]}}}}"}, nil, "deploy.image-not-allowed"},
		{"another registry, same path", []string{app, workload("Deployment", "{image: 'quay.io/acme/orders@"+testDigest+"'}")}, nil, "deploy.image-not-allowed"},
		{"custom resource with white space", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {image: ' docker.io/evil/x:v1'}}"}, nil, "deploy.image-not-allowed"},
		{"custom resource with a URL", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {image: 'https://evil.example/x:v1'}}"}, nil, "deploy.image-not-allowed"},
		{"custom resource with two images in one field", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {image: {reference: APP, repository: docker.io/evil/x, tag: v1}}}"}, nil, "deploy.image-not-allowed"},
		{"custom resource with a list of images", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {images: [EVIL]}}"}, nil, "deploy.image-not-allowed"},
		{"custom resource with parts under another name", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a}, spec: {agent: {repository: docker.io/evil/x, tag: v1}}}"}, nil, "deploy.image-not-allowed"},
		{"RELATED_IMAGE of an operator", []string{workload("Deployment", "{image: APP, env: [{name: RELATED_IMAGE_X, value: EVIL}]}")}, nil, "deploy.image-not-allowed"},
		{"Deployment without replicas", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 0, template: {spec: {containers: [{image: APP}]}}}}"}, nil, "deploy.image-unused"},
		{"Deployment that an autoscaler scales", []string{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 0, template: {spec: {containers: [{image: APP}]}}}}", "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: a}}"}, nil, ""},
		{"Job without pods", []string{"{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {parallelism: 0, template: {spec: {containers: [{image: APP}]}}}}"}, nil, "deploy.image-unused"},
		{"words in custom resources", []string{app, "{apiVersion: example.com/v1, kind: X, metadata: {name: a, annotations: {artifacthub.io/image: something}}, spec: {machineImage: ami-0abc, imageName: app, background: {image: logo.png}}}"}, nil, ""},
		{"own repository in a custom resource", []string{app, "{apiVersion: image.toolkit.fluxcd.io/v1, kind: ImageRepository, metadata: {name: a}, spec: {image: ghcr.io/acme/orders}}"}, nil, "deploy.image-not-allowed"},
		{"what only the nodes can read", []string{app, workload("Deployment", "{image: 'evil.example/__x:v1'}")}, nil, "deploy.image-not-allowed"},
		{"what nobody can read", []string{app, workload("Deployment", "{image: 'Bad//Image'}")}, nil, ""},
		{"a repository with the same prefix", []string{app, workload("Deployment", "{image: 'ghcr.io/acme/orders-tools:v1'}")}, nil, "deploy.image-not-allowed"},
		{"fields that are no images", []string{app, "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {versions: [{schema: {openAPIV3Schema: {properties: {image: {type: string, default: EVIL}}}}}]}}", "{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {image: EVIL}}"}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			read := func(texts []string) (all []*unstructured.Unstructured) {
				for _, text := range texts {
					all = append(all, object(t, text))
				}
				return all
			}
			c := imageCheck{image: deploy.Image{Repository: "ghcr.io/acme/orders", Digest: testDigest}, set: "image.repository", setting: "deploy.environments.prod.images"}
			_, err := c.run(t.Context(), read(tt.objects), read(tt.hooks))
			if got := fault.CodeOf(err); got != tt.code {
				t.Errorf("the code is %q, want %q: %v", got, tt.code, err)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %v", err)
			}
		})
	}
}

// TestAllowedImages checks which settings of an environment allow which images.
func TestAllowedImages(t *testing.T) {
	signed := func(_ context.Context, ref name.Digest, by config.AllowedImage) error {
		if by.Keys[0] == "good.pub" && ref.DigestStr() == testDigest {
			return nil
		}
		return errors.New("it is not signed")
	}
	for _, tt := range []struct {
		image   string
		allowed config.AllowedImage
		want    string // part of the error
	}{
		{"ghcr.io/acme/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy"}, ""},
		{"ghcr.io/acme/proxy:v1@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy"}, ""},
		{"ghcr.io/acme/proxy:v1", config.AllowedImage{Image: "ghcr.io/acme/proxy"}, "by tag"},
		{"ghcr.io/acme/proxy:v1", config.AllowedImage{Image: "ghcr.io/acme/proxy", Tag: true}, ""},
		{"ghcr.io/acme/proxy:v1", config.AllowedImage{Image: "ghcr.io/acme/proxy", Tag: true, Keys: []string{"good.pub"}}, "by tag"},
		{"ghcr.io/acme/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy@" + testDigest}, ""},
		{"ghcr.io/acme/proxy@" + otherDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy@" + testDigest}, "ghcr.io/acme/proxy"},
		{"ghcr.io/acme/proxy:v1", config.AllowedImage{Image: "ghcr.io/acme/proxy@" + testDigest, Tag: true}, "ghcr.io/acme/proxy"},
		{"ghcr.io/acme/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/*"}, ""},
		{"ghcr.io/acme/team/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/*"}, "ghcr.io/acme/team/proxy"},
		{"ghcr.io/acme/team/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/**"}, ""},
		{"ghcr.io/acmeevil/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/**"}, "acmeevil"},
		{"busybox@" + testDigest, config.AllowedImage{Image: "docker.io/library/*"}, ""},
		{"busybox@" + testDigest, config.AllowedImage{Image: "busybox"}, ""},
		{"evil/busybox@" + testDigest, config.AllowedImage{Image: "busybox"}, "evil/busybox"},
		{"ghcr.io/acme/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy", Keys: []string{"good.pub"}}, ""},
		{"ghcr.io/acme/proxy@" + otherDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy", Keys: []string{"good.pub"}}, "not signed"},
		{"ghcr.io/acme/proxy@" + testDigest, config.AllowedImage{Image: "ghcr.io/acme/proxy", Keys: []string{"bad.pub"}}, "not signed"},
	} {
		t.Run(tt.image+" "+tt.allowed.Image, func(t *testing.T) {
			c := imageCheck{image: deploy.Image{Repository: "ghcr.io/acme/orders", Digest: testDigest}, allowed: []config.AllowedImage{tt.allowed}, verify: signed}
			_, err := c.run(t.Context(), []*unstructured.Unstructured{object(t, workload("Deployment", "{image: APP}, {image: '"+tt.image+"'}"))}, nil)
			if tt.want == "" && err != nil || tt.want != "" && (fault.CodeOf(err) != "deploy.image-not-allowed" || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("the error is %v, want one with %q", err, tt.want)
			}
			if c.verify = nil; len(tt.allowed.Keys) > 0 {
				if _, err := c.run(t.Context(), []*unstructured.Unstructured{object(t, workload("Deployment", "{image: APP}, {image: '"+tt.image+"'}"))}, nil); err == nil {
					t.Error("a program that cannot verify images allows it")
				}
			}
		})
	}
}

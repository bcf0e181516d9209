package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Position is one place in an object that names an image.
type Position struct {
	Object string // kind/name, for example deployment/orders
	Path   string // for example spec.template.spec.containers[0].image
	Image  string
	Runs   Runs
	Idle   bool // the workload has no replicas, unless an autoscaler adds some
	// Custom is whether an operator or an admission webhook reads the field, and not a node.
	Custom bool
}

// String returns the object and the path.
func (p Position) String() string { return p.Object + " (" + p.Path + ")" }

// Runs is how certain it is that an image at a position is run.
type Runs int

// The values of Runs.
const (
	Maybe    Runs = iota // it depends on something else, for example on an operator or a schedule that is suspended
	Sometime             // a Job, a Pod or a CronJob runs it
	Always               // a workload that keeps pods running has it as a container
)

// Images returns the images of the containers and init containers of an object that
// is a pod or has a pod template.
func Images(o *unstructured.Unstructured) []string {
	var out []string
	for _, field := range []string{"initContainers", "containers"} {
		list, _, _ := unstructured.NestedSlice(o.Object, append(podSpec(o.GetKind()), field)...)
		for _, c := range list {
			if m, ok := c.(map[string]any); ok {
				if image, ok := m["image"].(string); ok {
					out = append(out, image)
				}
			}
		}
	}
	return out
}

// Positions returns all places in an object that name an image which a pod could run, in
// a stable order. They are the containers, init containers and ephemeral containers of
// every pod spec, image volumes, and, in the objects of custom resources and in
// annotations, every field whose name says that it is an image, because an operator or an
// admission webhook may make a pod of it.
func Positions(o *unstructured.Unstructured) []Position {
	gk := o.GroupVersionKind().GroupKind()
	switch gk {
	case schema.GroupKind{Kind: "ConfigMap"}, schema.GroupKind{Kind: "Secret"}:
		return annotationPositions(o)
	case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
		return nil // its fields named image are descriptions of fields
	}
	w := walk{object: strings.ToLower(o.GetKind()) + "/" + o.GetName(), custom: !builtIn(gk.Group)}
	if runs := runsOf(o); runs > Maybe {
		w.idle = idle(o)
		w.runs, w.containers = runs, strings.Join(append(podSpec(o.GetKind()), "containers["), ".")
	}
	for _, field := range slices.Sorted(maps.Keys(o.Object)) {
		if field != "metadata" && field != "status" {
			w.visit(field, field, o.Object[field])
		}
	}
	return append(w.out, annotationPositions(o)...)
}

// annotationPositions returns the annotations of the object that name an image, for
// example sidecar.istio.io/proxyImage. Those of a pod template are visited with the rest of
// the object.
func annotationPositions(o *unstructured.Unstructured) []Position {
	w := walk{object: strings.ToLower(o.GetKind()) + "/" + o.GetName()}
	if all, ok, _ := unstructured.NestedMap(o.Object, "metadata", "annotations"); ok {
		w.visit("annotations", "metadata.annotations", all)
	}
	return w.out
}

// builtIn reports whether an API group is one of Kubernetes itself. Their objects name
// images only in fields called image and in image volumes.
func builtIn(group string) bool {
	return !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") && !strings.HasSuffix(group, ".x-k8s.io")
}

// walk collects the positions of one object.
type walk struct {
	object     string
	custom     bool   // whether the object belongs to a custom resource
	runs       Runs   // of its containers
	idle       bool   // whether it has no replicas
	containers string // the beginning of the paths of these containers
	out        []Position
}

// visit examines a value, which has the name key in the object that contains it.
func (w *walk) visit(key, path string, v any) {
	switch v := v.(type) {
	case string:
		if w.names(key, path) && v != "" {
			w.add(path, v, w.byOperator(path))
		}
	case []any:
		for i, item := range v {
			w.visit(key, fmt.Sprintf("%s[%d]", path, i), item)
		}
	case map[string]any:
		named := w.names(key, path)
		for _, image := range composed(v, named, w.custom) {
			w.add(path, image, w.byOperator(path))
		}
		if name, _ := v["name"].(string); strings.HasPrefix(name, "RELATED_IMAGE_") { // what operators run
			if image, _ := v["value"].(string); image != "" {
				w.add(path+".value", image, true)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			w.visit(k, path+"."+k, v[k])
		}
	}
}

// add adds a position. custom is [Position.Custom].
func (w *walk) add(path, image string, custom bool) {
	runs := Maybe
	if w.containers != "" && strings.HasPrefix(path, w.containers) && strings.Count(path[len(w.containers):], ".") == 1 {
		runs = w.runs
	}
	if custom && !strings.ContainsAny(image, "/:@") {
		return // a word, for example the name of another object
	}
	w.out = append(w.out, Position{w.object, path, image, runs, w.idle, custom})
}

// byOperator reports whether an operator or an admission webhook reads a field.
func (w *walk) byOperator(path string) bool {
	return w.custom || strings.Contains(path, "annotations.")
}

// names reports whether a field names an image.
func (w *walk) names(key, path string) bool {
	if key == "image" {
		return true
	}
	if !w.byOperator(path) {
		return false
	}
	key = strings.ToLower(key[strings.LastIndexByte(key, '/')+1:])
	for _, end := range []string{"image", "images", "imagename", "imageref", "imagereference", "imageurl", "imageuri", "imagerepository"} {
		if strings.HasSuffix(key, end) {
			return true
		}
	}
	return false
}

// composed returns the images of a field that has parts: the reference of an image volume
// (https://kubernetes.io/docs/concepts/storage/volumes/#image), and the repository, tag and
// digest of a custom resource, which need no name that says image.
func composed(v map[string]any, named, custom bool) (images []string) {
	text := func(keys ...string) string {
		for _, k := range keys {
			if s, _ := v[k].(string); s != "" {
				return s
			}
		}
		return ""
	}
	if named {
		for _, key := range []string{"reference", "url", "uri", "ref"} {
			if image := text(key); image != "" {
				images = append(images, image)
			}
		}
	}
	tag, digest := text("tag", "version", "imageTag"), text("digest", "sha")
	image := text("repository", "imageRepository")
	if image == "" && named {
		image = text("name")
	}
	if image == "" || !named && (!custom || tag == "" && digest == "") {
		return images
	}
	if registry := text("registry"); registry != "" {
		image = registry + "/" + image
	}
	if tag != "" {
		image += ":" + tag
	}
	if digest != "" {
		image += "@" + digest
	}
	return append(images, image)
}

// idle reports whether a workload runs no pod, although it has a pod template: it has no
// replicas.
func idle(o *unstructured.Unstructured) bool {
	for _, field := range []string{"replicas", "parallelism"} {
		n, ok, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", field)
		if ok && fmt.Sprint(n) == "0" {
			return true
		}
	}
	return false
}

// runsOf returns whether the containers of an object run. Objects of custom resources
// count only if their kind is known to have a pod template whose containers it runs.
func runsOf(o *unstructured.Unstructured) Runs {
	switch gk := o.GroupVersionKind().GroupKind(); gk {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"},
		schema.GroupKind{Group: "apps", Kind: "DaemonSet"}, schema.GroupKind{Group: "apps", Kind: "ReplicaSet"},
		schema.GroupKind{Kind: "ReplicationController"},
		schema.GroupKind{Group: "argoproj.io", Kind: "Rollout"}, schema.GroupKind{Group: "apps.kruise.io", Kind: "CloneSet"},
		schema.GroupKind{Group: "apps.kruise.io", Kind: "StatefulSet"}, schema.GroupKind{Group: "apps.kruise.io", Kind: "DaemonSet"},
		schema.GroupKind{Group: "apps.openshift.io", Kind: "DeploymentConfig"}, schema.GroupKind{Group: "serving.knative.dev", Kind: "Service"}:
		return Always
	case schema.GroupKind{Group: "batch", Kind: "CronJob"}, schema.GroupKind{Group: "batch", Kind: "Job"}:
		if suspended, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend"); suspended {
			return Maybe
		}
		return Sometime
	case schema.GroupKind{Kind: "Pod"}:
		return Sometime
	}
	return Maybe
}

package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	helmkube "helm.sh/helm/v3/pkg/kube"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/resource"
)

// The actions of a change.
const (
	actionCreate = "create"
	actionUpdate = "update"
	actionDelete = "delete"
)

// change is a change of one object.
type change struct {
	action        string
	info          *resource.Info
	before, after *unstructured.Unstructured
}

// object returns the kind and name of the object, for example deployment/orders.
func (c change) object() string {
	return strings.ToLower(c.info.Mapping.GroupVersionKind.Kind) + "/" + c.info.Name
}

// baseline returns every object that the cluster may contain from earlier revisions.
// It merges the newest good revision with all later revisions, because those failed
// and it is unknown which of their objects were applied. A patch that is computed
// against the baseline removes everything that any of them added. Helm compares with
// one revision only, so that changes of other failed revisions remain in the cluster.
func (c *client) baseline() (map[key]*resource.Info, error) {
	all := map[key]*resource.Info{}
	for _, r := range c.applied {
		infos, err := c.Build(strings.NewReader(r.Manifest), false)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest of revision %d: %w", r.Version, err)
		}
		for _, info := range infos {
			k := keyOf(info)
			if before, ok := all[k]; ok {
				if err := overlay(before, info); err != nil {
					return nil, err
				}
				continue
			}
			all[k] = info
		}
	}
	return all, nil
}

// overlay merges the object of info into that of base.
func overlay(base, info *resource.Info) error {
	old, err := json.Marshal(base.Object)
	if err != nil {
		return fmt.Errorf("reading %s: %w", info.Name, err)
	}
	newer, err := json.Marshal(info.Object)
	if err != nil {
		return fmt.Errorf("reading %s: %w", info.Name, err)
	}
	var both []byte
	if typed := typedObject(info); typed != nil {
		both, err = strategicpatch.StrategicMergePatch(old, newer, typed)
	} else {
		both, err = jsonpatch.MergePatch(old, newer)
	}
	if err != nil {
		return fmt.Errorf("comparing revisions of %s: %w", info.Name, err)
	}
	merged := &unstructured.Unstructured{}
	if err := merged.UnmarshalJSON(both); err != nil {
		return fmt.Errorf("comparing revisions of %s: %w", info.Name, err)
	}
	base.Object = merged
	return nil
}

// typedObject returns an object as its Go type, which defines how its lists are
// merged. It returns nil for custom resources and CustomResourceDefinitions.
func typedObject(info *resource.Info) runtime.Object {
	typed := helmkube.AsVersioned(info)
	switch typed.(type) {
	case runtime.Unstructured, *apiextensions.CustomResourceDefinition:
		return nil
	}
	return typed
}

// reconcile makes the objects of the release in the cluster match target, and deletes
// all others. In a dry run it only determines the changes.
func (c *client) reconcile(target helmkube.ResourceList, dry bool) ([]change, error) {
	base, err := c.baseline()
	if err != nil {
		return nil, err
	}
	var changes []change
	if dry {
		changes, err = c.dryRun(target, base)
	} else {
		changes, err = c.applyAll(target, base)
	}
	if err != nil {
		return changes, err
	}
	for _, info := range target {
		delete(base, keyOf(info))
	}
	removed, err := c.remove(base, dry)
	return slices.Concat(changes, removed), err
}

// dryRun determines the changes of all objects, several at the same time.
func (c *client) dryRun(target helmkube.ResourceList, base map[key]*resource.Info) ([]change, error) {
	changes, errs := make([]change, len(target)), make([]error, len(target))
	var requests sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i, info := range target {
		requests.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			changes[i], errs[i] = c.reconcileObject(info, base[keyOf(info)], true)
		})
	}
	requests.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return changes, nil
}

// applyAll applies the objects in their order. If one of them fails, it returns the
// changes that were made before.
func (c *client) applyAll(target helmkube.ResourceList, base map[key]*resource.Info) ([]change, error) {
	changes := make([]change, 0, len(target))
	for _, info := range target {
		if err := c.checkLock(); err != nil {
			return changes, err
		}
		ch, err := c.reconcileObject(info, base[keyOf(info)], false)
		if err != nil {
			return changes, err
		}
		changes = append(changes, ch)
	}
	return changes, nil
}

// reconcileObject makes one object in the cluster match the chart.
func (c *client) reconcileObject(info, base *resource.Info, dry bool) (change, error) {
	ch := change{action: actionUpdate, info: info}
	helper := resource.NewHelper(info.Client, info.Mapping).WithFieldManager(fieldManager).DryRun(dry)
	live, err := helper.Get(info.Namespace, info.Name)
	if err == nil && terminating(live) {
		// It will be deleted even if it is updated now, so it must be created again.
		if live, err = c.waitUntilDeleted(helper, info, dry); err != nil && !apierrors.IsNotFound(err) {
			return ch, fmt.Errorf("%s is being deleted: %w", ch.object(), err)
		}
	}
	var after runtime.Object
	switch {
	case apierrors.IsNotFound(err):
		ch.action = actionCreate
		if after, err = helper.Create(info.Namespace, true, info.Object); dry && (apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)) {
			after, err = info.Object, nil // the namespace does not exist yet, or the old object still exists
		}
	case err != nil:
		return ch, fmt.Errorf("reading %s: %w", ch.object(), err)
	default:
		ch.before = asUnstructured(live)
		var patch []byte
		var kind types.PatchType
		if patch, kind, err = threeWay(info, base, live); err != nil {
			return ch, fmt.Errorf("comparing %s: %w", ch.object(), err)
		}
		if string(patch) == "{}" {
			after = live
			break
		}
		after, err = helper.Patch(info.Namespace, info.Name, kind, patch, nil)
	}
	if err != nil {
		return ch, fmt.Errorf("%s %s: %w", map[string]string{actionCreate: "creating", actionUpdate: "updating"}[ch.action], ch.object(), err)
	}
	ch.after = asUnstructured(after)
	if !dry {
		if err := info.Refresh(after, true); err != nil {
			return ch, fmt.Errorf("reading %s: %w", ch.object(), err)
		}
	}
	return ch, nil
}

func terminating(o runtime.Object) bool {
	u := asUnstructured(o)
	return u != nil && u.GetDeletionTimestamp() != nil
}

// waitUntilDeleted waits until an object that is being deleted no longer exists, and
// returns a "not found" error. In a dry run it returns that error without waiting. If
// another client has created the object again, it returns that object.
func (c *client) waitUntilDeleted(helper *resource.Helper, info *resource.Info, dry bool) (runtime.Object, error) {
	notFound := apierrors.NewNotFound(info.Mapping.Resource.GroupResource(), info.Name)
	if dry {
		return nil, notFound
	}
	var live runtime.Object
	err := wait.PollUntilContextTimeout(c.ctx, 200*time.Millisecond, hookTimeout, true, func(context.Context) (bool, error) {
		o, err := helper.Get(info.Namespace, info.Name)
		switch {
		case apierrors.IsNotFound(err):
			return true, nil
		case err != nil:
			return false, err
		case !terminating(o): // another client has created it again
			live = o
		}
		return live != nil, nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("waiting until the deletion is complete (check the finalizers of the object): %w", err)
	case live == nil:
		return nil, notFound
	}
	return live, nil
}

// withAlias sets serviceAccount, the deprecated alias of serviceAccountName, as the
// API server does. Otherwise a patch that removes serviceAccountName would keep the
// alias, from which the API server would restore serviceAccountName.
func withAlias(o runtime.Object) runtime.Object {
	u := asUnstructured(o)
	if u == nil {
		return o
	}
	path := podSpec(u.GetKind())
	account, ok, _ := unstructured.NestedString(u.Object, append(path, "serviceAccountName")...)
	if !ok {
		return o
	}
	u = u.DeepCopy()
	_ = unstructured.SetNestedField(u.Object, account, append(path, "serviceAccount")...)
	return u
}

// withoutReplicas removes spec.replicas from base if target does not set it, because
// then an autoscaler controls the number of pods. Otherwise the patch would remove
// spec.replicas, and the workload would be scaled to one pod until the autoscaler
// adjusts it.
func withoutReplicas(base, target runtime.Object) runtime.Object {
	t, b := asUnstructured(target), asUnstructured(base)
	if t == nil || b == nil {
		return base
	}
	if _, ok, _ := unstructured.NestedFieldNoCopy(t.Object, "spec", "replicas"); ok {
		return base
	}
	b = b.DeepCopy()
	unstructured.RemoveNestedField(b.Object, "spec", "replicas")
	return b
}

// podSpec returns the path of the pod spec in an object of a kind.
func podSpec(kind string) []string {
	switch kind {
	case "Pod":
		return []string{"spec"}
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	return []string{"spec", "template", "spec"}
}

// threeWay returns the patch from live to the object of info. It removes the fields
// that base contains and info does not, as kubectl apply does
// (https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/#how-apply-calculates-differences-and-merges-changes).
func threeWay(info, base *resource.Info, live runtime.Object) ([]byte, types.PatchType, error) {
	modified, err := json.Marshal(withAlias(info.Object))
	if err != nil {
		return nil, "", err
	}
	original := modified
	if base != nil {
		if original, err = json.Marshal(withoutReplicas(withAlias(base.Object), info.Object)); err != nil {
			return nil, "", err
		}
	}
	current, err := json.Marshal(live)
	if err != nil {
		return nil, "", err
	}
	typed := typedObject(info)
	if typed == nil {
		patch, err := mergePatch(original, modified, current)
		return patch, types.MergePatchType, err
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(typed)
	if err != nil {
		return nil, "", err
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(original, modified, current, meta, true)
	return patch, types.StrategicMergePatchType, err
}

// remove deletes objects of earlier revisions that are no longer part of the chart,
// unless they have the annotation helm.sh/resource-policy: keep.
func (c *client) remove(obsolete map[key]*resource.Info, dry bool) ([]change, error) {
	var changes []change
	var errs []error
	for _, info := range obsolete {
		helper := resource.NewHelper(info.Client, info.Mapping).WithFieldManager(fieldManager).DryRun(dry)
		live, err := helper.Get(info.Namespace, info.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		ch := change{action: actionDelete, info: info}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", ch.object(), err))
			continue
		}
		ch.before = asUnstructured(live)
		if ch.before.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy {
			continue
		}
		policy := metav1.DeletePropagationBackground
		if _, err := helper.DeleteWithOptions(info.Namespace, info.Name, &metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting %s: %w", ch.object(), err))
			continue
		}
		changes = append(changes, ch)
	}
	return changes, errors.Join(errs...)
}

// prune deletes the objects of a failed installation that its replacement does not
// contain.
func (c *client) prune(manifest string) error {
	base, err := c.baseline()
	if err != nil {
		return err
	}
	target, err := c.Build(strings.NewReader(manifest), false)
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	for _, info := range target {
		delete(base, keyOf(info))
	}
	_, err = c.remove(base, false)
	return err
}

// markOwned adds the label and the annotations that Helm adds to the objects of a
// release, so that a dry run compares what Helm would apply.
func markOwned(target helmkube.ResourceList, name, namespace string) error {
	for _, info := range target {
		u := asUnstructured(info.Object)
		if u == nil {
			return fmt.Errorf("object %s has the unexpected type %T", info.Name, info.Object)
		}
		labels, annotations := u.GetLabels(), u.GetAnnotations()
		if labels == nil {
			labels = map[string]string{}
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		labels["app.kubernetes.io/managed-by"] = "Helm"
		annotations["meta.helm.sh/release-name"], annotations["meta.helm.sh/release-namespace"] = name, namespace
		u.SetLabels(labels)
		u.SetAnnotations(annotations)
		info.Object = u
	}
	return nil
}

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

// change is what becomes of one object.
type change struct {
	action        string
	info          *resource.Info
	before, after *unstructured.Unstructured
}

func (c change) object() string {
	return strings.ToLower(c.info.Mapping.GroupVersionKind.Kind) + "/" + c.info.Name
}

// baseline is what the cluster may hold of every object: the newest good
// revision and, laid over it, every one since, because those failed and nobody
// knows how far they came. Patching against it removes what any of them brought.
// Helm patches against one revision only and so leaves the rest behind.
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

// overlay lays info's object over base's.
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

// typedObject is an object's Go type, which says how its lists merge; nil for
// kinds that are not Kubernetes' own.
func typedObject(info *resource.Info) runtime.Object {
	typed := helmkube.AsVersioned(info)
	switch typed.(type) {
	case runtime.Unstructured, *apiextensions.CustomResourceDefinition:
		return nil
	}
	return typed
}

// reconcile makes the cluster hold target and nothing else of the release, or
// finds out what that would change. In a dry run objects are asked about side
// by side.
func (c *client) reconcile(target helmkube.ResourceList, dry bool) ([]change, error) {
	base, err := c.baseline()
	if err != nil {
		return nil, err
	}
	changes := make([]change, len(target))
	if dry {
		errs := make([]error, len(target))
		var asking sync.WaitGroup
		limit := make(chan struct{}, 8)
		for i, info := range target {
			asking.Go(func() {
				limit <- struct{}{}
				defer func() { <-limit }()
				changes[i], errs[i] = c.bring(info, base[keyOf(info)], true)
			})
		}
		asking.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
	} else {
		for i, info := range target {
			if err := c.fenced(); err != nil {
				return changes[:i], err
			}
			if changes[i], err = c.bring(info, base[keyOf(info)], false); err != nil {
				return changes[:i], err
			}
		}
	}
	for _, info := range target {
		delete(base, keyOf(info))
	}
	gone, err := c.remove(base, dry)
	return slices.Concat(changes, gone), err
}

// bring makes one object what the chart says.
func (c *client) bring(info, base *resource.Info, dry bool) (change, error) {
	ch := change{action: actionUpdate, info: info}
	helper := resource.NewHelper(info.Client, info.Mapping).WithFieldManager(fieldManager).DryRun(dry)
	live, err := helper.Get(info.Namespace, info.Name)
	if err == nil && dying(live) {
		// It goes away whatever is written to it now.
		if live, err = c.outlive(helper, info, dry); err != nil && !apierrors.IsNotFound(err) {
			return ch, fmt.Errorf("%s is being deleted: %w", ch.object(), err)
		}
	}
	var after runtime.Object
	switch {
	case apierrors.IsNotFound(err):
		ch.action = actionCreate
		if after, err = helper.Create(info.Namespace, true, info.Object); dry && (apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)) {
			after, err = info.Object, nil // the namespace is still to be made, or an old one still to go
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

func dying(o runtime.Object) bool {
	u := asUnstructured(o)
	return u != nil && u.GetDeletionTimestamp() != nil
}

// outlive waits for an object that is being deleted to be gone, as "not found"
// says. A dry run takes it as gone.
func (c *client) outlive(helper *resource.Helper, info *resource.Info, dry bool) (runtime.Object, error) {
	gone := apierrors.NewNotFound(info.Mapping.Resource.GroupResource(), info.Name)
	if dry {
		return nil, gone
	}
	var live runtime.Object
	err := wait.PollUntilContextTimeout(c.ctx, 200*time.Millisecond, hookTimeout, true, func(context.Context) (bool, error) {
		o, err := helper.Get(info.Namespace, info.Name)
		switch {
		case apierrors.IsNotFound(err):
			return true, nil
		case err != nil:
			return false, err
		case !dying(o): // somebody was faster
			live = o
		}
		return live != nil, nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("waiting for it to be gone (look at its finalizers): %w", err)
	case live == nil:
		return nil, gone
	}
	return live, nil
}

// withAlias fills in serviceAccount, the old name of serviceAccountName, as the
// server does. Else taking the one away would leave the other, from which the
// server fills in the first again.
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

// withoutReplicas drops the number of pods from what was there where the chart
// no more says one: an autoscaler does from now on. Else the patch would unset
// it, which means a single pod until the autoscaler's next look.
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

// podSpec is where an object of a kind describes its pods.
func podSpec(kind string) []string {
	switch kind {
	case "Pod":
		return []string{"spec"}
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	return []string{"spec", "template", "spec"}
}

// threeWay is the patch from live to info's object that removes what only base
// has, as kubectl apply makes it.
func threeWay(info, base *resource.Info, live runtime.Object) ([]byte, types.PatchType, error) {
	modified, err := json.Marshal(withAlias(info.Object))
	if err != nil {
		return nil, "", err //nolint:wrapcheck // the caller names the object
	}
	original := modified
	if base != nil {
		if original, err = json.Marshal(withoutReplicas(withAlias(base.Object), info.Object)); err != nil {
			return nil, "", err //nolint:wrapcheck // the caller names the object
		}
	}
	current, err := json.Marshal(live)
	if err != nil {
		return nil, "", err //nolint:wrapcheck // the caller names the object
	}
	typed := typedObject(info)
	if typed == nil {
		patch, err := mergePatch(original, modified, current)
		return patch, types.MergePatchType, err
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(typed)
	if err != nil {
		return nil, "", err //nolint:wrapcheck // the caller names the object
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(original, modified, current, meta, true)
	return patch, types.StrategicMergePatchType, err //nolint:wrapcheck // the caller names the object
}

// remove deletes what earlier revisions brought and the chart has no more.
func (c *client) remove(rest map[key]*resource.Info, dry bool) ([]change, error) {
	var changes []change
	var errs []error
	for _, info := range rest {
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

// prune deletes what a failed install brought and its replacement has not.
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

// own adds what Helm adds to the objects of a release.
func own(target helmkube.ResourceList, name, namespace string) error {
	for _, info := range target {
		u := asUnstructured(info.Object)
		if u == nil {
			return fmt.Errorf("%s is a %T", info.Name, info.Object)
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

package release

import (
	"context"
	"errors"
	"fmt"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	helm "helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/resource"
)

// fieldManager is who Kubernetes says changed an object.
const fieldManager = "slipway"

// client is Helm's Kubernetes client with its own way of updating and waiting.
type client struct {
	*helmkube.Client
	waiter Waiter

	ctx     context.Context //nolint:containedctx // Helm's interface has none to pass
	applied []*helm.Release
	phase   string
	waitErr error
}

// begin prepares for one operation of Helm's.
func (c *client) begin(ctx context.Context, applied []*helm.Release) {
	c.ctx, c.applied, c.phase, c.waitErr = ctx, applied, "", nil
}

// key tells objects apart.
type key struct{ group, kind, namespace, name string }

func keyOf(i *resource.Info) key {
	gvk := i.Mapping.GroupVersionKind
	return key{gvk.Group, gvk.Kind, i.Namespace, i.Name}
}

// Update brings the cluster to target. What Helm believes to be there is not
// asked: see baseline.
func (c *client) Update(_, target helmkube.ResourceList, force bool) (*helmkube.Result, error) {
	if force {
		return &helmkube.Result{}, errors.New("replacing objects is not supported")
	}
	result := &helmkube.Result{}
	changes, err := c.reconcile(target, false)
	for _, ch := range changes {
		switch ch.action {
		case actionCreate:
			result.Created = append(result.Created, ch.info)
		case actionUpdate:
			result.Updated = append(result.Updated, ch.info)
		case actionDelete:
			result.Deleted = append(result.Deleted, ch.info)
		}
	}
	return result, err
}

// Create creates objects; Helm calls it for a first install and for hooks.
func (c *client) Create(resources helmkube.ResourceList) (*helmkube.Result, error) {
	if err := c.fenced(); err != nil {
		return nil, err
	}
	return c.Client.Create(resources) //nolint:wrapcheck // Helm adds what is missing
}

// fenced stops what another may be doing by now. An interrupt does not stop an
// apply: half of one is worse than all of it.
func (c *client) fenced() error {
	if errors.Is(context.Cause(c.ctx), ErrLockLost) {
		return ErrLockLost
	}
	return nil
}

// Wait hands the objects to the Waiter, as the last part of an install, an
// upgrade or a rollback.
func (c *client) Wait(resources helmkube.ResourceList, _ time.Duration) error {
	return c.follow("rollout", resources)
}

// WaitWithJobs is Wait: the Waiter knows Jobs.
func (c *client) WaitWithJobs(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.Wait(resources, timeout)
}

// WatchUntilReady hands a hook to the Waiter.
func (c *client) WatchUntilReady(resources helmkube.ResourceList, _ time.Duration) error {
	phase := c.phase
	if phase == "" {
		phase = "hook"
	}
	return c.follow(phase, resources)
}

func (c *client) follow(phase string, resources helmkube.ResourceList) error {
	if c.waiter == nil {
		return nil
	}
	err := c.waiter.Wait(c.ctx, phase, objects(resources))
	if err != nil {
		c.waitErr = err
	}
	return err
}

// WaitForDelete waits for old hooks to be gone; Helm looks every two seconds.
func (c *client) WaitForDelete(resources helmkube.ResourceList, timeout time.Duration) error {
	err := wait.PollUntilContextTimeout(c.ctx, 100*time.Millisecond, timeout, true, func(context.Context) (bool, error) {
		for _, r := range resources {
			if err := r.Get(); err == nil {
				return false, nil
			} else if !apierrors.IsNotFound(err) {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for an earlier hook to be deleted: %w", err)
	}
	return nil
}

// Images are the images that an object's pods run.
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

func asUnstructured(o runtime.Object) *unstructured.Unstructured {
	u, _ := o.(*unstructured.Unstructured)
	return u
}

// objects are a list's objects, with their namespaces.
func objects(list helmkube.ResourceList) []*unstructured.Unstructured {
	out := make([]*unstructured.Unstructured, 0, len(list))
	for _, info := range list {
		u := asUnstructured(info.Object)
		if u == nil {
			continue
		}
		u = u.DeepCopy()
		if info.Namespaced() {
			u.SetNamespace(info.Namespace)
		}
		out = append(out, u)
	}
	return out
}

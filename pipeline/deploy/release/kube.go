package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	helm "helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/resource"
)

// fieldManager is the field manager of the changes to objects
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers).
const fieldManager = "slipway"

// client is the Kubernetes client of Helm with a different way to update objects and
// to wait for them. A client is used for one operation of Helm at a time.
type client struct {
	*helmkube.Client
	waiter Waiter

	ctx     context.Context // stored here because the interface of Helm passes no context
	applied []*helm.Release // see baseline
	phase   string          // passed to the waiter for hooks
	waitErr error           // what the waiter returned
	checked *helm.Release   // what may be applied; nil if the operation renders no chart
}

// begin prepares the client for one operation of Helm.
func (c *client) begin(ctx context.Context, applied []*helm.Release) {
	c.ctx, c.applied, c.phase, c.waitErr, c.checked = ctx, applied, "", nil, nil
}

// Build reads objects from a manifest. Helm validates those that it is about to apply. If
// they come from a chart, they must be what was checked.
func (c *client) Build(reader io.Reader, validate bool) (helmkube.ResourceList, error) {
	if c.checked == nil || !validate {
		return c.Client.Build(reader, validate)
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		return nil, err
	}
	if string(text) != c.checked.Manifest {
		if err := checkHook(c.checked.Hooks, string(text)); err != nil {
			return nil, err
		}
	}
	return c.Client.Build(bytes.NewReader(text), validate)
}

// key identifies an object.
type key struct{ group, kind, namespace, name string }

func keyOf(i *resource.Info) key {
	gvk := i.Mapping.GroupVersionKind
	return key{gvk.Group, gvk.Kind, i.Namespace, i.Name}
}

// Update makes the objects in the cluster match target. It ignores the original
// objects that Helm passes and compares with the baseline instead.
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

// Create creates objects. Helm calls it for the first installation and for hooks.
func (c *client) Create(resources helmkube.ResourceList) (*helmkube.Result, error) {
	if err := c.checkLock(); err != nil {
		return nil, err
	}
	return c.Client.Create(resources)
}

// checkLock returns [ErrLockLost] if another run may hold the lock by now, so that two
// runs never change objects at the same time. An interrupt is no reason to stop,
// because a release that is applied only in part is worse than a complete one.
func (c *client) checkLock() error {
	if errors.Is(context.Cause(c.ctx), ErrLockLost) {
		return ErrLockLost
	}
	return nil
}

// Wait passes the objects to the Waiter. Helm calls it at the end of an install, an
// upgrade or a rollback.
func (c *client) Wait(resources helmkube.ResourceList, _ time.Duration) error {
	return c.follow("rollout", resources)
}

// WaitWithJobs is the same as Wait, because the Waiter also waits for Jobs.
func (c *client) WaitWithJobs(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.Wait(resources, timeout)
}

// WatchUntilReady passes a hook to the Waiter.
func (c *client) WatchUntilReady(resources helmkube.ResourceList, _ time.Duration) error {
	phase := c.phase
	if phase == "" {
		phase = "hook"
	}
	return c.follow(phase, resources)
}

// follow calls the Waiter and keeps its error for [Client.applyError].
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

// WaitForDelete waits until earlier hooks are deleted. It polls every 100 ms, because
// the two seconds between the polls of Helm would delay every deployment.
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

func asUnstructured(o runtime.Object) *unstructured.Unstructured {
	u, _ := o.(*unstructured.Unstructured)
	return u
}

// objects returns the objects of a list with their namespaces set.
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

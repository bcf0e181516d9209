package cluster

import (
	"context"
	"maps"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// sealedSecrets returns the resource of sealed Secrets.
func sealedSecrets() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "bitnami.com", Version: "v1alpha1", Resource: "sealedsecrets"}
}

// Certificate implements [deploy.Tool].
func (t Tool) Certificate(ctx context.Context, o deploy.Options, c deploy.SealingController) ([]byte, error) {
	k, err := connect(o, o.Settings.Clusters[0], t.Transport)
	if err != nil {
		return nil, err
	}
	services := k.client.CoreV1().Services(c.Namespace)
	service, err := services.Get(ctx, c.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && len(service.Spec.Ports) == 0 {
		return nil, fault.Inputf("seal.controller", "there is no Service %s in namespace %s, at which the controller of Sealed Secrets would answer", c.Name, c.Namespace).
			WithFix("install the controller, name it with --controller NAMESPACE/NAME, or give its certificate with --cert FILE")
	}
	if err != nil {
		return nil, explainForbidden(explain("looking for the controller of Sealed Secrets", err))
	}
	text, err := services.ProxyGet("http", c.Name, service.Spec.Ports[0].Name, "/v1/cert.pem", nil).DoRaw(ctx)
	if err != nil {
		return nil, explainForbidden(explain("asking the controller of Sealed Secrets for its certificate", err))
	}
	return text, nil
}

// ensureSealed applies the sealed Secrets of the environment and waits until the controller has
// unsealed them. It reports whether any of them changed.
func (d *deployment) ensureSealed(ctx context.Context) (changed bool, err error) {
	client := d.dynamic.Resource(sealedSecrets()).Namespace(d.Namespace)
	for _, s := range d.Sealed {
		object, err := d.sealedObject(s)
		if err != nil {
			return changed, err
		}
		before, err := client.Get(ctx, s.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			before = nil
		case err != nil:
			return changed, explain("reading sealed Secret "+s.Name, err)
		case before.GetLabels()["app.kubernetes.io/managed-by"] != manager:
			return changed, fault.Gatef("deploy.conflict", "sealed Secret %s in namespace %s was not created by slipway", s.Name, d.Namespace).
				WithFix("choose another name, or label it app.kubernetes.io/managed-by=slipway to let slipway manage it")
		}
		progress.Statusf(ctx, "applying sealed Secret %s", s.Name)
		after, err := client.Apply(ctx, s.Name, object, applyOptions())
		if apierrors.IsNotFound(err) {
			return changed, fault.Gatef("deploy.sealed-secret", "the cluster does not know sealed Secrets").
				WithFix("install the controller of Sealed Secrets with its CustomResourceDefinition")
		}
		if err != nil {
			return changed, explain("applying sealed Secret "+s.Name, err)
		}
		changed = changed || before == nil || before.GetGeneration() != after.GetGeneration()
		if err := d.waitUnsealed(ctx, client, s.Name); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// sealedObject returns a sealed Secret as it is applied.
func (d *deployment) sealedObject(s deploy.SealedSecret) (*unstructured.Unstructured, error) {
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(s.Manifest, &object.Object); err != nil {
		return nil, fault.Inputf("seal.file", "%s: it is not the YAML of a sealed Secret", s.File)
	}
	labels := object.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["app.kubernetes.io/managed-by"], labels["app.kubernetes.io/instance"] = manager, d.Release
	object.SetLabels(labels)
	return object, nil
}

// waitUnsealed waits until the controller has unsealed a sealed Secret as it is now, or says why
// it cannot.
func (d *deployment) waitUnsealed(ctx context.Context, client dynamic.ResourceInterface, name string) error {
	progress.Statusf(ctx, "waiting until sealed Secret %s is unsealed", name)
	limited, cancel := context.WithDeadline(ctx, d.until)
	defer cancel()
	selector := "metadata.name=" + name
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return client.Watch(ctx, o)
		},
	}
	_, err := watchtools.UntilWithSync(limited, lw, &unstructured.Unstructured{}, nil, func(e watch.Event) (bool, error) {
		u, ok := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type == watch.Deleted {
			return false, nil
		}
		done, problem := rollout.Unsealed(u)
		if problem != "" {
			return false, fault.Gatef("deploy.sealed-secret", "the controller cannot unseal Secret %s: %s", name, problem).
				WithFix("it was sealed for another cluster, name or namespace: seal it again with slipway seal")
		}
		return done, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return fault.Gatef("deploy.sealed-secret", "the controller of Sealed Secrets has not unsealed Secret %s within %s", name, time.Duration(d.Settings.Timeout)).
			WithFix("check that the controller runs, for example with kubectl -n kube-system get pods -l name=sealed-secrets-controller")
	}
	return err
}

// planSealed returns the sealed Secrets that a deployment would create or change.
func (d *deployment) planSealed(ctx context.Context) ([]deploy.Change, error) {
	var changes []deploy.Change
	for _, s := range d.Sealed {
		live, err := d.dynamic.Resource(sealedSecrets()).Namespace(d.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		object := "sealedsecret/" + s.Name
		switch {
		case apierrors.IsNotFound(err):
			changes = append(changes, deploy.Change{Action: "create", Object: object})
			continue
		case apierrors.IsForbidden(err):
			continue
		case err != nil:
			return nil, explain("reading sealed Secret "+s.Name, err)
		}
		wanted, err := d.sealedObject(s)
		if err != nil {
			return nil, err
		}
		have, _, _ := unstructured.NestedStringMap(live.Object, "spec", "encryptedData")
		want, _, _ := unstructured.NestedStringMap(wanted.Object, "spec", "encryptedData")
		if !maps.Equal(have, want) {
			changes = append(changes, deploy.Change{Action: "update", Object: object, Diff: "  encryptedData\n"})
		}
	}
	return changes, nil
}

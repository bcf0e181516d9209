package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// manager is the field manager of the objects that slipway applies without Helm
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/).
const manager = "slipway"

func applyOptions() metav1.ApplyOptions {
	return metav1.ApplyOptions{FieldManager: manager, Force: true}
}

// podSecurity returns the labels of a namespace that enforces a Pod Security Standard
// (https://kubernetes.io/docs/concepts/security/pod-security-admission/).
func podSecurity(level string) map[string]string {
	if level == "" {
		return nil
	}
	return map[string]string{
		"pod-security.kubernetes.io/enforce": level,
		"pod-security.kubernetes.io/warn":    level,
		"pod-security.kubernetes.io/audit":   level,
	}
}

// ensureNamespace creates the namespace if it does not exist, and labels it so that it
// enforces the level. An empty level does not change the labels. A deployer without the
// permission to do that can use a namespace that already has the labels, if the
// deployer is allowed to read it.
func (k *connection) ensureNamespace(ctx context.Context, name, level string) error {
	labels := podSecurity(level)
	namespaces := k.client.CoreV1().Namespaces()
	live, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err) && level == "":
		return nil
	case apierrors.IsForbidden(err):
		return fault.Gatef("deploy.forbidden", "checking whether namespace %s enforces Pod Security %q: %w", name, level, err).
			WithFix("allow the Role of the deployer to get namespaces (docs/deployer-role.yaml), or set podSecurity: none to disable the check")
	case apierrors.IsNotFound(err):
		progress.Statusf(ctx, "creating namespace %s", name)
		_, err = namespaces.Apply(ctx, apply.Namespace(name).WithLabels(labels), applyOptions())
		if apierrors.IsForbidden(err) {
			e := fault.Gatef("deploy.forbidden", "namespace %s does not exist, and you are not allowed to create it: %w", name, err)
			if level == "" {
				return e.WithFix("ask an administrator to create it")
			}
			return e.WithFix("ask an administrator to create it with the label pod-security.kubernetes.io/enforce=%s", level)
		}
		return explain("creating namespace "+name, err)
	case err != nil:
		return explain("reading namespace "+name, err)
	}
	if live.Status.Phase == core.NamespaceTerminating {
		return fault.Gatef("deploy.namespace", "namespace %s is being deleted", name).WithFix("wait until it no longer exists and run this again")
	}
	for l, v := range labels {
		if live.Labels[l] != v {
			_, err := namespaces.Apply(ctx, apply.Namespace(name).WithLabels(labels), applyOptions())
			if apierrors.IsForbidden(err) {
				return fault.Gatef("deploy.pod-security", "namespace %s has %s=%q instead of %q, and you are not allowed to change it", name, l, live.Labels[l], v).
					WithFix("ask an administrator to change the label, or change podSecurity of the environment")
			}
			return explain("labelling namespace "+name, err)
		}
	}
	return nil
}

// ensureSecrets writes the Secrets and the pull secret of the environment, and reports
// whether any of them changed. It returns an error if a Secret of that name exists that
// slipway did not create.
func (k *connection) ensureSecrets(ctx context.Context, o deploy.Options) (changed bool, err error) {
	type wanted struct {
		name string
		kind core.SecretType
		data map[string][]byte
	}
	var all []wanted
	for _, s := range o.Secrets {
		w := wanted{s.Name, core.SecretTypeOpaque, map[string][]byte{}}
		for key, v := range s.Data {
			w.data[key] = []byte(v)
		}
		all = append(all, w)
	}
	if p := o.PullSecret; p != nil {
		text, err := dockerConfig(p)
		if err != nil {
			return false, err
		}
		all = append(all, wanted{p.Name, core.SecretTypeDockerConfigJson, map[string][]byte{core.DockerConfigJsonKey: text}})
	}
	secrets := k.client.CoreV1().Secrets(o.Namespace)
	for _, w := range all {
		before, err := secrets.Get(ctx, w.name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return changed, explain("reading Secret "+w.name, err)
		}
		if err == nil && before.Labels["app.kubernetes.io/managed-by"] != manager {
			return changed, fault.Gatef("deploy.conflict", "Secret %s in namespace %s was not created by slipway", w.name, o.Namespace).
				WithFix("choose another name, or label it app.kubernetes.io/managed-by=slipway to let slipway manage it")
		}
		after, err := secrets.Apply(ctx, apply.Secret(w.name, o.Namespace).
			WithLabels(map[string]string{"app.kubernetes.io/managed-by": manager, "app.kubernetes.io/instance": o.Release}).
			WithType(w.kind).WithData(w.data), applyOptions())
		if err != nil {
			return changed, explain("writing Secret "+w.name, err)
		}
		changed = changed || before == nil || before.ResourceVersion != after.ResourceVersion
	}
	return changed, nil
}

// dockerConfig returns the content of a pull secret
// (https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/).
func dockerConfig(p *deploy.PullSecret) ([]byte, error) {
	type login struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	text, err := json.Marshal(map[string]map[string]login{"auths": {p.Registry: { //nolint:gosec // the password is meant for a Secret
		p.Username, p.Password(), base64.StdEncoding.EncodeToString([]byte(p.Username + ":" + p.Password())),
	}}})
	if err != nil {
		return nil, fmt.Errorf("encoding the pull secret %s: %w", p.Name, err)
	}
	return text, nil
}

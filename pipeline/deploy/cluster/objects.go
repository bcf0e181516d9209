package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// manager is the field manager of what slipway applies beside Helm
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/).
const manager = "slipway"

func applying() metav1.ApplyOptions { return metav1.ApplyOptions{FieldManager: manager, Force: true} }

// podSecurity are the labels of Pod Security Admission
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

// ensureNamespace makes the namespace, and has it enforce the level. A deployer
// who may do neither can still work in a namespace that is right already, as
// long as he may see that it is.
func (k *connection) ensureNamespace(ctx context.Context, name, level string) error {
	labels := podSecurity(level)
	namespaces := k.client.CoreV1().Namespaces()
	live, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err) && level == "":
		return nil
	case apierrors.IsForbidden(err):
		return fault.Gatef("deploy.forbidden", "whether namespace %s enforces Pod Security %q cannot be seen: %w", name, level, err).
			WithFix("the deployer's Role needs get of namespaces (docs/deployer-role.yaml); podSecurity: none of the environment leaves it unchecked")
	case apierrors.IsNotFound(err):
		progress.Statusf(ctx, "making namespace %s", name)
		_, err = namespaces.Apply(ctx, apply.Namespace(name).WithLabels(labels), applying())
		if apierrors.IsForbidden(err) {
			return fault.Gatef("deploy.forbidden", "namespace %s does not exist and you may not make it: %w", name, err).
				WithFix("have it made, with the label pod-security.kubernetes.io/enforce=%s", level)
		}
		return explain("making namespace "+name, err)
	case err != nil:
		return explain("reading namespace "+name, err)
	}
	if live.Status.Phase == core.NamespaceTerminating {
		return fault.Gatef("deploy.namespace", "namespace %s is being deleted", name).WithFix("wait until it is gone and run this again")
	}
	for l, v := range labels {
		if live.Labels[l] != v {
			_, err := namespaces.Apply(ctx, apply.Namespace(name).WithLabels(labels), applying())
			if apierrors.IsForbidden(err) {
				return fault.Gatef("deploy.pod-security", "namespace %s has %s=%q in place of %q, and you may not change it", name, l, live.Labels[l], v).
					WithFix("have the label set, or set podSecurity of the environment to what is meant")
			}
			return explain("labelling namespace "+name, err)
		}
	}
	return nil
}

// ensureSecrets writes the Secrets and the pull secret, and reports whether
// any of them changed.
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
			return changed, fault.Gatef("deploy.conflict", "Secret %s in namespace %s was not made by slipway", w.name, o.Namespace).
				WithFix("choose another name, or label it app.kubernetes.io/managed-by=slipway to have it taken over")
		}
		after, err := secrets.Apply(ctx, apply.Secret(w.name, o.Namespace).
			WithLabels(map[string]string{"app.kubernetes.io/managed-by": manager, "app.kubernetes.io/instance": o.Release}).
			WithType(w.kind).WithData(w.data), applying())
		if err != nil {
			return changed, explain("writing Secret "+w.name, err)
		}
		changed = changed || before == nil || before.ResourceVersion != after.ResourceVersion
	}
	return changed, nil
}

// dockerConfig is a login as kubelets read it
// (https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/).
func dockerConfig(p *deploy.PullSecret) ([]byte, error) {
	type login struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	text, err := json.Marshal(map[string]map[string]login{"auths": {p.Registry: { //nolint:gosec // it is a password, for a Secret
		p.Username, p.Password(), base64.StdEncoding.EncodeToString([]byte(p.Username + ":" + p.Password())),
	}}})
	if err != nil {
		return nil, fmt.Errorf("writing the pull secret: %w", err)
	}
	return text, nil
}

// ensureCRDs applies the chart's CustomResourceDefinitions, new and changed
// ones, and returns them.
func (r *deployment) ensureCRDs(ctx context.Context, text []byte) ([]*unstructured.Unstructured, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	crds, err := r.release.Parse(ctx, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, crd := range crds {
		if crd.GetKind() != "CustomResourceDefinition" {
			return nil, fault.Inputf("deploy.chart", "the chart's crds folder holds a %s", crd.GetKind())
		}
		mapping, err := r.mapper.RESTMapping(crd.GroupVersionKind().GroupKind(), crd.GroupVersionKind().Version)
		if err != nil {
			return nil, explain("finding CustomResourceDefinitions", err)
		}
		progress.Statusf(ctx, "applying %s", crd.GetName())
		if _, err := r.dynamic.Resource(mapping.Resource).Apply(ctx, crd.GetName(), crd, applying()); err != nil {
			return nil, explain("applying CustomResourceDefinition "+crd.GetName(), err)
		}
	}
	r.discovery.Invalidate()
	return crds, nil
}

// checkImage sees to it that what was verified is what runs: some container
// runs the image by its digest, and none, of hooks neither, runs another image
// of its repository.
func checkImage(objects, hooks []*unstructured.Unstructured, image deploy.Image) error {
	repository, err := name.NewRepository(image.Repository)
	if err != nil {
		return fault.Inputf("deploy.image", "%w", err)
	}
	found := false
	for i, o := range slices.Concat(objects, hooks) {
		for _, text := range release.Images(o) {
			ref, err := name.ParseReference(text)
			if err != nil || ref.Context().Name() != repository.Name() {
				continue // what cannot be parsed cannot be pulled
			}
			digest, ok := ref.(name.Digest)
			if !ok || digest.DigestStr() != image.Digest {
				return fault.Gatef("deploy.other-image", "%s %s of the chart runs %s, and %s was verified", strings.ToLower(o.GetKind()), o.GetName(), text, image).
					WithFix("have the chart use repository@digest; deploy.imageValues names its values")
			}
			found = found || i < len(objects)
		}
	}
	if !found {
		return fault.Gatef("deploy.image-unused", "no container of the chart runs %s", image).
			WithFix("set deploy.imageValues to the chart's values for repository and digest")
	}
	return nil
}

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwait "k8s.io/apimachinery/pkg/util/wait"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// kindMapper finds the resources of kinds. Its other methods are those of the mapper
// that asks the API server.
type kindMapper struct {
	meta.RESTMapper
	// planned are the kinds that a deployment would create. A plan needs their resources
	// before the API server has them.
	planned []meta.RESTMapping
}

// RESTMapping implements [meta.RESTMapper].
func (m *kindMapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	mapping, err := m.RESTMapper.RESTMapping(kind, versions...)
	if err == nil || !meta.IsNoMatchError(err) {
		return mapping, err
	}
	for i, p := range m.planned {
		for _, v := range versions {
			if p.GroupVersionKind == kind.WithVersion(v) {
				return &m.planned[i], nil
			}
		}
	}
	return nil, err
}

// Reset implements [meta.ResettableRESTMapper].
func (m *kindMapper) Reset() { meta.MaybeResetRESTMapper(m.RESTMapper) }

// has reports whether the API server serves a kind, as far as the mapper knows.
func (m *kindMapper) has(kind schema.GroupVersionKind) (bool, error) {
	_, err := m.RESTMapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}

// hasAll reports whether the API server serves all versions of the kinds that
// CustomResourceDefinitions define, as far as the mapper knows.
func (m *kindMapper) hasAll(crds ...*unstructured.Unstructured) (bool, error) {
	for _, crd := range crds {
		for _, p := range mappings(crd) {
			if ok, err := m.has(p.GroupVersionKind); err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}

// mappings returns the resources that a CustomResourceDefinition defines, one for each
// version that is served
// (https://kubernetes.io/docs/reference/kubernetes-api/extend-resources/custom-resource-definition-v1/).
func mappings(crd *unstructured.Unstructured) []meta.RESTMapping {
	text := func(path ...string) string {
		s, _, _ := unstructured.NestedString(crd.Object, append([]string{"spec"}, path...)...)
		return s
	}
	scope := meta.RESTScope(meta.RESTScopeNamespace)
	if text("scope") == "Cluster" {
		scope = meta.RESTScopeRoot
	}
	var out []meta.RESTMapping
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		fields, _ := v.(map[string]any)
		version, _ := fields["name"].(string)
		if served, _ := fields["served"].(bool); !served {
			continue
		}
		gv := schema.GroupVersion{Group: text("group"), Version: version}
		out = append(out, meta.RESTMapping{
			Resource: gv.WithResource(text("names", "plural")), GroupVersionKind: gv.WithKind(text("names", "kind")), Scope: scope,
		})
	}
	return out
}

// chartCRDs returns the CustomResourceDefinitions of the chart. If two parts of the chart
// have the same one, the first counts, as with Helm.
func (d *deployment) chartCRDs(ctx context.Context, chart release.Chart) ([]*unstructured.Unstructured, error) {
	text, err := chart.CRDs()
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return nil, err
	}
	all, err := d.release.Parse(ctx, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var crds []*unstructured.Unstructured
	seen := map[string]bool{}
	for _, crd := range all {
		if crd.GetKind() != "CustomResourceDefinition" {
			return nil, fault.Inputf("deploy.chart", "the crds folder of the chart contains a %s, but only CustomResourceDefinitions are allowed there", crd.GetKind())
		}
		if !seen[crd.GetName()] {
			crds = append(crds, crd)
		}
		seen[crd.GetName()] = true
	}
	return crds, nil
}

// crdResource is the resource of CustomResourceDefinitions.
func crdResource(crd *unstructured.Unstructured) schema.GroupVersionResource {
	return crd.GroupVersionKind().GroupVersion().WithResource("customresourcedefinitions")
}

// ensureCRDs applies the CustomResourceDefinitions of the chart and waits until the API
// server serves their kinds. In contrast to Helm, it also updates those that exist. A
// deployer without the permission to apply them can use those that are in the cluster.
func (d *deployment) ensureCRDs(ctx context.Context, chart release.Chart) error {
	crds, err := d.chartCRDs(ctx, chart)
	if err != nil {
		return err
	}
	var applied []*unstructured.Unstructured
	for _, crd := range crds {
		progress.Statusf(ctx, "applying %s", crd.GetName())
		_, err := d.dynamic.Resource(crdResource(crd)).Apply(ctx, crd.GetName(), crd, applyOptions())
		if apierrors.IsForbidden(err) {
			if there, _ := d.mapper.hasAll(crd); there {
				text := fmt.Sprintf("CustomResourceDefinition %s of the chart is not applied, because you are not allowed to; the one in the cluster is used", crd.GetName())
				progress.Warnf(ctx, "%s", text)
				d.result.Warnings = append(d.result.Warnings, text)
				continue
			}
		}
		if err != nil {
			return explain("applying CustomResourceDefinition "+crd.GetName(), brief.Error(err, d.mask))
		}
		applied = append(applied, crd)
	}
	if len(applied) == 0 {
		return nil
	}
	if err := d.Wait(ctx, phaseCRDs, applied); err != nil {
		return err
	}
	return d.waitUntilServed(ctx, applied)
}

// waitUntilServed waits until discovery lists the kinds of CustomResourceDefinitions that
// are established, which can be a moment later. It polls, because discovery cannot be
// watched. What the mapper remembers from before is discarded.
func (d *deployment) waitUntilServed(ctx context.Context, crds []*unstructured.Unstructured) error {
	var last error
	err := apiwait.PollUntilContextTimeout(ctx, 100*time.Millisecond, max(time.Until(d.until), time.Second), true, func(context.Context) (bool, error) {
		there, err := d.mapper.hasAll(crds...)
		if last = err; !there {
			d.mapper.Reset()
			there, last = d.mapper.hasAll(crds...)
		}
		return there, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case last != nil:
		return explain("looking up the kinds of the chart's CustomResourceDefinitions", last)
	}
	var names []string
	for _, crd := range crds {
		names = append(names, crd.GetName())
	}
	return fault.Failedf("deploy.crd", "CustomResourceDefinition %s is established, but the API server does not list its kind", strings.Join(names, ", ")).
		WithFix("run this again")
}

// planCRDs returns the CustomResourceDefinitions that a deployment would create, and
// makes their kinds known to the mapper.
func (d *deployment) planCRDs(ctx context.Context, chart release.Chart) ([]deploy.Change, error) {
	crds, err := d.chartCRDs(ctx, chart)
	if err != nil {
		return nil, err
	}
	var changes []deploy.Change
	for _, crd := range crds {
		d.mapper.planned = append(d.mapper.planned, mappings(crd)...)
		_, err := d.dynamic.Resource(crdResource(crd)).Get(ctx, crd.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			changes = append(changes, deploy.Change{Action: "create", Object: "customresourcedefinition/" + crd.GetName()})
		case apierrors.IsForbidden(err):
		case err != nil:
			return nil, explain("reading CustomResourceDefinition "+crd.GetName(), err)
		}
	}
	return changes, nil
}

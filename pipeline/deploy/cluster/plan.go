package cluster

import (
	"context"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Plan implements [deploy.Tool].
func (t Tool) Plan(ctx context.Context, o deploy.Options, image deploy.Image) (deploy.Plan, error) {
	plan := deploy.Plan{Environment: o.Environment, Release: o.Release, Namespace: o.Namespace, Image: image}
	var err error
	if o.Chart, err = release.Fetch(ctx, o.Registries, o.Chart); err != nil {
		return plan, err
	}
	for _, c := range o.Settings.Clusters {
		p, err := t.plan(ctx, o, c, image)
		if err != nil {
			return plan, err
		}
		plan.Clusters = append(plan.Clusters, p)
	}
	return plan, nil
}

func (t Tool) plan(ctx context.Context, o deploy.Options, c config.Cluster, image deploy.Image) (deploy.ClusterPlan, error) {
	d, err := t.open(o, c, image)
	if err != nil {
		return deploy.ClusterPlan{}, err
	}
	p := deploy.ClusterPlan{Name: d.result.Name}
	if err := d.checkReachable(ctx); err != nil {
		return p, err
	}
	namespace, err := d.client.CoreV1().Namespaces().Get(ctx, d.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		p.Changes = append(p.Changes, deploy.Change{Action: "create", Object: "namespace/" + d.Namespace})
	case apierrors.IsForbidden(err):
	case err != nil:
		return p, explain("reading namespace "+d.Namespace, err)
	case namespace.Status.Phase == core.NamespaceTerminating:
		p.Warnings = append(p.Warnings, "namespace "+d.Namespace+" is being deleted")
	}
	chart, err := d.chart()
	if err != nil {
		return p, err
	}
	created, err := d.planCRDs(ctx, chart)
	if err != nil {
		return p, err
	}
	p.Changes = append(p.Changes, created...)
	unsealed, err := d.planSealed(ctx)
	if err != nil {
		return p, err
	}
	p.Changes = append(p.Changes, unsealed...)
	found, err := d.release.Find(ctx)
	if err != nil {
		return p, err
	}
	p.State, p.Reason, p.Revision = found.State, found.Reason, found.Good
	rendered, err := d.release.Render(ctx, found, chart)
	if err != nil {
		return p, err
	}
	if _, err := d.imageCheck(d.image).run(ctx, rendered.Objects, d.hooks(rendered)); err != nil {
		return p, err
	}
	progress.Statusf(ctx, "comparing the chart with the cluster")
	changes, err := d.release.Changes(ctx, found, rendered)
	if err != nil {
		return p, err
	}
	p.Changes = append(p.Changes, changes...)
	if len(p.Changes) > 0 {
		p.Hooks = rendered.Hooks
	}
	return p, nil
}

package cluster

import (
	"context"
	"errors"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
)

// Status implements [deploy.Tool].
func (t Tool) Status(ctx context.Context, o deploy.Options) ([]deploy.Status, error) {
	var all []deploy.Status
	for _, c := range o.Settings.Clusters {
		d, err := t.open(o, c, deploy.Image{})
		if err != nil {
			return all, err
		}
		s, err := d.status(ctx)
		all = append(all, s)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// statusTimeout is how long status follows workloads that are not ready, to determine
// why they are not. Ready workloads are reported at once.
const statusTimeout = 3 * time.Second

func (d *deployment) status(ctx context.Context) (deploy.Status, error) {
	s := deploy.Status{Cluster: d.result.Name, Release: d.Release, Namespace: d.Namespace}
	if err := d.checkReachable(ctx); err != nil {
		return s, err
	}
	found, err := d.release.Find(ctx)
	if err != nil {
		return s, err
	}
	s.State, s.Reason, s.Revision, s.History = found.State, found.Reason, found.Good, found.History()
	lease, err := d.client.CoordinationV1().Leases(d.Namespace).Get(ctx, leaseName(d.Release), metav1.GetOptions{})
	if err == nil {
		if holder := value(lease.Spec.HolderIdentity); holder != "" && !dead(holder) {
			s.Lock = runOf(holder)
		}
	}
	if found.State == deploy.Absent {
		return s, nil
	}
	objects, err := d.release.Objects(ctx, found)
	if err != nil {
		return s, err
	}
	for _, o := range objects {
		if i := release.Images(o); len(i) > 0 && s.Image == "" {
			s.Image = i[len(i)-1]
		}
	}
	var last rollout.Snapshot
	result, err := rollout.Track(ctx, rollout.Options{
		Config: d.watchConfig, Objects: objects, Timeout: statusTimeout, Mask: d.mask, Observe: func(now rollout.Snapshot) { last = now },
	})
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	s.Workloads, s.Warnings = workloads(result.Workloads), result.Warnings
	for _, p := range last.Problems {
		s.Problems = append(s.Problems, problem(p))
	}
	// A failure of the rollout is part of the status, not an error of the command.
	if _, judged := errors.AsType[*rollout.Failure](err); err != nil && !judged {
		return s, err
	}
	return s, nil
}

// workloads returns the workloads that have pods.
func workloads(all []rollout.Workload) []deploy.Workload {
	var out []deploy.Workload
	for _, w := range all {
		if len(w.Pods) == 0 && w.Desired == 0 {
			continue
		}
		kind, name, _ := strings.Cut(w.Object, "/")
		_, name, _ = strings.Cut(name, "/")
		out = append(out, deploy.Workload{
			Object: kind + "/" + name, Desired: w.Desired, Updated: w.Updated, Ready: w.Ready, Available: w.Available, Old: w.Old, Message: w.Message,
		})
	}
	return out
}

// problem returns a problem as one line of text.
func problem(p rollout.Problem) string {
	subject := p.Object
	if p.Pod != "" {
		subject = "pod " + p.Pod
	}
	if p.Container != "" {
		subject += ", container " + p.Container
	}
	return subject + ": " + brief.Text(p.Message)
}

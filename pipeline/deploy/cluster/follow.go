package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// The phases of a deployment that are treated specially. [release.Waiter] has others.
const (
	phaseRollout = "rollout"
	phaseCRDs    = "crds"
)

// Wait follows objects until they are ready. It implements [release.Waiter].
func (d *deployment) Wait(ctx context.Context, phase string, objects []*unstructured.Unstructured) error {
	show := display{phase: phase, logs: d.logs, shown: map[string]int32{}}
	defer show.reading.Wait()
	unblock := unblocker{d, map[rollout.Blocking]bool{}}
	result, err := rollout.Track(ctx, rollout.Options{
		Config: d.watchConfig, Objects: objects, Timeout: max(time.Until(d.until), time.Millisecond), Since: d.since,
		Patience: rollout.Patience{Restarts: d.Settings.Restarts, Readiness: time.Duration(d.Settings.Readiness)},
		Mask:     d.mask, Observe: func(s rollout.Snapshot) {
			show.update(ctx, s)
			if phase == phaseRollout {
				unblock.update(ctx, s)
			}
		},
	})
	progress.Detail(ctx, nil)
	if phase == phaseRollout {
		d.result.Workloads = workloads(result.Workloads)
		if !result.AvailableAt.IsZero() {
			d.result.Late = result.Returned.Sub(result.AvailableAt).Seconds()
		}
	}
	// The warnings of a rollout that is rolled back do not describe what runs in the end.
	d.result.Warnings = slices.DeleteFunc(d.result.Warnings, func(w string) bool { return slices.Contains(d.warned, w) })
	d.result.Warnings, d.warned = append(d.result.Warnings, result.Warnings...), result.Warnings
	if failure, ok := errors.AsType[*rollout.Failure](err); ok {
		for _, line := range failure.Logs {
			progress.Line(ctx, "  "+failure.Container+" | "+line)
		}
	}
	return err
}

// recordFailure records in the result why a rollout failed. It returns err with its
// secrets hidden.
func (d *deployment) recordFailure(err error) error {
	if err == nil {
		return nil
	}
	f := &deploy.Failure{Kind: strings.TrimPrefix(fault.CodeOf(err), "deploy."), Message: d.mask(err.Error()), Text: brief.Whole(err)}
	if failure, ok := errors.AsType[*rollout.Failure](err); ok {
		f = &deploy.Failure{
			Kind: string(failure.Kind), Object: failure.Object, Pod: failure.Pod, Container: failure.Container, Reason: failure.Reason,
			Message: brief.Text(failure.Message), Fix: failure.Fix, Logs: failure.Logs, Known: failure.Known, Seen: failure.Seen,
		}
		if f.Message != failure.Message {
			f.Text = failure.Message
		}
		for _, e := range failure.Events {
			f.Events = append(f.Events, fmt.Sprintf("%s %s %s: %s (x%d)", e.Last.UTC().Format(time.TimeOnly), e.Object, e.Reason, e.Message, e.Count))
		}
	}
	f.Reported = time.Now()
	d.result.Failure = f
	return maskedError{err, d.mask}
}

// maskedError hides secrets in the text of an error, which can contain texts from the
// cluster.
type maskedError struct {
	error
	mask func(string) string
}

func (e maskedError) Error() string { return e.mask(e.error.Error()) }

func (e maskedError) Unwrap() error { return e.error }

// logs returns the last lines that a container wrote before it was restarted. If they
// cannot be read, it returns nil.
func (d *deployment) logs(ctx context.Context, p rollout.Problem) []string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, namespaced, _ := strings.Cut(p.Object, "/")
	namespace, _, _ := strings.Cut(namespaced, "/")
	lines := int64(5)
	text, err := d.client.CoreV1().Pods(namespace).GetLogs(p.Pod, &core.PodLogOptions{Container: p.Container, Previous: true, TailLines: &lines}).DoRaw(ctx)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(d.mask(string(text)), "\n"), "\n")
}

// display reports the progress of a rollout: the complete state for a live view, and
// changes as lines.
type display struct {
	phase   string
	before  rollout.Snapshot
	logs    func(ctx context.Context, p rollout.Problem) []string
	reading sync.WaitGroup   // goroutines that read logs
	shown   map[string]int32 // by pod/container: the number of restarts whose logs were reported
}

// update reports a new snapshot.
func (v *display) update(ctx context.Context, now rollout.Snapshot) {
	ready, all := 0, int32(0) // pods of the new revision
	for _, w := range now.Workloads {
		for _, p := range w.Pods {
			if p.Ready {
				ready++
			}
		}
		all += w.Desired
	}
	switch v.phase {
	case phaseRollout:
		progress.Statusf(ctx, "rolling out: %d of %d new pods ready", ready, all)
	case phaseCRDs:
		progress.Statusf(ctx, "waiting for CustomResourceDefinitions")
	default:
		progress.Statusf(ctx, "waiting for a %s of the chart", v.phase)
	}
	for _, line := range now.Since(v.before) {
		progress.Line(ctx, line)
	}
	v.before = now
	for _, p := range now.Problems {
		if p.Container == "" || p.Restarts == 0 || v.shown[p.Pod+"/"+p.Container] >= p.Restarts {
			continue
		}
		v.shown[p.Pod+"/"+p.Container] = p.Restarts
		v.reading.Go(func() { // reading logs must not delay the rollout
			for _, line := range v.logs(ctx, p) {
				progress.Line(ctx, "  "+p.Container+" | "+line)
			}
		})
	}
	lines := now.Lines()
	for _, e := range now.Events[max(0, len(now.Events)-3):] {
		lines = append(lines, "event "+e.Object+": "+e.Reason+": "+e.Message)
	}
	progress.Detail(ctx, lines)
}

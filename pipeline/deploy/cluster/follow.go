package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Wait follows objects until they are ready. It implements [release.Waiter].
func (d *deployment) Wait(ctx context.Context, phase string, objects []*unstructured.Unstructured) error {
	show := display{phase: phase, logs: d.logs, read: map[string]int32{}}
	defer show.reading.Wait()
	result, err := rollout.Track(ctx, rollout.Options{
		Config: d.watching, Objects: objects, Timeout: max(time.Until(d.until), time.Millisecond), Since: d.since,
		Patience: rollout.Patience{Restarts: d.Settings.Restarts, Readiness: time.Duration(d.Settings.Readiness)},
		Mask:     d.mask, Observe: func(s rollout.Snapshot) { show.tell(ctx, s) },
	})
	progress.Detail(ctx, nil)
	if phase == "rollout" {
		d.result.Workloads = workloads(result.Workloads)
		if !result.AvailableAt.IsZero() {
			d.result.Late = result.Returned.Sub(result.AvailableAt).Seconds()
		}
	}
	d.result.Warnings = append(d.result.Warnings, result.Warnings...)
	if failure, ok := errors.AsType[*rollout.Failure](err); ok {
		for _, line := range failure.Logs {
			progress.Line(ctx, "  "+failure.Container+" | "+line)
		}
	}
	return err //nolint:wrapcheck // it says what it is about
}

// note records in the result why a rollout failed.
func (d *deployment) note(err error) error {
	if err == nil {
		return nil
	}
	f := &deploy.Failure{Kind: strings.TrimPrefix(fault.CodeOf(err), "deploy."), Message: d.mask(err.Error())}
	if failure, ok := errors.AsType[*rollout.Failure](err); ok {
		f = &deploy.Failure{
			Kind: string(failure.Kind), Object: failure.Object, Pod: failure.Pod, Container: failure.Container, Reason: failure.Reason,
			Message: failure.Message, Fix: failure.Fix, Logs: failure.Logs, Known: failure.Known, Seen: failure.Seen,
		}
		for _, e := range failure.Events {
			f.Events = append(f.Events, fmt.Sprintf("%s %s %s: %s (x%d)", e.Last.UTC().Format(time.TimeOnly), e.Object, e.Reason, e.Message, e.Count))
		}
	}
	f.Reported = time.Now()
	d.result.Failure = f
	return masked{err, d.mask}
}

// masked hides secrets in an error that repeats what the cluster said.
type masked struct {
	error
	mask func(string) string
}

func (m masked) Error() string { return m.mask(m.error.Error()) }

func (m masked) Unwrap() error { return m.error }

// logs returns the last lines that a container wrote before it was restarted, or
// none if they cannot be read.
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

// display reports the progress of a rollout: the whole state for a live view, and
// what is new as lines.
type display struct {
	phase   string
	before  rollout.Snapshot
	logs    func(ctx context.Context, p rollout.Problem) []string
	reading sync.WaitGroup
	read    map[string]int32 // by container: the number of restarts whose logs were shown
}

func (v *display) tell(ctx context.Context, now rollout.Snapshot) {
	ready, all := 0, int32(0) // of the new version only
	for _, w := range now.Workloads {
		for _, p := range w.Pods {
			if p.Ready {
				ready++
			}
		}
		all += w.Desired
	}
	if v.phase == "rollout" {
		progress.Statusf(ctx, "rolling out: %d of %d new pods ready", ready, all)
	} else {
		progress.Statusf(ctx, "waiting for %s", v.phase)
	}
	for _, line := range now.Since(v.before) {
		progress.Line(ctx, line)
	}
	v.before = now
	for _, p := range now.Problems {
		if p.Container == "" || p.Restarts == 0 || v.read[p.Pod+"/"+p.Container] >= p.Restarts {
			continue
		}
		v.read[p.Pod+"/"+p.Container] = p.Restarts
		v.reading.Go(func() { // the verdict on the rollout must not wait for it
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

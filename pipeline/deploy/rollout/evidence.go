package rollout

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
)

const (
	evidenceTimeout = 5 * time.Second
	evidenceEvents  = 20
	logBytes        = 256 << 10
)

// evidence returns the failure for a problem, with its logs and events. It has a separate
// timeout, because the deadline of ctx may just have passed, but it stops if ctx is
// cancelled.
func (t *tracker) evidence(ctx context.Context, p Problem) *Failure {
	reading, cancel := context.WithTimeout(klog.NewContext(context.WithoutCancel(ctx), klog.Logger{}), evidenceTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	defer stop()

	f := &Failure{Problem: p}
	i := t.indexOf(p.Object)
	if i < 0 {
		return f
	}
	s := t.state(i)
	kind, name := kindName(p.Object)
	about := s.eventsOf(kind, name)
	for _, rs := range s.sets {
		d := s.object
		if d != nil && owned(rs, d.GetUID()) && rs.Annotations["deployment.kubernetes.io/revision"] == d.GetAnnotations()["deployment.kubernetes.io/revision"] {
			about = append(about, s.eventsOf("replicaset", rs.Name)...)
		}
	}
	if p.Pod != "" && kind != "pod" {
		about = append(about, s.eventsOf("pod", p.Pod)...)
	}
	f.Events = fold(about, evidenceEvents)
	if _, err := t.outage(); err == nil {
		f.Logs = t.logs(reading, s, p)
	}
	return f
}

// logs returns the last lines that the container of a problem has written.
func (t *tracker) logs(ctx context.Context, s state, p Problem) []string {
	if t.Client == nil || p.Container == "" {
		return nil
	}
	if info, _ := p.Kind.info(); !info.Logs {
		return nil
	}
	pods := s.pods
	if s.gvk.Kind == "Pod" && s.object != nil {
		var pod corev1.Pod
		if decode(s.object, &pod) == nil {
			pods = []*corev1.Pod{&pod}
		}
	}
	i := slices.IndexFunc(pods, func(pod *corev1.Pod) bool { return pod.Name == p.Pod })
	if i < 0 {
		return nil
	}
	pod := pods[i]
	previous := false
	if cs, ok := statusOf(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), p.Container); ok {
		previous = cs.RestartCount > 0 && cs.State.Terminated == nil
		if p.Kind == Probe && strings.HasPrefix(p.Message, "is not ready") {
			previous = false
		}
	}
	lines, err := t.log(ctx, pod, p.Container, previous)
	if err != nil && previous {
		lines, err = t.log(ctx, pod, p.Container, false)
	}
	if err != nil {
		what := "the logs of pod " + pod.Name + " could not be read: "
		if apierrors.IsForbidden(err) {
			what = "reading logs (pods/log) is not allowed: "
		}
		t.last.Warnings = append(t.last.Warnings, t.Mask(what+oneLine(err.Error())))
	}
	return lines
}

func (t *tracker) log(ctx context.Context, pod *corev1.Pod, container string, previous bool) ([]string, error) {
	n := int64(t.LogLines)
	stream, err := t.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, TailLines: &n,
	}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	return tailLines(io.LimitReader(stream, logBytes), t.LogLines, t.Mask)
}

// tailLines returns the last n lines. Secrets are masked, and long lines are shortened.
func tailLines(r io.Reader, n int, mask func(string) string) ([]string, error) {
	const longest = 2000
	var out []string
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" || err == nil {
			line = mask(strings.ToValidUTF8(line, "\uFFFD")) // before the line is shortened, so that no part of a secret remains
			if len(line) > longest {
				line = strings.ToValidUTF8(line[:longest], "") + "..."
			}
			out = append(out, line)
			out = out[max(0, len(out)-n):]
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// fixture reads the objects of a case of TestWorkload.
func fixture(t *testing.T, name string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile("testdata/cases/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		js, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(js); err != nil {
			t.Fatal(err)
		}
		// The objects get the labels that the selectors of these tests match.
		if k := u.GetKind(); k == "ReplicaSet" || k == "Pod" {
			u.SetLabels(map[string]string{"app": "order", "job-name": "migrate", "controller-revision-hash": u.GetLabels()["controller-revision-hash"]})
		}
		out = append(out, u)
	}
	return out
}

func verifyNoLeaks(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, ignore, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
	})
}

// options returns options that track the first object of a fixture with a short patience.
func options(a *fakeAPIServer, objects ...*unstructured.Unstructured) rollout.Options {
	return rollout.Options{
		Config: a.config(), Objects: objects[:1], Timeout: 20 * time.Second, Since: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC),
		Patience: rollout.Patience{Image: 200 * time.Millisecond, Config: 200 * time.Millisecond, Create: 200 * time.Millisecond, Readiness: 300 * time.Millisecond},
	}
}

// outcome is what Track has returned and when.
type outcome struct {
	rollout.Result
	err error
	at  time.Time
}

// track runs Track in another goroutine and returns its outcome and the observed snapshots.
func track(ctx context.Context, o rollout.Options) (<-chan outcome, <-chan rollout.Snapshot) {
	snapshots := make(chan rollout.Snapshot, 1000)
	o.Observe = func(s rollout.Snapshot) { snapshots <- s }
	done := make(chan outcome, 1)
	go func() {
		res, err := rollout.Track(ctx, o)
		done <- outcome{res, err, time.Now()}
	}()
	return done, snapshots
}

// waitForSnapshot waits for a snapshot for which match returns true.
func waitForSnapshot(t *testing.T, snapshots <-chan rollout.Snapshot, match func(rollout.Snapshot) bool) rollout.Snapshot {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case s := <-snapshots:
			if match(s) {
				return s
			}
		case <-limit:
			t.Fatal("timeout while waiting for a snapshot")
		}
	}
}

func hasProblem(kind rollout.Kind) func(rollout.Snapshot) bool {
	return func(s rollout.Snapshot) bool { return len(s.Problems) > 0 && s.Problems[0].Kind == kind }
}

func hasWorkload(s rollout.Snapshot) bool { return len(s.Workloads) > 0 && s.Workloads[0].Desired > 0 }

// failure checks that err is a failure of that kind and returns it.
func failure(t *testing.T, err error, kind rollout.Kind) *rollout.Failure {
	t.Helper()
	f, ok := errors.AsType[*rollout.Failure](err)
	if !ok || f.Kind != kind {
		t.Fatalf("got %v, want a failure %s", err, kind)
	}
	if fault.CodeOf(err) != "deploy."+string(kind) || fault.ExitCode(err) != fault.ExitFailed {
		t.Errorf("the code is %s and the exit code is %d", fault.CodeOf(err), fault.ExitCode(err))
	}
	return f
}

func TestReadyIsReportedAtOnce(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "pending-creating")
	a := newFakeAPIServer(t, objs...)
	o := options(a, objs...)
	config := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "c", "namespace": "shop"}}}
	o.Objects = append(o.Objects, config)
	done, snaps := track(t.Context(), o)
	waitForSnapshot(t, snaps, hasWorkload)
	ready := fixture(t, "ready")[0]
	at := time.Now()
	a.put(ready)
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	if late := got.at.Sub(at); late > 300*time.Millisecond {
		t.Errorf("reported %s after it was ready", late)
	}
	if w := got.Workloads; len(w) != 1 || !w[0].Done || w[0].Ready != 3 || w[0].Took == 0 ||
		!got.AvailableAt.Equal(time.Date(2026, 11, 23, 6, 0, 9, 0, time.UTC)) {
		t.Errorf("%+v", got.Result)
	}
	if a.requests["configmaps"] > 0 {
		t.Error("a ConfigMap was read, which needs a permission that the user may not have")
	}
}

func TestNothingToWaitFor(t *testing.T) {
	verifyNoLeaks(t)
	var last rollout.Snapshot
	_, err := rollout.Track(t.Context(), rollout.Options{Config: unusedAddress(t), Observe: func(s rollout.Snapshot) { last = s }})
	if err != nil || !last.Done {
		t.Errorf("%v %+v", err, last)
	}
}

func TestFailureCarriesEvidence(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "crash-loop")
	a := newFakeAPIServer(t, objs...)
	a.logs["order-new-abcde/app/true"] = strings.Repeat("noise\n", 30) + "password hunter2 refused\n"
	event := fixture(t, "config-secret")[3]
	event.Object["message"] = "with hunter2 in it"
	a.put(event)
	o := options(a, objs...)
	o.LogLines = 2
	o.Mask = func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") }
	res, err := rollout.Track(t.Context(), o)
	a.eventually("all connections closed", func() bool { return len(a.open) == 0 })
	f := failure(t, err, rollout.CrashLoop)
	if f.Object != "deployment/shop/order" || f.Pod != "order-new-abcde" || f.Container != "app" || f.ExitCode != 3 || f.Restarts != 2 || f.Node != "node-1" {
		t.Errorf("%+v", f)
	}
	if strings.Join(f.Logs, "|") != "noise|password *** refused" {
		t.Errorf("the logs are %q", f.Logs)
	}
	js, _ := json.Marshal(f)
	if strings.Contains(string(js), "hunter2") {
		t.Errorf("the failure contains a secret: %s", js)
	}
	if len(res.Workloads) != 1 || res.Duration == 0 {
		t.Errorf("%+v", res)
	}
	if !strings.HasPrefix(err.Error(), "deployment order: container app of pod order-new-abcde ended with exit code 3") {
		t.Error(err)
	}
}

func TestPatience(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "image-not-found")
	a := newFakeAPIServer(t, objs...)
	begin := time.Now()
	_, err := rollout.Track(t.Context(), options(a, objs...))
	failure(t, err, rollout.ImagePull)
	if d := time.Since(begin); d < 200*time.Millisecond || d > 2*time.Second {
		t.Errorf("failed after %s", d)
	}
}

func TestPatienceStartsAgainWithTheProblem(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "image-not-found")
	a := newFakeAPIServer(t, objs...)
	o := options(a, objs...)
	o.Patience.Image = time.Second
	done, snaps := track(t.Context(), o)
	waitForSnapshot(t, snaps, hasProblem(rollout.ImagePull))
	a.put(fixture(t, "pending-creating")[2])
	waitForSnapshot(t, snaps, func(s rollout.Snapshot) bool { return len(s.Problems) == 0 })
	select {
	case got := <-done:
		t.Fatalf("Track returned: %v", got.err)
	case <-time.After(1500 * time.Millisecond):
	}
	a.put(fixture(t, "ready")[0])
	if got := <-done; got.err != nil {
		t.Error(got.err)
	}
}

// If a watch stops without an error, its objects are outdated. A pod is read again before
// its problem ends the rollout.
func TestOutdatedProblemDoesNotEndTheRollout(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "image-not-found")
	a := newFakeAPIServer(t, objs...)
	done, snaps := track(t.Context(), options(a, objs...))
	waitForSnapshot(t, snaps, hasProblem(rollout.ImagePull))
	a.update(func() { a.silent = true })
	a.put(fixture(t, "pending-creating")[2])
	waitForSnapshot(t, snaps, func(s rollout.Snapshot) bool { return len(s.Problems) == 0 })
	a.update(func() { a.silent = false })
	a.put(fixture(t, "ready")[0])
	if got := <-done; got.err != nil {
		t.Error(got.err)
	}
}

func TestWatchesEndAndAreResumed(t *testing.T) {
	for _, forget := range []bool{false, true} {
		verifyNoLeaks(t)
		objs := fixture(t, "pending-creating")
		a := newFakeAPIServer(t, objs...)
		done, snaps := track(t.Context(), options(a, objs...))
		waitForSnapshot(t, snaps, hasWorkload)
		a.eventually("watching", func() bool { return a.watches >= 4 })
		for range 3 {
			a.cutWatches(forget)
			n := 0
			a.eventually("watching again", func() bool {
				if n == 0 {
					n = a.watches
				}
				return a.watches >= a.cut+4
			})
		}
		a.put(fixture(t, "ready")[0])
		if got := <-done; got.err != nil {
			t.Errorf("forget %v: %v", forget, got.err)
		}
		for len(snaps) > 0 {
			if s := <-snaps; s.Away != "" {
				t.Errorf("a watch that has ended normally is reported as an outage: %s", s.Away)
			}
		}
	}
}

func TestAPIServerUnreachableForSomeTime(t *testing.T) {
	// The problem of a pod is confirmed by a read, and that of a quota is not. If no
	// problem is due, the outage must be reported as well.
	for name, kind := range map[string]rollout.Kind{"image-not-found": rollout.ImagePull, "quota": rollout.Quota, "unschedulable": rollout.Unschedulable} {
		t.Run(name, func(t *testing.T) {
			verifyNoLeaks(t)
			objs := fixture(t, name)
			a := newFakeAPIServer(t, objs...)
			o := options(a, objs...)
			o.Patience.Image, o.Patience.Create = 500*time.Millisecond, 500*time.Millisecond
			done, snaps := track(t.Context(), o)
			waitForSnapshot(t, snaps, hasProblem(kind))
			a.update(func() { a.unreachable = true })
			s := waitForSnapshot(t, snaps, func(s rollout.Snapshot) bool { return s.Away != "" })
			if !strings.HasPrefix(s.Away, "the API server has not answered since ") || s.Lines()[0] != s.Away {
				t.Error(s.Away)
			}
			select {
			case got := <-done:
				t.Fatalf("Track returned during the outage: %v", got.err)
			case <-time.After(time.Second):
			}
			// The problem was fixed during the outage.
			a.put(fixture(t, "ready")...)
			a.update(func() { a.unreachable = false })
			if got := <-done; got.err != nil {
				t.Error(got.err)
			}
		})
	}
}

func TestAPIServerUnreachableUntilTheDeadline(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "pending-creating")
	begin := time.Now()
	_, err := rollout.Track(t.Context(), rollout.Options{Config: unusedAddress(t), Objects: objs[:1], Timeout: 400 * time.Millisecond})
	f := failure(t, err, rollout.Deadline)
	if f.Reason != "APIServerAway" || !strings.Contains(f.Message, "connection refused") || time.Since(begin) > 2*time.Second {
		t.Errorf("%+v", f)
	}
}

func TestDeadlineReportsTheCause(t *testing.T) {
	for name, want := range map[string]rollout.Kind{
		"unschedulable": rollout.Unschedulable, "readiness-no-startup-probe": rollout.Probe,
		"mount-other": rollout.Volume, "pending-creating": rollout.Deadline, "service-balancer-waits": rollout.Stalled,
	} {
		verifyNoLeaks(t)
		objs := fixture(t, name)
		a := newFakeAPIServer(t, objs...)
		o := options(a, objs...)
		o.Timeout = 300 * time.Millisecond
		_, err := rollout.Track(t.Context(), o)
		f := failure(t, err, want)
		if !strings.Contains(f.Error(), "not ready after 300ms") && !strings.Contains(f.Error(), "not ready after 400ms") {
			t.Errorf("%s: %v", name, f)
		}
		t.Log(f)
	}
}

func TestContextDeadlineCollectsEvidence(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "crash-first")
	a := newFakeAPIServer(t, objs...)
	a.logs["order-new-abcde/app/true"] = "why\n"
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	_, err := rollout.Track(ctx, options(a, objs...))
	if f := failure(t, err, rollout.CrashLoop); len(f.Logs) != 1 {
		t.Errorf("the logs are missing: %+v", f)
	}
}

func TestCancelIsPrompt(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "pending-creating")
	a := newFakeAPIServer(t, objs...)
	ctx, cancel := context.WithCancel(t.Context())
	done, snaps := track(ctx, options(a, objs...))
	waitForSnapshot(t, snaps, hasWorkload)
	begin := time.Now()
	cancel()
	got := <-done
	if !errors.Is(got.err, context.Canceled) || time.Since(begin) > 200*time.Millisecond || fault.ExitCode(got.err) != fault.ExitInterrupted {
		t.Errorf("%v after %s", got.err, time.Since(begin))
	}
}

func TestDeletedDuringTheRollout(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "pending-creating")
	a := newFakeAPIServer(t, objs...)
	done, snaps := track(t.Context(), options(a, objs...))
	waitForSnapshot(t, snaps, hasWorkload)
	a.remove(objs[0])
	failure(t, (<-done).err, rollout.Deleted)
}

func TestNotFoundYet(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "ready")
	a := newFakeAPIServer(t)
	done, snaps := track(t.Context(), options(a, objs...))
	waitForSnapshot(t, snaps, func(s rollout.Snapshot) bool { return s.Workloads[0].Message == "not found yet" })
	a.eventually("watching", func() bool { return a.watches >= 4 })
	a.put(objs...)
	if got := <-done; got.err != nil {
		t.Error(got.err)
	}
}

// A Job that has succeeded may be deleted by its time to live while other objects are not
// ready yet.
func TestEndedJobMayBeDeleted(t *testing.T) {
	verifyNoLeaks(t)
	job, dep := fixture(t, "job-complete"), fixture(t, "pending-creating")
	a := newFakeAPIServer(t, append(dep, job...)...)
	o := options(a, dep...)
	o.Objects = append(o.Objects, job[0])
	done, snaps := track(t.Context(), o)
	waitForSnapshot(t, snaps, func(s rollout.Snapshot) bool { return len(s.Workloads) == 2 && s.Workloads[1].Done && hasWorkload(s) })
	a.eventually("watching", func() bool { return a.watches >= 6 })
	a.remove(job[0])
	a.put(fixture(t, "ready")[0])
	if got := <-done; got.err != nil {
		t.Error(got.err)
	}
}

func TestLimitedPermissions(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "crash-loop")
	a := newFakeAPIServer(t, objs...)
	a.forbid["events"], a.forbid["pods/log"] = true, true
	res, err := rollout.Track(t.Context(), options(a, objs...))
	failure(t, err, rollout.CrashLoop)
	all := strings.Join(res.Warnings, "\n")
	if !strings.Contains(all, "reading events in namespace shop is not allowed") || !strings.Contains(all, "reading logs (pods/log) is not allowed") {
		t.Errorf("the warnings are %q", res.Warnings)
	}

	a.forbid["pods"] = true
	_, err = rollout.Track(t.Context(), options(a, objs...))
	if fault.CodeOf(err) != "deploy.forbidden" || !strings.Contains(err.Error(), "pods in namespace shop") {
		t.Errorf("the error without the permission to read pods is %v", err)
	}

	svc := fixture(t, "service-balancer-waits")
	a = newFakeAPIServer(t, svc...)
	a.forbid["services"] = true
	res, err = rollout.Track(t.Context(), options(a, svc...))
	if err != nil || len(res.Warnings) == 0 {
		t.Errorf("for a Service that the user is not allowed to read: %v %q", err, res.Warnings)
	}
}

func TestStalledReportsTheCause(t *testing.T) {
	verifyNoLeaks(t)
	objs := fixture(t, "progress-deadline")
	a := newFakeAPIServer(t, append(objs, fixture(t, "unschedulable")[2])...)
	// The pods, which show the cause, are listed last.
	a.hold["pods"] = make(chan struct{})
	done, snaps := track(t.Context(), options(a, objs...))
	waitForSnapshot(t, snaps, hasProblem(rollout.Stalled))
	select {
	case got := <-done:
		t.Fatalf("Track returned before the cause was known: %v", got.err)
	case <-time.After(200 * time.Millisecond):
	}
	close(a.hold["pods"])
	f := failure(t, (<-done).err, rollout.Unschedulable)
	if !strings.Contains(f.Message, "ProgressDeadlineExceeded") {
		t.Error(f)
	}
}

func TestNeedsACluster(t *testing.T) {
	_, err := rollout.Track(t.Context(), rollout.Options{Objects: fixture(t, "ready")[:1]})
	if err == nil || fault.CodeOf(err) != "deploy.cluster" {
		t.Error(err)
	}
}

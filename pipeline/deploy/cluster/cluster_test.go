package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/deploy/testcluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

var images testcluster.Apps

// place is a release of the test chart in a namespace of its own.
type place struct {
	*testcluster.Cluster
	image name.Digest
	o     deploy.Options
}

func newPlace(t *testing.T) *place {
	t.Helper()
	c := testcluster.Need(t)
	p := &place{Cluster: c, image: images.Image(t, c, "1")}
	p.o = deploy.Options{
		Environment: "test", Settings: config.DefaultEnvironment(), Release: "app", Namespace: c.Name(t),
		Chart: filepath.Join("testdata", "chart"), Kubeconfig: c.Kubeconfig, Run: "test",
		ImageValues: config.Default().Deploy.ImageValues,
	}
	s := &p.o.Settings
	s.Clusters = []config.Cluster{{Name: "one"}}
	s.Timeout, s.RollbackTimeout, s.LockTimeout = config.Duration(time.Minute), config.Duration(time.Minute), config.Duration(time.Minute)
	s.Readiness = config.Duration(3 * time.Second)
	return p
}

// with returns the options with more values.
func (p *place) with(set map[string]any) deploy.Options {
	o := p.o
	o.Settings.Set = maps.Clone(set)
	return o
}

func (p *place) deploy(t *testing.T, set map[string]any) (deploy.ClusterResult, error) {
	t.Helper()
	return p.run(t, p.with(set))
}

func (p *place) run(t *testing.T, o deploy.Options) (deploy.ClusterResult, error) {
	t.Helper()
	r, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
	if len(r.Clusters) != 1 {
		t.Fatalf("%d clusters in the result: %v", len(r.Clusters), err)
	}
	return r.Clusters[0], err
}

func (p *place) must(t *testing.T, want deploy.Action, set map[string]any) deploy.ClusterResult {
	t.Helper()
	r, err := p.deploy(t, set)
	if err != nil {
		t.Fatal(err)
	}
	if r.Action != want {
		t.Fatalf("action is %q, want %q: %+v", r.Action, want, r)
	}
	return r
}

func (p *place) deployment(t *testing.T) *apps.Deployment {
	t.Helper()
	d, err := p.Client.AppsV1().Deployments(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func env(d *apps.Deployment) map[string]string {
	m := map[string]string{}
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		m[e.Name] = e.Value
	}
	return m
}

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		os.Exit(victim())
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*http2ClientConn).readLoop"))
}

func TestInstallUpgradeUnchanged(t *testing.T) {
	p := newPlace(t)
	first := p.must(t, deploy.Installed, nil)
	if first.Revision != 1 || first.Before != deploy.Absent || len(first.Workloads) != 1 || first.Workloads[0].Ready != 1 {
		t.Errorf("installed: %+v", first)
	}
	ns, err := p.Client.CoreV1().Namespaces().Get(t.Context(), p.o.Namespace, metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("namespace: %v %v", ns.Labels, err)
	}
	before := p.deployment(t)
	again := p.must(t, deploy.Untouched, nil)
	if again.Revision != 1 || p.deployment(t).ResourceVersion != before.ResourceVersion {
		t.Errorf("deploying the same again changed something: %+v", again)
	}
	up := p.must(t, deploy.Upgraded, map[string]any{"env": map[string]any{"COLOUR": "blue"}})
	if up.Revision != 2 || up.Previous != 1 || env(p.deployment(t))["COLOUR"] != "blue" {
		t.Errorf("upgraded: %+v", up)
	}
	// What somebody changed by hand is put right.
	d := p.deployment(t)
	d.Spec.Template.Spec.Containers[0].Env[0].Value = "red"
	if _, err := p.Client.AppsV1().Deployments(p.o.Namespace).Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.must(t, deploy.Upgraded, map[string]any{"env": map[string]any{"COLOUR": "blue"}})
	if got := env(p.deployment(t))["COLOUR"]; got != "blue" {
		t.Errorf("COLOUR is %q after a deployment over a change by hand", got)
	}
	all, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || len(all) != 1 || all[0].State != deploy.Deployed || all[0].Revision != 3 || all[0].Lock != "" || len(all[0].History) != 3 || !strings.Contains(all[0].Image, p.image.DigestStr()) {
		t.Errorf("status: %+v %v", all, err)
	}
	back, err := cluster.Tool{}.Rollback(t.Context(), p.o, 0)
	if err != nil || back.Clusters[0].Action != deploy.RolledBack || back.Clusters[0].Revision != 4 {
		t.Errorf("rollback: %+v %v", back, err)
	}
	_, err = cluster.Tool{}.Rollback(t.Context(), p.o, 99)
	if fault.CodeOf(err) != "deploy.no-revision" || fault.ExitCode(err) != fault.ExitInput {
		t.Errorf("rollback to a revision that is not there: %v", err)
	}
}

// TestFailureIsNamedAndRolledBack makes each kind of failure for real, as an
// upgrade: the cause is named, the old version goes on serving.
func TestFailureIsNamedAndRolledBack(t *testing.T) {
	for _, tt := range failures() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.must(t, deploy.Installed, nil)
			if tt.timeout > 0 {
				p.o.Settings.Timeout = config.Duration(tt.timeout)
			}
			if tt.prepare != nil {
				tt.prepare(t, p)
			}
			r, err := p.deploy(t, tt.set(p))
			if err == nil {
				t.Fatalf("it passed: %+v", r)
			}
			if code := fault.CodeOf(err); code != "deploy."+tt.kind {
				t.Errorf("code is %s, want deploy.%s: %v", code, tt.kind, err)
			}
			if r.Failure == nil || !strings.Contains(r.Failure.Message+strings.Join(r.Failure.Logs, "\n"), tt.want) {
				t.Errorf("failure does not say %q: %+v", tt.want, r.Failure)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			if r.Action != deploy.RolledBack || r.Revision != 3 || r.Tried != 2 {
				t.Errorf("action %s, revision %d, tried %d (%s)", r.Action, r.Revision, r.Tried, r.RollbackErr)
			}
			d := p.deployment(t)
			if d.Status.AvailableReplicas != 1 || d.Spec.Template.Spec.Containers[0].Args[0] != "serve" {
				t.Errorf("after the rollback: %+v", d.Status)
			}
			if failure, ok := errors.AsType[*rollout.Failure](err); ok {
				t.Logf("%s: Kubernetes knew %s, seen %.1fs later: %v", tt.name, failure.Known.Format(time.TimeOnly), failure.Seen.Sub(failure.Known).Seconds(), err)
			}
			p.must(t, deploy.Untouched, nil)
		})
	}
}

type failureCase struct {
	name, kind, want string
	timeout          time.Duration
	prepare          func(*testing.T, *place)
	set              func(*place) map[string]any
}

func failures() []failureCase {
	values := func(m map[string]any) func(*place) map[string]any { return func(*place) map[string]any { return m } }
	return []failureCase{
		{name: "image pull", kind: "image-pull", want: "not found", set: func(p *place) map[string]any {
			return map[string]any{"brokenImage": p.Registry + "/elsewhere@sha256:" + strings.Repeat("0", 64)}
		}},
		{name: "invalid image", kind: "invalid-image", want: "Bad//Image", set: values(map[string]any{"brokenImage": "Bad//Image"})},
		{name: "missing secret", kind: "config", want: `secret "nowhere" not found`, set: values(map[string]any{"secret": "nowhere"})},
		{name: "crash loop", kind: "crash-loop", want: "flux capacitor", set: values(map[string]any{"mode": "crash"})},
		{name: "startup probe", kind: "probe", want: "500", set: values(map[string]any{"mode": "unstarted"})},
		{name: "readiness probe", kind: "probe", want: "500", set: values(map[string]any{"mode": "unready"})},
		{name: "out of memory", kind: "oom", want: "32Mi", set: values(map[string]any{"mode": "oom", "memory": "32Mi"})},
		{name: "unschedulable", kind: "unschedulable", want: "cpu", timeout: 8 * time.Second, set: values(map[string]any{"cpu": "1000"})},
		{name: "admission", kind: "admission", want: "violates PodSecurity", set: values(map[string]any{"privileged": true})},
		{name: "service account", kind: "admission", want: "nobody", set: values(map[string]any{"serviceAccount": "nobody"})},
		{name: "quota", kind: "quota", want: "exceeded quota", prepare: func(t *testing.T, p *place) {
			_, err := p.Client.CoreV1().ResourceQuotas(p.o.Namespace).Create(t.Context(), &core.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Name: "small"},
				Spec:       core.ResourceQuotaSpec{Hard: core.ResourceList{core.ResourceRequestsCPU: resource.MustParse("15m")}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}, set: values(map[string]any{"env": map[string]any{"A": "1"}})},
		{name: "hook", kind: "job-failed", want: "flux capacitor", set: values(map[string]any{"hook": "crash"})},
		{name: "deadline", kind: "deadline", want: "", timeout: 4 * time.Second, set: values(map[string]any{"minReady": 120, "env": map[string]any{"A": "1"}})},
	}
}

func TestFirstInstallIsKeptAndReplaced(t *testing.T) {
	p := newPlace(t)
	r, err := p.deploy(t, map[string]any{"mode": "crash", "extra": map[string]any{"leftover": map[string]any{"a": "b"}}, "env": map[string]any{"OLD": "1"}})
	if fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.Kept || r.Tried != 1 || r.Revision != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	p.deployment(t) // the evidence is still there
	again := p.must(t, deploy.Recovered, nil)
	if again.Before != deploy.Failed || again.Revision != 2 {
		t.Errorf("%+v", again)
	}
	if e := env(p.deployment(t)); len(e) != 0 {
		t.Errorf("the failed install left its environment: %v", e)
	}
	if _, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), "leftover", metav1.GetOptions{}); err == nil {
		t.Error("the failed install left its ConfigMap")
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || len(status[0].History) != 2 || status[0].History[1].Good {
		t.Errorf("the failed revision counts as good: %+v %v", status, err)
	}
}

// TestStuckReleasesRecover writes the state a killed run leaves, for each
// operation Helm has (helm/helm#11863, #7476, #10323).
func TestStuckReleasesRecover(t *testing.T) {
	for _, status := range []string{"pending-install", "pending-upgrade", "pending-rollback"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			revision := 1
			if status != "pending-install" {
				p.must(t, deploy.Installed, nil)
				revision = 2
			}
			set := map[string]any{"env": map[string]any{"OLD": "1"}, "extra": map[string]any{"leftover": map[string]any{"a": "b"}}}
			p.must(t, map[bool]deploy.Action{true: deploy.Installed, false: deploy.Upgraded}[revision == 1], set)
			setStatus(t, p, revision, status)
			plan, err := cluster.Tool{}.Plan(t.Context(), p.with(nil), deploy.ImageOf(p.image))
			if err != nil || plan.Clusters[0].State != deploy.Unfinished {
				t.Errorf("plan: %+v %v", plan, err)
			}
			r := p.must(t, deploy.Recovered, nil)
			if r.Before != deploy.Unfinished || r.Revision != revision+1 || !strings.Contains(r.Reason, status) {
				t.Errorf("%+v", r)
			}
			if e := env(p.deployment(t)); len(e) != 0 {
				t.Errorf("the dead run left its environment: %v", e)
			}
			if _, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), "leftover", metav1.GetOptions{}); err == nil {
				t.Error("the dead run left its ConfigMap")
			}
		})
	}
}

// TestHelmsOwnOperationIsNotTakenForDead finds a release that helm, which takes
// no lock, is working on.
func TestHelmsOwnOperationIsNotTakenForDead(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	p.must(t, deploy.Upgraded, map[string]any{"env": map[string]any{"A": "1"}})
	setStatus(t, p, 2, "pending-upgrade")
	secrets := p.Client.CoreV1().Secrets(p.o.Namespace)
	secret, err := secrets.Get(t.Context(), "sh.helm.release.v1.app.v2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(secret.Labels, "slipway.digest")
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.deploy(t, nil); fault.CodeOf(err) != "deploy.locked" {
		t.Errorf("%v", err)
	}
}

// TestDyingObjectIsMadeAgain brings back an object whose deletion a finalizer
// still holds up.
func TestDyingObjectIsMadeAgain(t *testing.T) {
	p := newPlace(t)
	with := map[string]any{"extra": map[string]any{"slow": map[string]any{"a": "b"}}}
	p.must(t, deploy.Installed, with)
	maps := p.Client.CoreV1().ConfigMaps(p.o.Namespace)
	patch := func(text string) {
		if _, err := maps.Patch(t.Context(), "slow", types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	patch(`{"metadata":{"finalizers":["example.com/hold"]}}`)
	p.must(t, deploy.Upgraded, nil)
	timer := time.AfterFunc(2*time.Second, func() { patch(`{"metadata":{"finalizers":null}}`) })
	defer timer.Stop()
	p.must(t, deploy.Upgraded, with)
	if m, err := maps.Get(t.Context(), "slow", metav1.GetOptions{}); err != nil || m.DeletionTimestamp != nil {
		t.Errorf("%+v %v", m, err)
	}
}

// setStatus changes a revision's status in Helm's storage, as a run that is
// killed in the middle leaves it.
func setStatus(t *testing.T, p *place, revision int, status string) {
	t.Helper()
	secrets := p.Client.CoreV1().Secrets(p.o.Namespace)
	secret, err := secrets.Get(t.Context(), fmt.Sprintf("sh.helm.release.v1.app.v%d", revision), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data["release"] = recode(t, secret.Data["release"], func(r map[string]any) {
		info, _ := r["info"].(map[string]any)
		info["status"], info["description"] = status, "Preparing"
	})
	secret.Labels["status"] = status
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestLock(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	leases := p.Client.CoordinationV1().Leases(p.o.Namespace)
	hold := func(holder string) {
		lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		now := metav1.NowMicro()
		lease.Spec.HolderIdentity, lease.Spec.RenewTime = &holder, &now
		if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	hold("somebody in CI|elsewhere|boot|1|2|3")
	o := p.with(nil)
	o.Settings.LockTimeout = 0
	_, err := p.run(t, o)
	if fault.CodeOf(err) != "deploy.locked" || !strings.Contains(err.Error(), "somebody in CI") {
		t.Errorf("a locked release: %v", err)
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].Lock != "somebody in CI" {
		t.Errorf("status: %+v %v", status, err)
	}
	// Without a heartbeat the holder is dead.
	p.must(t, deploy.Untouched, nil)
	lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != "" {
		t.Errorf("the lock was not given back: %+v %v", lease, err)
	}
}

// TestTwoDeploysAtOnce has the second one wait for the first.
func TestTwoDeploysAtOnce(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := cluster.Tool{}.Deploy(t.Context(), p.with(map[string]any{"env": map[string]any{"RUN": strconv.Itoa(i)}}), testkit.Verified(p.image))
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].Revision != 3 || status[0].State != deploy.Deployed {
		t.Errorf("%+v %v", status, err)
	}
}

// TestLostLockStops takes the lock away from a run that is waiting.
func TestLostLockStops(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	o := p.with(map[string]any{"mode": "unready"})
	o.Settings.Readiness = config.Duration(time.Minute)
	failed := make(chan error, 1)
	go func() {
		_, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
		failed <- err
	}()
	leases := p.Client.CoordinationV1().Leases(p.o.Namespace)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for taken := false; !taken; <-tick.C {
		lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
			other := "another|x|y|1|2|3"
			lease.Spec.HolderIdentity = &other
			_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
			taken = err == nil
		}
	}
	if err := <-failed; fault.CodeOf(err) != "deploy.lock-lost" || fault.ExitCode(err) != fault.ExitFailed || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	lease, err := leases.Get(t.Context(), "slipway-app", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "another|x|y|1|2|3" {
		t.Errorf("the other's lock was touched: %+v %v", lease.Spec, err)
	}
}

func TestPlan(t *testing.T) {
	p := newPlace(t)
	p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": "hunter2hunter2"}}}
	plan := func(set map[string]any) deploy.ClusterPlan {
		t.Helper()
		r, err := cluster.Tool{}.Plan(t.Context(), p.with(set), deploy.ImageOf(p.image))
		if err != nil {
			t.Fatal(err)
		}
		return r.Clusters[0]
	}
	first := plan(nil)
	if first.State != deploy.Absent || !slices.ContainsFunc(first.Changes, func(c deploy.Change) bool { return c.Object == "deployment/app" && c.Action == "create" }) {
		t.Errorf("%+v", first)
	}
	if _, err := p.Client.CoreV1().Namespaces().Get(t.Context(), p.o.Namespace, metav1.GetOptions{}); err == nil {
		t.Error("a plan made the namespace")
	}
	p.must(t, deploy.Installed, map[string]any{"secret": "credentials", "extra": map[string]any{"gone": map[string]any{"a": "b"}}})
	if same := plan(map[string]any{"secret": "credentials", "extra": map[string]any{"gone": map[string]any{"a": "b"}}}); len(same.Changes) != 0 {
		t.Errorf("a plan of what runs: %+v", same.Changes)
	}
	before := p.deployment(t)
	c := plan(map[string]any{"secret": "credentials", "env": map[string]any{"COLOUR": "blue"}, "hook": "exit0"})
	if len(c.Changes) != 2 || c.Changes[0].Object != "deployment/app" || c.Changes[1].Object != "configmap/gone" || c.Changes[1].Action != "delete" || len(c.Hooks) != 1 {
		t.Fatalf("%+v", c)
	}
	if d := c.Changes[0].Diff; !strings.Contains(d, "+        - name: COLOUR") || strings.Contains(d, "managedFields") || strings.Contains(d, "resourceVersion") {
		t.Errorf("diff:\n%s", d)
	}
	if p.deployment(t).ResourceVersion != before.ResourceVersion {
		t.Error("a plan changed the Deployment")
	}
}

func TestSecretsAreWrittenAndNeverTold(t *testing.T) {
	p := newPlace(t)
	const password = "correct-horse-battery"
	p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": password}}}
	p.o.PullSecret = deploy.NewPullSecret("registry", "registry.example.com", "robot", "pull-"+password)
	set := map[string]any{"secret": "credentials", "imagePullSecrets": []any{map[string]any{"name": "registry"}}}
	p.must(t, deploy.Installed, set)
	for name, want := range map[string]string{"credentials": password, "registry": "pull-" + password} {
		s, err := p.Client.CoreV1().Secrets(p.o.Namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || !strings.Contains(fmt.Sprintf("%s", s.Data), want) {
			t.Errorf("secret %s: %v", name, err)
		}
	}
	if got := p.deployment(t).Spec.Template.Spec.ImagePullSecrets; len(got) != 1 || got[0].Name != "registry" {
		t.Errorf("pull secrets: %v", got)
	}
	crash := maps.Clone(set)
	crash["mode"] = "crash" // which logs the password
	r, err := p.deploy(t, crash)
	text, jsonErr := json.Marshal(r)
	if jsonErr != nil || err == nil {
		t.Fatal(jsonErr, err)
	}
	all := string(text) + err.Error() + fmt.Sprintf("%+v %#v", p.o, p.o)
	if strings.Contains(all, password) || !strings.Contains(all, "flux capacitor") {
		t.Errorf("the password is told: %s", all)
	}
	secrets, err := p.Client.CoreV1().Secrets(p.o.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) == 0 {
		t.Fatal(err)
	}
	for _, s := range secrets.Items {
		recode(t, s.Data["release"], func(r map[string]any) {
			if text, _ := json.Marshal(r); strings.Contains(string(text), password) {
				t.Errorf("%s holds the password", s.Name)
			}
		})
	}
	p.o.Secrets[0].Name = "registry" // another's
	foreign := &core.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	if _, err := p.Client.CoreV1().Secrets(p.o.Namespace).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.o.Secrets[0].Name = "theirs"
	if _, err := p.deploy(t, set); fault.CodeOf(err) != "deploy.conflict" {
		t.Errorf("somebody else's Secret: %v", err)
	}
}

func TestOnlyTheVerifiedImageRuns(t *testing.T) {
	p := newPlace(t)
	o := p.with(map[string]any{"image": map[string]any{"repository": p.image.Context().Name(), "digest": p.image.DigestStr()}})
	o.ImageValues = config.ImageValues{} // so the values name another image than the verified one
	p.image = p.image.Context().Digest("sha256:" + strings.Repeat("1", 64))
	r, err := p.run(t, o)
	if fault.CodeOf(err) != "deploy.other-image" || r.Action != deploy.NotReached {
		t.Errorf("%+v %v", r, err)
	}
	other, err := name.NewDigest("registry.example.com/other@" + p.image.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	p.image = other
	if _, err := p.run(t, o); fault.CodeOf(err) != "deploy.image-unused" {
		t.Errorf("%v", err)
	}
	list, err := p.Client.AppsV1().Deployments(p.o.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) > 0 {
		t.Errorf("something was deployed: %v %v", list.Items, err)
	}
}

func TestTooLargeForHelm(t *testing.T) { // helm/helm#6711
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	r, err := p.deploy(t, map[string]any{"large": true})
	if fault.CodeOf(err) != "deploy.release-too-large" || r.Action != deploy.NotReached {
		t.Errorf("%+v %v", r, err)
	}
	p.must(t, deploy.Untouched, nil)
}

func TestChartTests(t *testing.T) {
	p := newPlace(t)
	p.o.Settings.Test = true
	r := p.must(t, deploy.Installed, map[string]any{"test": "exit0"})
	if len(r.Tests) != 1 {
		t.Errorf("%+v", r)
	}
	r, err := p.deploy(t, map[string]any{"test": "crash"})
	if fault.CodeOf(err) != "deploy.job-failed" || r.Action != deploy.RolledBack {
		t.Errorf("%+v %v", r, err)
	}
}

// TestSeveralClusters has namespaces stand for clusters.
func TestSeveralClusters(t *testing.T) {
	p := newPlace(t)
	o := p.with(nil)
	o.Settings.Clusters = []config.Cluster{{Name: "north"}, {Name: "south", Namespace: p.Name(t)}, {Name: "west", Namespace: p.Name(t)}}
	if _, err := (cluster.Tool{}).Deploy(t.Context(), o, testkit.Verified(p.image)); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("mode: crash\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o = p.with(map[string]any{"env": map[string]any{"COLOUR": "blue"}})
	first, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || first[0].Revision != 1 {
		t.Fatal(first, err)
	}
	south, west := p.Name(t), p.Name(t)
	o.Settings.Clusters = []config.Cluster{{Name: "north"}, {Name: "south", Namespace: south, Values: []string{bad}}, {Name: "west", Namespace: west}}
	o.Settings.RollbackAll = true
	r, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
	if fault.CodeOf(err) != "deploy.crash-loop" || !strings.Contains(err.Error(), "cluster south") {
		t.Errorf("%v", err)
	}
	if len(r.Clusters) != 3 || r.Clusters[0].Action != deploy.RolledBack || r.Clusters[1].Action != deploy.Kept || r.Clusters[2].Action != deploy.NotReached {
		t.Errorf("%+v", r.Clusters)
	}
	if e := env(p.deployment(t)); len(e) != 0 {
		t.Errorf("north was not rolled back: %v", e)
	}
}

func TestBadInput(t *testing.T) {
	p := newPlace(t)
	for _, tt := range []struct {
		name, code string
		change     func(*deploy.Options)
	}{
		{"no kubeconfig", "deploy.kubeconfig", func(o *deploy.Options) { o.Kubeconfig = filepath.Join(t.TempDir(), "none") }},
		{"no context", "deploy.kubeconfig", func(o *deploy.Options) { o.Settings.Clusters = []config.Cluster{{Context: "nowhere"}} }},
		{"no chart", "deploy.chart", func(o *deploy.Options) { o.Chart = t.TempDir() }},
		{"server", "usage", func(o *deploy.Options) { o.Server = "https://nowhere/" }},
		{"template", "deploy.chart", func(o *deploy.Options) { o.Settings.Set = map[string]any{"env": "text"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := p.with(nil)
			tt.change(&o)
			_, err := cluster.Tool{}.Deploy(t.Context(), o, testkit.Verified(p.image))
			if fault.CodeOf(err) != tt.code || fault.ExitCode(err) != fault.ExitInput || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, exit %d: %v", fault.CodeOf(err), fault.ExitCode(err), err)
			}
		})
	}
	o := p.with(nil)
	o.Server = "127.0.0.1:9" // nobody listens there
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := (cluster.Tool{}).Deploy(ctx, o, testkit.Verified(p.image)); fault.CodeOf(err) != "deploy.unreachable" {
		t.Errorf("a cluster that is away: %v", err)
	}
}

func TestInterruptLeavesARecoverableRelease(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	ctx, cancel := context.WithCancel(t.Context())
	o := p.with(map[string]any{"mode": "unready"})
	o.Settings.Readiness = config.Duration(time.Minute)
	failed := make(chan error, 1)
	go func() {
		_, err := cluster.Tool{}.Deploy(ctx, o, testkit.Verified(p.image))
		failed <- err
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for p.deployment(t).Spec.Template.Spec.Containers[0].Args[0] != "unready" {
		<-tick.C
	}
	cancel()
	if err := <-failed; fault.ExitCode(err) != fault.ExitInterrupted {
		t.Errorf("%v", err)
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil || status[0].State != deploy.Failed || status[0].Lock != "" {
		t.Errorf("%+v %v", status, err)
	}
	p.must(t, deploy.Recovered, nil)
}

package cluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// statefulSet is the template of a StatefulSet or DaemonSet.
const statefulSet = `apiVersion: apps/v1
kind: {{ .Values.kind }}
metadata: {name: {{ .Release.Name }}}
spec:
  {{- if eq .Values.kind "StatefulSet" }}
  replicas: {{ .Values.replicas }}
  serviceName: {{ .Release.Name }}
  podManagementPolicy: {{ .Values.policy }}
  {{- end }}
  updateStrategy: {{ toJson .Values.strategy }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: ` + restrictedPod + `
      containers:
        - name: app
          image: {{ .Values.image.repository }}@{{ .Values.image.digest }}
          args: [{{ .Values.mode }}]
          env: [{name: COLOUR, value: {{ .Values.colour }}}]
          {{- with .Values.secret }}
          envFrom: [{secretRef: {name: {{ . }}}}]
          {{- end }}
          readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
          securityContext: ` + restricted + `
`

const statefulSetValues = "image: {repository: x, digest: ''}\nkind: StatefulSet\nreplicas: 2\npolicy: OrderedReady\nstrategy: {type: RollingUpdate}\nmode: serve\ncolour: red\nsecret: ''\n"

// newStatefulSet returns a release of a chart with a StatefulSet. values are added to the
// values of the chart.
func newStatefulSet(t *testing.T, values string) *testRelease {
	t.Helper()
	p := newTestRelease(t)
	p.useStatefulSet(t, values)
	return p
}

func (p *testRelease) useStatefulSet(t *testing.T, values string) {
	t.Helper()
	p.withChart(t, statefulSetValues, map[string]string{"templates/s.yaml": statefulSet})
	set, err := config.Parse("slipway.yaml", []byte("deploy: {environments: {test: {set: {"+values+"}}}}"))
	if err != nil {
		t.Fatal(err)
	}
	p.base = set.Deploy.Environments["test"].Set
	p.o.Settings.Restarts = 1
	p.o.Settings.RollbackTimeout = config.Duration(20 * time.Second)
}

// pods returns the pods of the release, by name, that are ready and run the app with the
// colour, and how many others there are.
func (p *testRelease) pods(t *testing.T, colour string) (good []string, others int) {
	t.Helper()
	pods, err := p.Client.CoreV1().Pods(p.o.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		c := pod.Spec.Containers[0]
		ready := pod.DeletionTimestamp == nil && len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].Ready
		if ready && c.Args[0] == "serve" && c.Env[0].Value == colour {
			good = append(good, pod.Name)
		} else {
			others++
		}
	}
	slices.Sort(good)
	return good, others
}

// waiting returns why the container of pod app-0 waits.
func (p *testRelease) waiting(t *testing.T) string {
	t.Helper()
	pods, err := p.Client.CoreV1().Pods(p.o.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=app-0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		for _, c := range pod.Status.ContainerStatuses {
			if c.State.Waiting != nil {
				return c.State.Waiting.Reason
			}
		}
	}
	return ""
}

// wantPods checks that all pods of the release are ready and run the app with the colour.
func (p *testRelease) wantPods(t *testing.T, n int, colour string) {
	t.Helper()
	if good, others := p.pods(t, colour); len(good) != n || others > 0 {
		t.Errorf("%d pods are %s, want %d, and %d are not", len(good), colour, n, others)
	}
}

// TestStatefulSetRollsBack upgrades a StatefulSet to a revision that never becomes ready.
// The pod of that revision must be replaced, although Kubernetes waits for it
// (kubernetes/kubernetes#67250, helm/helm#11468).
func TestStatefulSetRollsBack(t *testing.T) {
	for policy, deleted := range map[string]int{"OrderedReady": 1, "Parallel": 0} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			p := newStatefulSet(t, "policy: "+policy)
			p.mustDeploy(t, deploy.Installed, nil)
			r, err := p.deploy(t, map[string]any{"mode": "crash", "colour": "blue"})
			if fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.RolledBack || r.RollbackErr != "" {
				t.Errorf("%s %s: %v", r.Action, r.RollbackErr, err)
			}
			if len(r.Notes) != deleted || deleted == 1 && !strings.Contains(r.Notes[0], "pod app-1 of the abandoned revision") {
				t.Errorf("the notes are %v", r.Notes)
			}
			p.wantPods(t, 2, "red")
			p.mustDeploy(t, deploy.Untouched, nil)
		})
	}
}

// TestStatefulSetIsCorrected deploys a corrected revision over broken ones.
func TestStatefulSetIsCorrected(t *testing.T) {
	t.Run("after the first installation", func(t *testing.T) {
		t.Parallel()
		p := newStatefulSet(t, "replicas: 1")
		if r, err := p.deploy(t, map[string]any{"mode": "crash"}); fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.Kept {
			t.Fatalf("%s: %v", r.Action, err)
		}
		p.mustDeploy(t, deploy.Recovered, map[string]any{"colour": "blue"})
		p.wantPods(t, 1, "blue")
	})
	t.Run("without a rollback", func(t *testing.T) {
		t.Parallel()
		p := newStatefulSet(t, "")
		p.o.Settings.Rollback = new(bool)
		p.mustDeploy(t, deploy.Installed, nil)
		if r, err := p.deploy(t, map[string]any{"mode": "crash"}); fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.Kept {
			t.Fatalf("%s: %v", r.Action, err)
		}
		p.mustDeploy(t, deploy.Recovered, map[string]any{"colour": "blue"})
		p.wantPods(t, 2, "blue")
	})
	t.Run("after it was good", func(t *testing.T) {
		t.Parallel()
		p := newStatefulSet(t, "replicas: 1")
		p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"A": "x-secret-x"}}}
		p.mustDeploy(t, deploy.Installed, map[string]any{"secret": "credentials"})
		if err := p.Client.CoreV1().Secrets(p.o.Namespace).Delete(t.Context(), "credentials", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := p.Client.CoreV1().Pods(p.o.Namespace).Delete(t.Context(), "app-0", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		p.o.Secrets = nil
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for p.waiting(t) != "CreateContainerConfigError" {
			<-tick.C
		}
		r := p.mustDeploy(t, deploy.Upgraded, map[string]any{"colour": "blue"})
		p.wantPods(t, 1, "blue")
		if len(r.Notes) != 1 {
			t.Errorf("the notes are %v", r.Notes)
		}
	})
}

// TestStatefulSetWithRole rolls a StatefulSet back as a user who has only the Role in
// docs/deployer-role.yaml for a StatefulSet instead of a Deployment. Without the permission
// to delete pods, the error contains the command that somebody else must run.
func TestStatefulSetWithRole(t *testing.T) {
	d := newDeployer(t)
	d.o.Release = "app"
	d.o.Secrets = nil
	d.useStatefulSet(t, "replicas: 1")
	role := readRole(t)
	for i, rule := range role.Rules {
		if slices.Contains(rule.Resources, "deployments") {
			role.Rules[i].Resources = []string{"statefulsets"}
		}
	}
	d.setRole(t, role)
	d.mustDeploy(t, deploy.Installed, nil)
	if r, err := d.deploy(t, map[string]any{"mode": "crash"}); fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.RolledBack || len(r.Notes) != 1 {
		t.Errorf("%s %v: %v", r.Action, r.Notes, err)
	}
	d.wantPods(t, 1, "red")

	role.Rules = slices.DeleteFunc(role.Rules, func(r rbac.PolicyRule) bool { return slices.Contains(r.Resources, "pods") })
	role.Rules = append(role.Rules, rbac.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}})
	d.setRole(t, role)
	d.o.Settings.RollbackTimeout = config.Duration(4 * time.Second)
	r, err := d.deploy(t, map[string]any{"mode": "crash"})
	command := "kubectl -n " + d.o.Namespace + " delete pod app-0"
	if fault.CodeOf(err) != "deploy.crash-loop" || r.Action != deploy.Kept || !strings.Contains(r.RollbackErr, command) || !strings.Contains(err.Error(), command) {
		t.Errorf("%s %q: %v", r.Action, r.RollbackErr, err)
	}
}

// TestOnDelete upgrades workloads whose pods are only replaced when somebody deletes them.
// The deployment must not wait for that, and must report that the old revision runs.
func TestOnDelete(t *testing.T) {
	for _, tt := range []struct {
		kind string
		pods int
	}{{"StatefulSet", 2}, {"DaemonSet", 1}} {
		t.Run(tt.kind, func(t *testing.T) {
			t.Parallel()
			p := newStatefulSet(t, "kind: "+tt.kind+", strategy: {type: OnDelete}")
			p.o.Settings.Timeout = config.Duration(30 * time.Second)
			first := p.mustDeploy(t, deploy.Installed, nil)
			if w := first.Workloads[0]; w.Old != 0 || int(w.Ready) != tt.pods || len(first.Warnings) > 0 {
				t.Errorf("after the installation: %+v %v", w, first.Warnings)
			}
			r := p.mustDeploy(t, deploy.Upgraded, map[string]any{"colour": "blue"})
			names, _ := p.pods(t, "red")
			if w := r.Workloads[0]; int(w.Old) != tt.pods || w.Updated != 0 {
				t.Errorf("after the upgrade: %+v", w)
			}
			if command := "kubectl -n " + p.o.Namespace + " delete pod " + strings.Join(names, " "); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], command) {
				t.Errorf("the warnings are %v, want %s", r.Warnings, command)
			}
			if text := (deploy.Result{Clusters: []deploy.ClusterResult{r}}).Summary(); !strings.Contains(text, "with the old revision") {
				t.Errorf("the summary is %q", text)
			}
			p.wantPods(t, tt.pods, "red")

			// The pods have the revision that is rolled back to.
			back, err := cluster.Tool{}.Rollback(t.Context(), p.with(nil), 1)
			if err != nil || back.Clusters[0].Workloads[0].Old != 0 || len(back.Clusters[0].Warnings) > 0 {
				t.Errorf("after the rollback: %+v, %v", back.Clusters, err)
			}

			p.mustDeploy(t, deploy.Upgraded, map[string]any{"colour": "blue"})
			for _, name := range names {
				if err := p.Client.CoreV1().Pods(p.o.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for good, _ := p.pods(t, "blue"); len(good) < tt.pods; good, _ = p.pods(t, "blue") {
				<-tick.C
			}
			now := p.mustDeploy(t, deploy.Untouched, map[string]any{"colour": "blue"})
			if w := now.Workloads[0]; w.Old != 0 || int(w.Updated) != tt.pods || len(now.Warnings) > 0 {
				t.Errorf("after the pods were deleted: %+v %v", w, now.Warnings)
			}
			p.wantPods(t, tt.pods, "blue")
		})
	}
}

package release

import (
	"encoding/json"
	"strings"
	"testing"

	helm "helm.sh/helm/v3/pkg/release"
	apps "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/cli-runtime/pkg/resource"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// revisions returns a history. Each text is the status and the description of a
// revision, and the first revision is 1.
func revisions(list ...string) []*helm.Release {
	var out []*helm.Release
	for i, text := range list {
		status, description, _ := strings.Cut(text, ": ")
		out = append(out, &helm.Release{Version: i + 1, Info: &helm.Info{Status: helm.Status(status), Description: description}})
	}
	return out
}

// TestStateOfARelease covers the histories that Helm and slipway leave behind.
func TestStateOfARelease(t *testing.T) {
	for _, tt := range []struct {
		name    string
		history []string
		state   deploy.State
		good    int
		applied int // the number of revisions whose objects may be in the cluster
	}{
		{"installed", []string{"deployed: deployed v1"}, deploy.Deployed, 1, 1},
		{"by helm", []string{"deployed: Install complete"}, deploy.Deployed, 1, 1},
		{"upgraded", []string{"superseded: deployed v1", "deployed: deployed v2"}, deploy.Deployed, 2, 1},
		{"first install failed", []string{"failed: Release \"app\" failed: x"}, deploy.Failed, 0, 1},
		{"first install replaced", []string{"superseded: Release \"app\" failed: x", "deployed: deployed v1"}, deploy.Deployed, 2, 1},
		{"replaced and failed again", []string{"superseded: Release \"app\" failed: x", "failed: Release \"app\" failed: y"}, deploy.Failed, 0, 2},
		{"upgrade failed", []string{"deployed: deployed v1", "failed: Upgrade \"app\" failed: x"}, deploy.Failed, 1, 2},
		{"upgrade and rollback failed", []string{"deployed: deployed v1", "superseded: Upgrade \"app\" failed: x", "failed: Rollback \"app\" failed: y"}, deploy.Failed, 1, 3},
		{"rolled back", []string{"superseded: deployed v1", "failed: Upgrade \"app\" failed: x", "deployed: Rollback to 1"}, deploy.Deployed, 3, 1},
		{"install killed", []string{"pending-install: Initial install underway"}, deploy.Unfinished, 0, 1},
		{"upgrade killed", []string{"deployed: deployed v1", "pending-upgrade: Preparing upgrade"}, deploy.Unfinished, 1, 2},
		{"rollback killed", []string{"superseded: deployed v1", "deployed: deployed v2", "pending-rollback: Rollback to 1"}, deploy.Unfinished, 2, 2},
		{"recovered and killed again", []string{"deployed: deployed v1", "failed: unfinished: revision 2 is pending-upgrade", "pending-upgrade: Preparing upgrade"}, deploy.Unfinished, 1, 3},
		{"tests failed", []string{"deployed: deployed v1", "failed: tests failed: pod"}, deploy.Failed, 1, 2},
		{"uninstalled, history kept", []string{"uninstalled: Uninstallation complete"}, deploy.Absent, 0, 0},
		{"uninstalled, history kept, installation failed", []string{"superseded: deployed v1", "superseded: superseded by new release", "failed: Release \"app\" failed: x"}, deploy.Failed, 0, 1},
		{"uninstall killed", []string{"uninstalling: Deletion in progress"}, deploy.Unfinished, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := stateOf(revisions(tt.history...))
			if f.State != tt.state || f.Good != tt.good || len(f.applied) != tt.applied || f.Last != len(tt.history) {
				t.Errorf("state %s, good %d, %d applied; want %s, %d, %d", f.State, f.Good, len(f.applied), tt.state, tt.good, tt.applied)
			}
			if f.State != deploy.Deployed && f.Reason == "" {
				t.Error("the reason is empty")
			}
		})
	}
}

// info returns an object as Helm reads it from a manifest.
func info(t *testing.T, text string) *resource.Info {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return &resource.Info{Name: u.GetName(), Namespace: u.GetNamespace(), Object: u, Mapping: &meta.RESTMapping{GroupVersionKind: u.GroupVersionKind()}}
}

const deploymentHeader = `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
`

// TestPatchRemovesChangesOfFailedRevisions computes the patch to a new revision after a
// good and a failed one. keep must be in the patched object, and lose must not.
func TestPatchRemovesChangesOfFailedRevisions(t *testing.T) {
	pod := func(spec string) string {
		return deploymentHeader + "  template: {spec: {containers: [{name: app, image: a, env: [" + spec + "]}]}}\n"
	}
	for _, tt := range []struct{ name, good, failed, live, target, keep, lose string }{
		{
			name: "a variable of the failed revision", good: pod("{name: OLD, value: x}"), failed: pod("{name: FAILED, value: x}"),
			live:   pod("{name: OLD, value: x}, {name: FAILED, value: x}, {name: INJECTED, value: y}"),
			target: pod("{name: NEW, value: x}"), keep: "INJECTED", lose: "FAILED",
		},
		{
			name: "a variable of the good revision", good: pod("{name: OLD, value: x}"), failed: pod("{name: FAILED, value: x}"),
			live: pod("{name: OLD, value: x}"), target: pod("{name: NEW, value: x}"), keep: "NEW", lose: "OLD",
		},
		{
			name:   "a service account, which is also set in a deprecated field",
			good:   deploymentHeader + "  template: {spec: {containers: [{name: app, image: a}]}}\n",
			failed: deploymentHeader + "  template: {spec: {serviceAccountName: nobody, containers: [{name: app, image: a}]}}\n",
			live:   deploymentHeader + "  template: {spec: {serviceAccountName: nobody, serviceAccount: nobody, containers: [{name: app, image: a}]}}\n",
			target: deploymentHeader + "  template: {spec: {containers: [{name: app, image: a}]}}\n", keep: "app", lose: "nobody",
		},
		{
			name: "an autoscaler controls the number of pods from now on",
			good: deploymentHeader + "  replicas: 5\n", failed: deploymentHeader + "  replicas: 6\n", live: deploymentHeader + "  replicas: 7\n",
			target: deploymentHeader + "  paused: false\n", keep: `"replicas":7`, lose: "nothing",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := info(t, tt.good)
			if err := overlay(base, info(t, tt.failed)); err != nil {
				t.Fatal(err)
			}
			live := info(t, tt.live)
			patch, _, err := threeWay(info(t, tt.target), base, live.Object)
			if err != nil {
				t.Fatal(err)
			}
			before, err := json.Marshal(live.Object)
			if err != nil {
				t.Fatal(err)
			}
			after, err := strategicpatch.StrategicMergePatch(before, patch, apps.Deployment{})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(after), tt.keep) || strings.Contains(string(after), tt.lose) {
				t.Errorf("the patch %s results in\n%s", patch, after)
			}
		})
	}
}

func TestPatchOfCustomResources(t *testing.T) {
	const kind = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: a}\n"
	base := info(t, kind+"spec: {a: 1, b: 2}\n")
	if err := overlay(base, info(t, kind+"spec: {c: 3}\n")); err != nil {
		t.Fatal(err)
	}
	patch, _, err := threeWay(info(t, kind+"spec: {a: 1}\n"), base, info(t, kind+"spec: {a: 1, b: 2, c: 3, d: 4}\n").Object)
	if err != nil || string(patch) != `{"spec":{"b":null,"c":null}}` {
		t.Errorf("%s %v", patch, err)
	}
	patch, _, err = threeWay(info(t, kind+"spec: {a: 1}\n"), base, info(t, kind+"spec: {a: 1, d: 4}\n").Object)
	if err != nil || string(patch) != "{}" {
		t.Errorf("the patch without a change is %s, %v", patch, err)
	}
}

func TestDiffHidesSecrets(t *testing.T) {
	secret := func(data string) *unstructured.Unstructured {
		return asUnstructured(info(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: a, resourceVersion: '7'}\ndata: {"+data+"}\n").Object)
	}
	for _, tt := range []struct {
		before, after *unstructured.Unstructured
		want          string
	}{
		{secret("a: c2VjcmV0"), secret("a: c2VjcmV0"), ""},
		{secret("a: c2VjcmV0"), secret("a: b3RoZXI="), "(hidden, changed)"},
		{nil, secret("a: c2VjcmV0"), "+  a: (hidden)"},
		{secret("a: c2VjcmV0"), secret("a: c2VjcmV0, b: b3RoZXI="), "+  b: (hidden)"},
	} {
		d := change{action: actionUpdate, before: tt.before, after: tt.after}.diff()
		if strings.Contains(d, "c2VjcmV0") || strings.Contains(d, "b3RoZXI=") || !strings.Contains(d, tt.want) || tt.want == "" && d != "" || strings.Contains(d, "resourceVersion") {
			t.Errorf("want %q in the diff and no value:\n%s", tt.want, d)
		}
	}
}

// TestGoodBefore checks which revision a rollback without an argument selects.
func TestGoodBefore(t *testing.T) {
	for _, tt := range []struct {
		name    string
		history []string // status: description=manifest, oldest first
		from    int
		want    int
	}{
		{"after an upgrade", []string{"superseded: deployed=a", "deployed: deployed=b"}, 2, 1},
		{"the first revision", []string{"deployed: deployed=a"}, 1, 0},
		{"a failed revision is skipped", []string{"superseded: deployed=a", "failed: Upgrade failed: x=b", "deployed: deployed=c"}, 3, 1},
		{"after an automatic rollback", []string{"superseded: deployed=a", "superseded: deployed=b", "failed: Upgrade failed: x=c", "deployed: Rollback to 2=b"}, 4, 1},
		{"after a manual rollback", []string{"superseded: deployed=a", "superseded: deployed=b", "superseded: deployed=c", "deployed: Rollback to 2=b"}, 4, 1},
		{"a revision with the same manifest is skipped", []string{"superseded: deployed=a", "superseded: deployed=b", "deployed: deployed=b"}, 3, 1},
		{"a revision before an uninstallation is ignored", []string{"superseded: deployed=a", "superseded: superseded by new release=a", "deployed: deployed=b"}, 3, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			history := revisions(tt.history...)
			for _, r := range history {
				r.Info.Description, r.Manifest, _ = strings.Cut(r.Info.Description, "=")
			}
			if got := goodBefore(history, tt.from); got != tt.want {
				t.Errorf("the rollback from %d selects %d, want %d", tt.from, got, tt.want)
			}
		})
	}
}

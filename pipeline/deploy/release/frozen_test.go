package release

import (
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	helm "helm.sh/helm/v3/pkg/release"

	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// renderOnce renders a chart as Helm does, without a cluster.
func renderOnce(t *testing.T, ch *chart.Chart, values map[string]any) *helm.Release {
	t.Helper()
	install := action.NewInstall(new(action.Configuration))
	install.ReleaseName, install.Namespace, install.ClientOnly, install.DryRun = "orders", "shop", true, true
	r, err := install.Run(ch, chartutil.CoalesceTables(map[string]any{}, values))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestFrozenChart renders a chart that has another result each time. What is frozen has
// the result that was checked, byte for byte.
func TestFrozenChart(t *testing.T) {
	dir := writeChart(t, "image: {repository: a}\nsub: {on: true}\n", map[string]string{
		"Chart.yaml":                     "apiVersion: v2\nname: orders\nversion: 0.1.0\ndependencies: [{name: sub, version: 0.1.0, condition: sub.on}]\n",
		"templates/_lib.tpl":             `{{ define "lib" }}{{ randAlphaNum 12 }}{{ end }}`,
		"templates/a.yaml":               "# {{ now }}\nkind: ConfigMap\nmetadata: {name: a, annotations: {at: {{ now | unixEpoch | quote }}}}\ndata: {x: {{ include \"lib\" . }}}\n---\n\n---\nkind: Service\nmetadata: {name: a}\n---\nkind: ConfigMap\nmetadata: {name: a2}\ndata: {t: '{{ \"{{ .Values }} {{`x`}} }}\" }}'}\n",
		"templates/b.yaml":               "kind: ConfigMap\nmetadata: {name: b}\ndata:\n  text: |\n    {{ randAlphaNum 8 }}\n    - --- no separator\n\n---\nkind: Zebra\nmetadata: {name: z}\n---\nkind: Aardvark\nmetadata: {name: z}\n",
		"templates/hook.yaml":            "kind: Job\nmetadata: {name: h-{{ randAlphaNum 4 | lower }}, annotations: {helm.sh/hook: 'pre-install,pre-upgrade', helm.sh/hook-weight: '3', helm.sh/hook-delete-policy: hook-succeeded}}\n---\nkind: ConfigMap\nmetadata: {name: with-hook}\n---\nkind: Pod\nmetadata: {name: t, annotations: {helm.sh/hook: test}}\n",
		"templates/NOTES.txt":            "{{ randAlphaNum 5 }} {{ \"{{\" }}\n",
		"charts/sub/Chart.yaml":          "apiVersion: v2\nname: sub\nversion: 0.1.0\n",
		"charts/sub/values.yaml":         "x: 1\n",
		"charts/sub/templates/s.yaml":    "kind: Secret\nmetadata: {name: s}\nstringData: {p: {{ randAlphaNum 16 }}}\n---\nkind: ConfigMap\nmetadata: {name: sub}\n",
		"charts/sub/templates/_s.tpl":    `{{ define "s" }}{{ end }}`,
		"charts/sub/templates/NOTES.txt": "sub\n",
	})
	ch, err := Load(deploy.Chart{Path: dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	target := renderOnce(t, ch.chart, ch.values)
	if again := renderOnce(t, ch.chart, ch.values); again.Manifest == target.Manifest {
		t.Fatal("the chart has the same result twice, so the test shows nothing")
	}
	frozen, err := Rendered{chart: ch.chart, values: ch.values, target: target}.frozen()
	if err != nil {
		t.Fatal(err)
	}
	got := renderOnce(t, frozen, ch.values)
	if got.Manifest != target.Manifest {
		t.Errorf("the manifest is\n%s\nwant\n%s", got.Manifest, target.Manifest)
	}
	if got.Info.Notes != target.Info.Notes || len(got.Hooks) != len(target.Hooks) {
		t.Fatalf("the notes are %q and there are %d hooks, want %q and %d", got.Info.Notes, len(got.Hooks), target.Info.Notes, len(target.Hooks))
	}
	for i, h := range target.Hooks {
		if g := got.Hooks[i]; g.Manifest != h.Manifest || g.Path != h.Path || g.Weight != h.Weight || len(g.DeletePolicies) != len(h.DeletePolicies) {
			t.Errorf("hook %d is %+v, want %+v", i, g, h)
		}
	}
	if contentOf(got) != contentOf(target) {
		t.Error("the record of what was verified differs")
	}
}

// TestRecordOfARevision: Helm copies the labels of a revision to the next one, so the record
// counts only for the same content.
func TestRecordOfARevision(t *testing.T) {
	r := &helm.Release{Version: 1, Manifest: "a", Hooks: []*helm.Hook{{Path: "p", Manifest: "h"}}, Info: &helm.Info{}}
	r.Labels = Note{Digest: "sha256:" + "aa"}.labels(r)
	if !verified(r) {
		t.Fatal("a revision with its record is not verified")
	}
	for name, change := range map[string]func(*helm.Release){
		"manifest":     func(r *helm.Release) { r.Manifest = "b" },
		"hook":         func(r *helm.Release) { r.Hooks = []*helm.Hook{{Path: "p", Manifest: "evil"}} },
		"another hook": func(r *helm.Release) { r.Hooks = append(r.Hooks, &helm.Hook{Path: "q", Manifest: "h"}) },
		"another event": func(r *helm.Release) {
			r.Hooks = []*helm.Hook{{Path: "p", Manifest: "h", Events: []helm.HookEvent{helm.HookPreRollback}}}
		},
		"no hook":       func(r *helm.Release) { r.Hooks = nil },
		"moved content": func(r *helm.Release) { r.Manifest, r.Hooks = "a"+"h", nil },
		"no record":     func(r *helm.Release) { r.Labels = nil },
	} {
		changed := *r
		if change(&changed); verified(&changed) {
			t.Errorf("%s: the revision still counts as verified", name)
		}
	}
}

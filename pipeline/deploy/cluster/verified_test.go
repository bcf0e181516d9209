package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// forget removes the record that a revision was verified, so that it looks like one that
// helm has made.
func (p *testRelease) forget(t *testing.T, revision int) {
	t.Helper()
	secrets := p.Client.CoreV1().Secrets(p.o.Namespace)
	secret, err := secrets.Get(t.Context(), fmt.Sprintf("sh.helm.release.v1.app.v%d", revision), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret.Labels["slipway.verified"] == "" {
		t.Fatalf("revision %d has no record: %v", revision, secret.Labels)
	}
	delete(secret.Labels, "slipway.verified")
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestRollbackToWhatWasNotVerified rolls back to a revision that slipway has not verified,
// by the command and after a failure. That is possible only if its image is verified then.
func TestRollbackToWhatWasNotVerified(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"COLOUR": "green"}})
	p.forget(t, 1)
	p.forget(t, 2)
	rollback := func(verify func(context.Context, name.Digest) error) error {
		o := p.with(nil)
		o.VerifyApp = verify
		_, err := cluster.Tool{}.Rollback(t.Context(), o, 1)
		return err
	}
	var asked []string
	reject := func(_ context.Context, ref name.Digest) error {
		asked = append(asked, ref.Name())
		return errors.New("it is not signed")
	}
	if err := rollback(nil); fault.CodeOf(err) != "deploy.unverified-revision" {
		t.Errorf("without a signer: %v", err)
	}
	if err := rollback(reject); fault.CodeOf(err) != "deploy.unverified-revision" || !strings.Contains(err.Error(), "it is not signed") || len(asked) != 1 || asked[0] != p.image.Name() {
		t.Errorf("asked about %v: %v", asked, err)
	}
	r, err := p.deploy(t, map[string]any{"mode": "crash"})
	if err == nil || r.Action != deploy.Kept || !strings.Contains(r.RollbackErr, "were not verified") {
		t.Errorf("after a failure: %s, %s: %v", r.Action, r.RollbackErr, err)
	}
	if err := rollback(func(context.Context, name.Digest) error { return nil }); err != nil {
		t.Errorf("with a signature that is valid: %v", err)
	}
}

// TestRollbackKeepsTheRecord rolls back twice, to a revision that is itself a rollback.
func TestRollbackKeepsTheRecord(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"COLOUR": "green"}})
	for _, to := range []int{1, 2, 3} {
		if _, err := (cluster.Tool{}).Rollback(t.Context(), p.with(nil), to); err != nil {
			t.Fatalf("to %d: %v", to, err)
		}
	}
	status, err := cluster.Tool{}.Status(t.Context(), p.o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range status[0].History {
		if !r.Verified {
			t.Errorf("revision %d has no record", r.Revision)
		}
	}
}

// TestAppliedIsWhatWasChecked deploys a chart whose templates have another result each
// time.
func TestAppliedIsWhatWasChecked(t *testing.T) {
	p := newTestRelease(t)
	p.withChart(t, "image: {repository: x, digest: ''}\n", map[string]string{
		"templates/d.yaml":    deploymentOf("{{ .Values.image.repository }}@{{ .Values.image.digest }}"),
		"templates/c.yaml":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: random, annotations: {at: {{ now | quote }}}}\ndata: {x: {{ randAlphaNum 8 | quote }}}\n",
		"templates/hook.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hook, annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}}\ndata: {x: {{ randAlphaNum 8 | quote }}}\n",
		"templates/evil.yaml": "{{ if lookup \"v1\" \"ConfigMap\" .Release.Namespace \"hook\" }}\n" + strings.ReplaceAll(deploymentOf("docker.io/evil/backdoor:latest"), "{{ .Release.Name }}", "evil") + "{{ end }}\n",
	})
	p.mustDeploy(t, deploy.Installed, nil)
	if list, err := p.Client.AppsV1().Deployments(p.o.Namespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%v %v", list.Items, err)
	}
	_, err := cluster.Tool{}.Deploy(t.Context(), p.with(nil), testkit.Verified(p.image))
	if fault.CodeOf(err) != "deploy.image-not-allowed" {
		t.Errorf("the second time, when the chart runs another image: %v", err)
	}
}

// TestRefusedChartWritesNothing deploys a chart with an image that nobody allows. Neither the
// Secrets of the deployment nor the CustomResourceDefinitions of the chart are written.
func TestRefusedChartWritesNothing(t *testing.T) {
	p := newCustomRelease(t)
	p.files(t, "", map[string]string{
		"crds/w.yaml": crdOf(p.group, "v1"), "templates/w.yaml": p.widget("v1"),
		"templates/evil.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: evil}\nspec: {containers: [{name: a, image: 'docker.io/evil/backdoor:latest'}]}\n",
	})
	p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": "hunter2hunter2"}}}
	_, err := p.deploy(t, nil)
	if fault.CodeOf(err) != "deploy.image-not-allowed" {
		t.Fatal(err)
	}
	if secrets, err := p.Client.CoreV1().Secrets(p.o.Namespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(secrets.Items) > 0 {
		t.Errorf("Secrets %v, %v", secrets.Items, err)
	}
	if _, err := p.dynamic.Resource(crdResource).Get(t.Context(), "widgets."+p.group, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the CustomResourceDefinition was written: %v", err)
	}
}

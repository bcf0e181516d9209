package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// TestLongServerErrors makes the API server answer with errors of many kilobytes. The error
// of the deployment has one short line with the cause, and the reports have the whole text.
func TestLongServerErrors(t *testing.T) {
	const secret = "x-password-of-the-database-x"
	for _, tt := range []struct {
		name, file string
		code       string
		want       []string // parts of the error
		length     int      // of the whole text, at least
	}{
		{
			"many invalid fields", "{{- range until 60 }}\napiVersion: v1\nkind: Service\nmetadata: {name: s{{ . }}}\nspec: {ports: [{port: 0, name: \"" + strings.Repeat("Bad ", 20) + "\"}]}\n---\n{{- end }}",
			"deploy.failed", []string{`Service "s`, "spec.ports[0].port: Invalid value: 0", "more like this"}, 5000,
		},
		{
			"a long value", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, labels: {l: {{ repeat 3000 \"x\" }}}}\n",
			"deploy.failed", []string{`ConfigMap "c" is invalid`, "must be no more than 63"}, 3000,
		},
		{
			"a secret", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, labels: {l: \"" + secret + "{{ repeat 3000 \"x\" }}\"}}\n",
			"deploy.failed", []string{`ConfigMap "c" is invalid`, `Invalid value: "***xxx`}, 3000,
		},
		{
			"an admission policy", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: refused}\n",
			"deploy.admission", []string{"denied request", "rule 1 is broken", "rule 300 is broken"}, 3000,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newTestRelease(t)
			p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": secret}}}
			p.withChart(t, "image: {repository: x, digest: ''}", map[string]string{
				"templates/d.yaml": deploymentOf("{{ .Values.image.repository }}@{{ .Values.image.digest }}"), "templates/x.yaml": tt.file,
			})
			if tt.code == "deploy.admission" {
				p.refuse(t)
			}
			result, err := cluster.Tool{}.Deploy(t.Context(), p.with(nil), testkit.Verified(p.image))
			if fault.CodeOf(err) != tt.code || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), secret[:10]) {
				t.Errorf("%s with %d bytes: %v", fault.CodeOf(err), len(err.Error()), err)
			}
			f := result.Clusters[0].Failure
			if f == nil {
				t.Fatal("the result contains no failure")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) || !strings.Contains(f.Message, want) {
					t.Errorf("the error does not contain %q: %v", want, err)
				}
			}
			if len(f.Text) < tt.length || strings.Contains(f.Text, secret) {
				t.Errorf("the whole text has %d bytes", len(f.Text))
			}
			file := filepath.Join(t.TempDir(), "deploy.xml")
			if err := deploy.WriteJUnit(file, result); err != nil {
				t.Fatal(err)
			}
			if report, err := os.ReadFile(file); err != nil || len(report) < tt.length {
				t.Errorf("the report has %d bytes, %v", len(report), err)
			}
			status, err := cluster.Tool{}.Status(t.Context(), p.o)
			if err != nil || len(status[0].Reason) > 1000 || strings.Contains(status[0].Reason, secret[:10]) {
				t.Errorf("the reason in the status has %d bytes: %s, %v", len(status[0].Reason), status[0].Reason, err)
			}
		})
	}
}

// refuse makes the API server refuse ConfigMaps with the name refused in the namespace of
// the release, with a long message.
func (p *testRelease) refuse(t *testing.T) {
	t.Helper()
	var rules []string
	for i := range 300 {
		rules = append(rules, fmt.Sprintf("rule %d is broken", i+1))
	}
	ctx, name := t.Context(), p.o.Namespace
	api := p.Client.AdmissionregistrationV1()
	if _, err := p.Client.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := api.ValidatingAdmissionPolicies().Create(ctx, &admission.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admission.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admission.MatchResources{ResourceRules: []admission.NamedRuleWithOperations{{
				RuleWithOperations: admission.RuleWithOperations{
					Operations: []admission.OperationType{admission.Create},
					Rule:       admission.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
				},
			}}},
			Validations: []admission.Validation{{Expression: "object.metadata.name != 'refused'", Message: strings.Join(rules, ", ")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.ValidatingAdmissionPolicyBindings().Create(ctx, &admission.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admission.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admission.ValidationAction{admission.Deny},
			MatchResources: &admission.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{core.LabelMetadataName: name}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(api.ValidatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{}), api.ValidatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
			t.Log(err)
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for { // the API server enforces the policy a moment later
		_, err := p.Client.CoreV1().ConfigMaps(name).Create(ctx, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "refused"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return
		}
		<-tick.C
	}
}

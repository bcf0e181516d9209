package cluster_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestSecretsAreWrittenAndNeverPrinted(t *testing.T) {
	p := newTestRelease(t)
	const password = "correct-horse-battery"
	p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": password}}}
	p.o.PullSecret = deploy.NewPullSecret("registry", "registry.example.com", "robot", "pull-"+password)
	set := map[string]any{"secret": "credentials", "imagePullSecrets": []any{map[string]any{"name": "registry"}}}
	p.mustDeploy(t, deploy.Installed, set)
	for name, want := range map[string]string{"credentials": password, "registry": "pull-" + password} {
		s, err := p.Client.CoreV1().Secrets(p.o.Namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || !strings.Contains(fmt.Sprintf("%s", s.Data), want) {
			t.Errorf("Secret %s does not contain its value: %v", name, err)
		}
	}
	if got := p.deployment(t).Spec.Template.Spec.ImagePullSecrets; len(got) != 1 || got[0].Name != "registry" {
		t.Errorf("the pod has the pull secrets %v", got)
	}
	for _, where := range []string{"mode", "hook"} { // in the mode crash the app, or a hook, logs the password
		crash := maps.Clone(set)
		crash[where] = "crash"
		r, err := p.deploy(t, crash)
		text, jsonErr := json.Marshal(r)
		if jsonErr != nil || err == nil {
			t.Fatal(where, jsonErr, err)
		}
		all := string(text) + err.Error() + fmt.Sprintf("%+v %#v", p.o, p.o)
		if strings.Contains(all, password) || !strings.Contains(all, "flux capacitor") {
			t.Errorf("%s: the password is printed, or the logs are missing: %s", where, all)
		}
	}
	secrets, err := p.Client.CoreV1().Secrets(p.o.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) == 0 {
		t.Fatal(err)
	}
	for _, s := range secrets.Items {
		recode(t, s.Data["release"], func(r map[string]any) {
			if text, _ := json.Marshal(r); strings.Contains(string(text), password) {
				t.Errorf("Secret %s of Helm contains the password", s.Name)
			}
		})
	}
	foreign := &core.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	if _, err := p.Client.CoreV1().Secrets(p.o.Namespace).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.o.Secrets[0].Name = "theirs"
	if _, err := p.deploy(t, set); fault.CodeOf(err) != "deploy.conflict" {
		t.Errorf("the error for a Secret that slipway did not create is %v", err)
	}
}

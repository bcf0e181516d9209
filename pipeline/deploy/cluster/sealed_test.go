package cluster_test

import (
	"context"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/bitnami-labs/sealed-secrets/pkg/crypto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/deploy/sealed"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

const sealedPassword = "correct-horse-battery-staple"

// sealFor returns the Secret credentials, sealed with a certificate.
func (p *testRelease) sealFor(t *testing.T, certificate []byte, password string) []deploy.SealedSecret {
	t.Helper()
	c, err := sealed.ParseCertificate(certificate, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := sealed.New(p.o.Namespace, "credentials")
	if err := s.Seal(c, "password", []byte(password)); err != nil {
		t.Fatal(err)
	}
	text, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return []deploy.SealedSecret{{Name: "credentials", File: "credentials.yaml", Manifest: text}}
}

// TestSealedSecrets deploys with the real controller of Sealed Secrets: a Secret that it can
// unseal, one that was sealed for another controller, and one while it does not run.
func TestSealedSecrets(t *testing.T) {
	t.Parallel()
	p := newTestRelease(t)
	_, other, err := crypto.GeneratePrivateKeyAndCert(2048, time.Hour, "other")
	if err != nil {
		t.Fatal(err)
	}
	foreign := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw})
	set := map[string]any{"secret": "credentials"}

	p.o.Sealed = p.sealFor(t, foreign, sealedPassword)
	wantSealedError(t, p, set, "the cluster does not know sealed Secrets")

	controller := deploy.SealingController{Namespace: p.InstallSealedSecrets(t), Name: "sealed-secrets-controller"}
	wantSealedError(t, p, set, "the controller cannot unseal Secret credentials")

	certificate, err := cluster.Tool{}.Certificate(t.Context(), p.o, controller)
	if err != nil {
		t.Fatal(err)
	}
	p.o.Sealed = p.sealFor(t, certificate, sealedPassword)
	p.mustDeploy(t, deploy.Installed, set)
	secret, err := p.Client.CoreV1().Secrets(p.o.Namespace).Get(t.Context(), "credentials", metav1.GetOptions{})
	if err != nil || string(secret.Data["password"]) != sealedPassword {
		t.Fatalf("the unsealed Secret: %v", err)
	}
	p.wantNotInReleases(t, sealedPassword)
	p.mustDeploy(t, deploy.Untouched, set)

	if _, err := (cluster.Tool{}).Certificate(t.Context(), p.o, deploy.SealingController{Namespace: controller.Namespace, Name: "nowhere"}); fault.CodeOf(err) != "seal.controller" {
		t.Errorf("a controller that does not exist: %v", err)
	}
	scale := []byte(`{"spec":{"replicas":0}}`)
	if _, err := p.Client.AppsV1().Deployments(controller.Namespace).Patch(t.Context(), controller.Name, types.MergePatchType, scale, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	p.waitUntilNoPods(t, controller.Namespace)
	p.o.Sealed = p.sealFor(t, certificate, "another-password")
	p.o.Settings.Timeout = config.Duration(4 * time.Second)
	wantSealedError(t, p, set, "has not unsealed Secret credentials within 4s")
}

// wantSealedError deploys and checks the error about a sealed Secret.
func wantSealedError(t *testing.T, p *testRelease, set map[string]any, want string) {
	t.Helper()
	_, err := p.deploy(t, set)
	if fault.CodeOf(err) != "deploy.sealed-secret" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("%s: %v, want %q", fault.CodeOf(err), err, want)
	}
}

// wantNotInReleases checks that no revision of Helm contains a text.
func (p *testRelease) wantNotInReleases(t *testing.T, text string) {
	t.Helper()
	secrets, err := p.Client.CoreV1().Secrets(p.o.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) == 0 {
		t.Fatalf("%d revisions, %v", len(secrets.Items), err)
	}
	for _, s := range secrets.Items {
		recode(t, s.Data["release"], func(r map[string]any) {
			if strings.Contains(strings.ToLower(strings.Join(texts(r), " ")), text) {
				t.Errorf("Secret %s of Helm contains the password", s.Name)
			}
		})
	}
}

// texts returns all texts in a decoded document.
func texts(v any) []string {
	var all []string
	switch v := v.(type) {
	case string:
		all = append(all, v)
	case []any:
		for _, e := range v {
			all = append(all, texts(e)...)
		}
	case map[string]any:
		for _, e := range v {
			all = append(all, texts(e)...)
		}
	}
	return all
}

// waitUntilNoPods waits until a namespace has no pods.
func (p *testRelease) waitUntilNoPods(t *testing.T, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pods := p.Client.CoreV1().Pods(namespace)
	for {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 0 {
			return
		}
		w, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		<-w.ResultChan()
		w.Stop()
	}
}

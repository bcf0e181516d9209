package cluster_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
)

const roleFile = "../../../docs/deployer-role.yaml"

// recording is a transport that records the requests to the API server in the terms of
// authorization: API group, resource and verb.
type recording struct {
	base http.RoundTripper
	info *request.RequestInfoFactory
	mu   *sync.Mutex
	seen map[string]bool
}

func (w recording) RoundTrip(r *http.Request) (*http.Response, error) {
	if i, err := w.info.NewRequestInfo(r); err == nil && i.IsResourceRequest {
		resource := i.Resource
		if i.Subresource != "" {
			resource += "/" + i.Subresource
		}
		w.mu.Lock()
		w.seen[i.APIGroup+" "+resource+" "+i.Verb] = true
		w.mu.Unlock()
	}
	return w.base.RoundTrip(r)
}

func (w recording) WrappedRoundTripper() http.RoundTripper { return w.base }

// TestRoleOfDeployer runs every operation of a deployment as a user who has only the Role
// in docs/deployer-role.yaml. Every permission of the Role must be used.
func TestRoleOfDeployer(t *testing.T) {
	p := newDeployer(t)
	seen := map[string]bool{}
	w := recording{info: &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}, mu: &sync.Mutex{}, seen: seen}
	tool := cluster.Tool{Transport: func(base http.RoundTripper) http.RoundTripper { w := w; w.base = base; return w }}
	if err := p.cycle(t, tool); err != nil {
		t.Errorf("with the complete Role: %v", err)
	}
	role := readRole(t)
	allowed := permissions(role)
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		if !allowed[k] {
			t.Errorf("the Role lacks a permission that is used: %s", k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(allowed)) {
		if !seen[k] && !slices.Contains(granted, k) {
			t.Errorf("the Role has a permission that is not used: %s", k)
		}
	}
}

// TestEveryVerbOfTheRoleIsNeeded removes every verb from the Role in turn. It is slow, so only
// make soak runs it.
func TestEveryVerbOfTheRoleIsNeeded(t *testing.T) {
	if os.Getenv(soakVariable) == "" {
		t.Skipf("%s is not set; it is set by make soak", soakVariable)
	}
	role := readRole(t)
	for i, rule := range role.Rules {
		for j, verb := range rule.Verbs {
			less := role.DeepCopy()
			less.Rules[i].Verbs = slices.Delete(slices.Clone(rule.Verbs), j, j+1)
			if len(rule.Verbs) == 1 {
				less.Rules = slices.Delete(less.Rules, i, i+1)
			}
			t.Run(fmt.Sprintf("without %s of %s", verb, strings.Join(rule.Resources, ",")), func(t *testing.T) {
				p := newDeployer(t)
				p.setRole(t, less)
				if err := p.cycle(t, cluster.Tool{}); err == nil {
					t.Error("the verb is not needed")
				}
			})
		}
	}
}

// permissions returns what a Role allows, as "group resource verb".
func permissions(role *rbac.Role) map[string]bool {
	all := map[string]bool{}
	for _, r := range role.Rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					all[group+" "+resource+" "+verb] = true
				}
			}
		}
	}
	return all
}

// granted are permissions that a deployer does not use. A deployer needs them only because
// the chart contains a Role, and the creator of a Role must have all permissions that the
// Role grants
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#restrictions-on-role-creation-or-update).
var granted = []string{
	" configmaps list", " configmaps watch", " events create", " events patch", "events.k8s.io events create", "events.k8s.io events patch",
}

// deployer is a release that is deployed by a user with limited permissions.
type deployer struct{ *testRelease }

// newDeployer creates a namespace and a user with the Role in it. It uses the chart of the
// order service with the image of the tests.
func newDeployer(t *testing.T) deployer {
	t.Helper()
	p := deployer{newTestRelease(t)}
	p.o.Chart.Path = "../../../charts/order-service"
	p.o.Release = "orders"
	p.o.Settings.History = 2
	p.o.Secrets = []deploy.SecretData{{Name: "credentials", Data: map[string]string{"password": "x-password-x"}}}
	ctx, n := t.Context(), p.o.Namespace
	labels := map[string]string{}
	for _, mode := range []string{"enforce", "warn", "audit"} {
		labels["pod-security.kubernetes.io/"+mode] = "restricted"
	}
	if _, err := p.Client.CoreV1().Namespaces().Create(ctx, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Client.CoreV1().ServiceAccounts(n).Create(ctx, &core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "deployer"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.setRole(t, readRole(t))
	_, err := p.Client.RbacV1().RoleBindings(n).Create(ctx, &rbac.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: "slipway-deployer"},
		Subjects:   []rbac.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: n}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.Client.CoreV1().ServiceAccounts(n).CreateToken(ctx, "deployer", &authentication.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := clientcmd.LoadFromFile(p.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range admin.Contexts {
		c.AuthInfo = "deployer"
	}
	admin.AuthInfos = map[string]*api.AuthInfo{"deployer": {Token: token.Status.Token}}
	p.o.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*admin, p.o.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	return p
}

func readRole(t *testing.T) *rbac.Role {
	t.Helper()
	text, err := os.ReadFile(roleFile)
	if err != nil {
		t.Fatal(err)
	}
	var role rbac.Role
	if err := yaml.UnmarshalStrict(text, &role); err != nil {
		t.Fatal(err)
	}
	return &role
}

func (p deployer) setRole(t *testing.T, role *rbac.Role) {
	t.Helper()
	role = role.DeepCopy()
	roles := p.Client.RbacV1().Roles(p.o.Namespace)
	if live, err := roles.Get(t.Context(), role.Name, metav1.GetOptions{}); err == nil {
		live.Rules = role.Rules
		if _, err := roles.Update(t.Context(), live, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := roles.Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// cycle runs every operation of a deployer: an installation, a plan, an upgrade that uses
// all parts of the chart, an upgrade that fails and is rolled back, an upgrade that removes
// objects, the status, and an upgrade that crashes.
func (p deployer) cycle(t *testing.T, tool cluster.Tool) error {
	t.Helper()
	full := func(m map[string]any) deploy.Options {
		o := p.with(map[string]any{
			"replicas": 2, "minReadySeconds": 0, "podAntiAffinity": map[string]any{"mode": "none"},
			"resources": map[string]any{"requests": map[string]any{"cpu": "10m", "memory": "16Mi"}, "limits": map[string]any{"cpu": "1", "memory": "128Mi"}},
			"config":    map[string]any{"database": map[string]any{"url": "postgres://app@db:5432/orders"}},
		})
		maps.Copy(o.Settings.Set, m)
		o.Settings.Test = true
		return o
	}
	o := full(nil)
	if _, err := tool.Deploy(t.Context(), o, testkit.Verified(p.image)); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	o = full(map[string]any{
		"ingress":     map[string]any{"enabled": true, "hosts": []any{"orders.example.com"}},
		"autoscaling": map[string]any{"enabled": true, "minReplicas": 2, "maxReplicas": 3},
	})
	if _, err := tool.Plan(t.Context(), o, deploy.ImageOf(p.image)); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if _, err := tool.Deploy(t.Context(), o, testkit.Verified(p.image)); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	o = full(map[string]any{"secretEnv": []any{map[string]any{"name": "X", "secret": "nowhere", "key": "x"}}})
	r, err := tool.Deploy(t.Context(), o, testkit.Verified(p.image))
	if err == nil || len(r.Clusters) != 1 || r.Clusters[0].Failure == nil || r.Clusters[0].Failure.Kind != "config" || r.Clusters[0].Action != deploy.RolledBack {
		return fmt.Errorf("failing upgrade: %w %+v", err, r.Clusters)
	}
	if len(r.Clusters[0].Failure.Events) == 0 || len(r.Clusters[0].Warnings) > 0 {
		return fmt.Errorf("failing upgrade: there are no events, or there are warnings: %+v", r.Clusters[0])
	}
	o = full(map[string]any{
		"version": "2", "config": map[string]any{"database": map[string]any{"url": "postgres://app@other:5432/orders"}},
		"podAnnotations": map[string]any{"round": "2"}, "autoscaling": map[string]any{"enabled": true, "minReplicas": 2, "maxReplicas": 3},
	})
	if _, err := tool.Deploy(t.Context(), o, testkit.Verified(p.image)); err != nil {
		return fmt.Errorf("upgrade without ingress: %w", err)
	}
	if _, err := tool.Status(t.Context(), o); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	// The logs of a crash are read.
	o = full(map[string]any{"env": map[string]any{"MODE": "crash"}})
	o.Settings.Restarts = 1
	r, err = tool.Deploy(t.Context(), o, testkit.Verified(p.image))
	if err == nil || len(r.Clusters) != 1 || r.Clusters[0].Failure == nil || len(r.Clusters[0].Failure.Logs) == 0 {
		return fmt.Errorf("crash without logs: %w %+v", err, r.Clusters)
	}
	return nil
}

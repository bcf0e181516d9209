package deploy_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// failed returns a result in which one cluster was upgraded, one was rolled back and
// one was not reached.
func failed() deploy.Result {
	return deploy.Result{
		Environment: "prod", Release: "orders", Namespace: "shop", Seconds: 12.5, URL: "https://orders.example.com",
		Image: deploy.Image{Repository: "ghcr.io/acme/orders", Digest: "sha256:" + strings.Repeat("a", 64)},
		Clusters: []deploy.ClusterResult{
			{Name: "north", Before: deploy.Deployed, Action: deploy.Upgraded, Revision: 4, Previous: 3, Seconds: 5, Workloads: []deploy.Workload{{Object: "deployment/orders", Desired: 3, Updated: 3, Ready: 3, Available: 3}}},
			{Name: "south", Before: deploy.Deployed, Action: deploy.RolledBack, Revision: 5, Previous: 3, Tried: 4, Seconds: 7.5, Failure: &deploy.Failure{
				Kind: "crash-loop", Object: "deployment/shop/orders", Pod: "orders-1", Container: "app", Message: "ended with exit code 7\x1b[31m",
				Logs: []string{"panic: the flux capacitor ]]> is missing"}, Events: []string{"10:00:00 pod/orders-1 BackOff: back-off (x3)"}, Known: time.Unix(0, 0).UTC(),
			}},
			{Name: "west", Action: deploy.NotReached},
			{
				Name: "east", Before: deploy.Failed, Action: deploy.Recovered, Revision: 2, Tried: 1, Seconds: 1,
				Workloads: []deploy.Workload{{Object: "statefulset/orders", Desired: 2, Ready: 2, Available: 2, Old: 2}},
				Notes:     []string{"pod orders-1 of the abandoned revision orders-7c9 was deleted, because the StatefulSet waited for it"},
				Warnings:  []string{"statefulset orders: 2 of 2 pods run the old revision until they are deleted (update strategy OnDelete); to replace them, run kubectl -n shop delete pod orders-0 orders-1"},
			},
		},
	}
}

func TestReports(t *testing.T) {
	var text bytes.Buffer
	r := failed()
	fmt.Fprintln(&text, r.Summary())
	deploy.Write(&text, r)
	text.WriteString(deploy.Markdown(r))
	deploy.WritePlan(&text, deploy.Plan{Release: "orders", Namespace: "shop", Clusters: []deploy.ClusterPlan{
		{Name: "north", State: deploy.Deployed, Revision: 4},
		{Name: "south", State: deploy.Failed, Revision: 3, Reason: "revision 4: crash", Hooks: []string{"job/migrate (pre-upgrade)"}, Changes: []deploy.Change{
			{Action: "update", Object: "deployment/orders", Diff: "--- running\n+++ planned\n@@ -1 +1 @@\n-a: b\n+a: c\n"},
		}},
	}})
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	status := []deploy.Status{{
		Cluster: "north", Release: "orders", Namespace: "shop", State: deploy.Deployed, Revision: 2, Image: r.Image.String(), Lock: "ci",
		Workloads: r.Clusters[0].Workloads, Problems: []string{"pod orders-2: is not ready"}, Warnings: r.Clusters[3].Warnings,
		History: []deploy.Revision{
			{Revision: 3, Status: "failed", Updated: at, Description: "Upgrade \"orders\" failed:\n x"},
			{Revision: 2, Status: "deployed", Good: true, Updated: at, Image: "aaaaaaaaaaaaaaaa", Description: "deployed v2"},
			{Revision: 1, Status: "superseded", Good: true, Updated: at, Description: "deployed v1"},
		},
	}}
	deploy.WriteStatus(&text, status)
	deploy.WriteHistory(&text, status)
	testkit.Golden(t, "testdata/reports.golden", text.Bytes())
}

func TestJUnit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "reports", "deploy.xml")
	if err := deploy.WriteJUnit(file, failed()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var suites struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Skipped  int `xml:"skipped,attr"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(suites.Suites) != 1 || suites.Suites[0].Tests != 4 || suites.Suites[0].Failures != 1 || suites.Suites[0].Skipped != 1 || !strings.Contains(string(text), "flux capacitor") {
		t.Errorf("%+v\n%s", suites, text)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	const password = "correct-horse"
	o := deploy.Options{
		Secrets:    []deploy.SecretData{{Name: "a", Data: map[string]string{"k": password}}},
		PullSecret: deploy.NewPullSecret("p", "r", "u", password),
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, o); strings.Contains(text, password) {
			t.Errorf("%s prints the password: %s", format, text)
		}
		if text := fmt.Sprintf(format, *o.PullSecret) + fmt.Sprintf(format, o.Secrets[0]); strings.Contains(text, password) {
			t.Errorf("%s prints the password: %s", format, text)
		}
	}
}

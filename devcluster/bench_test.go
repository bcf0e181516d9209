//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for one step, on a slow machine.
const patience = 90 * time.Second

// bench is the devcluster program with a state directory for a test.
type bench struct {
	t              *testing.T
	program, state string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if _, err := checkMachine(t.Context(), nil); err != nil {
		t.Skip(err)
	}
	b := &bench{t: t, program: filepath.Join(t.TempDir(), "devcluster"), state: t.TempDir()}
	goBuild(t, b.program, ".")
	t.Cleanup(func() {
		if out, err := exec.Command(b.program, "down", "--all", "--state-dir", b.state).CombinedOutput(); err != nil {
			t.Errorf("down --all: %v\n%s", err, out)
		}
	})
	return b
}

func goBuild(t *testing.T, to, pkg string) {
	t.Helper()
	command := exec.Command("go", "build", "-o", to, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
}

// run runs a devcluster command on a cluster and returns its output and exit
// code.
func (b *bench) run(t *testing.T, cluster string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	args = append(args, "--state-dir", b.state)
	if cluster != "" {
		args = append(args, "--name", cluster)
	}
	var out, errs bytes.Buffer
	command := exec.Command(b.program, args...)
	command.Stdout, command.Stderr = &out, &errs
	err := command.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("devcluster %v: %v", args, err)
	}
	t.Logf("devcluster %s: exit code %d\n%s", strings.Join(args, " "), command.ProcessState.ExitCode(), errs.String())
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

// up starts a cluster and returns the status that devcluster up prints.
func (b *bench) up(t *testing.T, cluster string, args ...string) (Status, *Cluster, *api) {
	t.Helper()
	out, errs, code := b.run(t, cluster, append([]string{"up", "-o", "json"}, args...)...)
	if code != 0 {
		t.Fatalf("up: exit code %d\n%s", code, errs)
	}
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("up's output: %v\n%s", err, out)
	}
	c, err := newCluster(b.state, cluster)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAPI(c.Path("pki"), s.Server)
	if err != nil {
		t.Fatal(err)
	}
	return s, c, a
}

func (b *bench) status(t *testing.T, cluster string) Status {
	t.Helper()
	out, _, code := b.run(t, cluster, "status", "-o", "json")
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 {
		t.Fatalf("status: exit code %d, %v\n%s", code, err, out)
	}
	return s
}

func await(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := eventually(ctx, what, try); err != nil {
		t.Fatal(err)
	}
}

// deploy creates a Deployment and waits until all its replicas are available.
func deploy(t *testing.T, a *api, name, image string, replicas int) {
	t.Helper()
	labels := object{"app": name}
	err := a.create(t.Context(), "/apis/apps/v1/namespaces/default/deployments", object{
		"metadata": object{"name": name},
		"spec": object{
			"replicas": replicas, "selector": object{"matchLabels": labels},
			"template": object{"metadata": object{"labels": labels}, "spec": object{
				"containers": []object{{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "deployment "+name, func(ctx context.Context) error {
		var d struct {
			Status struct{ AvailableReplicas int }
		}
		if err := a.do(ctx, http.MethodGet, "/apis/apps/v1/namespaces/default/deployments/"+name, nil, &d); err != nil {
			return err
		}
		if d.Status.AvailableReplicas != replicas {
			return fmt.Errorf("%d of %d available", d.Status.AvailableReplicas, replicas)
		}
		return nil
	})
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

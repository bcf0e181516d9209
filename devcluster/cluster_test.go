//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience with one step on a slow machine.
const patience = 90 * time.Second

// bench is a folder of clusters and the program that makes them.
type bench struct {
	t              *testing.T
	program, state string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if _, err := checkMachine(nil); err != nil {
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

// run starts the program on a cluster and returns what it printed and its
// exit code.
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

// up brings a cluster up and says how it is.
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

// deploy makes a Deployment and waits until all of it is available.
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

// trace is what a cluster may leave on the host.
func trace(t *testing.T, c *Cluster, namespace string) (left []string) {
	t.Helper()
	for _, pid := range members(t, namespace) {
		name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		left = append(left, fmt.Sprintf("process %d %s", pid, name))
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Attrs().Name == c.Link() {
			left = append(left, "interface "+c.Link())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), c.Dir) {
		left = append(left, "mounts")
	}
	for _, pattern := range []string{cgroupRoot + c.Cgroup(), cgroupRoot + "/*" + c.Cgroup(), c.Dir} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

// namespaceOf is the process namespace the node runs in. It is held open until
// the test ends: the kernel would give its number out again.
func (b *bench) namespaceOf(t *testing.T, c *Cluster) string {
	t.Helper()
	r, err := c.Record()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/pid", r.Init.PID)
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b.t.Cleanup(func() { held.Close() })
	namespace, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return namespace
}

// members are the processes in a process namespace.
func members(t *testing.T, namespace string) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if now, err := os.Readlink(path); err == nil && now == namespace {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// settings are kernel settings a kubelet changes when nobody stops it.
func settings(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for name := range wantedSettings() {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %s", name, data)
	}
	// Of a map, so in any order; the lines are compared sorted.
	lines := strings.Split(all.String(), "\n")
	return strings.Join(sorted(lines), "\n")
}

func TestCluster(t *testing.T) {
	b := newBench(t)
	before := settings(t)

	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := server.Listener.Addr().String()
	s, c, a := b.up(t, "test", "--registry", host)
	namespace := b.namespaceOf(t, c)

	t.Run("is ready", func(t *testing.T) {
		if s.State != "running" || s.Node == nil || !s.Node.Ready || s.Name != "test" || s.Context != "devcluster-test" {
			t.Errorf("up says %+v", s)
		}
		await(t, "the node", func(ctx context.Context) error { return nodeReady(ctx, a, "test") })
		if now := b.status(t, "test"); now.State != "running" || !now.Node.Ready || now.PID == 0 {
			t.Errorf("status says %+v", now)
		}
		info, err := os.Stat(s.Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the kubeconfig's mode is %v", info.Mode())
		}
	})

	t.Run("up again changes nothing", func(t *testing.T) {
		began := time.Now()
		again, _, _ := b.up(t, "test")
		if again.PID != s.PID || again.Server != s.Server {
			t.Errorf("it was process %d at %s and is %d at %s", s.PID, s.Server, again.PID, again.Server)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
	})

	t.Run("leaves the kernel's settings alone", func(t *testing.T) {
		if now := settings(t); now != before {
			t.Errorf("before:\n%s\nnow:\n%s", before, now)
		}
	})

	t.Run("pulls from the host's registry", func(t *testing.T) {
		r, err := c.Record()
		if err != nil {
			t.Fatal(err)
		}
		image, err := programImage(filepath.Join(r.Programs, "pause"))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewDigest(host + "/order-service@" + digest.String())
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, image); err != nil {
			t.Fatal(err)
		}
		deploy(t, a, "pulled", ref.Name(), 2)
	})

	t.Run("serves a loaded image", func(t *testing.T) {
		dir := t.TempDir()
		goBuild(t, filepath.Join(dir, "hello"), "./testdata/hello")
		image, err := programImage(filepath.Join(dir, "hello"))
		if err != nil {
			t.Fatal(err)
		}
		to, err := layout.Write(filepath.Join(dir, "image"), empty.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := to.AppendImage(image); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := b.run(t, "test", "load", filepath.Join(dir, "image")); code != 2 || !strings.Contains(errs, "--as") {
			t.Errorf("an image without a name: exit code %d", code)
		}
		out, _, code := b.run(t, "test", "load", filepath.Join(dir, "image"), "--as", "devcluster.local/hello:1")
		if code != 0 || strings.TrimSpace(out) != "devcluster.local/hello:1" {
			t.Fatalf("load: exit code %d, %q", code, out)
		}
		deploy(t, a, "hello", "devcluster.local/hello:1", 2)
		var service struct{ Spec struct{ ClusterIP string } }
		err = a.do(t.Context(), http.MethodPost, "/api/v1/namespaces/default/services", object{
			"metadata": object{"name": "hello"},
			"spec":     object{"selector": object{"app": "hello"}, "ports": []object{{"port": 80, "targetPort": 8080}}},
		}, &service)
		if err != nil {
			t.Fatal(err)
		}
		ip, err := netip.ParseAddr(service.Spec.ClusterIP)
		if err != nil || !s.Network.Services.Contains(ip) {
			t.Fatalf("the Service's address is %q: %v", service.Spec.ClusterIP, err)
		}
		expect := func(what, url string) {
			t.Helper()
			await(t, what, func(ctx context.Context) error {
				body, err := get(ctx, url)
				if err == nil && body != "hello" {
					err = fmt.Errorf("%s answers %q", url, body)
				}
				return err
			})
		}
		expect("the Service, from the host", "http://"+ip.String())
		// By name, inside a pod, to either pod behind the Service: itself or
		// the other one on the same node.
		for range 6 {
			expect("the Service, from a pod", "http://"+ip.String()+"/fetch?url="+url.QueryEscape("http://hello.default.svc.cluster.local"))
		}
	})

	t.Run("loads archives and references", func(t *testing.T) {
		r, err := c.Record()
		if err != nil {
			t.Fatal(err)
		}
		image, err := programImage(filepath.Join(r.Programs, "pause"))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		ref, err := name.NewTag(host + "/loaded:1")
		if err != nil {
			t.Fatal(err)
		}
		to, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
		err = errors.Join(err,
			tarball.WriteToFile(filepath.Join(dir, "docker.tar"), ref, image),
			remote.Write(ref, image))
		if err != nil {
			t.Fatal(err)
		}
		named := layout.WithAnnotations(map[string]string{layoutName: "devcluster.local/oci:1"})
		if err := errors.Join(to.AppendImage(image, named), pack(filepath.Join(dir, "layout"), filepath.Join(dir, "oci.tar"))); err != nil {
			t.Fatal(err)
		}
		for as, args := range map[string][]string{
			"devcluster.local/docker:1": {filepath.Join(dir, "docker.tar"), "--as", "devcluster.local/docker:1"},
			"devcluster.local/oci:1":    {filepath.Join(dir, "oci.tar")},
			"devcluster.local/remote:1": {ref.Name(), "--as", "devcluster.local/remote:1"},
		} {
			if out, _, code := b.run(t, "test", append([]string{"load"}, args...)...); code != 0 || strings.TrimSpace(out) != as {
				t.Errorf("load %v: exit code %d, %q", args, code, out)
				continue
			}
			// There is no registry of that name: it is the loaded one or none.
			deploy(t, a, strings.TrimSuffix(filepath.Base(as), ":1"), as, 1)
		}
	})

	t.Run("resolves names", func(t *testing.T) {
		dns := resolver(*s.Network)
		found, err := dns.LookupHost(t.Context(), "hello.default.svc.cluster.local.")
		if err != nil || len(found) != 1 {
			t.Errorf("hello is %v: %v", found, err)
		}
		_, err = dns.LookupHost(t.Context(), "nobody.default.svc.cluster.local.")
		if missing := (*net.DNSError)(nil); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("nobody is %v", err)
		}
	})

	t.Run("enforces Pod Security", func(t *testing.T) {
		err := a.create(t.Context(), "/api/v1/namespaces", object{"metadata": object{
			"name": "strict", "labels": object{"pod-security.kubernetes.io/enforce": "restricted"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		await(t, "the namespace's account", func(ctx context.Context) error {
			return a.do(ctx, http.MethodGet, "/api/v1/namespaces/strict/serviceaccounts/default", nil, nil)
		})
		err = a.do(t.Context(), http.MethodPost, "/api/v1/namespaces/strict/pods", object{
			"metadata": object{"name": "root"},
			"spec": object{"containers": []object{{
				"name": "main", "image": pauseImage, "securityContext": object{"privileged": true},
			}}},
		}, nil)
		if refusal := (*apiError)(nil); !errors.As(err, &refusal) || refusal.code != http.StatusForbidden || !strings.Contains(refusal.message, "privileged") {
			t.Errorf("a privileged pod: %v", err)
		}
	})

	t.Run("takes another beside it", func(t *testing.T) {
		other, otherCluster, otherAPI := b.up(t, "test-two", "--registry", host)
		if other.Network.Pods.Overlaps(s.Network.Pods) || other.Network.Services.Overlaps(s.Network.Services) || other.Server == s.Server {
			t.Errorf("they share addresses: %+v and %+v", s, other)
		}
		for cluster, a := range map[string]*api{"test": a, "test-two": otherAPI} {
			if err := nodeReady(t.Context(), a, cluster); err != nil {
				t.Errorf("node %s: %v", cluster, err)
			}
		}

		// A server that dies takes its node along, and is named.
		for _, pid := range members(t, b.namespaceOf(t, otherCluster)) {
			line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
			if strings.Contains(string(line), "\x00kube-scheduler\x00") {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		await(t, "the failure", func(context.Context) error {
			if s := b.status(t, "test-two"); s.State != "broken" || !strings.Contains(s.Reason, "kube-scheduler ended (signal: killed)") {
				return fmt.Errorf("status says %s: %s", s.State, s.Reason)
			}
			return nil
		})
		if _, _, code := b.run(t, "test-two", "down"); code != 0 {
			t.Fatalf("down: exit code %d", code)
		}
		if err := nodeReady(t.Context(), a, "test"); err != nil {
			t.Errorf("the first one: %v", err)
		}
	})

	t.Run("comes back after a crash", func(t *testing.T) {
		if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, "the node's end", func(context.Context) error {
			if left := members(t, namespace); len(left) > 0 {
				return fmt.Errorf("%d processes are left", len(left))
			}
			return nil
		})
		if now := b.status(t, "test"); now.State != "broken" {
			t.Errorf("status says %+v", now)
		}
		var again Status
		again, c, a = b.up(t, "test", "--registry", host)
		namespace = b.namespaceOf(t, c)
		if again.PID == s.PID {
			t.Error("it is the same process")
		}
		deploy(t, a, "after", pauseImage, 1)
	})

	t.Run("goes without a trace", func(t *testing.T) {
		if left := trace(t, c, namespace); len(left) < 10 {
			t.Fatalf("the running cluster shows in %q only", left)
		}
		for range 2 {
			if _, _, code := b.run(t, "test", "down"); code != 0 {
				t.Fatalf("down: exit code %d", code)
			}
		}
		if left := trace(t, c, namespace); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		if entries, err := os.ReadDir(b.state); err != nil || len(entries) > 0 {
			t.Errorf("the state folder holds %v: %v", entries, err)
		}
		if now := b.status(t, "test"); now.State != "stopped" {
			t.Errorf("status says %+v", now)
		}
		if now := settings(t); now != before {
			t.Errorf("kernel settings before:\n%s\nnow:\n%s", before, now)
		}
	})
}

func TestServices(t *testing.T) {
	b := newBench(t)
	if missing := missingServicePackages(serviceNames()); len(missing) > 0 {
		t.Skipf("not installed: %v", missing)
	}
	s, _, a := b.up(t, "services", "--services", "postgres,redis")
	address := func(name string, port int) string {
		found, err := resolver(*s.Network).LookupHost(t.Context(), name+".backing.svc.cluster.local.")
		if err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort(found[0], strconv.Itoa(port))
	}
	ask := func(address, question string, length int) string {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		answer := make([]byte, length)
		if _, err := conn.Write([]byte(question)); err == nil {
			_, err = io.ReadFull(conn, answer)
		}
		if err != nil {
			t.Errorf("asking %s: %v, %q", address, err, answer)
		}
		return string(answer)
	}
	if got := ask(address("redis", 6379), "PING\r\n", 7); got != "+PONG\r\n" {
		t.Errorf("redis answers %q", got)
	}
	// Protocol 3.0 for app's database; the answer is a request to log in by SCRAM.
	hello := "\x00\x03\x00\x00user\x00app\x00database\x00orders\x00\x00"
	hello = string([]byte{0, 0, 0, byte(len(hello) + 4)}) + hello
	if got := ask(address("postgres", 5432), hello, 22); got[0] != 'R' || !strings.Contains(got, "SCRAM-SHA-256") {
		t.Errorf("postgres answers %q", got)
	}
	// The password, by the client of the same package, where it is installed.
	if psql, err := lookPath("psql"); err == nil {
		host, port, _ := net.SplitHostPort(address("postgres", 5432))
		for password, good := range map[string]bool{"only-on-devcluster": true, "wrong": false} {
			command := exec.CommandContext(t.Context(), psql, "-h", host, "-p", port, "-U", "app", "-Atc", "CREATE TABLE IF NOT EXISTS t (a int); SELECT current_user", "orders")
			command.Env = append(os.Environ(), "PGPASSWORD="+password)
			out, err := command.CombinedOutput()
			if (err == nil) != good || good && !strings.Contains(string(out), "app") {
				t.Errorf("password %s: %v\n%s", password, err, out)
			}
		}
	}
	var pods struct {
		Items []struct {
			Status struct {
				ContainerStatuses []struct{ RestartCount int }
			}
		}
	}
	if err := a.do(t.Context(), http.MethodGet, "/api/v1/namespaces/backing/pods", nil, &pods); err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 2 {
		t.Errorf("%d pods", len(pods.Items))
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Status.ContainerStatuses {
			if container.RestartCount > 0 {
				t.Errorf("a service restarted %d times", container.RestartCount)
			}
		}
	}
}

// An interrupt takes down what was begun; it comes while the API server starts.
func TestInterruptedUpLeavesNothing(t *testing.T) {
	b := newBench(t)
	// Built beforehand, or the interrupt would hit the build.
	b.up(t, "built")
	b.run(t, "built", "down")
	command := exec.Command(b.program, "up", "--name", "interrupted", "--state-dir", b.state)
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := newCluster(b.state, "interrupted")
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	namespace := ""
	for chunk := make([]byte, 4096); ; {
		n, err := stderr.Read(chunk)
		said.Write(chunk[:n])
		if err != nil {
			break
		}
		if namespace == "" && strings.Contains(said.String(), "etcd answers") {
			namespace = b.namespaceOf(t, c)
			if err := command.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d\n%s", code, said.String())
	}
	if left := trace(t, c, namespace); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

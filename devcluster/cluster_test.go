//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
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
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// clusterTest is a running cluster that the subtests of TestCluster share. They
// run in order.
type clusterTest struct {
	*bench
	host      string // the registry on the host
	settings  string // the kernel settings before the cluster started
	first     Status // what the first up printed
	cluster   *Cluster
	api       *api
	namespace string // of the node's processes
}

func TestCluster(t *testing.T) {
	k := &clusterTest{bench: newBench(t), settings: settings(t)}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	k.host = server.Listener.Addr().String()
	k.first, k.cluster, k.api = k.up(t, "test", "--registry", k.host)
	k.namespace = k.namespaceOf(t, k.cluster)

	t.Run("is ready", k.isReady)
	t.Run("up again changes nothing", k.upAgain)
	t.Run("leaves the kernel's settings alone", k.keepsSettings)
	t.Run("pulls from the host's registry", k.pulls)
	t.Run("serves a loaded image", k.serves)
	t.Run("loads archives and references", k.loads)
	t.Run("reaches Services from the node", k.reachesServices)
	t.Run("resolves names", k.resolvesNames)
	t.Run("enforces Pod Security", k.enforcesPodSecurity)
	t.Run("encrypts Secrets", k.encryptsSecrets)
	t.Run("runs at the same time as another", k.runsNextToAnother)
	t.Run("starts again after a crash", k.startsAfterCrash)
	t.Run("leaves no trace", k.leavesNoTrace)
}

func (k *clusterTest) isReady(t *testing.T) {
	if k.first.State != stateRunning || k.first.Node == nil || !k.first.Node.Ready || k.first.Name != "test" || k.first.Context != "devcluster-test" {
		t.Errorf("up says %+v", k.first)
	}
	await(t, "the node to be Ready", func(ctx context.Context) error { return nodeReady(ctx, k.api, "test") })
	if now := k.status(t, "test"); now.State != stateRunning || !now.Node.Ready || now.PID == 0 {
		t.Errorf("status says %+v", now)
	}
	info, err := os.Stat(k.first.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig's mode is %v", info.Mode())
	}
}

func (k *clusterTest) upAgain(t *testing.T) {
	began := time.Now()
	again, _, _ := k.up(t, "test")
	if again.PID != k.first.PID || again.Server != k.first.Server {
		t.Errorf("it was process %d at %s and is %d at %s", k.first.PID, k.first.Server, again.PID, again.Server)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

func (k *clusterTest) keepsSettings(t *testing.T) {
	if now := settings(t); now != k.settings {
		t.Errorf("before:\n%s\nnow:\n%s", k.settings, now)
	}
}

func (k *clusterTest) pulls(t *testing.T) {
	r, err := k.cluster.Record()
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
	ref, err := name.NewDigest(k.host + "/order-service@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	deploy(t, k.api, "pulled", ref.Name(), 2)
}

func (k *clusterTest) serves(t *testing.T) {
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
	if _, errs, code := k.run(t, "test", "load", filepath.Join(dir, "image")); code != 2 || !strings.Contains(errs, "--as") {
		t.Errorf("an image without a name: exit code %d", code)
	}
	out, _, code := k.run(t, "test", "load", filepath.Join(dir, "image"), "--as", "devcluster.local/hello:1")
	if code != 0 || strings.TrimSpace(out) != "devcluster.local/hello:1" {
		t.Fatalf("load: exit code %d, %q", code, out)
	}
	deploy(t, k.api, "hello", "devcluster.local/hello:1", 2)
	var service struct{ Spec struct{ ClusterIP string } }
	err = k.api.do(t.Context(), http.MethodPost, "/api/v1/namespaces/default/services", object{
		"metadata": object{"name": "hello"},
		"spec":     object{"selector": object{"app": "hello"}, "ports": []object{{"port": 80, "targetPort": 8080}}},
	}, &service)
	if err != nil {
		t.Fatal(err)
	}
	ip, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil || !k.first.Network.Services.Contains(ip) {
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
	// A pod connects to the Service by name. Some of the requests go to the pod
	// itself, others to the second pod on the same node.
	for range 6 {
		expect("the Service, from a pod", "http://"+ip.String()+"/fetch?url="+url.QueryEscape("http://hello.default.svc.cluster.local"))
	}
}

func (k *clusterTest) loads(t *testing.T) {
	r, err := k.cluster.Record()
	if err != nil {
		t.Fatal(err)
	}
	image, err := programImage(filepath.Join(r.Programs, "pause"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ref, err := name.NewTag(k.host + "/loaded:1")
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
		if out, _, code := k.run(t, "test", append([]string{"load"}, args...)...); code != 0 || strings.TrimSpace(out) != as {
			t.Errorf("load %v: exit code %d, %q", args, code, out)
			continue
		}
		// There is no registry of that name, so the pods run only if the image
		// was loaded.
		deploy(t, k.api, strings.TrimSuffix(filepath.Base(as), ":1"), as, 1)
	}
}

func (k *clusterTest) resolvesNames(t *testing.T) {
	dns := resolver(*k.first.Network)
	found, err := dns.LookupHost(t.Context(), "hello.default.svc.cluster.local.")
	if err != nil || len(found) != 1 {
		t.Errorf("hello is %v: %v", found, err)
	}
	_, err = dns.LookupHost(t.Context(), "nobody.default.svc.cluster.local.")
	if missing := (*net.DNSError)(nil); !errors.As(err, &missing) || !missing.IsNotFound {
		t.Errorf("nobody is %v", err)
	}
}

func (k *clusterTest) enforcesPodSecurity(t *testing.T) {
	err := k.api.create(t.Context(), "/api/v1/namespaces", object{"metadata": object{
		"name": "strict", "labels": object{"pod-security.kubernetes.io/enforce": "restricted"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the service account of the namespace", func(ctx context.Context) error {
		return k.api.do(ctx, http.MethodGet, "/api/v1/namespaces/strict/serviceaccounts/default", nil, nil)
	})
	err = k.api.do(t.Context(), http.MethodPost, "/api/v1/namespaces/strict/pods", object{
		"metadata": object{"name": "root"},
		"spec": object{"containers": []object{{
			"name": "main", "image": pauseImage, "securityContext": object{"privileged": true},
		}}},
	}, nil)
	if refusal := (*apiError)(nil); !errors.As(err, &refusal) || refusal.code != http.StatusForbidden || !strings.Contains(refusal.message, "privileged") {
		t.Errorf("a privileged pod: %v", err)
	}
}

// reachesServices connects to the Service kubernetes in the network namespace of the node, as
// the API server connects to webhooks.
func (k *clusterTest) reachesServices(t *testing.T) {
	inside, err := netns.GetFromPid(members(t, k.namespace)[0])
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	address := netip.AddrPortFrom(k.first.Network.ServiceIP(1), 443).String()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		if err := netns.Set(inside); err != nil {
			failed <- err
			return
		}
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err == nil {
			err = conn.Close()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Errorf("connecting to %s: %v", address, err)
	}
}

// encryptsSecrets looks for the value of a Secret, and of a ConfigMap, in the files of etcd.
func (k *clusterTest) encryptsSecrets(t *testing.T) {
	const secret, public = "planted-value-of-a-secret", "planted-value-of-a-configmap"
	for path, data := range map[string]object{
		"/api/v1/namespaces/default/secrets":    {"metadata": object{"name": "planted"}, "stringData": object{"key": secret}},
		"/api/v1/namespaces/default/configmaps": {"metadata": object{"name": "planted"}, "data": object{"key": public}},
	} {
		if err := k.api.create(t.Context(), path, data); err != nil {
			t.Fatal(err)
		}
	}
	found := map[string]bool{}
	err := filepath.WalkDir(k.cluster.Path("etcd"), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(file)
		for _, text := range []string{secret, public, "k8s:enc:secretbox:v1:devcluster:"} {
			found[text] = found[text] || bytes.Contains(raw, []byte(text))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found[secret] || !found[public] || !found["k8s:enc:secretbox:v1:devcluster:"] {
		t.Errorf("found in the files of etcd: %v", found)
	}
}

func (k *clusterTest) runsNextToAnother(t *testing.T) {
	other, otherCluster, otherAPI := k.up(t, "test-two", "--registry", k.host)
	if other.Network.Pods.Overlaps(k.first.Network.Pods) || other.Network.Services.Overlaps(k.first.Network.Services) || other.Server == k.first.Server {
		t.Errorf("they share addresses: %+v and %+v", k.first, other)
	}
	for cluster, client := range map[string]*api{"test": k.api, "test-two": otherAPI} {
		if err := nodeReady(t.Context(), client, cluster); err != nil {
			t.Errorf("node %s: %v", cluster, err)
		}
	}

	// When a server ends, the node stops, and the status names the server.
	for _, pid := range members(t, k.namespaceOf(t, otherCluster)) {
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if strings.Contains(string(line), "\x00kube-scheduler\x00") {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, "the node to fail", func(context.Context) error {
		if now := k.status(t, "test-two"); now.State != stateBroken || !strings.Contains(now.Reason, "kube-scheduler ended (signal: killed)") {
			return fmt.Errorf("status says %s: %s", now.State, now.Reason)
		}
		return nil
	})
	if _, _, code := k.run(t, "test-two", "down"); code != 0 {
		t.Fatalf("down: exit code %d", code)
	}
	if err := nodeReady(t.Context(), k.api, "test"); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func (k *clusterTest) startsAfterCrash(t *testing.T) {
	if err := unix.Kill(k.first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the node to end", func(context.Context) error {
		if left := members(t, k.namespace); len(left) > 0 {
			return fmt.Errorf("%d processes are left", len(left))
		}
		return nil
	})
	if now := k.status(t, "test"); now.State != stateBroken {
		t.Errorf("status says %+v", now)
	}
	var again Status
	again, k.cluster, k.api = k.up(t, "test", "--registry", k.host)
	k.namespace = k.namespaceOf(t, k.cluster)
	if again.PID == k.first.PID {
		t.Error("it is the same process")
	}
	deploy(t, k.api, "after", pauseImage, 1)
}

func (k *clusterTest) leavesNoTrace(t *testing.T) {
	if left := trace(t, k.cluster, k.namespace); len(left) < 10 {
		t.Fatalf("only these traces of the running cluster were found: %q", left)
	}
	for range 2 {
		if _, _, code := k.run(t, "test", "down"); code != 0 {
			t.Fatalf("down: exit code %d", code)
		}
	}
	if left := trace(t, k.cluster, k.namespace); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if entries, err := os.ReadDir(k.state); err != nil || len(entries) > 0 {
		t.Errorf("the state directory contains %v: %v", entries, err)
	}
	if now := k.status(t, "test"); now.State != stateStopped {
		t.Errorf("status says %+v", now)
	}
	if now := settings(t); now != k.settings {
		t.Errorf("kernel settings before:\n%s\nnow:\n%s", k.settings, now)
	}
}

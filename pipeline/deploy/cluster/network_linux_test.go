package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"
)

// place is a pod of the test, whose network namespace the test enters.
type place struct {
	ip    string
	space int // an open file of the network namespace
}

// within runs f in the network namespace of the pod.
func (p place) within(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		if err := unix.Setns(p.space, unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// listen accepts connections, or answers packets, on a port of the pod.
func (p place) listen(t *testing.T, network string, port int) {
	t.Helper()
	address := ":" + strconv.Itoa(port)
	err := p.within(func() error {
		if network == "udp" {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = conn.Close() })
			go func() {
				buffer := make([]byte, 16)
				for {
					n, from, err := conn.ReadFrom(buffer)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo(buffer[:n], from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatalf("listening on %s %d: %v", network, port, err)
	}
}

// reaches reports whether the pod reaches a port of another one.
func (p place) reaches(ctx context.Context, to place, network string, port int) bool {
	err := p.within(func() error {
		ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(to.ip, strconv.Itoa(port)))
		if err != nil || network == "tcp" {
			if err == nil {
				err = conn.Close()
			}
			return err
		}
		deadline, _ := ctx.Deadline()
		_, err = conn.Write([]byte("x"))
		err = errors.Join(err, conn.SetReadDeadline(deadline))
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		return errors.Join(err, conn.Close())
	})
	return err == nil
}

// start starts a pod in a namespace, and creates the namespace if it does not exist.
func (p *testRelease) start(t *testing.T, namespace, name string, labels map[string]string) place {
	t.Helper()
	namespaces := p.Client.CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err == nil {
		t.Cleanup(func() { _ = namespaces.Delete(context.WithoutCancel(t.Context()), namespace, metav1.DeleteOptions{}) })
	}
	pods := p.Client.CoreV1().Pods(namespace)
	var pod *core.Pod
	err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		var err error // until the namespace has its service account
		pod, err = pods.Create(ctx, &core.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec: core.PodSpec{TerminationGracePeriodSeconds: new(int64(0)), Containers: []core.Container{{
				Name: "app", Image: p.image.Name(), Args: []string{"idle"},
				Ports: []core.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}},
			}}},
		}, metav1.CreateOptions{})
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		pod, err = pods.Get(ctx, name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == core.PodRunning && pod.Status.PodIP != "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	return place{pod.Status.PodIP, spaceOf(t, string(pod.UID))}
}

// spaceOf returns the network namespace of a pod, whose processes are in control groups that
// have its UID in their name. Without access to them it skips the test.
func spaceOf(t *testing.T, uid string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(raw), uid) {
			continue
		}
		space, err := unix.Open(filepath.Join(filepath.Dir(file), "ns", "net"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skipf("the network namespaces of pods cannot be entered: %v", err)
		}
		t.Cleanup(func() { _ = unix.Close(space) })
		return space
	}
	t.Skip("the processes of pods are not on this machine")
	return 0
}

// policyOf returns the NetworkPolicy that the chart order-service has with its guide values.
func policyOf(t *testing.T, namespace string) *networking.NetworkPolicy {
	t.Helper()
	const charts = "../../../charts/"
	ch, err := loader.Load(charts + "order-service")
	if err != nil {
		t.Fatal(err)
	}
	library, err := loader.Load(charts + "service/charts/workload")
	if err != nil {
		t.Fatal(err)
	}
	ch.AddDependency(library)
	values, err := chartutil.ReadValuesFile(charts + "order-service/ci/guide-values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(new(action.Configuration))
	install.ReleaseName, install.Namespace, install.ClientOnly, install.DryRun = "orders", namespace, true, true
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.34.2", Major: "1", Minor: "34"}
	r, err := install.RunWithContext(t.Context(), ch, values)
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(r.Manifest, "\n---\n") {
		var policy networking.NetworkPolicy
		if yaml.Unmarshal([]byte(doc), &policy) == nil && policy.Kind == "NetworkPolicy" {
			return &policy
		}
	}
	t.Fatal("the chart has no NetworkPolicy")
	return nil
}

// startPlaces starts the order service, what it talks to, and others, and lets them listen.
func (p *testRelease) startPlaces(t *testing.T) map[string]place {
	t.Helper()
	shop := p.o.Namespace
	labels := map[string]string{"app.kubernetes.io/name": "order-service", "app.kubernetes.io/instance": "orders"}
	places := map[string]place{
		"orders":     p.start(t, shop, "orders", labels),
		"payment":    p.start(t, shop, "payment", map[string]string{"app.kubernetes.io/instance": "payment"}),
		"inventory":  p.start(t, shop, "inventory", map[string]string{"app.kubernetes.io/instance": "inventory"}),
		"neighbour":  p.start(t, shop, "neighbour", nil),
		"ingress":    p.start(t, "ingress-nginx", "controller", nil),
		"monitoring": p.start(t, "monitoring", "prometheus", nil),
		"stranger":   p.start(t, shop+"-x", "stranger", nil),
	}
	for _, port := range []int{8080, 9090} {
		places["orders"].listen(t, "tcp", port)
	}
	for _, name := range []string{"payment", "inventory", "neighbour"} {
		places[name].listen(t, "tcp", 8080)
	}
	for _, port := range []int{53, 4317, 5432, 5433, 6379} {
		places["neighbour"].listen(t, "tcp", port)
	}
	places["neighbour"].listen(t, "udp", 53)
	places["neighbour"].listen(t, "udp", 123)
	places["payment"].listen(t, "tcp", 9090)
	return places
}

// TestNetworkPolicy applies the NetworkPolicy of the order service, which kube-router enforces,
// and tries every way that it allows and others that it does not.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	p := newTestRelease(t)
	if _, err := exec.LookPath("ipset"); err != nil {
		t.Skip("ipset is missing, which kube-router needs; make tools installs it")
	}
	shop := p.o.Namespace
	places := p.startPlaces(t)
	router := p.AddonOf(t, "kuberouter", "github.com/cloudnativelabs/kube-router/v2", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router")
	api, err := p.Client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.applyFile(t, "../../../devcluster/kuberouter/kuberouter.yaml", "IMAGE", router.Image.Name(), "SERVICES", api.Spec.ClusterIP+"/32")
	if _, err := p.Client.NetworkingV1().NetworkPolicies(shop).Create(t.Context(), policyOf(t, shop), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		from, to, network string
		port              int
		allowed           bool
	}{
		{"stranger", "orders", "tcp", 8080, false}, // first, so that the others begin when rules are in force
		{"stranger", "orders", "tcp", 9090, false},
		{"neighbour", "orders", "tcp", 8080, false},
		{"ingress", "orders", "tcp", 8080, true},
		{"ingress", "orders", "tcp", 9090, false},
		{"monitoring", "orders", "tcp", 9090, true},
		{"monitoring", "orders", "tcp", 8080, false},
		{"orders", "neighbour", "udp", 53, true},
		{"orders", "neighbour", "tcp", 53, true},
		{"orders", "neighbour", "tcp", 5432, true},
		{"orders", "neighbour", "tcp", 6379, true},
		{"orders", "neighbour", "tcp", 4317, true},
		{"orders", "neighbour", "tcp", 5433, false},
		{"orders", "neighbour", "tcp", 8080, false},
		{"orders", "neighbour", "udp", 123, false},
		{"orders", "payment", "tcp", 8080, true},
		{"orders", "payment", "tcp", 9090, false},
		{"orders", "inventory", "tcp", 8080, true},
		{"stranger", "neighbour", "tcp", 5433, true}, // pods that the policy does not select
		{"stranger", "payment", "tcp", 9090, true},
	} {
		name := fmt.Sprintf("%s to %s %s %d", tt.from, tt.to, tt.network, tt.port)
		if !tt.allowed && tt.from == "orders" {
			// What is refused must not be refused for want of a listener.
			if !places["stranger"].reaches(t.Context(), places[tt.to], tt.network, tt.port) {
				t.Errorf("%s: nothing listens there", name)
			}
		}
		same := 0 // attempts in a row; a single one can fail by chance
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			if places[tt.from].reaches(ctx, places[tt.to], tt.network, tt.port) == tt.allowed {
				same++
			} else {
				same = 0
			}
			return same == 4, nil
		})
		if err != nil {
			t.Errorf("%s: allowed is not %t", name, tt.allowed)
		}
	}
}

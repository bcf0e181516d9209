//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// pauseImage is what containerd starts for every pod's sandbox; devcluster
// makes it.
const pauseImage = "devcluster.local/pause:1"

// insideBin is where the node sees the programs devcluster built.
const insideBin = "/run/devcluster-bin"

// server is one of the node's processes.
type server struct {
	name string
	argv []string
}

// servers are the command lines of the node, by name.
func servers(c *Cluster, r *Record) map[string]server {
	pki := func(name string) string { return path.Join(insideState, "pki", name) }
	conf := func(name string) string { return path.Join(insideState, "conf", name) }
	n := r.Network
	all := map[string]server{}
	add := func(name string, flags ...string) {
		all[name] = server{name, append([]string{path.Join(insideBin, "node"), name}, flags...)}
	}
	all["containerd"] = server{"containerd", []string{"containerd", "--config", conf("containerd.toml")}}
	add("etcd",
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		// The data is gone with the cluster anyway.
		"--unsafe-no-fsync", "--log-level=warn")
	add("kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+n.Node.String(), "--bind-address=0.0.0.0", "--secure-port=6443",
		"--tls-cert-file="+pki("apiserver.crt"), "--tls-private-key-file="+pki("apiserver.key"),
		"--client-ca-file="+pki("ca.crt"),
		"--kubelet-client-certificate="+pki("kubelet-client.crt"), "--kubelet-client-key="+pki("kubelet-client.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki("sa.pub"), "--service-account-signing-key-file="+pki("sa.key"),
		"--service-cluster-ip-range="+n.Services.String(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--requestheader-client-ca-file="+pki("front-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+pki("front-proxy.crt"), "--proxy-client-key-file="+pki("front-proxy.key"),
		"--allow-privileged=true")
	own := func(name string) []string {
		k := pki(name)
		return []string{
			"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
			"--leader-elect=false", "--bind-address=127.0.0.1",
		}
	}
	add("kube-controller-manager", append(own("controller-manager.kubeconfig"),
		"--use-service-account-credentials",
		// Nobody else is throttled by it: its controllers start sooner.
		"--kube-api-qps=500", "--kube-api-burst=1000",
		// It would make the default one, below /usr.
		"--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
		"--service-account-private-key-file="+pki("sa.key"), "--root-ca-file="+pki("ca.crt"),
		"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"),
		"--allocate-node-cidrs", "--cluster-cidr="+n.Pods.String(),
		fmt.Sprintf("--node-cidr-mask-size=%d", n.Pods.Bits()),
		"--service-cluster-ip-range="+n.Services.String())...)
	add("kube-scheduler", own("scheduler.kubeconfig")...)
	add("kubelet",
		"--config="+conf("kubelet.yaml"), "--kubeconfig="+pki("kubelet.kubeconfig"),
		"--hostname-override="+c.Name, "--node-ip="+n.Node.String(), "--cert-dir=/var/lib/kubelet/pki")
	add("kube-proxy", "--config="+conf("kube-proxy.yaml"))
	add("coredns", "-conf", conf("Corefile"))
	return all
}

// writeConfiguration writes what the servers read besides their flags. cni is
// the folder of the CNI plugins.
func writeConfiguration(c *Cluster, r *Record, cni string) error {
	n := r.Network
	pki := func(name string) string { return path.Join(insideState, "pki", name) }
	conf := path.Join(insideState, "conf")

	// ptp gives every pod a routed link of its own. A bridge would need the
	// br_netfilter module for pods to reach each other through a Service.
	network, err := json.MarshalIndent(map[string]any{
		"cniVersion": "0.4.0",
		"name":       "devcluster",
		"plugins": []any{
			map[string]any{"type": "ptp", "ipMasq": false, "ipam": map[string]any{
				"type": "host-local", "dataDir": "/run/cni-addresses",
				"ranges": []any{[]any{map[string]any{"subnet": n.Pods.String()}}},
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			}},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the pod network's configuration: %w", err)
	}

	files := map[string]string{
		"conf/cni/10-devcluster.conflist": string(network),
		"conf/resolv.conf":                "nameserver " + n.DNS().String() + "\n",
		"conf/containerd.toml": fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %q
`, containerdSocket, pauseImage, snapshotter(c.Dir), cni, path.Join(conf, "cni"), path.Join(conf, "registries")),

		// Nothing is evicted or collected for want of disk: how full the
		// developer's disk is says nothing about the application.
		"conf/kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[2]s}
authorization: {mode: Webhook}
tlsCertFile: %[3]s
tlsPrivateKeyFile: %[4]s
cgroupDriver: cgroupfs
cgroupRoot: %[5]s
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://%[6]s
volumePluginDir: /var/lib/kubelet/volume-plugins
clusterDomain: cluster.local
clusterDNS: [%[7]s]
resolvConf: %[8]s/resolv.conf
maxPods: 110
serializeImagePulls: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
`, n.Node, pki("ca.crt"), pki("kubelet.crt"), pki("kubelet.key"), c.Cgroup(), containerdSocket, n.DNS(), conf),

		// The limits of conntrack are the whole machine's: left as they are.
		"conf/kube-proxy.yaml": fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: %s
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, n.Pods, c.Name, pki("proxy.kubeconfig")),

		"conf/Corefile": fmt.Sprintf(`. {
	bind %s
	errors
	ready 127.0.0.1:8181
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		kubeconfig %s
		pods insecure
	}
	cache 5
}
`, n.DNS(), pki("coredns.kubeconfig")),
	}
	for _, registry := range r.Registries {
		files[filepath.Join("conf/registries", registry, "hosts.toml")] = fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+registry, "http://"+registry)
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(c.Path(name)), 0o755); err != nil {
			return fmt.Errorf("writing the node's configuration: %w", err)
		}
		if err := os.WriteFile(c.Path(name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing the node's configuration: %w", err)
		}
	}
	for folder := range nodeFolders() {
		if err := os.MkdirAll(c.Path(folder), 0o711); err != nil {
			return fmt.Errorf("making the node's folders: %w", err)
		}
	}
	return os.MkdirAll(c.Path("log", "pods"), 0o755)
}

// lastLines ends an error message with what the server itself had to say.
func lastLines(file string, count int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

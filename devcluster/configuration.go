//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// writeConfiguration writes the configuration files of the servers and creates
// the directories that are mounted in the node. cni is the directory of the CNI
// plugins.
func writeConfiguration(c *Cluster, r *Record, cni string) error {
	network, err := cniConfiguration(r.Network)
	if err != nil {
		return err
	}
	files := map[string]string{
		"conf/cni/10-devcluster.conflist": network,
		"conf/resolv.conf":                "nameserver " + r.Network.DNS().String() + "\n",
		"conf/containerd.toml":            containerdConfiguration(c, cni),
		"conf/kubelet.yaml":               kubeletConfiguration(c, r.Network),
		"conf/kube-proxy.yaml":            kubeProxyConfiguration(c, r.Network),
		"conf/Corefile":                   coreDNSConfiguration(r.Network),
	}
	for _, registry := range r.Registries {
		files[filepath.Join("conf/registries", registry, "hosts.toml")] = registryConfiguration(registry)
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(c.Path(name)), 0o755); err != nil {
			return fmt.Errorf("writing the node's configuration: %w", err)
		}
		if err := os.WriteFile(c.Path(name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing the node's configuration: %w", err)
		}
	}
	for dir := range nodeDirs() {
		if err := os.MkdirAll(c.Path(dir), 0o711); err != nil {
			return fmt.Errorf("creating the node's directories: %w", err)
		}
	}
	return os.MkdirAll(c.Path("log", "pods"), 0o755)
}

// cniConfiguration configures the pods' network. The plugin ptp gives every pod
// its own routed link. With a bridge, pods could reach each other through a
// Service only if the host had the kernel module br_netfilter.
func cniConfiguration(n Network) (string, error) {
	data, err := json.MarshalIndent(map[string]any{
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
		return "", fmt.Errorf("encoding the configuration of the pods' network: %w", err)
	}
	return string(data), nil
}

func containerdConfiguration(c *Cluster, cni string) string {
	return fmt.Sprintf(`version = 2
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
`, containerdSocket, pauseImage, snapshotter(c.Dir), cni, confFile("cni"), confFile("registries"))
}

// kubeletConfiguration disables evictions and the garbage collection of images,
// because how full the developer's disk is has nothing to do with the
// application.
func kubeletConfiguration(c *Cluster, n Network) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
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
resolvConf: %[8]s
maxPods: 110
serializeImagePulls: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
`, n.Node, pkiFile("ca.crt"), pkiFile("kubelet.crt"), pkiFile("kubelet.key"),
		c.Cgroup(), containerdSocket, n.DNS(), confFile("resolv.conf"))
}

// kubeProxyConfiguration leaves the limits of conntrack unchanged, because they
// apply to the whole machine.
func kubeProxyConfiguration(c *Cluster, n Network) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: %s
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, n.Pods, c.Name, pkiFile("proxy.kubeconfig"))
}

func coreDNSConfiguration(n Network) string {
	return fmt.Sprintf(`. {
	bind %s
	errors
	ready 127.0.0.1:8181
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		kubeconfig %s
		pods insecure
	}
	cache 5
}
`, n.DNS(), pkiFile("coredns.kubeconfig"))
}

// registryConfiguration makes containerd pull from a registry over plain HTTP.
func registryConfiguration(registry string) string {
	return fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+registry, "http://"+registry)
}

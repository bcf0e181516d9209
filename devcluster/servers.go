//go:build linux

package main

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// pauseImage is the image of the container that holds the namespaces of a pod.
// devcluster builds it.
const pauseImage = "devcluster.local/pause:1"

// insideBin is the path in the node of the programs that devcluster built.
const insideBin = "/run/devcluster-bin"

// server is a server process of the node.
type server struct {
	name string
	argv []string
}

// pkiFile returns the path in the node of a certificate, key or kubeconfig.
func pkiFile(name string) string { return path.Join(insideState, "pki", name) }

// confFile returns the path in the node of a configuration file.
func confFile(name string) string { return path.Join(insideState, "conf", name) }

// servers returns the command lines of the node's servers, by server name.
func servers(c *Cluster, r *Record) map[string]server {
	n := r.Network
	all := map[string]server{}
	add := func(name string, flags ...string) {
		all[name] = server{name, append([]string{path.Join(insideBin, "node"), name}, flags...)}
	}
	all["containerd"] = server{"containerd", []string{"containerd", "--config", confFile("containerd.toml")}}
	add("etcd",
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		// The data is deleted together with the cluster.
		"--unsafe-no-fsync", "--log-level=warn")
	add("kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+n.Node.String(), "--bind-address=0.0.0.0", "--secure-port=6443",
		"--tls-cert-file="+pkiFile("apiserver.crt"), "--tls-private-key-file="+pkiFile("apiserver.key"),
		"--client-ca-file="+pkiFile("ca.crt"),
		"--kubelet-client-certificate="+pkiFile("kubelet-client.crt"), "--kubelet-client-key="+pkiFile("kubelet-client.key"),
		"--kubelet-certificate-authority="+pkiFile("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pkiFile("sa.pub"), "--service-account-signing-key-file="+pkiFile("sa.key"),
		"--service-cluster-ip-range="+n.Services.String(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--requestheader-client-ca-file="+pkiFile("front-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+pkiFile("front-proxy.crt"), "--proxy-client-key-file="+pkiFile("front-proxy.key"),
		"--encryption-provider-config="+pkiFile("encryption.yaml"),
		"--allow-privileged=true")
	own := func(name string) []string {
		k := pkiFile(name)
		return []string{
			"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
			"--leader-elect=false", "--bind-address=127.0.0.1",
		}
	}
	add("kube-controller-manager", append(own("controller-manager.kubeconfig"),
		"--use-service-account-credentials",
		// With the default limits its many controllers take longer to start.
		"--kube-api-qps=500", "--kube-api-burst=1000",
		// The default directory is in /usr, which is read-only in the node.
		"--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
		"--service-account-private-key-file="+pkiFile("sa.key"), "--root-ca-file="+pkiFile("ca.crt"),
		"--cluster-signing-cert-file="+pkiFile("ca.crt"), "--cluster-signing-key-file="+pkiFile("ca.key"),
		"--allocate-node-cidrs", "--cluster-cidr="+n.Pods.String(),
		fmt.Sprintf("--node-cidr-mask-size=%d", n.Pods.Bits()),
		"--service-cluster-ip-range="+n.Services.String())...)
	add("kube-scheduler", own("scheduler.kubeconfig")...)
	add("kubelet",
		"--config="+confFile("kubelet.yaml"), "--kubeconfig="+pkiFile("kubelet.kubeconfig"),
		"--hostname-override="+c.Name, "--node-ip="+n.Node.String(), "--cert-dir=/var/lib/kubelet/pki")
	add("kube-proxy", "--config="+confFile("kube-proxy.yaml"))
	add("coredns", "-conf", confFile("Corefile"))
	return all
}

// lastLines returns up to count of the last lines of a file, or "" if the file
// cannot be read.
func lastLines(file string, count int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

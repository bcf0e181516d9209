// Command node holds every server of a one-node Kubernetes cluster in one
// program: devcluster builds it once and starts it under several names.
//
// It is built from Kubernetes', etcd's and CoreDNS's own packages; nothing in
// here changes what they do.
package main

import (
	"context"
	"fmt"
	"os"
	_ "time/tzdata" // CronJobs may name a time zone

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"       // registers itself
	_ "github.com/coredns/coredns/plugin/cache"      // registers itself
	_ "github.com/coredns/coredns/plugin/errors"     // registers itself
	_ "github.com/coredns/coredns/plugin/kubernetes" // registers itself
	_ "github.com/coredns/coredns/plugin/ready"      // registers itself
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the JSON log format
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	// Every server reads its own command line, with its own name in front.
	os.Args = os.Args[1:]
	switch os.Args[0] {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		run(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		run(controllers.NewControllerManagerCommand())
	case "kube-scheduler":
		run(scheduler.NewSchedulerCommand())
	case "kubelet":
		run(kubelet.NewKubeletCommand(context.Background()))
	case "kube-proxy":
		run(proxy.NewProxyCommand())
	case "coredns":
		// CoreDNS's own order of plugins, whichever of them are linked in.
		dnsserver.Quiet = true
		coremain.Run()
	default:
		usage()
	}
}

func run(command *cobra.Command) { os.Exit(cli.Run(command)) }

func usage() {
	fmt.Fprintln(os.Stderr, "usage: node etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kube-proxy|coredns [flags]\ndevcluster up starts it; there is no need to do so by hand")
	os.Exit(2)
}

// Command node contains all servers of a single-node Kubernetes cluster. Its
// first argument selects the server. devcluster builds the program once and
// starts it once for each server.
//
// The servers are the unmodified packages of Kubernetes, etcd and CoreDNS.
package main

import (
	"context"
	"fmt"
	"os"
	_ "time/tzdata" // CronJobs can specify a time zone

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"       // registers a plugin
	_ "github.com/coredns/coredns/plugin/cache"      // registers a plugin
	_ "github.com/coredns/coredns/plugin/errors"     // registers a plugin
	_ "github.com/coredns/coredns/plugin/kubernetes" // registers a plugin
	_ "github.com/coredns/coredns/plugin/ready"      // registers a plugin
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
	// The servers read os.Args and expect their own name in the first place.
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
		dnsserver.Quiet = true // no banner at the start
		coremain.Run()
	default:
		usage()
	}
}

func run(command *cobra.Command) { os.Exit(cli.Run(command)) }

func usage() {
	fmt.Fprintln(os.Stderr, "usage: node etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kube-proxy|coredns [flags]\ndevcluster up starts this program; do not start it manually")
	os.Exit(2)
}

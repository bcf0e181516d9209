// Command requests serves the metric http_requests_per_second of pods to the
// HorizontalPodAutoscaler, with the custom metrics API
// (https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/). It reads the
// counter http_requests_total of every pod with the annotation prometheus.io/scrape itself, so
// that demonstrations need no Prometheus. Elsewhere, prometheus-adapter has this part.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	basecmd "sigs.k8s.io/custom-metrics-apiserver/pkg/cmd"
)

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	adapter := &basecmd.AdapterBase{Name: "requests"}
	interval := adapter.Flags().Duration("interval", 5*time.Second, "time between two requests to a pod")
	window := adapter.Flags().Duration("window", 30*time.Second, "time over which the rate is averaged")
	if err := adapter.Flags().Parse(args); err != nil {
		return fmt.Errorf("parsing the flags: %w", err)
	}
	config, err := adapter.ClientConfig()
	if err != nil {
		return fmt.Errorf("configuring the client: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("configuring the client: %w", err)
	}
	r := newRates(client, *window)
	go r.follow(ctx, *interval)
	adapter.WithCustomMetrics(r)
	return adapter.Run(ctx)
}

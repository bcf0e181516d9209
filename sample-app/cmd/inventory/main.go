// Command inventory simulates an inventory service. It reserves stock until none is
// left, and fails on request.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/slipway-ci/slipway/sample-app/internal/standin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves requests until ctx is done and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("inventory", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8082", "`address` to listen on; with port 0, a free port is chosen")
	stock := flags.Int("stock", 1000, "initial `quantity` of every article")
	latency := flags.Duration("latency", 0, "`delay` of every response")
	failRate := flags.Float64("fail-rate", 0, "`fraction` of requests, from 0 to 1, that fail with status 503")
	failFirst := flags.Int64("fail-first", 0, "`number` of requests at the beginning that fail with status 503")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	i := standin.NewInventory(*stock, nil)
	i.Latency, i.Rate = *latency, *failRate
	i.FailBefore(*failFirst)

	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "inventory:", err)
		return 2
	}
	_, _ = fmt.Fprintf(stdout, "simulated inventory service listens on http://%s\n", l.Addr())
	if err := standin.Serve(ctx, l, i); err != nil {
		_, _ = fmt.Fprintln(stderr, "inventory:", err)
		return 1
	}
	return 0
}

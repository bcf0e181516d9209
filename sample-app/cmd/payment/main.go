// Command payment simulates a payment service. It approves amounts up to a limit,
// declines larger ones, and fails on request.
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
	flags := flag.NewFlagSet("payment", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8081", "`address` to listen on; with port 0, a free port is chosen")
	limit := flags.Int64("limit", 1_000_000, "largest `amount` that is approved, in minor units (cents)")
	latency := flags.Duration("latency", 0, "`delay` of every response")
	failRate := flags.Float64("fail-rate", 0, "`fraction` of requests, from 0 to 1, that fail with status 503")
	failFirst := flags.Int64("fail-first", 0, "`number` of requests at the beginning that fail with status 503")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	p := standin.NewPayment(*limit)
	p.Latency, p.Rate = *latency, *failRate
	p.FailBefore(*failFirst)

	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "payment:", err)
		return 2
	}
	_, _ = fmt.Fprintf(stdout, "simulated payment service listens on http://%s\n", l.Addr())
	if err := standin.Serve(ctx, l, p); err != nil {
		_, _ = fmt.Fprintln(stderr, "payment:", err)
		return 1
	}
	return 0
}

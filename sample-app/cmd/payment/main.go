// Command payment is a stand-in for a payment service: it approves amounts up to
// a limit, declines the rest, and fails on demand.
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

// run serves until ctx ends and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("payment", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8081", "`address` to listen on; port 0 takes a free one")
	limit := flags.Int64("limit", 1_000_000, "largest `amount` that is approved, in minor units")
	latency := flags.Duration("latency", 0, "`time` that every answer is delayed by")
	failRate := flags.Float64("fail-rate", 0, "`share` of requests that get 503, 0 to 1")
	failFirst := flags.Int64("fail-first", 0, "`number` of first requests that get 503")
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
	_, _ = fmt.Fprintf(stdout, "payment stand-in listens on http://%s\n", l.Addr())
	if err := standin.Serve(ctx, l, p); err != nil {
		_, _ = fmt.Fprintln(stderr, "payment:", err)
		return 1
	}
	return 0
}

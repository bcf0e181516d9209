// Command load creates orders at a constant rate or as fast as possible, and says how many requests failed and how
// long they took.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/slipway-ci/slipway/sample-app/internal/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const usage = `load creates orders at a constant rate or as fast as possible until enough were sent or it is interrupted.

Examples:
  load --url http://127.0.0.1:8080 --rate 200 --duration 30s
  load --url http://127.0.0.1:8080 --rate 500 --requests 10000
  load --url http://127.0.0.1:8080 --rate 0 --concurrency 8 --requests 10000

Exit codes: 0 if all requests succeeded, 1 if one failed, 2 if the usage is invalid.

Flags:
`

// run sends the orders and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		_, _ = io.WriteString(stderr, usage)
		flags.PrintDefaults()
	}
	url := flags.String("url", "http://127.0.0.1:8080", "`address` of the order service")
	rate := flags.Float64("rate", 100, "`number` of requests per second; 0 means as many as --concurrency permits")
	concurrency := flags.Int64("concurrency", 0, "maximum `number` of requests at the same time; 0 means no limit")
	requests := flags.Int("requests", 0, "`number` of requests; 0 means as many as fit into --duration")
	duration := flags.Duration("duration", 10*time.Second, "`time` to send requests, unless --requests is given")
	timeout := flags.Duration("timeout", 10*time.Second, "`time` after which a request counts as failed")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || *timeout <= 0 || *duration <= 0 || *rate == 0 && *requests == 0 {
		_, _ = fmt.Fprintln(stderr, "load: there are no arguments, --timeout and --duration must be above 0, and --rate 0 needs --requests")
		return 2
	}
	if *requests == 0 {
		*requests = int(math.Ceil(*rate * duration.Seconds()))
	}
	report, err := load.Run(ctx, load.Options{
		URL: *url, Rate: *rate, Concurrency: *concurrency, Requests: *requests, Timeout: *timeout,
	})
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "load:", err)
		return 2
	}
	_, _ = fmt.Fprintln(stdout, report)
	if report.Failed > 0 {
		return 1
	}
	return 0
}

// Command payment simulates a payment service. It approves amounts up to a limit,
// declines larger ones, and fails on request.
package main

import (
	"context"
	"flag"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/slipway-ci/slipway/sample-app/internal/standin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run serves requests until ctx is done and returns the exit code.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	return standin.Program{
		Name: "payment", Listen: "127.0.0.1:8081", Lookup: lookup, Stdout: stdout, Stderr: stderr,
		Define: func(flags *flag.FlagSet) func() http.Handler {
			limit := flags.Int64("limit", 1_000_000, "largest `amount` that is approved, in minor units (cents)")
			faults := standin.DefineFaults(flags)
			return func() http.Handler {
				p := standin.NewPayment(*limit)
				faults(&p.Faults)
				return p
			}
		},
	}.Run(ctx, args)
}

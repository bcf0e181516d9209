// Command inventory simulates an inventory service. It reserves stock until none is
// left, and fails on request.
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
		Name: "inventory", Listen: "127.0.0.1:8082", Lookup: lookup, Stdout: stdout, Stderr: stderr,
		Define: func(flags *flag.FlagSet) func() http.Handler {
			stock := flags.Int("stock", 1000, "initial `quantity` of every article")
			faults := standin.DefineFaults(flags)
			return func() http.Handler {
				i := standin.NewInventory(*stock, nil)
				faults(&i.Faults)
				return i
			}
		},
	}.Run(ctx, args)
}

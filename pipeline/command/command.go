// Command slipway takes a Go service from source to a pushed image.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/trace"
)

// Stamped by the linker, as slipway stamps the apps it builds.
var (
	version = "dev"
	commit  = ""
	date    = ""
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root() //nolint:contextcheck // cobra hands it to the commands
	root.SetArgs(args)
	return a.exit(root.ExecuteContext(ctx))
}

// traced gives a command a span around it. What goes wrong with that is told
// only to those who asked for every step, and never fails the command.
func (a *app) traced(cmd *cobra.Command) {
	tell := func(err error) {
		if err != nil && a.verbose {
			fmt.Fprintln(a.stderr, "slipway: "+display.Clean(err.Error()))
		}
	}
	work := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop, err := trace.Start(cmd.Context(), cmd.Name(), version)
		tell(err)
		cmd.SetContext(ctx)
		err = work(cmd, args)
		tell(stop(err))
		return err
	}
}

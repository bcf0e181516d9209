// Package command is the slipway program: its commands, what they print, and how they
// exit. The main of each program chooses which of the heavy parts it includes.
//
// The package promises no compatibility to programs other than slipway.
package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/trace"
)

// Program is one build of slipway.
type Program struct {
	Version string // as stamped; "" is a development build
	Commit  string
	Date    string
	// Scanner makes the scanner, which finds vulnerabilities and lists what is in
	// images. It is most of the program's size and compile time, so there are
	// programs without it; there it is nil.
	Scanner func(cache.Dir) scan.Scanner
	// Signer makes keys, signs, attests and verifies. It is nil in a program that
	// cannot.
	Signer sign.Tool
	// Deployer deploys images to clusters. It is nil in a program that cannot.
	Deployer deploy.Tool
}

// Main runs the program and ends the process.
func (p Program) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // so that a second signal ends the program at once
	}()
	code := p.run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs the program without ending the process, and returns the exit code.
func (p Program) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if p.Version == "" {
		p.Version = "dev"
	}
	a := &app{program: p, stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root() //nolint:contextcheck // cobra hands it to the commands
	root.SetArgs(args)
	return a.exit(root.ExecuteContext(ctx))
}

// traced runs a command inside a span. A problem with the trace is only shown with
// --verbose, and never fails the command.
func (a *app) traced(cmd *cobra.Command) {
	tell := func(err error) {
		if err != nil && a.verbose {
			fmt.Fprintln(a.stderr, "slipway: "+display.Clean(err.Error()))
		}
	}
	work := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop, err := trace.Start(cmd.Context(), cmd.Name(), a.program.Version)
		tell(err)
		cmd.SetContext(ctx)
		err = work(cmd, args)
		tell(stop(err))
		return err
	}
}

// Package command implements the slipway program: its commands, their output and their
// exit codes. The main package of each program chooses which of the large libraries it
// includes.
//
// The package promises no compatibility to programs other than slipway.
package command

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/sandbox"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/trace"
)

// Program is one build of slipway.
type Program struct {
	Version string // set by the linker; default: what the go command has recorded, or dev
	Commit  string // set by the linker
	Date    string // set by the linker
	// Scanner returns the scanner, which finds vulnerabilities and writes SBOMs.
	// Because it accounts for most of the program's size and compile time, some
	// programs do not include it. In those programs Scanner is nil.
	Scanner func(cache.Dir) scan.Scanner
	// Signer generates keys, signs, attests and verifies. It is nil in a program
	// without support for signing.
	Signer sign.Tool
	// Deployer deploys images to clusters. It is nil in a program without support
	// for deployments.
	Deployer deploy.Tool
}

// Main runs the program with the arguments of the process and exits. SIGINT and SIGTERM
// cancel the run.
func (p Program) Main() {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Argument {
		os.Exit(sandbox.Enter(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal terminates the process immediately
	}()
	// Helm and other libraries write warnings, which can contain texts from outside, to the
	// log of the process.
	log.SetFlags(0)
	log.SetOutput(display.Lines(os.Stderr, ci.Detect(nil).Inert))
	code := p.run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs the program without exiting the process, and returns the exit code.
func (p Program) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if p.Version == "" {
		p.Version = builtVersion()
	}
	system := ci.Detect(nil)
	out := display.Lines(stdout, system.Inert)
	a := &app{program: p, stdin: stdin, stdout: stdout, stderr: stderr, out: out, system: system}
	root := a.root() //nolint:contextcheck // cobra passes the context to the commands
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	_ = out.Close() // an error of standard output cannot be reported anywhere
	return a.exit(err)
}

// builtVersion returns the version that the go command has recorded in the program: that
// of a program that was installed with go install, or one that is made from the commit.
// It returns "dev" if there is none.
func builtVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// traced makes a command run inside a span. An error of the trace never fails the
// command. It is printed only with --verbose.
func (a *app) traced(cmd *cobra.Command) {
	warn := func(err error) {
		if err != nil && a.verbose {
			fmt.Fprintln(a.stderr, "slipway: "+a.system.Inert(err.Error()))
		}
	}
	work := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop, err := trace.Start(cmd.Context(), cmd.Name(), a.program.Version)
		warn(err)
		cmd.SetContext(ctx)
		err = work(cmd, args)
		warn(stop(err))
		return err
	}
}

//go:build linux

// Command devcluster runs a real single-node Kubernetes cluster on this
// machine for tests and demonstrations. It is not meant for production.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// defaultName is the default name of the cluster and of the cluster, context
// and user in its kubeconfig.
const defaultName = "devcluster"

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// usageError reports a mistake of the caller, or a machine that cannot run a
// cluster. It leads to exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return "stopped by " + i.String() }

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		cancel(interrupted{<-signals})
		// A second signal terminates the program immediately.
		signal.Stop(signals)
	}()
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := (&commandLine{}).root() //nolint:contextcheck // cobra passes ctx to the commands
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "devcluster:", err)
	switch {
	case errors.As(err, new(interrupted)):
		return exitInterrupted
	case errors.As(err, new(usageError)):
		return exitUsage
	}
	return exitFailed
}

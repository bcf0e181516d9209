// Command slipway takes a Go service from source to a pushed image.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
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

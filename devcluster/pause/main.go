// Command pause is the program of the images that devcluster builds. Without
// arguments it only waits, which keeps the namespaces of a pod open. As "pause
// postgres BIN DATA" it creates a database in the directory DATA, if there is
// none, and executes the PostgreSQL server in the directory BIN.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	switch {
	case len(os.Args) == 1:
		hold()
	case len(os.Args) == 4 && os.Args[1] == "postgres":
		err := postgres(context.Background(), os.Args[2], os.Args[3])
		fmt.Fprintln(os.Stderr, "pause:", err)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "usage: pause [postgres BIN DATA]")
		os.Exit(2)
	}
}

// hold returns on SIGINT or SIGTERM.
func hold() {
	stop, children := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-stop:
			return
		case <-children:
			// In a pod with a shared process namespace, this process becomes the
			// parent of orphaned processes and must reap them.
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

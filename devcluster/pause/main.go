// Command pause is the program of the images devcluster makes itself. Without
// arguments it holds a pod's namespaces open, as every pod's sandbox needs;
// as "pause postgres BIN DATA" it sets up a database and becomes its server.
package main

import (
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
		if err := postgres(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "pause:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: pause [postgres BIN DATA]")
		os.Exit(2)
	}
}

// hold returns when it is told to end.
func hold() {
	stop, children := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-stop:
			return
		case <-children:
			// In a pod that shares its process namespace, orphans end up here.
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

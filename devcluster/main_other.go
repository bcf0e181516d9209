//go:build !linux

// Command devcluster runs a real one-node Kubernetes, on Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "devcluster: it needs Linux's namespaces; elsewhere use a cluster you have, by its kubeconfig")
	os.Exit(2)
}
